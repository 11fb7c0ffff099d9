/** Get Log Page, as one table of what is served. Base 2.1 section 5.1.12. */

import { NSID_ALL } from '../../spec/identify.ts';
import { LogPage } from '../../spec/log-page.ts';
import { MigrationLogPage } from '../../spec/migration.ts';
import { AdminOpcode, Direction, FABRICS_OPCODE, IoOpcode } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { encodeAnaLog } from '../../wire/cold/log-ana.ts';
import { encodeChangedNamespaces } from '../../wire/cold/log-changed-ns.ts';
import { effectsLogCodec } from '../../wire/cold/log-effects.ts';
import { errorLogEntryCodec } from '../../wire/cold/log-error.ts';
import { featureEffectsCodec } from '../../wire/cold/log-feature-effects.ts';
import { firmwareLogCodec } from '../../wire/cold/log-firmware.ts';
import { sanitizeLogCodec } from '../../wire/cold/log-sanitize.ts';
import { smartLogCodec } from '../../wire/cold/log-smart.ts';
import { supportedLogPagesCodec } from '../../wire/cold/log-supported.ts';
import { sqeCdw10, sqeCdw11, sqeCdw12, sqeCdw13, sqeCdw14, sqeNsid } from '../../wire/sqe.ts';
import { anaGroupOf, anaStateOf } from '../ana-access.ts';
import type { Controller } from '../controller.ts';
import { healthFields } from '../device-health.ts';
import { ERROR_LOG_ENTRIES } from '../error-log.ts';
import { isManager } from '../fence.ts';
import type { Request } from '../request.ts';
import { passedLogPage, passesLogPage } from './admin-passthrough.ts';
import { type CommandHandler, opcodesOf } from './command-set.ts';
import { featuresOf } from './feature.ts';
import { ioCommandSet } from './io.ts';
import { lbaStatusLog } from './lba-status.ts';
import { FIRMWARE_REVISION, TRANSFER_BYTES_MAX } from './limits.ts';
import { changedBlocksLog, residentQueueLog } from './migration-features.ts';

interface PageEntry {
  readonly onIo: boolean;
  readonly onDiscovery: boolean;
  /** The LID specific parameter of the Supported Log Pages. */
  parameter?(controller: Controller): number;
  /** LSP bits that may be set; absent: not looked at. */
  options?(controller: Controller): number;
  /** False: this controller does not have it. Default: it has. */
  isOffered?(controller: Controller): boolean;
  /** Read with RAE 0. */
  clear?(controller: Controller): void;
}

interface BuiltPage extends PageEntry {
  /** The whole page. @returns a status where the command's own fields do not fit */
  build(request: Request, controller: Controller): Uint8Array | number;
}

/** A page that is large, and stands somewhere as it is. */
interface LentPage extends PageEntry {
  /** The request gets the part that it asks for, where that is. @returns a status */
  lend(request: Request): number;
}

type LogEntry = BuiltPage | LentPage;

const DATA_UNIT_BYTES = 512_000;
const CSUPP = 0x1;
const LBCC = 0x2;
/** No scope is reported for commands: Linux hosts warn of "unusual effects" where it is. */
const CHANGES_BLOCKS: readonly number[] = [
  IoOpcode.Write,
  IoOpcode.WriteUncorrectable,
  IoOpcode.WriteZeroes,
  IoOpcode.DatasetManagement,
  IoOpcode.Copy,
];
const NOT_ON_DISCOVERY: readonly number[] = [AdminOpcode.GetLbaStatus];
const FEATURE_SCOPE_NAMESPACE = 1 << 20;
/** NCC: what a namespace can do; NIC: which namespaces there are; CSE: what must not run beside it. */
const NCC = 0x4;
const NIC = 0x8;
const CSE_SAME_NAMESPACE = 0x1_0000;
const CSE_ANY_NAMESPACE = 0x2_0000;
const ADMIN_EFFECTS: Readonly<Record<number, number>> = {
  [AdminOpcode.NamespaceManagement]: NIC,
  [AdminOpcode.NamespaceAttachment]: NIC,
  [AdminOpcode.FormatNvm]: LBCC | NCC | CSE_SAME_NAMESPACE,
  [AdminOpcode.Sanitize]: LBCC | CSE_ANY_NAMESPACE,
};
const FEATURE_SCOPE_CONTROLLER = 1 << 21;
const TRTYPE_TCP = 3;

