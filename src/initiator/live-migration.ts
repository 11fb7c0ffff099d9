/**
 * Host Managed Live Migration, the host's side: the commands of a management controller, each checked as far as a host can. Base 2.1 section 8.1.12; which
 * values the specification means where it contradicts itself: docs/live-migration.md.
 */

import { Feature } from '../spec/feature.ts';
import { Cns } from '../spec/identify.ts';
import {
  CDQ_FEATURE_DATA_BYTES,
  CdqSelect,
  CdqType,
  CHANGED_BLOCKS_FEATURE,
  ChangedBlocksAction,
  FenceAction,
  MigrationLogPage,
  MigrationReceiveSelect,
  MigrationSendSelect,
  MoveFeature,
  PeerAction,
  SequenceIndicator,
  SuspendType,
  TrackSendSelect,
} from '../spec/migration.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { Status } from '../spec/status.ts';
import { ConfigError, NvmeofError, NvmeStatusError } from '../util/error.ts';
import {
  CONTROLLER_STATE_HEADER_BYTES,
  type ControllerStateFormats,
  controllerStateBytes,
  decodeControllerStateFormats,
} from '../wire/cold/controller-state.ts';
import {
  type BlockRun,
  type CdqFeature,
  CHANGED_RUN_BYTES,
  type ChangedBlocksHeader,
  cdqFeatureCodec,
  changedBlocksHeaderCodec,
  decodeChangedRuns,
  decodeResidentQueueLog,
  MIGRATION_LOG_HEADER_BYTES,
  type ResidentQueueLog,
} from '../wire/cold/log-migration.ts';
import {
  decodeMemoryReport,
  encodeTrackMemory,
  type TrackedMemoryChanges,
  type TrackedUnits,
} from '../wire/cold/track-memory.ts';
import { UDMQ_ENTRY_BYTES, UDMQ_ENTRY_DWORDS } from '../wire/udmq-entry.ts';
import type { HostController } from './controller.ts';
import { readLbaStatus } from './lba-status.ts';
import { encodePeer, type FenceStatus, MigrationExtension, type PeerEntry } from './migration-extension.ts';

/** Which parts of a state are meant: 1-based indexes into Identify CNS 20h; 0 leaves a part out. @public */
export interface StateSelection {
  /** Version of the NVMe Controller State. */
  readonly csvi: number;
  /** Format of the vendor specific part. */
  readonly csuuidi: number;
}

/** What Get Controller State gave. @public */
export interface ReceivedState {
  readonly bytes: Uint8Array;
  /** The controller was suspended during every command that read it (CSUP): the state is of one moment. */
  readonly suspended: boolean;
}

/** Changes of a namespace up to a moment, until `acknowledgeChanges`. @public */
export interface ChangedBlocks {
  readonly header: ChangedBlocksHeader;
  readonly runs: readonly BlockRun[];
}

const LBA_STATUS_ALLOCATED = 0x02;
/** CMPC. */
const LBA_STATUS_MORE = 1;
/** Entries that a queue is asked for at first: a page of 4 KiB with its header. */
const QUEUE_ENTRIES_FIRST = 126;
/** Bytes of one command where the controller names no limit. */
export const TRANSFER_BYTES_DEFAULT: number = 128 << 10;

const STATUS_MASK = 0x7ff;

/** The controller does not have the extension, or not that part of it. */
function isUnsupported(error: NvmeofError): boolean {
  if (error.code === 'NVMEOF_ERR_UNSUPPORTED') return true;
  return error instanceof NvmeStatusError && (error.status & STATUS_MASK) === Status.InvalidField;
}

/** What is asked of the management controller: it may be behind NVMe/TCP, or a local device. @public */
export type MigrationHost = Pick<HostController, 'executeAdmin' | 'getLogPage' | 'getFeature' | 'setFeature'> & {
  /** MDTS; default 128 KiB. */
  readonly maxTransferBytes?: number;
};

/** One command of a transfer in parts. @public */
export interface StatePart extends StateSelection {
  /** `SequenceIndicator`. */
  readonly sequence: number;
  /** Of the part in the state: a multiple of 4. */
  readonly offset: number;
  /** UIDX. Default 0. */
  readonly uuidIndex?: number;
}

/** The commands of one management controller. The connection stays the caller's. @public */
export class LiveMigration<H extends MigrationHost = HostController> {
  readonly controller: H;
  readonly #extension: MigrationExtension;
  /** Entries that the last look at a queue found. */
  #queueEntries = QUEUE_ENTRIES_FIRST;

