/** lm formats, migration-send, migration-recv: suspend, resume, controller state. */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { StateSelection } from '../../../initiator/live-migration.ts';
import { STATE_SECTION_UUID } from '../../../migration/state-section.ts';
import { MigrationSendSelect, SequenceIndicator, SuspendType } from '../../../spec/migration.ts';
import { ConfigError } from '../../../util/error.ts';
import { CONTROLLER_STATE_HEADER_BYTES, controllerStateHeaderCodec } from '../../../wire/cold/controller-state.ts';
import { type AddressFlags, parseInteger } from '../address.ts';
import { printHexDump, printJson, printLine, toHex, writeRaw } from '../print.ts';
import {
  CNTLID_MAX,
  cntlidOption,
  inRange,
  type LmRunner,
  type LmSession,
  lmCommand,
  needsLasting,
} from './session.ts';
import { fileError, printState, readStateFile } from './state-file.ts';
import { viewState } from './state-view.ts';

const U8_MAX = 0xff;
const UUID_INDEX_MAX = 0x7f;
const DWORDS_MAX = 0x4_0000;

const uuidText = (uuid: Uint8Array): string =>
  toHex(uuid).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');

function registerFormats(group: Command, run: LmRunner): void {
  lmCommand(group, 'formats', 'state formats that the management controller takes (Identify CNS 20h)', '').action(
    (uri: string | undefined, flags: AddressFlags) =>
      run('formats', uri, flags, async ({ lm }) => {
        const { versions, uuids } = await lm.stateFormats();
        if (flags.output === 'json') {
          printJson({ versions, uuids: uuids.map(uuidText) });
          return;
        }
        for (const [i, version] of versions.entries())
          printLine(`csvi ${i + 1}: NVMe controller state version ${version}`);
        for (const [i, uuid] of uuids.entries())
          printLine(`csuuidi ${i + 1}: vendor specific format ${uuidText(uuid)}`);
      }),
  );
}

/** Our vendor format, or the first one; 0 if there is none. */
async function vendorIndex({ lm }: LmSession): Promise<number> {
  const { uuids } = await lm.stateFormats();
  const ours = uuids.findIndex((uuid) => uuid.every((byte, i) => byte === STATE_SECTION_UUID[i]));
  return ours >= 0 ? ours + 1 : Math.min(uuids.length, 1);
}

// ---- migration-send ------------------------------------------------------------------------------------------------------------------

interface SendFlags extends AddressFlags {
  sel: number;
  cntlid: number;
  stype: number;
  dudmq?: boolean;
  seqInd?: number;
  csuuidi?: number;
  csvi?: number;
  uidx: number;
  offset: number;
  numd?: number;
  inputFile?: string;
}

function registerSend(group: Command, run: LmRunner): void {
  cntlidOption(lmCommand(group, 'migration-send', 'suspend, resume, or give a controller a state', 'sctdSUVuOnf'))
    .requiredOption('-s, --sel <n>', '0 suspend, 1 resume, 2 set controller state', parseInteger)
    .option('-t, --stype <n>', 'suspend type: 0 notification, 1 suspend', parseInteger, SuspendType.Notification)
    .option('-d, --dudmq', 'suspend: delete the queue of its changes, and what is in it')
    .option('-f, --input-file <file>', 'set: the state')
    .option(
      '-S, --seq-ind <n>',
      'set one part: 1 first, 0 middle, 2 last, 3 only; default: all of the file',
      parseInteger,
    )
    .option('-O, --offset <bytes>', 'set: where the part begins, in the state and in the file', parseInteger, 0)
    .option('-n, --numd <n>', 'set: dwords of the part (default: to the end of the file)', parseInteger)
    .option('-V, --csvi <n>', 'set: index of the version, 0 none (default: as the state is)', parseInteger)
    .option('-U, --csuuidi <n>', 'set: index of the vendor format, 0 none (default: as the state is)', parseInteger)
    .option('-u, --uidx <n>', 'UUID index', parseInteger, 0)
    .action((uri: string | undefined, flags: SendFlags) =>
      run('migration-send', uri, flags, async (session) => {
        inRange('migration-send', 'cntlid', flags.cntlid, 0, CNTLID_MAX);
        inRange('migration-send', 'sel', flags.sel, 0, MigrationSendSelect.SetControllerState);
        if (flags.sel === MigrationSendSelect.Suspend) await suspend(session, flags);
        else if (flags.sel === MigrationSendSelect.Resume) await session.lm.resume(flags.cntlid);
        else await setState(session, flags);
        const done = ['suspend', 'resume', 'set-controller-state'][flags.sel]!;
        if (flags.output === 'json') printJson({ sel: flags.sel, operation: done, cntlid: flags.cntlid });
        else printLine(`migration-send: success, ${done} of controller ${flags.cntlid}`);
      }),
    );
}