function errorInformation(_request: Request, controller: Controller): Uint8Array {
  const page = new Uint8Array(ERROR_LOG_ENTRIES * errorLogEntryCodec.size);
  controller.errorLog.entries().forEach((entry, i) => {
    errorLogEntryCodec.encodeInto(page, i * errorLogEntryCodec.size, {
      errorCount: BigInt(entry.errorCount),
      sqid: entry.sqid,
      cmdid: entry.cid,
      statusField: (entry.status << 1) & 0xffff,
      parmErrorLocation: entry.location,
      lba: BigInt(entry.lba),
      nsid: entry.nsid,
      trtype: controller.memory === undefined ? TRTYPE_TCP : 0,
      opcode: entry.opcode,
    });
  });
  return page;
}

function smartHealth(request: Request, controller: Controller): Uint8Array | number {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  // LPA bit 0 is clear: one page for the controller
  if (nsid !== 0 && nsid !== NSID_ALL) return request.invalidField(4);
  let readBytes = 0;
  let writtenBytes = 0;
  let readCommands = 0;
  let writeCommands = 0;
  for (const namespace of controller.subsystem.allocatedNamespaces()) {
    readBytes += namespace.readBytes;
    writtenBytes += namespace.writtenBytes;
    readCommands += namespace.readCommands;
    writeCommands += namespace.writeCommands;
  }
  const hours = Math.floor((controller.nowMs() - controller.subsystem.startedMs) / 3_600_000);
  return smartLogCodec.encode({
    availSpare: 100,
    spareThresh: 10,
    dataUnitsRead: BigInt(Math.ceil(readBytes / DATA_UNIT_BYTES)),
    dataUnitsWritten: BigInt(Math.ceil(writtenBytes / DATA_UNIT_BYTES)),
    hostReadCommands: BigInt(readCommands),
    hostWriteCommands: BigInt(writeCommands),
    powerCycles: 1n,
    powerOnHours: BigInt(Math.max(0, hours)),
    numErrLogEntries: BigInt(controller.errorLog.count),
    ...healthFields(controller),
  });
}

/** Times that are not known are not reported. */
const NO_ESTIMATE = 0xffff_ffff;

function sanitizeStatus(_request: Request, { subsystem: { sanitizer } }: Controller): Uint8Array {
  return sanitizeLogCodec.encode({
    sprog: sanitizer.progress65536,
    sstat: sanitizer.sstat,
    scdw10: sanitizer.cdw10,
    eto: NO_ESTIMATE,
    etbe: NO_ESTIMATE,
    etce: NO_ESTIMATE,
    etond: NO_ESTIMATE,
    etbend: NO_ESTIMATE,
    etcend: NO_ESTIMATE,
    etpvds: NO_ESTIMATE,
  });
}

/** Commands Supported and Effects, from the command sets themselves. */
function effects(request: Request, controller: Controller): Uint8Array | number {
  if (sqeCdw14(request.sqe, request.sqeBase) >>> 24 !== 0) return request.invalidField(59);
  const acs = new Array<number>(256).fill(0);
  const iocs = new Array<number>(256).fill(0);
  for (const opcode of opcodesOf(request.queuePair.commandSet, controller)) {
    if (controller.subsystem.isDiscovery && NOT_ON_DISCOVERY.includes(opcode)) continue;
    if (opcode !== FABRICS_OPCODE) acs[opcode] = CSUPP | (ADMIN_EFFECTS[opcode] ?? 0);
  }
  if (!controller.subsystem.isDiscovery) {
    for (const opcode of opcodesOf(ioCommandSet, controller))
      iocs[opcode] = CSUPP | (CHANGES_BLOCKS.includes(opcode) ? LBCC : 0);
  }
  return effectsLogCodec.encode({ acs, iocs });
}

function featureEffects(_request: Request, controller: Controller): Uint8Array {
  const fids = new Array<number>(256).fill(0);
  for (const { fid, scope } of featuresOf(controller)) {
    fids[fid] = CSUPP | (scope === undefined ? FEATURE_SCOPE_CONTROLLER : FEATURE_SCOPE_NAMESPACE);
  }
  return featureEffectsCodec.encode({ fis: fids });
}