  constructor(controller: H) {
    this.controller = controller;
    this.#extension = new MigrationExtension(controller);
  }

  /** Identify CNS 20h. @throws NvmeStatusError Invalid Field from a controller that manages no migration */
  async stateFormats(): Promise<ControllerStateFormats> {
    const { data } = await this.controller.executeAdmin('Identify CNS 20h', {
      opcode: AdminOpcode.Identify,
      cdw10: Cns.ControllerStateFormats,
      readBytes: 4096,
    });
    return decodeControllerStateFormats(data);
  }

  // ---- Controller Data Queues ----------------------------------------------------------------------------------------------------

  /**
   * A User Data Migration Queue that the controller keeps (vendor specific QT C0h).
   * @param cntlid whose changes it will log
   * @param slots 2 and more; one entry less can wait in it
   * @returns its CDQID
   */
  async createQueue(cntlid: number, slots: number): Promise<number> {
    await this.#extension.uuidIndex();
    const { result } = await this.controller.executeAdmin('Create Controller Data Queue', {
      opcode: AdminOpcode.ControllerDataQueue,
      cdw10: CdqSelect.Create | (CdqType.ResidentUserDataMigration << 16),
      cdw11: cntlid << 16,
      cdw12: slots * UDMQ_ENTRY_DWORDS,
    });
    return result & 0xffff;
  }

  async deleteQueue(cdqid: number): Promise<void> {
    await this.controller.executeAdmin('Delete Controller Data Queue', {
      opcode: AdminOpcode.ControllerDataQueue,
      cdw10: CdqSelect.Delete,
      cdw11: cdqid,
    });
  }

  /** Track Send, Log User Data Changes. From its return on every change is logged. */
  async trackUserData(cdqid: number, start: boolean): Promise<void> {
    await this.controller.executeAdmin(`Track Send ${start ? 'start' : 'stop'}`, {
      opcode: AdminOpcode.TrackSend,
      cdw10: TrackSendSelect.LogUserData | (start ? 0x1_0000 : 0),
      cdw11: cdqid,
    });
  }

