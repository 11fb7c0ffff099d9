/** `nvmeferry conformance`: the checklists of the specifications, run against a target; or against a host, with a target that misbehaves. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { TARGET_CASES } from '../../conformance/cases/index.ts';
import { makeHostCases } from '../../conformance/host/cases.ts';
import type { HostIdentity, OperatorAction } from '../../conformance/peer.ts';
import { PEERS, type PeerName } from '../../conformance/quirks.ts';
import {
  caseLine,
  jsonReport,
  junitReport,
  listLine,
  markdownReport,
  type Report,
  summaryLine,
} from '../../conformance/report.ts';
import { summarize } from '../../conformance/runner.ts';
import { selectCases } from '../../conformance/selection.ts';
import { describeFacts, reasonToSkip, runTargetCases, type TargetRunOptions } from '../../conformance/target-run.ts';
import { defaultHostIdentity } from '../../initiator/identity.ts';
import { resolveOptions } from '../../initiator/options.ts';
import { ConfigError, TransportError } from '../../util/error.ts';
import { ExitCode } from '../exit.ts';
import { type AddressFlags, parseInteger, resolveAddress } from '../host/address.ts';
import { printJson, printLine } from '../host/print.ts';
import { runVerb } from '../host/run.ts';
import { runHostMode } from './host-mode.ts';

const FORMATS = ['text', 'json', 'junit', 'markdown'] as const;
export type ReportFormat = (typeof FORMATS)[number];

interface Flags extends Omit<AddressFlags, 'output'> {
  list?: boolean;
  only: string[];
  skip: string[];
  allowWrites?: boolean;
  allowDestroy?: boolean;
  slow?: boolean;
  strict?: boolean;
  peer?: PeerName | 'none';
  caseTimeout: number;
  answerTimeout: number;
  secondHostnqn?: string;
  deniedHostnqn?: string;
  operator?: string;
  host?: boolean;
  listen: string;
  settle: number;
  driver?: string;
  output: ReportFormat;
}

const words = (text: string, list: string[]): string[] => [...list, ...text.split(',').filter((word) => word !== '')];

function parsePositive(text: string): number {
  const value = parseInteger(text);
  if (value === 0) throw new InvalidArgumentError('More than 0 is needed.');
  return value;
}

export function registerConformance(program: Command): void {
  program
    .command('conformance')
    .description('run the checklists of NVMe/TCP and NVMe commands against a target, or (--host) against hosts')
    .argument('[uri]', 'nvme+tcp://host:port/subnqn?nsid=1')
    .option('-t, --transport <type>', 'transport type: tcp')
    .option('-a, --traddr <address>', 'address of the target')
    .option('-s, --trsvcid <port>', 'TCP port', parseInteger)
    .option('-n, --nqn <nqn>', 'NQN of the subsystem')
    .option('-N, --namespace-id <nsid>', 'namespace under test (default: the first active one)', parseInteger)
    .option('-q, --hostnqn <nqn>', 'NQN of this host')
    .option('-I, --hostid <uuid>', 'identifier of this host')
    .option('--second-hostnqn <nqn>', 'NQN of a second host, for reservations')
    .option('--denied-hostnqn <nqn>', 'NQN of a host that the target does not allow')
    .option('--list', 'show the cases and run none')
    .option('--only <cases>', 'numbers, ranges, tags: tcp-28,nvme-40..48,digests', words, [])
    .option('--skip <cases>', 'the same, left out', words, [])
    .option('--allow-writes', 'run cases that overwrite the namespace under test')
    .option('--allow-destroy', 'run cases that make and delete namespaces, format, sanitize')
    .option('--slow', 'run cases that wait for time-outs of the target')
    .option('--strict', 'accept no known quirk, and nothing inconclusive')
    .addOption(
      new Option('--peer <name>', 'whose known quirks to accept (default: by model number)').choices([
        ...PEERS.filter((name) => name !== 'linux-host'),
        'none',
      ]),
    )
    .option('--case-timeout <ms>', 'for one case', parsePositive, 20_000)
    .option('--answer-timeout <ms>', 'for one answer of the target', parsePositive, 5000)
    .option(
      '--operator <command>',
      'shell command that changes the target: it is given one of add-namespace, remove-namespace, add-subsystem, remove-subsystem, ana-inaccessible, ana-optimized',
    )
    .option('--host', 'be a target that misbehaves, one subsystem per case, and judge the hosts that connect')
    .option('--listen <address:port>', 'with --host: where; cases of set-up have the ports above', '127.0.0.1:4420')
    .option('--settle <ms>', 'with --host: how long a host may take to react', parsePositive, 3000)
    .option(
      '--driver <command>',
      'with --host: shell command that uses the host, given ACTION PORT NQN [digests]; exit code 0, 4 for wrong data, or another',
    )
    .addOption(new Option('-o, --output <format>', 'report').choices(FORMATS).default('text'))
    .action((uri: string | undefined, flags: Flags) =>
      flags.host === true ? runHosts(uri, flags) : runVerb((signal) => run(uri, flags, signal)),
    );
}

/** Ctrl-C is how a run without a driver ends: what was found is reported all the same. */
async function runHosts(uri: string | undefined, flags: Flags): Promise<void> {
  if (uri !== undefined)
    throw new ConfigError(
      `conformance --host: found ${uri}, but no target is asked; --listen says where hosts connect`,
    );
  if (flags.list === true) {
    for (const one of selectCases(makeHostCases(), flags.only, flags.skip)) printLine(listLine(one));
    return;
  }
  const report = await runHostMode(flags);
  // those that were decided were told when they were
  if (flags.output === 'text')
    for (const result of report.results) if (result.verdict === 'skipped') printLine(caseLine(result));
  printReport(report, flags.output);
  if (hasFailed(report, flags.strict === true)) process.exitCode = ExitCode.Status;
}

