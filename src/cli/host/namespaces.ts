/** create-ns, delete-ns, attach-ns, detach-ns, list-ctrl, format, sanitize, sanitize-log, changed-ns-list-log, ns-descs. */
import { type Command, InvalidArgumentError } from 'commander';
import { uuidFromBytes } from '../../fabrics/nqn.ts';
import * as commands from '../../initiator/controller-commands.ts';
import { NamespaceManagement } from '../../initiator/namespace-management.ts';
import { LogPage } from '../../spec/log-page.ts';
import { SanitizeAction, SanitizeStatus } from '../../spec/sanitize.ts';
import { ConfigError } from '../../util/error.ts';
import type { IdentifyNamespace } from '../../wire/cold/identify-namespace.ts';
import { CHANGED_NAMESPACES_BYTES, decodeChangedNamespaces } from '../../wire/cold/log-changed-ns.ts';
import type { SanitizeLog } from '../../wire/cold/log-sanitize.ts';
import { type AddressFlags, addAddress, parseBytes, parseInteger, resolveAddress } from './address.ts';
import type { AdminHost } from './local-device.ts';
import { hex, printJson, printLine, toHex } from './print.ts';
import { requireNsid, runVerb, withAdminHost } from './run.ts';

/** An admin command over the whole namespace may take long. */
const LONG_MS = 600_000;

interface ManagedHost {
  readonly host: AdminHost;
  readonly execute: commands.ExecuteAdmin;
  readonly management: NamespaceManagement;
  readonly address: string;
}

function managed(host: AdminHost, address: string): ManagedHost {
  const execute: commands.ExecuteAdmin = (what, command) => host.executeAdmin(what, command);
  return { host, execute, management: new NamespaceManagement(execute), address };
}

/** A verb on one controller, without I/O queues. */
function addVerb<Flags extends AddressFlags>(
  program: Command,
  name: string,
  description: string,
  taken: string,
  run: (controller: ManagedHost, nsid: number | undefined, flags: Flags) => Promise<void>,
  defaultTimeoutMs?: number,
): Command {
  return addAddress(program.command(name).description(description), taken).action(
    (uri: string | undefined, flags: Flags) =>
      runVerb(async (signal) => {
        const { options, nsid } = resolveAddress(name, uri, flags);
        const adminTimeoutMs = options.adminTimeoutMs ?? defaultTimeoutMs;
        await withAdminHost({ ...options, ioQueues: 0, adminTimeoutMs }, signal, (host) =>
          run(managed(host, options.address), nsid, flags),
        );
      }),
  );
}

function sayDone(flags: AddressFlags, text: string, json: object): void {
  if (flags.output === 'json') printJson(json);
  else printLine(text);
}

/** Index of the LBA format without metadata that has this block size. */
function formatOf(verb: string, id: IdentifyNamespace, blockSize: number): number {
  const formats = id.lbaf.slice(0, id.nlbaf + 1);
  const index = formats.findIndex(({ ms, lbads }) => ms === 0 && lbads > 0 && 2 ** lbads === blockSize);
  if (index >= 0) return index;
  const sizes = formats.filter(({ lbads }) => lbads > 0).map(({ lbads }) => 2 ** lbads);
  throw new ConfigError(
    `${verb} --block-size: found ${blockSize}, the controller has ${[...new Set(sizes)].join(', ')}`,
  );
}

interface CreateFlags extends AddressFlags {
  nsze?: number;
  ncap?: number;
  nszeSi?: number;
  flbas?: number;
  blockSize?: number;
  dps?: number;
  nmic?: number;
  anagrpId?: number;
  nvmsetId?: number;
  endgId?: number;
  csi?: number;
}

const NSID_COMMON = 0xffffffff;

