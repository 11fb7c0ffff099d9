/** What commander makes of the options of `migrate`. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { isNvmeUri } from '../../initiator/uri.ts';
import { QUEUE_ENTRIES_MAX, QUEUE_ENTRIES_MIN } from '../../orchestrator/followed.ts';
import type { MoveTuning, Verification, WhenStuck } from '../../orchestrator/move-spec.ts';
import type { VmMemoryRegion } from '../../orchestrator/vm-memory.ts';
import { ConfigError } from '../../util/error.ts';
import { parseBytes, parseInteger } from '../host/address.ts';

export interface MigrateFlags {
  readonly hostnqn?: string;
  readonly hostid?: string;
  readonly hdrDigest?: boolean;
  readonly dataDigest?: boolean;
  readonly namespaceId: number[];
  readonly shared: number[];
  readonly overwrite?: boolean;
  readonly acceptLess?: boolean;
  readonly acceptForgetful?: boolean;
  readonly controller?: number;
  readonly toController?: number;
  readonly front?: string;
  readonly fromSocket?: string;
  readonly toSocket?: string;
  readonly hypervisor?: string;
  readonly memory: VmMemoryRegion[];
  readonly announce: string;
  readonly rate?: number;
  readonly blackout: number;
  readonly blackoutLimit?: number;
  readonly throttle?: boolean;
  readonly whenStuck: WhenStuck | 'ask';
  readonly verify: Verification;
  readonly changes: NonNullable<MoveTuning['changes']>;
  readonly queueEntries?: number;
  readonly patience: number;
  readonly journal?: string;
  readonly dryRun?: boolean;
  readonly output: 'text' | 'json';
  readonly report?: string;
  readonly status?: boolean;
  readonly abort?: boolean;
  readonly resume?: boolean;
}

const VERIFICATIONS: readonly Verification[] = ['none', 'sampled', 'full'];
const WHEN_STUCK: readonly (WhenStuck | 'ask')[] = ['refuse', 'ask', 'throttle', 'cut'];

function parseQueueEntries(text: string): number {
  const value = parseInteger(text);
  if (value < QUEUE_ENTRIES_MIN || value > QUEUE_ENTRIES_MAX)
    throw new InvalidArgumentError(`${QUEUE_ENTRIES_MIN} to ${QUEUE_ENTRIES_MAX} are possible.`);
  return value;
}

const nsidList = (text: string, before: number[] = []): number[] => [...before, parsePositive(text)];

function parsePositive(text: string): number {
  const value = parseInteger(text);
  if (value === 0) throw new InvalidArgumentError('A number above 0 is needed.');
  return value;
}

function parseRate(text: string): number {
  const value = parseBytes(text.replace(/\/s$/, ''));
  if (value === 0) throw new InvalidArgumentError('A rate above 0 is needed, such as 200m.');
  return value;
}

const memoryList = (text: string, before: VmMemoryRegion[] = []): VmMemoryRegion[] => [...before, parseMemory(text)];

const MEMORY_NEEDED =
  'Needed is SOURCE=DESTINATION[,address=BYTES][,offset=BYTES][,length=BYTES], such as /dev/shm/a=/dev/shm/b,address=4g.';

/** The files, and where they are in the VM. */
export function parseMemory(text: string): VmMemoryRegion {
  const [files = '', ...rest] = text.split(',');
  const [source = '', destination = '', more] = files.split('=');
  if (source === '' || destination === '' || more !== undefined) throw new InvalidArgumentError(MEMORY_NEEDED);
  const found: Partial<Record<'address' | 'offsetBytes' | 'lengthBytes', number>> = {};
  for (const part of rest) {
    const [key = '', value = ''] = part.split('=');
    const name = MEMORY_KEYS[key];
    if (name === undefined || found[name] !== undefined) throw new InvalidArgumentError(MEMORY_NEEDED);
    found[name] = /^0x[\da-f]{1,13}$/i.test(value) ? Number(value) : parseBytes(value);
  }
  return { source, destination, ...found };
}

const MEMORY_KEYS: Readonly<Record<string, 'address' | 'offsetBytes' | 'lengthBytes'>> = {
  address: 'address',
  offset: 'offsetBytes',
  length: 'lengthBytes',
};

function parseReport(text: string): string {
  if (!/\.(?:html|json|txt)$/.test(text))
    throw new InvalidArgumentError('A file that ends in .html, .json or .txt is needed.');
  return text;
}

