/**
 * Namespace Management and Attachment: makes and deletes volumes of a subsystem's pool, attaches and detaches, and remembers it all.
 * Base 2.1 sections 5.1.20, 5.1.21, 8.1.15. One change after the other; each is in the state store before a host hears of it, and a
 * crash between two steps leaves nothing behind that the next start does not clear away.
 */
import { randomUUID } from 'node:crypto';
import PQueue from 'p-queue';
import type { BlockBackend } from '../backend/block-backend.ts';
import type { VolumePool } from '../backend/volume-pool.ts';
import { DNR, SpecificStatus, Status } from '../spec/status.ts';
import type { Controller } from './controller.ts';
import { forgetFence } from './fence.ts';
import type { Namespace } from './namespace.ts';
import { formatsWith } from './namespace.ts';
import { NamespaceRecords, type VolumeRecord } from './namespace-records.ts';
import { becomeQuiet } from './quiet.ts';
import type { Subsystem } from './subsystem.ts';

export interface CreateOptions {
  readonly sizeBytes: number;
  readonly blockSize: number;
  readonly shared: boolean;
}

export class NamespaceManager {
  readonly #subsystem: Subsystem;
  readonly pool: VolumePool | undefined;
  readonly #records: NamespaceRecords;
  readonly #changes = new PQueue({ concurrency: 1 });

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  constructor(subsystem: Subsystem, pool: VolumePool | undefined) {
    this.#subsystem = subsystem;
    this.pool = pool;
    this.#records = new NamespaceRecords(subsystem.state, subsystem.nqn);
  }

  /** Bytes of the pool that no volume has. */
  get unallocatedBytes(): number {
    return Math.max(0, (this.pool?.capacityBytes ?? 0) - this.#volumeBytes());
  }

  #volumeBytes(): number {
    let bytes = 0;
    for (const namespace of this.#subsystem.allocatedNamespaces()) {
      if (namespace.isVolume) bytes += namespace.backend.blockCount * namespace.backend.blockSize;
    }
    return bytes;
  }

  // ---- start and end -------------------------------------------------------------------------------------------------------------

  /**
   * Brings back what hosts created; clears away what a crash left half made.
   * @throws ConfigError if a volume is missing
   */
  async restore(): Promise<void> {
    const { pool } = this;
    if (pool === undefined || !pool.persistent) return;
    let cleared = false;
    for (const record of [...this.#records.volumes.values()]) {
      if (record.state === 'there') {
        await this.#add(record, await pool.open(record));
        continue;
      }
      await pool.destroy(record.uuid);
      this.#records.volumes.delete(record.nsid);
      cleared = true;
    }
    if (cleared) await this.#records.save();
  }

  async #add(record: VolumeRecord, backend: BlockBackend): Promise<void> {
    const { nsid, uuid, shared } = record;
    try {
      const namespace = this.#subsystem.addNamespace({
        nsid,
        uuid,
        shared,
        backend,
        isVolume: true,
        attachedByDefault: false,
        formatBlockSizes: formatsWith(record.blockSize),
      });
      this.added(namespace);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /** A namespace came: who had it attached before the restart has it again. */
  added(namespace: Namespace): void {
    const remembered = this.#records.attachments.get(namespace.nsid);
    if (remembered === undefined) return;
    this.#subsystem.changeAttachment(namespace, () => namespace.attachments.restore(remembered));
  }

  /** A configured namespace is no longer configured: what hosts did to it is forgotten. */
  async forget(nsid: number): Promise<void> {
    const { attachments, formats } = this.#records;
    if (!attachments.delete(nsid) && !formats.delete(nsid)) return;
    formats.delete(nsid);
    await this.#records.save();
  }

  // ---- block sizes ---------------------------------------------------------------------------------------------------------------

  /** A Format of a namespace on a file is remembered. */
  get keepsFormats(): boolean {
    return this.#records.isKept;
  }

  /** The block size of a configured namespace: a host may have changed it. */
  blockSizeOf(nsid: number, configured: number): number {
    const record = this.#records.formats.get(nsid);
    return record?.configured === configured ? record.blockSize : configured;
  }

  /** Before the block size changes. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  async willFormat(namespace: Namespace, blockSize: number): Promise<void> {
    const { nsid } = namespace;
    const { formats, volumes } = this.#records;
    const volume = volumes.get(nsid);
    if (namespace.isVolume) {
      if (volume === undefined || volume.blockSize === blockSize) return;
      const before = volume.blockSize;
      volume.blockSize = blockSize;
      await this.#saveOr(() => {
        volume.blockSize = before;
      });
      return;
    }
    if (namespace.backend.isVolatile === true || blockSize === namespace.blockSize) return;
    const before = formats.get(nsid);
    const configured = before?.blockSize === namespace.blockSize ? before.configured : namespace.blockSize;
    formats.set(nsid, { configured, blockSize });
    await this.#saveOr(() => {
      if (before === undefined) formats.delete(nsid);
      else formats.set(nsid, before);
    });
  }

  async #saveOr(undo: () => void): Promise<void> {
    try {
      await this.#records.save();
    } catch (error) {
      undo();
      throw error;
    }
  }

  // ---- create, delete ------------------------------------------------------------------------------------------------------------

  /** @returns the NSID, or the status that says why not */
  create(options: CreateOptions): Promise<{ readonly nsid: number } | number> {
    return this.#changes.add(() => this.#create(options));
  }

