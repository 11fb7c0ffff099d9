/** The two ends of a move over NVMe: the source's namespace with the controller that manages it, and the destination's. */
import type { LiveMigration } from '../initiator/live-migration.ts';
import type { HostNamespace } from '../initiator/namespace.ts';
import { NvmeofError } from '../util/error.ts';
import { ChangedBlocksFlag } from '../wire/cold/log-migration.ts';
import type { BlockRun, ChangeSnapshot, DestinationVolume, SourceVolume } from './volume.ts';

const ALLOCATED = 0x02;
const COMPLETE = 2;

/** Reads, allocation and changes by a host that has a Migration Management Controller of the namespace's subsystem. */
export class FabricSource implements SourceVolume {
  readonly #namespace: HostNamespace;
  readonly #migration: LiveMigration;

  constructor(namespace: HostNamespace, migration: LiveMigration) {
    this.#namespace = namespace;
    this.#migration = migration;
  }

  get blockSize(): number {
    return this.#namespace.blockSize;
  }
  get blockCount(): number {
    return this.#namespace.blockCount;
  }

  startTracking(): Promise<void> {
    return this.#migration.trackChanges(this.#namespace.nsid, true);
  }

  stopTracking(): Promise<void> {
    return this.#migration.trackChanges(this.#namespace.nsid, false);
  }

  /** Get LBA Status, Allocated LBAs (TP4165), as many commands as it takes. */
  async *allocated(signal: AbortSignal | undefined): AsyncGenerator<BlockRun> {
    let slba = 0;
    while (slba < this.blockCount) {
      signal?.throwIfAborted();
      const { completion, ranges } = await this.#namespace.getLbaStatus({ slba, action: ALLOCATED });
      yield* ranges;
      if (completion === COMPLETE) return;
      const last = ranges.at(-1);
      if (last === undefined || last.slba + last.blockCount <= slba) {
        const what = `Allocated blocks of namespace ${this.#namespace.nsid} from block ${slba} on`;
        throw new NvmeofError('NVMEOF_ERR_PROTOCOL', `${what}: the controller says there are more and names none`);
      }
      slba = last.slba + last.blockCount;
    }
  }

  /** @throws NvmeofError NVMEOF_ERR_TRACKING_LOST: an association that was lost took the tracking with it, and the next one says "nothing changed" */
  async changes(): Promise<ChangeSnapshot> {
    const { nsid } = this.#namespace;
    const { header, runs } = await this.#migration.changedBlocks(nsid);
    if ((header.flags & ChangedBlocksFlag.Tracking) === 0) {
      const what = `Changes of namespace ${nsid} are not followed any more: the connection was lost`;
      throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `${what}; copy it anew`);
    }
    const complete = (header.flags & ChangedBlocksFlag.More) === 0;
    return { runs, complete, acknowledge: () => this.#migration.acknowledgeChanges(nsid, header) };
  }

  readInto(slba: number, buffer: Uint8Array): Promise<void> {
    return this.#namespace.readInto(slba, buffer);
  }
}

export class FabricDestination implements DestinationVolume {
  readonly #namespace: HostNamespace;

  constructor(namespace: HostNamespace) {
    this.#namespace = namespace;
  }

  get blockSize(): number {
    return this.#namespace.blockSize;
  }
  get blockCount(): number {
    return this.#namespace.blockCount;
  }

  write(slba: number, data: Uint8Array): Promise<void> {
    return this.#namespace.write(slba, data);
  }

  clear(slba: number, blockCount: number): Promise<void> {
    return this.#namespace.writeZeroes(slba, blockCount, { deallocate: true });
  }

  flush(): Promise<void> {
    return this.#namespace.flush();
  }
}