async function run(uri: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const selected = selectCases(TARGET_CASES, flags.only, flags.skip);
  if (flags.list === true) {
    for (const one of selected) printLine(listLine(one));
    return;
  }
  const allowed = {
    allowWrites: flags.allowWrites === true || flags.allowDestroy === true,
    allowDestroy: flags.allowDestroy === true,
    slow: flags.slow === true,
  };
  const reasons = selected.map((one) => reasonToSkip(one, allowed));
  if (reasons.every((reason) => reason !== undefined)) {
    throw new ConfigError(
      `conformance: none of the ${selected.length} selected cases may run: the first ${reasons[0] ?? 'is left out by --skip'}`,
    );
  }
  const options = { ...targetOptions(uri, flags), ...allowed, signal, ...live(flags) };
  let report: Report;
  try {
    report = await runTargetCases(options);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new TransportError(
      'NVMEOF_ERR_CONNECT',
      `conformance: ${options.address}:${options.port} cannot be asked: ${why}`,
      { cause: error },
    );
  }
  printReport(report, flags.output);
  if (hasFailed(report, flags.strict === true)) process.exitCode = ExitCode.Status;
}

function targetOptions(
  uri: string | undefined,
  flags: Flags,
): Omit<TargetRunOptions, 'allowWrites' | 'allowDestroy' | 'slow'> {
  const { options, nsid } = resolveAddress('conformance', uri, { ...flags, output: 'text' });
  const resolved = resolveOptions(options);
  const own: HostIdentity = { hostnqn: resolved.hostnqn, hostid: resolved.hostid };
  // another host: an NQN that stays the same for this one
  const second = defaultHostIdentity(flags.secondHostnqn ?? defaultSecond(own));
  return {
    address: resolved.address,
    port: resolved.port,
    subnqn: resolved.subnqn,
    hosts: [own, second],
    nsid,
    deniedHostnqn: flags.deniedHostnqn,
    answerMs: flags.answerTimeout,
    elapse: (ms) => sleep(ms),
    operator: flags.operator === undefined ? undefined : operatorOf(flags.operator),
    only: flags.only,
    skip: flags.skip,
    caseTimeoutMs: flags.caseTimeout,
    peer: flags.strict === true ? 'none' : flags.peer,
  };
}

/** An NQN of no more than 223 bytes that is not `own`'s. */
const defaultSecond = (own: HostIdentity): string =>
  `nqn.2026-01.io.nvmeferry:conformance:${Buffer.from(own.hostid).toString('hex')}`;

/** In text, every case is told when it is done. */
function live(flags: Flags): Pick<TargetRunOptions, 'onFacts' | 'onResult'> {
  if (flags.output !== 'text') return {};
  return {
    onFacts: (facts) => printLine(`target: ${describeFacts(facts)}, serial ${facts.serial}`),
    onResult: (result) => printLine(caseLine(result)),
  };
}

function operatorOf(command: string): (action: OperatorAction) => Promise<void> {
  return (action) =>
    new Promise((resolve, reject) => {
      const child = spawn('sh', ['-c', `${command} "$1"`, 'operator', action], { stdio: ['ignore', 2, 2] });
      child.once('error', reject);
      child.once('close', (code) => {
        if (code === 0) resolve();
        else reject(new ConfigError(`--operator: '${command} ${action}' ended with ${code}`));
      });
    });
}

/** The whole report, in the form that was asked for. */
export function printReport(report: Report, format: ReportFormat): void {
  if (format === 'json') printJson(jsonReport(report));
  else if (format === 'junit') printLine(junitReport(report));
  else if (format === 'markdown') printLine(markdownReport(report));
  else printLine(summaryLine(report.results));
}

/** Whether the exit code says so. */
export function hasFailed({ results }: Report, strict: boolean): boolean {
  const counts = summarize(results);
  return counts.fail > 0 || (strict && counts.inconclusive > 0);
}