  async #create(options: CreateOptions): Promise<{ readonly nsid: number } | number> {
    const { pool } = this;
    if (pool === undefined) return Status.InvalidOpcode | DNR;
    if (options.sizeBytes > this.unallocatedBytes) return SpecificStatus.NamespaceInsufficientCapacity | DNR;
    const nsid = this.#freeNsid();
    if (nsid === undefined) return SpecificStatus.NamespaceIdUnavailable | DNR;
    const record: VolumeRecord = { nsid, uuid: randomUUID(), ...options, state: 'making' };
    let backend: BlockBackend | undefined;
    try {
      await this.#keep(record);
      backend = await pool.create(record);
      record.state = 'there';
      await this.#keep(record);
      await this.#add(record, backend);
      return { nsid };
    } catch (error) {
      await backend?.close();
      this.#warn(`Namespace ${nsid} could not be created`, error);
      await this.#undoCreate(record);
      return isNoSpace(error) ? SpecificStatus.NamespaceInsufficientCapacity | DNR : Status.InternalError;
    }
  }

  async #undoCreate(record: VolumeRecord): Promise<void> {
    try {
      await this.pool?.destroy(record.uuid);
      this.#records.volumes.delete(record.nsid);
      if (this.pool?.persistent === true) await this.#records.save();
    } catch (error) {
      this.#warn(`What was made of namespace ${record.nsid} stays until the next start`, error);
    }
  }

  async #keep(record: VolumeRecord): Promise<void> {
    if (this.pool?.persistent !== true) return;
    this.#records.volumes.set(record.nsid, record);
    await this.#records.save();
  }

  #freeNsid(): number | undefined {
    const { namespaces, nsidMax } = this.#subsystem;
    for (let nsid = 1; nsid <= nsidMax; nsid++) {
      if (namespaces[nsid] === undefined && !this.#records.volumes.has(nsid)) return nsid;
    }
    return undefined;
  }

  /** @param issuer gets no event @returns a status: if it is not 0, the namespace is as it was */
  delete(nsid: number, issuer: Controller): Promise<number> {
    return this.#changes.add(() => this.#delete(nsid, issuer));
  }

  async #delete(nsid: number, issuer: Controller): Promise<number> {
    const namespace = this.#subsystem.namespaces[nsid];
    if (namespace === undefined || this.pool === undefined) return Status.InvalidField | DNR;
    if (!namespace.isVolume) return Status.OperationDenied | DNR;
    const record = this.#records.volumes.get(nsid);
    const uuid = Buffer.from(namespace.uuid)
      .toString('hex')
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
    try {
      if (record !== undefined) {
        record.state = 'going';
        await this.#keep(record);
      }
      await this.pool.destroy(uuid);
    } catch (error) {
      this.#warn(`Namespace ${nsid} could not be deleted`, error);
      if (record !== undefined) {
        record.state = 'there';
        await this.#keep(record).catch((again) => this.#warn('The state store fails', again));
      }
      return Status.InternalError;
    }
    const backend = this.#subsystem.removeNamespace(nsid, issuer);
    await becomeQuiet(this.#subsystem, namespace, Status.InvalidNamespaceOrFormat | DNR, this.#subsystem.clock);
    try {
      await backend?.close();
      await namespace.forgetUncorrectable();
      await namespace.reservations.forget();
      await forgetFence(this.#subsystem, namespace);
      this.#records.volumes.delete(nsid);
      const remembered = this.#records.attachments.delete(nsid);
      if (record !== undefined || remembered) await this.#records.save();
    } catch (error) {
      // it is gone all the same; the next start clears the record away
      this.#warn(`Namespace ${nsid} was deleted, with complaints`, error);
    }
    return 0;
  }

  // ---- attach, detach ------------------------------------------------------------------------------------------------------------

  /** All or none. @returns a status */
  async attach(namespace: Namespace, controllers: readonly Controller[]): Promise<number> {
    const { attachments, shared } = namespace;
    const all = [...this.#subsystem.controllers];
    if (controllers.some(({ hostnqn }) => !attachments.permits(hostnqn))) return Status.OperationDenied | DNR;
    if (controllers.some((controller) => attachments.has(controller))) {
      return SpecificStatus.NamespaceAlreadyAttached | DNR;
    }
    if (!shared && (controllers.length > 1 || all.some((controller) => attachments.has(controller)))) {
      return SpecificStatus.NamespaceIsPrivate | DNR;
    }
    return this.#setAttached(namespace, controllers, true);
  }

  /** All or none. @returns a status */
  async detach(namespace: Namespace, controllers: readonly Controller[]): Promise<number> {
    if (controllers.some((controller) => !namespace.attachments.has(controller))) {
      return SpecificStatus.NamespaceNotAttached | DNR;
    }
    return this.#setAttached(namespace, controllers, false);
  }

  async #setAttached(namespace: Namespace, controllers: readonly Controller[], attached: boolean): Promise<number> {
    const { attachments, nsid } = namespace;
    this.#subsystem.changeAttachment(namespace, () => {
      for (const controller of controllers) attachments.set(controller, attached, this.#subsystem.controllers);
    });
    if (namespace.isVolume && this.pool?.persistent === false) return 0;
    const remembered = attachments.remembered();
    if (Object.keys(remembered).length === 0) this.#records.attachments.delete(nsid);
    else this.#records.attachments.set(nsid, remembered);
    try {
      await this.#records.save();
    } catch (error) {
      // in force now, but not after a restart: the host may try again, which then says that it is attached already
      this.#warn(`The attachment of namespace ${nsid} could not be saved`, error);
      return Status.InternalError;
    }
    return 0;
  }

  #warn(message: string, error: unknown): void {
    this.#subsystem.events.warning?.(this.#subsystem, message, error);
  }
}

function isNoSpace(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') return true;
  }
  return false;
}