export function addMigrateOptions(command: Command): Command {
  return command
    .argument('[source]', 'nvme+tcp://host:port/subnqn, of a host that manages migration there')
    .argument('[destination]', 'the same of where it shall be')
    .option('-q, --hostnqn <nqn>', 'NQN of this host, at both ends (or hostnqn= in each URI)')
    .option('-I, --hostid <uuid>', 'identifier of this host')
    .option('-g, --hdr-digest', 'header digests')
    .option('-G, --data-digest', 'data digests')
    .addOption(
      new Option('-N, --namespace-id <nsid>', 'namespace to move, repeatable').argParser(nsidList).default([], 'all'),
    )
    .addOption(
      new Option('--shared <nsid>', 'namespace whose blocks both ends reach: it is not copied; repeatable')
        .argParser(nsidList)
        .default([], 'none'),
    )
    .option('--overwrite', 'what the destination holds may be overwritten')
    .option('--accept-less', 'the destination may lack what hosts could use at the source')
    .option('--accept-forgetful', 'the source keeps no state, and you see to it that it is not restarted as it is')
    .option('--controller <cntlid>', 'move this controller, with its namespaces', parseInteger)
    .option('--to-controller <cntlid>', 'controller at the destination (default: the only one there)', parseInteger)
    .option('--front <socket>', "control socket of the front process that holds the VM's device")
    .option('--from-socket <socket>', 'vfio-user socket of the source, as the front reaches it')
    .option('--to-socket <socket>', 'vfio-user socket of the destination, as the front reaches it')
    .option(
      '--hypervisor <program>',
      'the VM moves as well: run with pause, attach destination, resume source|destination',
    )
    .addOption(
      new Option(
        '--memory <file=file>',
        "VM's memory here and there[,address=][,offset=][,length=]; repeatable; needs --hypervisor",
      )
        .argParser(memoryList)
        .default([], 'none'),
    )
    .addOption(
      new Option('--announce <address:port|off>', 'where hosts find the destination').default('uri', "the URI's"),
    )
    .option('--rate <bytes>', 'copied a second before the pause, at most, such as 200m', parseRate)
    .option('--blackout <ms>', 'longest pause that is planned for', parsePositive, 300)
    .option('--blackout-limit <ms>', 'the pause ends the move when it gets that long', parsePositive)
    .option('--throttle', 'as --when-stuck throttle')
    .addOption(
      new Option('--when-stuck <what>', 'when copying does not catch up with writing')
        .choices([...WHEN_STUCK])
        .default('refuse'),
    )
    .addOption(
      new Option('--verify <mode>', 'compare both sides before the switch').choices([...VERIFICATIONS]).default('none'),
    )
    .addOption(
      new Option(
        '--changes <source>',
        'where the source tells what was changed: its bitmap, or the queue of the controller',
      )
        .choices(['auto', 'bitmap', 'queue'])
        .default('auto'),
    )
    .option('--queue-entries <count>', 'changes that the queue has room for; 32767 if not given', parseQueueEntries)
    .option('--patience <seconds>', 'how long an end that is gone is waited for, once hosts wait', parsePositive, 60)
    .option('--journal <file>', 'where the steps are written down (default: in ~/.local/state/nvmeferry)')
    .option('--dry-run', 'look at both ends and say what would be, nothing more')
    .addOption(new Option('-o, --output <format>', 'what is said on stdout').choices(['text', 'json']).default('text'))
    .option('--report <file>', 'write a report: .html, .json or .txt', parseReport)
    .option('--status', 'where the move of --journal stands')
    .option('--abort', 'undo the move of --journal')
    .option('--resume', 'go on with the move of --journal: to its end after its commit, back before');
}

/** @throws ConfigError naming what does not go together */
export function checkFlags(source: string | undefined, destination: string | undefined, flags: MigrateFlags): void {
  const verbs = (['status', 'abort', 'resume'] as const).filter((name) => flags[name] === true);
  if (verbs.length > 1) throw new ConfigError(`migrate: found --${verbs.join(' and --')}, allowed is one of them`);
  if (verbs.length === 1) {
    if (flags.journal === undefined) throw new ConfigError(`migrate --${verbs[0]}: needs --journal FILE of the move`);
    if (source !== undefined)
      throw new ConfigError(`migrate --${verbs[0]}: the journal names both ends; give no others`);
    return;
  }
  for (const [name, uri] of [
    ['source', source],
    ['destination', destination],
  ] as const) {
    if (uri === undefined)
      throw new ConfigError(`migrate: no ${name} is named; give nvme+tcp://host:port/subnqn for both`);
    if (!isNvmeUri(uri)) {
      throw new ConfigError(
        `migrate: found ${JSON.stringify(uri)} for the ${name}, needed is nvme+tcp://host:port/subnqn`,
      );
    }
  }
  checkFront(flags);
}

function checkFront({ controller, toController, front, fromSocket, toSocket, hypervisor, memory }: MigrateFlags): void {
  if (controller === undefined && (toController ?? front ?? hypervisor ?? memory[0]) !== undefined) {
    throw new ConfigError(
      'migrate: --to-controller, --front, --hypervisor and --memory belong to a move of a controller; name it with --controller',
    );
  }
  const named = [front, fromSocket, toSocket].filter((value) => value !== undefined).length;
  if (named !== 0 && named !== 3) {
    throw new ConfigError('migrate: --front, --from-socket and --to-socket belong together; give all three, or none');
  }
  if (hypervisor !== undefined && front !== undefined) {
    throw new ConfigError('migrate: --front keeps a VM where it is, --hypervisor moves it; give one of them');
  }
  if (memory.length > 0 && hypervisor === undefined) {
    throw new ConfigError(
      "migrate: --memory without --hypervisor: nothing stops the VM's CPUs while the rest is copied; name a program that does",
    );
  }
}