async function suspend(session: LmSession, { cntlid, stype, dudmq = false }: SendFlags): Promise<void> {
  inRange('migration-send', 'stype', stype, SuspendType.Notification, SuspendType.Suspend);
  const notification = stype === SuspendType.Notification;
  if (notification && dudmq) {
    throw new ConfigError('lm migration-send --dudmq: a notification would delete the queue as well; give --stype=1');
  }
  if (!notification) needsLasting('migration-send', session, 'the suspension');
  await session.lm.suspend(cntlid, { notification, deleteQueue: dudmq });
}

async function setState(session: LmSession, flags: SendFlags): Promise<void> {
  const { cntlid, seqInd, offset, uidx, numd } = flags;
  const isEnd = seqInd === SequenceIndicator.Last && (numd === 0 || flags.inputFile === undefined);
  if (flags.inputFile === undefined && !isEnd) {
    throw new ConfigError('lm migration-send --sel=2: no state is named; give --input-file');
  }
  const file =
    flags.inputFile === undefined ? new Uint8Array(0) : await readStateFile('migration-send', flags.inputFile);
  const selection = await selectionOf(session, file, flags);
  if (seqInd === undefined) {
    if (offset !== 0 || numd !== undefined) {
      throw new ConfigError('lm migration-send: --offset and --numd are of one part; give --seq-ind');
    }
    await session.lm.setState(cntlid, file, selection);
    return;
  }
  inRange('migration-send', 'seq-ind', seqInd, 0, SequenceIndicator.Only);
  inRange('migration-send', 'uidx', uidx, 0, UUID_INDEX_MAX);
  const end = numd === undefined ? file.length : offset + inRange('migration-send', 'numd', numd, 0, DWORDS_MAX) * 4;
  if (!isEnd && (end > file.length || end <= offset || offset % 4 !== 0 || end % 4 !== 0)) {
    throw new ConfigError(
      `lm migration-send: bytes ${offset} to ${end} of ${flags.inputFile}, which has ${file.length}; needed are whole dwords of it`,
    );
  }
  const part = { ...selection, sequence: seqInd, offset, uuidIndex: uidx };
  await session.lm.setStatePart(cntlid, part, isEnd ? new Uint8Array(0) : file.subarray(offset, end));
}

/** The parts that the state has, as this management controller numbers them. */
async function selectionOf(
  session: LmSession,
  file: Uint8Array,
  { csvi, csuuidi }: SendFlags,
): Promise<StateSelection> {
  const has =
    file.length >= CONTROLLER_STATE_HEADER_BYTES ? controllerStateHeaderCodec.decode(file) : { nvmecss: 0n, vss: 1n };
  const index = async (): Promise<number> => (has.vss === 0n ? 0 : vendorIndex(session));
  return {
    csvi: inRange('migration-send', 'csvi', csvi ?? (has.nvmecss === 0n ? 0 : 1), 0, U8_MAX),
    csuuidi: inRange('migration-send', 'csuuidi', csuuidi ?? (await index()), 0, U8_MAX),
  };
}

// ---- migration-recv ------------------------------------------------------------------------------------------------------------------

