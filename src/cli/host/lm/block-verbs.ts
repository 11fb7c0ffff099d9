/** lm allocated, lm dirty: which blocks hold data, which were changed. */
import type { Command } from 'commander';
import { ConfigError } from '../../../util/error.ts';
import { type BlockRun, ChangedBlocksFlag } from '../../../wire/cold/log-migration.ts';
import { type AddressFlags, parseInteger } from '../address.ts';
import { printJson, printLine } from '../print.ts';
import { requireNsid } from '../run.ts';
import { type LmRunner, lmCommand, needsLasting } from './session.ts';

interface AllocatedFlags extends AddressFlags {
  startLba: number;
}

const total = (runs: readonly BlockRun[]): number => runs.reduce((sum, { blockCount }) => sum + blockCount, 0);

function printRuns(runs: readonly BlockRun[]): void {
  for (const { slba, blockCount } of runs) printLine(`  ${slba} to ${slba + blockCount - 1}: ${blockCount} blocks`);
}
const jsonRuns = (runs: readonly BlockRun[]): object[] =>
  runs.map(({ slba, blockCount }) => ({ slba, blocks: blockCount }));

function registerAllocated(group: Command, run: LmRunner): void {
  lmCommand(group, 'allocated', 'blocks of a namespace that hold data (Get LBA Status 02h, to its end)', 's')
    .option('-s, --start-lba <lba>', 'first block', parseInteger, 0)
    .action((uri: string | undefined, flags: AllocatedFlags) =>
      run('allocated', uri, flags, async (session) => {
        const nsid = requireNsid('lm allocated', flags.namespaceId ?? session.nsid);
        const runs: BlockRun[] = [];
        for await (const next of session.lm.allocatedBlocks(nsid, flags.startLba)) {
          const last = runs.at(-1);
          // one run that was cut where an answer ended
          if (last !== undefined && last.slba + last.blockCount === next.slba) {
            runs[runs.length - 1] = { slba: last.slba, blockCount: last.blockCount + next.blockCount };
          } else runs.push(next);
        }
        if (flags.output === 'json') printJson({ nsid, blocks: total(runs), runs: jsonRuns(runs) });
        else {
          printLine(`namespace ${nsid}: ${total(runs)} blocks allocated, in ${runs.length} runs`);
          printRuns(runs);
        }
      }),
    );
}

interface DirtyFlags extends AddressFlags {
  start?: boolean;
  stop?: boolean;
  ack?: boolean;
  giveBack?: boolean;
}

function registerDirty(group: Command, run: LmRunner): void {
  lmCommand(group, 'dirty', 'blocks of a namespace that were changed, by whatever controller (vendor specific)', '')
    .option('--start', 'track from now on, with nothing changed')
    .option('--stop', 'track no more')
    .option('--ack', 'forget what is shown')
    .option('--give-back', 'what was shown counts as changed again')
    .action((uri: string | undefined, flags: DirtyFlags) =>
      run('dirty', uri, flags, async (session) => {
        const nsid = requireNsid('lm dirty', flags.namespaceId ?? session.nsid);
        needsLasting('dirty', session, 'tracking');
        const actions = (['start', 'stop', 'ack', 'giveBack'] as const).filter((name) => flags[name] === true);
        if (actions.length > 1)
          throw new ConfigError('lm dirty: at most one of --start, --stop, --ack and --give-back');
        const [action] = actions;
        if (action === 'start' || action === 'stop') await session.lm.trackChanges(nsid, action === 'start');
        else if (action === 'giveBack') await session.lm.giveBackChanges(nsid);
        if (action !== undefined && action !== 'ack') {
          if (flags.output === 'json') printJson({ nsid, action });
          else
            printLine(
              `dirty: success, ${action === 'giveBack' ? 'given back' : `tracking ${action}ed`.replace('stoped', 'stopped')}`,
            );
          return;
        }
        const { header, runs } = await session.lm.changedBlocks(nsid);
        const tracking = (header.flags & ChangedBlocksFlag.Tracking) !== 0;
        const more = (header.flags & ChangedBlocksFlag.More) !== 0;
        if (flags.output === 'json') {
          const { epoch, granule } = header;
          printJson({ nsid, tracking, more, epoch, granule, blocks: total(runs), runs: jsonRuns(runs) });
        } else if (tracking) {
          printLine(
            `namespace ${nsid}: ${total(runs)} blocks changed, in ${runs.length} runs${more ? ', more to come' : ''}`,
          );
          printRuns(runs);
        } else printLine(`namespace ${nsid}: changes are not tracked`);
        if (action === 'ack' && tracking) await session.lm.acknowledgeChanges(nsid, header);
      }),
    );
}

export function registerBlockVerbs(group: Command, run: LmRunner): void {
  registerAllocated(group, run);
  registerDirty(group, run);
}