function registerCreateNs(program: Command): void {
  addVerb<CreateFlags>(program, 'create-ns', 'create a namespace', 'scfdmaiebSy', async (controller, _nsid, flags) => {
    if (flags.flbas !== undefined && flags.blockSize !== undefined) {
      throw new ConfigError('create-ns: found --flbas and --block-size, which say the same; give one');
    }
    const needsFormats = flags.blockSize !== undefined || flags.nszeSi !== undefined;
    const common = needsFormats ? await commands.identifyNamespace(controller.execute, NSID_COMMON) : undefined;
    const lbaFormat =
      flags.blockSize === undefined || common === undefined
        ? (flags.flbas ?? 0)
        : formatOf('create-ns', common, flags.blockSize);
    const blockSize = 2 ** (common?.lbaf[lbaFormat]?.lbads ?? 0);
    const blockCount = flags.nszeSi === undefined ? flags.nsze : Math.floor(flags.nszeSi / blockSize);
    if (blockCount === undefined) {
      throw new ConfigError('create-ns: no size is given; give --nsze BLOCKS or --nsze-si BYTES, e.g. --nsze-si 1g');
    }
    const nsid = await controller.management.create({
      blockCount,
      capacityBlocks: flags.ncap,
      lbaFormat,
      shared: ((flags.nmic ?? 0) & 1) !== 0,
      dps: flags.dps,
      anagrpid: flags.anagrpId,
      nvmsetid: flags.nvmsetId,
      endgid: flags.endgId,
      csi: flags.csi,
    });
    sayDone(flags, `create-ns: Success, created nsid:${nsid}`, { nsid });
  })
    .option('-s, --nsze <blocks>', 'size in blocks', parseInteger)
    .option('-c, --ncap <blocks>', 'capacity in blocks (default: the size)', parseInteger)
    .option('-S, --nsze-si <bytes>', 'size in bytes, such as 1g', parseBytes)
    .option('-f, --flbas <index>', 'LBA format', parseInteger)
    .option('-b, --block-size <bytes>', 'the LBA format by its block size', parseBytes)
    .option('-d, --dps <value>', 'protection', parseInteger)
    .option('-m, --nmic <value>', '1: several controllers may have it', parseInteger)
    .option('-a, --anagrp-id <id>', 'ANA group', parseInteger)
    .option('-i, --nvmset-id <id>', 'NVM set', parseInteger)
    .option('-e, --endg-id <id>', 'endurance group', parseInteger)
    .option('-y, --csi <id>', 'command set', parseInteger);
}

function parseControllers(text: string): number[] {
  const cntlids = text
    .split(',')
    .map((part) => (/^(?:\d+|0x[0-9a-f]+)$/i.test(part.trim()) ? Number(part) : Number.NaN));
  if (cntlids.some((cntlid) => Number.isNaN(cntlid) || cntlid > 0xffff)) {
    throw new InvalidArgumentError('Controller ids are needed, such as 1,2 (list-ctrl shows them).');
  }
  return cntlids;
}

function registerAttachments(program: Command): void {
  for (const verb of ['attach', 'detach'] as const) {
    addVerb<AddressFlags & { controllers?: number[] }>(
      program,
      `${verb}-ns`,
      `${verb} a namespace`,
      'c',
      async (controller, named, flags) => {
        const nsid = requireNsid(`${verb}-ns`, named);
        const cntlids = flags.controllers ?? [(await commands.identifyController(controller.execute)).cntlid];
        await controller.management[verb](nsid, cntlids);
        sayDone(flags, `${verb}-ns: Success, nsid:${nsid}`, { nsid, controllers: cntlids });
      },
    ).option(
      '-c, --controllers <ids>',
      'controllers, by comma (default: the one that this command gets)',
      parseControllers,
    );
  }
}

function registerDeleteNs(program: Command): void {
  addVerb(program, 'delete-ns', 'delete a namespace with its data', '', async (controller, named, flags) => {
    const nsid = requireNsid('delete-ns', named);
    await controller.management.delete(nsid);
    sayDone(flags, `delete-ns: Success, deleted nsid:${nsid}`, { nsid });
  });
}

function registerListCtrl(program: Command): void {
  addVerb<AddressFlags & { cntid?: number }>(
    program,
    'list-ctrl',
    'controllers of the subsystem, or (-N) those that a namespace is attached to',
    'c',
    async (controller, nsid, flags) => {
      const cntlids = await controller.management.controllers(nsid, flags.cntid ?? 0);
      if (flags.output === 'json') {
        printJson({ num_ctrl: cntlids.length, ctrl_list: cntlids.map((cntlid) => ({ ctrl_id: cntlid })) });
        return;
      }
      printLine(`num of ctrls present: ${cntlids.length}`);
      for (const [i, cntlid] of cntlids.entries()) printLine(`[${String(i).padStart(4)}]:${hex(cntlid)}`);
    },
  ).option('-c, --cntid <id>', 'from this id on', parseInteger);
}

interface FormatFlags extends AddressFlags {
  lbaf?: number;
  blockSize?: number;
  ses?: number;
  pi?: number;
  pil?: number;
  ms?: number;
}