interface ReceiveFlags extends AddressFlags {
  sel: number;
  cntlid: number;
  csuuidi?: number;
  csvi?: number;
  uidx: number;
  offset: number;
  numd?: number;
  outputFile?: string;
  humanReadable?: boolean;
  rawBinary?: boolean;
}

function registerReceive(group: Command, run: LmRunner): void {
  cntlidOption(lmCommand(group, 'migration-recv', 'the state of a controller', 'scUVuOnfHb'))
    .option('-s, --sel <n>', '0 get controller state', parseInteger, 0)
    .option('-V, --csvi <n>', 'index of the version, 0 none (default: 1 if there are queues to tell of)', parseInteger)
    .option('-U, --csuuidi <n>', 'index of the vendor format, 0 none (default: nvmeferry, if listed)', parseInteger)
    .option('-u, --uidx <n>', 'UUID index', parseInteger, 0)
    .option('-O, --offset <bytes>', 'where to begin, with --numd', parseInteger, 0)
    .option('-n, --numd <n>', "dwords of one command, 0's based (default: the whole state)", parseInteger)
    .option('-f, --output-file <file>', 'write everything that came to a file')
    .option('-H, --human-readable', 'decoded (as lm state decode); it must be whole')
    .option('-b, --raw-binary', 'the bytes as they came')
    .action((uri: string | undefined, flags: ReceiveFlags) =>
      run('migration-recv', uri, flags, async (session) => {
        const { bytes, suspended } = await receive(session, flags);
        if (flags.outputFile !== undefined) {
          await writeFile(flags.outputFile, bytes).catch((error: unknown) => {
            throw fileError('migration-recv', flags.outputFile!, error);
          });
        }
        if (flags.rawBinary) await writeRaw(bytes);
        else if (flags.humanReadable) printState(viewState(bytes), flags.output);
        else if (flags.output === 'json') {
          const written = flags.outputFile === undefined ? { data: toHex(bytes) } : { file: flags.outputFile };
          printJson({ cntlid: flags.cntlid, suspended, bytes: bytes.length, ...written });
        } else {
          printLine(
            `migration-recv: success, ${bytes.length} bytes, controller ${suspended ? 'suspended' : 'NOT suspended'}`,
          );
          if (flags.outputFile === undefined) printHexDump(bytes);
        }
      }),
    );
}

async function receive(session: LmSession, flags: ReceiveFlags): Promise<{ bytes: Uint8Array; suspended: boolean }> {
  const { cntlid, numd, offset, uidx } = flags;
  inRange('migration-recv', 'sel', flags.sel, 0, 0);
  inRange('migration-recv', 'cntlid', cntlid, 0, CNTLID_MAX);
  inRange('migration-recv', 'uidx', uidx, 0, UUID_INDEX_MAX);
  const csuuidi = inRange('migration-recv', 'csuuidi', flags.csuuidi ?? (await vendorIndex(session)), 0, U8_MAX);
  const csvi = inRange('migration-recv', 'csvi', flags.csvi ?? (await versionIndex(session, cntlid)), 0, U8_MAX);
  if (numd === undefined) {
    if (offset !== 0) throw new ConfigError('lm migration-recv: --offset is of one command; give --numd');
    return session.lm.getState(cntlid, { csvi, csuuidi });
  }
  inRange('migration-recv', 'numd', numd, 0, DWORDS_MAX - 1);
  return session.lm.getStatePart(cntlid, { csvi, csuuidi, uuidIndex: uidx }, offset, (numd + 1) * 4);
}

/** The NVMe part says nothing about a controller behind NVMe/TCP, and would only be in the way where the state is set. */
async function versionIndex({ lm }: LmSession, cntlid: number): Promise<number> {
  const { bytes } = await lm.getStatePart(cntlid, { csvi: 1, csuuidi: 0 }, 0, CONTROLLER_STATE_HEADER_BYTES);
  return controllerStateHeaderCodec.decode(bytes).nvmecss > 2n ? 1 : 0;
}

export function registerStateVerbs(group: Command, run: LmRunner): void {
  registerFormats(group, run);
  registerSend(group, run);
  registerReceive(group, run);
}