const CDW10_RGO = 0x100;

/** One descriptor for each group with attached namespaces. */
function asymmetricAccess(request: Request, controller: Controller): Uint8Array {
  const members = new Map<number, number[]>();
  const states = new Map<number, number>();
  for (const namespace of controller.activeNamespaces()) {
    const grpid = anaGroupOf(controller, namespace);
    const nsids = members.get(grpid);
    if (nsids === undefined) members.set(grpid, [namespace.nsid]);
    else nsids.push(namespace.nsid);
    states.set(grpid, anaStateOf(controller, namespace));
  }
  const groups = [...members].sort(([a], [b]) => a - b);
  return encodeAnaLog(
    {
      chgcnt: BigInt(controller.anaCounts.count),
      groups: groups.map(([grpid, nsids]) => ({
        grpid,
        chgcnt: BigInt(controller.anaCounts.group(grpid)),
        state: states.get(grpid)!,
        nsids,
      })),
    },
    (sqeCdw10(request.sqe, request.sqeBase) & CDW10_RGO) !== 0,
  );
}

const PAGES: Readonly<Record<number, LogEntry>> = {
  [LogPage.SupportedLogPages]: { onIo: true, onDiscovery: true, build: supportedPages },
  [LogPage.ErrorInformation]: { onIo: true, onDiscovery: true, build: errorInformation },
  [LogPage.SmartHealth]: { onIo: true, onDiscovery: false, build: smartHealth },
  [LogPage.FirmwareSlot]: {
    onIo: true,
    onDiscovery: false,
    build: () => firmwareLogCodec.encode({ afi: 1, frs: [{ fr: FIRMWARE_REVISION }] }),
  },
  [LogPage.ChangedNamespaces]: {
    onIo: true,
    onDiscovery: false,
    build: (_request, controller) => encodeChangedNamespaces(controller.changedNamespaces()),
    clear: (controller) => controller.clearChangedNamespaces(),
  },
  [LogPage.ChangedAllocatedNamespaces]: {
    onIo: true,
    onDiscovery: false,
    build: (_request, controller) => encodeChangedNamespaces(controller.changedAllocatedNamespaces()),
    clear: (controller) => controller.clearChangedAllocatedNamespaces(),
  },
  [LogPage.SanitizeStatus]: {
    onIo: true,
    onDiscovery: false,
    isOffered: ({ subsystem }) => subsystem.sanitizer.isOffered || subsystem.sanitizer.refusal !== undefined,
    build: sanitizeStatus,
  },
  [LogPage.CommandsSupportedAndEffects]: { onIo: true, onDiscovery: true, build: effects },
  [LogPage.Ana]: { onIo: true, onDiscovery: false, build: asymmetricAccess },
  [LogPage.LbaStatus]: {
    onIo: true,
    onDiscovery: false,
    build: lbaStatusLog,
    clear(controller): void {
      controller.lbaStatusLog = undefined;
    },
  },
  [LogPage.FeatureEffects]: { onIo: true, onDiscovery: true, build: featureEffects },
  [LogPage.ReservationNotification]: {
    onIo: true,
    onDiscovery: false,
    // one notice for each command that reads its beginning
    build: (request, controller) => controller.reservationNotices.page(offsetOf(request) === 0),
    clear: (controller) => {
      if (controller.reservationNotices.waiting > 0) controller.asyncEvents.reservation();
    },
  },
  [LogPage.Discovery]: {
    onIo: false,
    onDiscovery: true,
    build: (request, controller) => controller.subsystem.events.discoveryPage(controller, lspOf(request)),
    parameter: (controller) => controller.subsystem.events.discoveryOptions(controller),
    options: (controller) => controller.subsystem.events.discoveryOptions(controller),
  },
};

const MIGRATION_PAGES: Readonly<Record<number, LogEntry>> = {
  [MigrationLogPage.ResidentQueue]: {
    onIo: true,
    onDiscovery: false,
    isOffered: isManager,
    lend: residentQueueLog,
  },
  [MigrationLogPage.ChangedBlocks]: { onIo: true, onDiscovery: false, isOffered: isManager, build: changedBlocksLog },
};