function registerFormat(program: Command): void {
  addVerb<FormatFlags>(
    program,
    'format',
    'Format NVM: another block size, or the same; the data is gone',
    'lsipmbf',
    async (controller, named, flags) => {
      const nsid = requireNsid('format', named);
      if (flags.lbaf !== undefined && flags.blockSize !== undefined) {
        throw new ConfigError('format: found --lbaf and --block-size, which say the same; give one');
      }
      const lbaFormat =
        flags.blockSize === undefined
          ? flags.lbaf
          : formatOf('format', await commands.identifyNamespace(controller.execute, nsid), flags.blockSize);
      await controller.management.format(nsid, {
        lbaFormat,
        secureErase: flags.ses,
        protection: flags.pi,
        protectionFirst: flags.pil === 1,
        extendedMetadata: flags.ms === 1,
      });
      sayDone(flags, `Success formatting namespace:${nsid.toString(16)}`, { nsid });
    },
    LONG_MS,
  )
    .option('-l, --lbaf <index>', 'LBA format (default: the one in use)', parseInteger)
    .option('-b, --block-size <bytes>', 'the LBA format by its block size', parseBytes)
    .option('-s, --ses <0-2>', 'secure erase: 0 none, 1 user data, 2 cryptographic', parseInteger)
    .option('-i, --pi <type>', 'protection information', parseInteger)
    .option('-p, --pil <0|1>', 'its place', parseInteger)
    .option('-m, --ms <0|1>', 'metadata: 1 extended', parseInteger)
    .option('-f, --force', 'accepted, and without effect: there is no question asked');
}

const ACTIONS: Readonly<Record<string, number>> = {
  'exit-failure': SanitizeAction.ExitFailureMode,
  'start-block-erase': SanitizeAction.BlockErase,
  'start-overwrite': SanitizeAction.Overwrite,
  'start-crypto-erase': SanitizeAction.CryptoErase,
};

function parseAction(text: string): number {
  const action = ACTIONS[text] ?? (/^(?:0x)?[0-7]$/.test(text) ? Number(text) : undefined);
  if (action === undefined)
    throw new InvalidArgumentError(`Allowed are ${Object.keys(ACTIONS).join(', ')}, or 1 to 4.`);
  return action;
}

interface SanitizeFlags extends AddressFlags {
  sanact?: number;
  ause?: boolean;
  owpass?: number;
  oipbp?: boolean;
  dealloc?: boolean;
  ovrpat?: number;
}

function registerSanitize(program: Command): void {
  addVerb<SanitizeFlags>(
    program,
    'sanitize',
    'erase every namespace of the subsystem, in the background',
    'adinup',
    async (controller, _nsid, flags) => {
      if (flags.sanact === undefined) {
        throw new ConfigError('sanitize: no action is named; give --sanact, e.g. --sanact start-block-erase');
      }
      await controller.management.sanitize({
        action: flags.sanact,
        allowUnrestrictedExit: flags.ause,
        overwritePasses: flags.owpass,
        invertPattern: flags.oipbp,
        noDeallocate: flags.dealloc === false,
        overwritePattern: flags.ovrpat,
      });
      sayDone(flags, 'sanitize: Success (sanitize-log tells how far it is)', { sanact: flags.sanact });
    },
  )
    .option('-a, --sanact <action>', `${Object.keys(ACTIONS).join(', ')}`, parseAction)
    .option('-u, --ause', 'a failure may be left with exit-failure')
    .option('-n, --owpass <1-16>', 'passes of an overwrite', parseInteger)
    .option('-i, --oipbp', 'invert the pattern between passes')
    .option('-d, --no-dealloc', 'do not deallocate afterwards')
    .option('-p, --ovrpat <dword>', 'pattern of an overwrite', parseInteger);
}

const STATUS_TEXTS: Readonly<Record<number, string>> = {
  [SanitizeStatus.Never]: 'NVM Subsystem has never been sanitized.',
  [SanitizeStatus.Completed]: 'Most Recent Sanitize Command Completed Successfully.',
  [SanitizeStatus.InProgress]: 'Sanitize in Progress.',
  [SanitizeStatus.Failed]: 'Most Recent Sanitize Command Failed.',
};

