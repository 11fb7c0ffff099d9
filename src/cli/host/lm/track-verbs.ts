/** lm track-send, track-receive: logging of user data changes, tracking of memory. */
import { type Command, InvalidArgumentError } from 'commander';
import { ConfigError } from '../../../util/error.ts';
import { type AddressFlags, parseInteger } from '../address.ts';
import { printJson, printLine } from '../print.ts';
import {
  CNTLID_MAX,
  cntlidOption,
  inRange,
  type LmRunner,
  type LmSession,
  lmCommand,
  needsLasting,
} from './session.ts';

const U16_MAX = 0xffff;
const U32_MAX = 0xffff_ffff;

/** `0x100000:64m`: address and length in bytes. */
interface Range {
  readonly address: bigint;
  readonly length: bigint;
}
const UNITS: Readonly<Record<string, bigint>> = { '': 1n, k: 1n << 10n, m: 1n << 20n, g: 1n << 30n };

function parseRange(text: string, before: Range[] = []): Range[] {
  const match = /^(0x[0-9a-f]+|\d+):(0x[0-9a-f]+|\d+)([kmg]?)$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('Address and length are needed, such as 0x100000:64m.');
  return [...before, { address: BigInt(match[1]!), length: BigInt(match[2]!) * UNITS[match[3]!.toLowerCase()]! }];
}

interface TrackFlags extends AddressFlags {
  sel: number;
  mos?: number;
  cdqid?: number;
  cntlid?: number;
  start?: boolean;
  stop?: boolean;
  granularity: number;
  range?: Range[];
}

const LOG_USER_DATA = 0;
const TRACK_MEMORY = 1;
const PAGE_BYTES = 4096;

function registerTrackSend(group: Command, run: LmRunner): void {
  lmCommand(group, 'track-send', 'start or stop logging of changes, or tracking of memory', 'smCc')
    .option('-s, --sel <n>', '0 user data, into a queue; 1 memory', parseInteger, LOG_USER_DATA)
    .option('-m, --mos <n>', 'management operation specific field, instead of --start or --stop', parseInteger)
    .option('-C, --cdqid <id>', 'queue (user data)', parseInteger)
    .option('-c, --cntlid <id>', 'controller that is migrated (memory)', parseInteger)
    .option('--start', 'start')
    .option('--stop', 'stop')
    .option('--granularity <bytes>', 'of memory: 4096 times a power of 2', parseInteger, PAGE_BYTES)
    .option('--range <address:length>', 'of memory; repeatable', parseRange)
    .action((uri: string | undefined, flags: TrackFlags) =>
      run('track-send', uri, flags, async (session) => {
        const start = actionOf(flags);
        if (flags.sel === LOG_USER_DATA) {
          if (flags.cdqid === undefined) throw new ConfigError('lm track-send: no queue is named; give --cdqid');
          needsLasting('track-send', session, 'a queue');
          await session.lm.trackUserData(inRange('track-send', 'cdqid', flags.cdqid, 0, U16_MAX), start);
        } else await trackMemory(session, flags, start);
        if (flags.output === 'json') printJson({ sel: flags.sel, action: start ? 'start' : 'stop' });
        else printLine(`track-send: success, ${start ? 'started' : 'stopped'}`);
      }),
    );
}

function actionOf({ start, stop, mos }: TrackFlags): boolean {
  const said = [start === true, stop === true, mos !== undefined].filter(Boolean).length;
  if (said !== 1) throw new ConfigError('lm track-send: exactly one of --start, --stop and --mos is needed');
  if (mos !== undefined) return inRange('track-send', 'mos', mos, 0, 1) === 1;
  return start === true;
}

async function trackMemory(
  session: LmSession,
  { sel, cntlid, granularity, range = [] }: TrackFlags,
  start: boolean,
): Promise<void> {
  inRange('track-send', 'sel', sel, LOG_USER_DATA, TRACK_MEMORY);
  if (cntlid === undefined) throw new ConfigError('lm track-send --sel=1: no controller is named; give --cntlid');
  inRange('track-send', 'cntlid', cntlid, 0, CNTLID_MAX);
  needsLasting('track-send', session, 'tracking');
  if (!start) {
    await session.lm.stopTrackingMemory(cntlid);
    return;
  }
  const rmrtg = Math.log2(granularity / PAGE_BYTES);
  if (!Number.isInteger(rmrtg) || rmrtg < 0) {
    throw new ConfigError(`lm track-send --granularity: found ${granularity}, allowed are 4096 times a power of 2`);
  }
  if (range.length === 0) throw new ConfigError('lm track-send --sel=1 --start: no memory is named; give --range');
  const unit = BigInt(granularity);
  const ranges = range.map(({ address, length }) => {
    if (address % unit !== 0n || length % unit !== 0n || length === 0n || length / unit > BigInt(U32_MAX)) {
      const found = `0x${address.toString(16)}:${length}`;
      throw new ConfigError(`lm track-send --range: found ${found}, needed are whole units of ${granularity} bytes`);
    }
    return { saddr: address, len: Number(length / unit) };
  });
  await session.lm.trackMemory(cntlid, rmrtg, ranges);
}

interface ReceiveFlags extends AddressFlags {
  cntlid: number;
  sel: number;
  numd?: number;
  once?: boolean;
}

const REPORT_HEADER_DWORDS = 4;
const REPORT_RANGE_DWORDS = 4;
const CHANGES_DEFAULT = 255;

function registerTrackReceive(group: Command, run: LmRunner): void {
  cntlidOption(lmCommand(group, 'track-receive', 'memory that was changed; reporting it forgets it', 'scn'))
    .option('-s, --sel <n>', '0 tracked memory changes', parseInteger, 0)
    .option('-n, --numd <n>', "dwords of an answer, 0's based", parseInteger)
    .option('--once', 'one command, even if it says that there is more')
    .action((uri: string | undefined, flags: ReceiveFlags) =>
      run('track-receive', uri, flags, async (session) => {
        const { cntlid, numd, sel } = flags;
        inRange('track-receive', 'sel', sel, 0, 0);
        inRange('track-receive', 'cntlid', cntlid, 0, CNTLID_MAX);
        needsLasting('track-receive', session, 'tracking');
        const dwords = numd === undefined ? undefined : inRange('track-receive', 'numd', numd, 7, U16_MAX) + 1;
        const most =
          dwords === undefined ? CHANGES_DEFAULT : Math.floor((dwords - REPORT_HEADER_DWORDS) / REPORT_RANGE_DWORDS);
        const changes: { saddr: string; bytes: number }[] = [];
        let last: { more: boolean; suspended: boolean };
        do {
          const report = await session.lm.memoryChanges(cntlid, most);
          const unit = PAGE_BYTES * 2 ** report.rpmpg;
          for (const { saddr, len } of report.changes) {
            changes.push({ saddr: `0x${saddr.toString(16)}`, bytes: len * unit });
          }
          last = report;
        } while (last.more && flags.once !== true);
        const { more, suspended } = last;
        if (flags.output === 'json') printJson({ cntlid, suspended, more, changes });
        else {
          printLine(
            `Controller ${cntlid}${suspended ? ', suspended' : ''}: ${changes.length} changed${more ? ', more to come' : ''}`,
          );
          for (const { saddr, bytes } of changes) printLine(`  ${saddr} ${bytes} bytes`);
        }
      }),
    );
}

export function registerTrackVerbs(group: Command, run: LmRunner): void {
  registerTrackSend(group, run);
  registerTrackReceive(group, run);
}