  /** Entries of a queue that the controller keeps; reading consumes nothing. @param entriesMax of one answer */
  async readQueue(cdqid: number, entriesMax: number): Promise<ResidentQueueLog> {
    const page = {
      lid: MigrationLogPage.ResidentQueue,
      lsi: cdqid,
      nsid: 0,
      uuidIndex: await this.#extension.uuidIndex(),
    };
    const bytesPerCommand = this.#chunkBytes;
    const atOnce = Math.floor((bytesPerCommand - MIGRATION_LOG_HEADER_BYTES) / UDMQ_ENTRY_BYTES);
    // about as many as last time: a whole page costs both sides as much as the changes of some hundred writes
    const guess = Math.max(QUEUE_ENTRIES_FIRST, this.#queueEntries + (this.#queueEntries >> 2));
    const bytes = MIGRATION_LOG_HEADER_BYTES + Math.min(entriesMax, atOnce, guess) * UDMQ_ENTRY_BYTES;
    const first = await this.controller.getLogPage({ ...page, bytes, bytesPerCommand });
    const log = decodeResidentQueueLog(first);
    this.#queueEntries = log.header.nent;
    // only what is there: beyond the entries that wait, the page ends
    const more = Math.min(entriesMax, log.header.nent) - log.entries.length / UDMQ_ENTRY_BYTES;
    if (more <= 0) return log;
    const rest = await this.controller.getLogPage({
      ...page,
      offset: bytes,
      bytes: more * UDMQ_ENTRY_BYTES,
      bytesPerCommand,
    });
    return { header: log.header, entries: Buffer.concat([log.entries, rest]) };
  }

  /**
   * A part of log page C8h as it is, in one command; for `QueueReader`.
   * @param into as many bytes as are asked for
   * @returns what was received, in `into` where the controller's connection can
   */
  async queuePart(cdqid: number, offset: number, into: Uint8Array): Promise<Uint8Array> {
    const numd = into.length / 4 - 1;
    const { data } = await this.controller.executeAdmin('Get Log Page c8h', {
      opcode: AdminOpcode.GetLogPage,
      cdw10: MigrationLogPage.ResidentQueue | ((numd & 0xffff) << 16),
      cdw11: (numd >>> 16) | (cdqid << 16),
      cdw12: offset,
      cdw14: await this.#extension.uuidIndex(),
      readBytes: into.length,
      readInto: into,
    });
    return data;
  }

  /**
   * Set Features 21h: consumes up to slot `head`, and arms the tail pointer trigger at `trigger`, or disarms it.
   * After it returns, look at the queue once more before waiting for the event.
   */
  async consumeQueue(cdqid: number, head: number, trigger?: number): Promise<void> {
    await this.controller.setFeature(Feature.ControllerDataQueue, {
      cdw11: (cdqid | (trigger === undefined ? 0 : 0x8000_0000)) >>> 0,
      cdw12: head,
      cdw13: trigger ?? 0,
    });
  }

  /** Get Features 21h. */
  async queueState(cdqid: number): Promise<CdqFeature & { readonly triggerEnabled: boolean }> {
    const { result, data } = await this.controller.getFeature(Feature.ControllerDataQueue, {
      cdw11: cdqid,
      readBytes: CDQ_FEATURE_DATA_BYTES,
    });
    return { ...cdqFeatureCodec.decode(data), triggerEnabled: result >>> 31 === 1 };
  }

  // ---- changed blocks (vendor specific) ------------------------------------------------------------------------------------------

  /** Starts (anew: with nothing changed) or stops tracking the changed blocks of a namespace, whoever changes them. */
  async trackChanges(nsid: number, start: boolean): Promise<void> {
    await this.#changesFeature(nsid, start ? ChangedBlocksAction.Start : ChangedBlocksAction.Stop);
  }

  /** Changed blocks of that namespace can be tracked here. */
  async canTrackChanges(nsid: number): Promise<boolean> {
    try {
      await this.controller.executeAdmin('Get Features C9h', {
        opcode: AdminOpcode.GetFeatures,
        nsid,
        cdw10: CHANGED_BLOCKS_FEATURE,
        cdw14: await this.#extension.uuidIndex(),
      });
      return true;
    } catch (error) {
      if (!(error instanceof NvmeofError) || !isUnsupported(error)) throw error;
      return false;
    }
  }

  /** What was changed since the last snapshot that was acknowledged; the same again until then. */
  async changedBlocks(nsid: number): Promise<ChangedBlocks> {
    const uuidIndex = await this.#extension.uuidIndex();
    const lid = MigrationLogPage.ChangedBlocks;
    const first = await this.controller.getLogPage({ lid, bytes: MIGRATION_LOG_HEADER_BYTES, nsid, uuidIndex });
    const header = changedBlocksHeaderCodec.decode(first);
    const bytes = Number(header.runs) * CHANGED_RUN_BYTES;
    if (bytes === 0) return { header, runs: [] };
    const offset = MIGRATION_LOG_HEADER_BYTES;
    return {
      header,
      runs: decodeChangedRuns(
        await this.controller.getLogPage({ lid, bytes, offset, nsid, uuidIndex, bytesPerCommand: this.#chunkBytes }),
      ),
    };
  }

  /** The changes of `header` are known: the next snapshot has what came after it. */
  async acknowledgeChanges(nsid: number, header: ChangedBlocksHeader): Promise<void> {
    await this.#changesFeature(nsid, ChangedBlocksAction.Acknowledge, header.epoch);
  }

  /** What the snapshot says counts as changed again: the next one has it as well. */
  async giveBackChanges(nsid: number): Promise<void> {
    await this.#changesFeature(nsid, ChangedBlocksAction.GiveBack);
  }

  async #changesFeature(nsid: number, action: number, epoch = 0n): Promise<void> {
    await this.controller.executeAdmin('Set Features C9h', {
      opcode: AdminOpcode.SetFeatures,
      nsid,
      cdw10: CHANGED_BLOCKS_FEATURE,
      cdw11: action,
      cdw12: Number(epoch & 0xffff_ffffn),
      cdw13: Number(epoch >> 32n),
      cdw14: await this.#extension.uuidIndex(),
    });
  }

  // ---- allocated blocks ----------------------------------------------------------------------------------------------------------

  /**
   * Get LBA Status, ATYPE 02h, to the end of its list: runs of blocks that hold data, ascending. While the namespace is written to, start its log
   * first.
   */
  async *allocatedBlocks(nsid: number, slba = 0): AsyncGenerator<BlockRun> {
    const rangesMax = Math.floor((this.#chunkBytes - 8) / 16);
    for (let from = slba; ; ) {
      const { completion, ranges } = await readLbaStatus(this.controller, nsid, {
        slba: from,
        action: LBA_STATUS_ALLOCATED,
        rangesMax,
      });
      for (const range of ranges) yield { slba: range.slba, blockCount: range.blockCount };
      const last = ranges.at(-1);
      if (completion !== LBA_STATUS_MORE || last === undefined) return;
      from = last.slba + last.blockCount;
    }
  }

  // ---- memory --------------------------------------------------------------------------------------------------------------------

  /** Track Send, Track Memory Changes. @param rmrtg granularity 2^n x 4 KiB @param ranges in units of it */
  async trackMemory(cntlid: number, rmrtg: number, ranges: readonly TrackedUnits[]): Promise<void> {
    await this.controller.executeAdmin('Track Memory Changes start', {
      opcode: AdminOpcode.TrackSend,
      cdw10: TrackSendSelect.TrackMemory | 0x1_0000,
      cdw11: cntlid,
      data: encodeTrackMemory({ ver: 0, rmrtg, ranges }),
    });
  }

  async stopTrackingMemory(cntlid: number): Promise<void> {
    await this.controller.executeAdmin('Track Memory Changes stop', {
      opcode: AdminOpcode.TrackSend,
      cdw10: TrackSendSelect.TrackMemory,
      cdw11: cntlid,
    });
  }

  /**
   * Track Receive: takes changes away from the controller. If the answer is lost, they are lost: take all memory for changed then.
   * @param changesMax of one answer
   */
  async memoryChanges(cntlid: number, changesMax: number): Promise<TrackedMemoryChanges> {
    const readBytes = 16 + changesMax * 16;
    const { data } = await this.controller.executeAdmin('Track Receive', {
      opcode: AdminOpcode.TrackReceive,
      cdw11: cntlid,
      cdw12: readBytes / 4 - 1,
      readBytes,
    });
    return decodeMemoryReport(data);
  }

  // ---- suspend, resume, state ----------------------------------------------------------------------------------------------------

  /**
   * Returns when every command that the controller had fetched is complete.
   * @param options.notification only a hint that a suspension is near
   * @param options.deleteQueue DUDMQ: the end of the log is lost with the queue
   */
  async suspend(
    cntlid: number,
    options: { readonly notification?: boolean; readonly deleteQueue?: boolean } = {},
  ): Promise<void> {
    const stype = options.notification === true ? SuspendType.Notification : SuspendType.Suspend;
    await this.controller.executeAdmin('Migration Send Suspend', {
      opcode: AdminOpcode.MigrationSend,
      cdw10: MigrationSendSelect.Suspend,
      cdw11: (cntlid | (stype << 16) | (options.deleteQueue === true ? 0x8000_0000 : 0)) >>> 0,
    });
  }

  async resume(cntlid: number): Promise<void> {
    await this.controller.executeAdmin('Migration Send Resume', {
      opcode: AdminOpcode.MigrationSend,
      cdw10: MigrationSendSelect.Resume,
      cdw11: cntlid,
    });
  }

  /** Get Controller State, whole: its header first, then the rest in as many commands as it takes. */
  async getState(cntlid: number, selection: StateSelection): Promise<ReceivedState> {
    const head = await this.getStatePart(cntlid, selection, 0, CONTROLLER_STATE_HEADER_BYTES);
    const bytes = new Uint8Array(controllerStateBytes(head.bytes));
    bytes.set(head.bytes);
    let { suspended } = head;
    for (let offset = CONTROLLER_STATE_HEADER_BYTES; offset < bytes.length; ) {
      const length = Math.min(this.#chunkBytes, bytes.length - offset);
      const part = await this.getStatePart(cntlid, selection, offset, length);
      bytes.set(part.bytes, offset);
      suspended &&= part.suspended;
      offset += part.bytes.length;
    }
    return { bytes, suspended };
  }

  /** One Get Controller State. @param offset a multiple of 4 @param readBytes whole dwords; what is behind the state has no meaning */
  async getStatePart(
    cntlid: number,
    { csvi, csuuidi, uuidIndex = 0 }: StateSelection & { readonly uuidIndex?: number },
    offset: number,
    readBytes: number,
  ): Promise<ReceivedState> {
    const { data, result } = await this.controller.executeAdmin('Migration Receive', {
      opcode: AdminOpcode.MigrationReceive,
      cdw10: MigrationReceiveSelect.GetControllerState | (csvi << 16),
      cdw11: cntlid | (csuuidi << 16),
      cdw12: offset >>> 0,
      cdw13: Math.floor(offset / 2 ** 32),
      cdw14: uuidIndex,
      cdw15: readBytes / 4 - 1,
      readBytes,
    });
    if (data.length !== readBytes) {
      throw new NvmeofError('NVMEOF_ERR_SHORT', `Migration Receive gave ${data.length} of ${readBytes} bytes`);
    }
    return { bytes: data, suspended: (result & 1) !== 0 };
  }

  /**
   * Set Controller State: verified and applied when it returns. After a failure, send all of it again.
   * @param selection indexes of THIS management controller's lists, which need not be those of the source
   */
  async setState(cntlid: number, bytes: Uint8Array, selection: StateSelection): Promise<void> {
    if (bytes.length === 0 || bytes.length % 4 !== 0) {
      throw new ConfigError(`Controller state of ${bytes.length} bytes: whole dwords are needed`);
    }
    for (let offset = 0; offset < bytes.length; ) {
      const data = bytes.subarray(offset, offset + this.#chunkBytes);
      const first = offset === 0;
      const last = offset + data.length === bytes.length;
      const { Only, First, Last, Middle } = SequenceIndicator;
      const sequence = first ? (last ? Only : First) : last ? Last : Middle;
      await this.setStatePart(cntlid, { ...selection, sequence, offset }, data);
      offset += data.length;
    }
  }

  /** One Set Controller State. @param data whole dwords; empty only with `SequenceIndicator.Last` */
  async setStatePart(cntlid: number, part: StatePart, data: Uint8Array): Promise<void> {
    const { csvi, csuuidi, sequence, offset, uuidIndex = 0 } = part;
    await this.controller.executeAdmin('Migration Send Set Controller State', {
      opcode: AdminOpcode.MigrationSend,
      cdw10: MigrationSendSelect.SetControllerState | (sequence << 16),
      cdw11: (cntlid | (csvi << 16) | (csuuidi << 24)) >>> 0,
      cdw12: offset >>> 0,
      cdw13: Math.floor(offset / 2 ** 32),
      cdw14: uuidIndex,
      cdw15: data.length / 4,
      data,
    });
  }

  get #chunkBytes(): number {
    return Math.min(TRANSFER_BYTES_DEFAULT, this.controller.maxTransferBytes ?? TRANSFER_BYTES_DEFAULT);
  }

  // ---- a move across fabrics (vendor specific) -----------------------------------------------------------------------------------

  /** Who may use the namespace. */
  async fence(nsid: number): Promise<FenceStatus> {
    return this.#extension.fence(MoveFeature.Fence, nsid);
  }

  /**
   * Opens a namespace to its hosts, or closes it: then nothing of theirs is in flight when it returns. Idempotent.
   * @param epoch of whoever decides; the target refuses one that is lower than what the namespace has seen
   * @throws NvmeStatusError Command Sequence Error for such a one
   */
  async setFence(nsid: number, isOpen: boolean, epoch: bigint): Promise<void> {
    const cdw11 = isOpen ? FenceAction.Open : FenceAction.Close;
    await this.#extension.set(MoveFeature.Fence, { nsid, cdw11, number: epoch });
  }

  /**
   * Replaces all reservations of a namespace, while it is closed.
   * @param status extended Reservation Status, as Reservation Report gives it; undefined: nobody has registered
   */
  async setReservations(nsid: number, status: Uint8Array | undefined, epoch: bigint): Promise<void> {
    const fields = { nsid, cdw11: status?.length ?? 0, number: epoch, data: status };
    await this.#extension.set(MoveFeature.Reservations, fields);
  }

  /**
   * The discovery service there names another place where hosts reach the subsystem, or no longer. Idempotent.
   * @param peer what is not said is as our targets have it
   */
  async announcePeer(peer: PeerEntry, isThere: boolean): Promise<void> {
    const cdw11 = isThere ? PeerAction.Add : PeerAction.Remove;
    await this.#extension.set(MoveFeature.Peer, { cdw11, data: encodePeer(peer) });
  }

  /** Limits what hosts write to a namespace, by letting them wait. Ends with this controller. @param bytesPerSecond undefined: no limit */
  async limitWrites(nsid: number, bytesPerSecond: number | undefined): Promise<void> {
    const kib = bytesPerSecond === undefined ? 0 : Math.min(0xffff_ffff, Math.max(1, Math.ceil(bytesPerSecond / 1024)));
    await this.#extension.set(MoveFeature.WriteLimit, { nsid, cdw11: kib });
  }

  /** Controller Level Reset of a controller that is suspended: a state that was loaded is dropped, and it runs, disabled. */
  async resetController(cntlid: number): Promise<void> {
    await this.#extension.set(MoveFeature.Reset, { cdw11: cntlid });
  }
}
