/** ana-log: what a controller says of its ANA groups. */
import type { Command } from 'commander';
import { readAnaLog, reportsAna } from '../../initiator/ana-log.ts';
import type { HostController } from '../../initiator/controller.ts';
import { ConfigError } from '../../util/error.ts';
import { type AnaLog, anaStateName } from '../../wire/cold/log-ana.ts';
import { type AddressFlags, addAddress, resolveAddress } from './address.ts';
import { printJson, printLine } from './print.ts';
import { runVerb, withController } from './run.ts';

interface AnaLogFlags extends AddressFlags {
  groups?: boolean;
}

export function registerAnaLog(program: Command): void {
  addAddress(program.command('ana-log').description('Asymmetric Namespace Access: groups, their states and namespaces'))
    .option('--groups', 'without the namespaces of each group')
    .action((uri: string | undefined, flags: AnaLogFlags) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('ana-log', uri, flags);
        const log = await withController({ ...options, ioQueues: 0 }, signal, (controller) => {
          if (!reportsAna(controller.identify)) {
            throw new ConfigError(`ana-log: the controller at ${options.address} reports no ANA (CMIC bit 3 is clear)`);
          }
          return readAnaLog(controller, flags.groups ?? false);
        });
        if (flags.output === 'json') printJson(anaJson(options.address, log));
        else printAna(options.address, log);
      }),
    );
}

function anaJson(where: string, log: AnaLog): object {
  return {
    'Asymmetric Namespace Access Log for NVMe device': where,
    chgcnt: log.chgcnt,
    ngrps: log.groups.length,
    'ANA DESC LIST ': log.groups.map(({ grpid, nsids, chgcnt, state }) => ({
      grpid,
      nnsids: nsids.length,
      chgcnt,
      state: anaStateName(state),
      ...(nsids.length === 0 ? {} : { NSIDS: nsids.map((nsid) => ({ nsid })) }),
    })),
  };
}

function printAna(where: string, log: AnaLog): void {
  printLine(`Asymmetric Namespace Access Log for NVMe device: ${where}`);
  printLine('ANA LOG HEADER :-');
  printLine(`chgcnt\t:\t${log.chgcnt}`);
  printLine(`ngrps\t:\t${log.groups.length}`);
  printLine('ANA Log Desc :-');
  for (const { grpid, nsids, chgcnt, state } of log.groups) {
    printLine(`grpid\t:\t${grpid}`);
    printLine(`nnsids\t:\t${nsids.length}`);
    printLine(`chgcnt\t:\t${chgcnt}`);
    printLine(`state\t:\t${anaStateName(state)}`);
    for (const nsid of nsids) printLine(`\tnsid\t:\t${nsid}`);
    printLine();
  }
}

/** For views of paths: the state of one namespace, or of every group. Empty if the controller reports no ANA. */
export async function anaOfPath(
  controller: HostController,
  nsid: number | undefined,
): Promise<{ ANAState?: string; ANAGroups?: { grpid: number; state: string; nsids: readonly number[] }[] }> {
  if (!reportsAna(controller.identify)) return {};
  const { groups } = await readAnaLog(controller);
  const named = groups.map(({ grpid, state, nsids }) => ({ grpid, state: anaStateName(state), nsids }));
  const states = new Set(
    named.filter(({ nsids }) => nsid === undefined || nsids.includes(nsid)).map(({ state }) => state),
  );
  return states.size === 1 ? { ANAState: [...states][0]!, ANAGroups: named } : { ANAGroups: named };
}