function supportedPages(_request: Request, controller: Controller): Uint8Array {
  const lids = new Array<number>(256).fill(0);
  for (const [lid, entry] of Object.entries({ ...PAGES, ...MIGRATION_PAGES })) {
    if (has(controller, entry)) lids[Number(lid)] = CSUPP | ((entry.parameter?.(controller) ?? 0) << 16);
  }
  for (const lid of controller.subsystem.passthrough.logPages) {
    if (passesLogPage(controller, lid)) lids[lid] = lids[lid]! | CSUPP;
  }
  return supportedLogPagesCodec.encode({ lids });
}

/** One that the target does not build itself goes to the device, if the subsystem's list has it. */
function passes(request: Request): boolean {
  return passesLogPage(request.queuePair.controller!, sqeCdw10(request.sqe, request.sqeBase) & 0xff);
}

function find(request: Request): LogEntry | undefined {
  const lid = sqeCdw10(request.sqe, request.sqeBase) & 0xff;
  const entry = PAGES[lid] ?? MIGRATION_PAGES[lid];
  return entry !== undefined && has(request.queuePair.controller!, entry) ? entry : undefined;
}

function has(controller: Controller, entry: LogEntry): boolean {
  return (controller.subsystem.isDiscovery ? entry.onDiscovery : entry.onIo) && entry.isOffered?.(controller) !== false;
}

const lspOf = (request: Request): number => (sqeCdw10(request.sqe, request.sqeBase) >>> 8) & 0x7f;

/** LPO, bytes. */
const offsetOf = ({ sqe, sqeBase }: Request): number => sqeCdw12(sqe, sqeBase) + sqeCdw13(sqe, sqeBase) * 2 ** 32;

const CDW10_RAE = 0x8000;
const CDW14_INDEX_OFFSET = 0x0080_0000;

/** @returns a status */
function answerFrom(entry: BuiltPage, request: Request, controller: Controller): number {
  const page = entry.build(request, controller);
  if (typeof page === 'number') return page;
  const offset = offsetOf(request);
  if (offset > page.length) return request.invalidField(48);
  // what the page does not have reads as zero: hosts ask for more than a short page holds
  const whole = offset === 0 && page.length === request.transferBytes;
  const answer = whole ? page : new Uint8Array(request.transferBytes);
  if (!whole) answer.set(page.subarray(offset, offset + answer.length));
  request.answer(answer);
  return 0;
}

export const getLogPage: CommandHandler = {
  prepare(request): number {
    const { sqe, sqeBase } = request;
    const entry = find(request);
    if (entry === undefined) {
      return passes(request) ? passedLogPage.prepare(request) : request.fail(SpecificStatus.InvalidLogPage, 40);
    }
    const unknown = entry.options === undefined ? 0 : lspOf(request) & ~entry.options(request.queuePair.controller!);
    // the first of the bits that this page does not have
    if (unknown !== 0) return request.invalidField(41, 31 - Math.clz32(unknown & -unknown));
    const dwords = (sqeCdw10(sqe, sqeBase) >>> 16) + (sqeCdw11(sqe, sqeBase) & 0xffff) * 0x1_0000 + 1;
    const bytes = dwords * 4;
    if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(42);
    if ((sqeCdw12(sqe, sqeBase) & 3) !== 0) return request.invalidField(48);
    // no page offers index offsets
    if ((sqeCdw14(sqe, sqeBase) & CDW14_INDEX_OFFSET) !== 0) return request.invalidField(58, 7);
    request.direction = Direction.ControllerToHost;
    request.transferBytes = bytes;
    // collected from where it stands, where the transport cannot send it from there
    if ('lend' in entry && request.queuePair.transport.sendsByPlace !== true) request.bufferBytes = bytes;
    return 0;
  },
  execute(request): void {
    const { sqe, sqeBase } = request;
    const controller = request.queuePair.controller!;
    const entry = find(request);
    if (entry === undefined) {
      passedLogPage.execute(request);
      return;
    }
    const status = 'lend' in entry ? entry.lend(request) : answerFrom(entry, request, controller);
    if (status !== 0) {
      request.finish(status | DNR);
      return;
    }
    if ((sqeCdw10(sqe, sqeBase) & CDW10_RAE) === 0) {
      controller.asyncEvents.logRead(sqeCdw10(sqe, sqeBase) & 0xff);
      entry.clear?.(controller);
    }
    request.finish(Status.Success);
  },
};
