/** Log page C9h: the blocks of one namespace that were changed, by whatever controller, with a read that loses nothing. docs/live-migration-over-tcp.md */
import { ChangeBitmap } from '../../migration/change-bitmap.ts';
import {
  CHANGED_RUN_BYTES,
  ChangedBlocksFlag,
  changedBlocksHeaderCodec,
  MIGRATION_LOG_HEADER_BYTES,
  writeChangedRun,
} from '../../wire/cold/log-migration.ts';
import type { Controller } from '../controller.ts';
import type { Namespace } from '../namespace.ts';

const GRANULE_BYTES = 4096;
/** 32 MiB for each of the two generations. */
const GRANULES_MAX = 2 ** 28;
/** Runs of one snapshot: 1 MiB. What is beyond them is in the next. */
const RUNS_MAX = 65_536;
const RUN_BLOCKS_MAX = 2 ** 32;

export class ChangedBlocks {
  /** Who started it. */
  readonly manager: Controller;
  readonly bitmap: ChangeBitmap;
  readonly #nsid: number;
  #blockCount: number;
  #page: Uint8Array | undefined;
  /** The first granule that the snapshot's page does not tell of. */
  #end = 0;

  constructor(manager: Controller, namespace: Namespace) {
    this.manager = manager;
    this.#nsid = namespace.nsid;
    this.#blockCount = namespace.blockCount;
    let granule = Math.max(1, GRANULE_BYTES / namespace.blockSize);
    while (namespace.blockCount / granule > GRANULES_MAX) granule *= 2;
    this.bitmap = new ChangeBitmap(granule, namespace.blockCount);
  }

  resized(blockCount: number): void {
    this.#page = undefined;
    this.bitmap.giveBack();
    this.#blockCount = blockCount;
    this.bitmap.resize(blockCount);
  }

  /** What was changed up to now; the same until it is acknowledged or given back. */
  page(): Uint8Array {
    this.#page ??= this.#makePage();
    return this.#page;
  }

  #makePage(): Uint8Array {
    const { bitmap } = this;
    const epoch = bitmap.takeSnapshot();
    const granule = bitmap.granuleBlocks;
    const runs: { slba: number; blocks: number }[] = [];
    let granules = 0;
    this.#end = bitmap.granuleCount;
    for (let run = bitmap.nextRun(0); run !== undefined; run = bitmap.nextRun(run.first + run.count)) {
      if (runs.length >= RUNS_MAX) {
        this.#end = run.first;
        break;
      }
      granules += run.count;
      const end = Math.min((run.first + run.count) * granule, this.#blockCount);
      for (let slba = run.first * granule; slba < end; slba += RUN_BLOCKS_MAX) {
        runs.push({ slba, blocks: Math.min(RUN_BLOCKS_MAX, end - slba) });
      }
    }
    const page = new Uint8Array(MIGRATION_LOG_HEADER_BYTES + runs.length * CHANGED_RUN_BYTES);
    changedBlocksHeaderCodec.encodeInto(page, 0, {
      flags: ChangedBlocksFlag.Tracking | (this.#end < bitmap.granuleCount ? ChangedBlocksFlag.More : 0),
      nsid: this.#nsid,
      epoch: BigInt(epoch),
      granule,
      runs: BigInt(runs.length),
      granules: BigInt(granules),
    });
    const view = new DataView(page.buffer);
    runs.forEach(({ slba, blocks }, i) => {
      writeChangedRun(view, MIGRATION_LOG_HEADER_BYTES + i * CHANGED_RUN_BYTES, slba, blocks);
    });
    return page;
  }

  /** @returns false if that is not the epoch of the snapshot */
  acknowledge(epoch: number): boolean {
    const { bitmap } = this;
    if (this.#page === undefined || epoch !== bitmap.epoch) return false;
    if (this.#end < bitmap.granuleCount) bitmap.keepFrom(this.#end);
    else bitmap.acknowledge(epoch);
    this.#page = undefined;
    return true;
  }

  /** What the snapshot says counts as changed again. */
  giveBack(): void {
    this.#page = undefined;
    this.bitmap.giveBack();
  }
}

/** Log page C9h of a namespace that is not tracked. */
export function untrackedPage(nsid: number): Uint8Array {
  return changedBlocksHeaderCodec.encode({ nsid });
}