function showSanitizeLog(log: SanitizeLog, where: string, flags: AddressFlags): void {
  const status = log.sstat & 7;
  const statusText = `(${status}) ${STATUS_TEXTS[status] ?? 'Unknown.'}`;
  const passes = (log.sstat >> 3) & 0x1f;
  const erased = (log.sstat >> 8) & 1;
  if (flags.output === 'json') {
    printJson({
      [where]: {
        sprog: log.sprog,
        sstat: { global_erased: erased, no_cmplted_passes: passes, status: statusText },
        cdw10_info: log.scdw10,
        time_over_write: log.eto,
        time_block_erase: log.etbe,
        time_crypto_erase: log.etce,
        time_over_write_no_dealloc: log.etond,
        time_block_erase_no_dealloc: log.etbend,
        time_crypto_erase_no_dealloc: log.etcend,
      },
    });
    return;
  }
  const time = (seconds: number): string =>
    seconds === 0xffff_ffff ? '4294967295 (No time period reported)' : String(seconds);
  const progress = status === SanitizeStatus.InProgress ? ` (${((log.sprog * 100) / 0x10000).toFixed(2)}%)` : '';
  printLine(`Sanitize Progress                      (SPROG) :  ${log.sprog}${progress}`);
  printLine(`Sanitize Status                        (SSTAT) :  ${hex(log.sstat)}`);
  printLine(`        [2:0]   ${statusText}`);
  printLine(`        [7:3]   Number of completed passes if most recent operation was overwrite:      ${passes}`);
  printLine(`          [8]   Global Data Erased ${erased === 1 ? 'set' : 'cleared'}`);
  printLine(`Sanitize Command Dword 10 Information (SCDW10) :  ${hex(log.scdw10)}`);
  printLine(`Estimated Time For Overwrite                   :  ${time(log.eto)}`);
  printLine(`Estimated Time For Block Erase                 :  ${time(log.etbe)}`);
  printLine(`Estimated Time For Crypto Erase                :  ${time(log.etce)}`);
}

function registerSanitizeLog(program: Command): void {
  addVerb<AddressFlags & { rae?: boolean }>(
    program,
    'sanitize-log',
    'Sanitize Status',
    'r',
    async (controller, _nsid, flags) => {
      const log = await controller.management.sanitizeStatus({ retainEvent: flags.rae ?? false });
      showSanitizeLog(log, controller.address, flags);
    },
  ).option('-r, --rae', 'retain the asynchronous event');
}

function registerChangedNs(program: Command): void {
  addVerb<AddressFlags & { rae?: boolean; alloc?: boolean }>(
    program,
    'changed-ns-list-log',
    'Changed Attached (or Allocated) Namespace List',
    'rA',
    async (controller, _nsid, flags) => {
      const lid = flags.alloc === true ? LogPage.ChangedAllocatedNamespaces : LogPage.ChangedNamespaces;
      const page = await commands.getLogPage(controller.execute, {
        lid,
        bytes: CHANGED_NAMESPACES_BYTES,
        retainEvent: flags.rae ?? false,
      });
      const nsids = decodeChangedNamespaces(page);
      if (flags.output === 'json') {
        printJson({
          'Changed Namespace List': nsids?.map((nsid) => ({ nsid })) ?? 'more than 1024 namespaces have changed',
        });
        return;
      }
      if (nsids === undefined) printLine('more than 1024 namespaces have changed');
      for (const [i, nsid] of (nsids ?? []).entries()) printLine(`[${String(i).padStart(4)}]:${hex(nsid)}`);
    },
  )
    .option('-r, --rae', 'retain the asynchronous event')
    .option('-A, --alloc', 'allocated namespaces, attached or not (log page 1Ch)');
}

function registerNsDescs(program: Command): void {
  addVerb(program, 'ns-descs', 'identifiers of a namespace', '', async (controller, named, flags) => {
    const nsid = requireNsid('ns-descs', named);
    const { eui64, nguid, uuid, csi } = await commands.namespaceDescriptors(controller.execute, nsid);
    const fields: [string, string][] = [];
    if (eui64 !== undefined) fields.push(['eui64', toHex(eui64)]);
    if (nguid !== undefined) fields.push(['nguid', toHex(nguid)]);
    if (uuid !== undefined) fields.push(['uuid', uuidFromBytes(uuid)]);
    if (csi !== undefined) fields.push(['csi', String(csi)]);
    if (flags.output === 'json') {
      printJson({ ns_descs: fields.map(([type, value]) => ({ type, [type]: value })) });
      return;
    }
    printLine(`NVME Namespace Identification Descriptors NS ${nsid}:`);
    for (const [name, value] of fields) printLine(`${name.padEnd(8)}: ${value}`);
  });
}

export function registerNamespaceVerbs(program: Command): void {
  registerNsDescs(program);
  registerCreateNs(program);
  registerDeleteNs(program);
  registerAttachments(program);
  registerListCtrl(program);
  registerChangedNs(program);
  registerFormat(program);
  registerSanitize(program);
  registerSanitizeLog(program);
}
