/** `nvmeferry conformance --host`: a target that breaks one rule per subsystem, and tells what hosts do about it. */
import { spawn } from 'node:child_process';
import { makeHostCases } from '../../conformance/host/cases.ts';
import { HostBench, type HostPlace, type UserResult } from '../../conformance/host/host-bench.ts';
import { QUIRKS } from '../../conformance/quirks.ts';
import { caseLine, type Report } from '../../conformance/report.ts';
import { selectCases } from '../../conformance/selection.ts';
import { ConfigError, TransportError } from '../../util/error.ts';
import { ExitCode } from '../exit.ts';
import { printLine } from '../host/print.ts';

export interface HostModeFlags {
  readonly listen: string;
  readonly only: string[];
  readonly skip: string[];
  readonly settle: number;
  readonly driver?: string;
  readonly peer?: string;
  readonly strict?: boolean;
  readonly output: string;
}

/** `address:port`, `[v6]:port`, or an address alone. */
function listenAddress(text: string): { address: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text);
  const port = Number(match?.[3] ?? 4420);
  if (match === null || port > 65535) {
    throw new ConfigError(`--listen: found ${JSON.stringify(text)}, allowed is ADDRESS or ADDRESS:PORT`);
  }
  return { address: match[1] ?? match[2]!, port };
}

/** Waits for hosts, or drives one; until every case is decided, or a signal ends it. */
export async function runHostMode(flags: HostModeFlags): Promise<Report> {
  const { address, port } = listenAddress(flags.listen);
  const cases = selectCases(makeHostCases(), flags.only, flags.skip);
  let decided: () => void = () => {};
  let bench: HostBench | undefined;
  try {
    bench = await HostBench.listen({
      address,
      port,
      cases,
      settleMs: flags.settle,
      quirks: flags.strict === true ? [] : QUIRKS.filter(({ peer }) => peer === (flags.peer ?? 'linux-host')),
      onResult: (result) => {
        if (flags.output === 'text') printLine(caseLine(result));
        if (bench?.allDone === true) decided();
      },
    });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    throw new TransportError('NVMEOF_ERR_LISTEN', `conformance: cannot listen at ${flags.listen} and above: ${code}`, {
      cause: error,
    });
  }
  const interrupted = new AbortController();
  const onSignal = (): void => interrupted.abort();
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal);
  try {
    if (flags.driver === undefined) {
      if (flags.output === 'text') announce(bench.places, address);
      const all = new Promise<void>((resolve) => {
        decided = resolve;
        interrupted.signal.addEventListener('abort', () => resolve(), { once: true });
      });
      await all;
    } else await drive(bench, flags.driver, interrupted.signal);
    const results = bench.finish();
    const says = flags.driver === undefined ? 'hosts that connected' : `driven by ${flags.driver}`;
    const subject = {
      kind: 'host',
      name: flags.listen,
      says,
      peer: flags.strict === true ? undefined : 'linux-host',
    } as const;
    return { subject, results };
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    await bench.close();
  }
}

function announce(places: readonly HostPlace[], address: string): void {
  for (const { one, port, nqn } of places) {
    const digests = one.tags.includes('digests') ? ' -g -G --disable-sqflow' : '';
    printLine(
      `${one.id.padEnd(9)} ${one.action.padEnd(10)} nvme connect -t tcp -a ${address} -s ${port} -n ${nqn}${digests}`,
    );
  }
  printLine(
    'read, write: 4 KiB or more at byte 8 MiB to 16 MiB; two-reads, two-writes: at once. Ends when all are done, or by Ctrl-C',
  );
  printLine('ready');
}

/** Exit codes of a driver. */
const USER: Readonly<Record<number, UserResult>> = { 0: 'success', [ExitCode.Miscompare]: 'wrong-data' };

/** The driver does for each case what a user of the host would do. */
async function drive(bench: HostBench, driver: string, signal: AbortSignal): Promise<void> {
  for (const { one, port, nqn } of bench.places) {
    if (signal.aborted) return;
    const code = await new Promise<number | null>((resolve, reject) => {
      const digests = one.tags.includes('digests') ? 'digests' : '';
      const args = ['-c', `${driver} "$@"`, 'driver', one.action, String(port), nqn, digests];
      const child = spawn('sh', args, { stdio: ['ignore', 2, 2] });
      child.once('error', reject).once('close', resolve);
    });
    bench.userSaw(one.id, USER[code ?? 1] ?? 'error');
    await bench.settled(one.id);
  }
}
