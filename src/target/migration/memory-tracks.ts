/** Track Memory Changes in one subsystem: which manager follows what memory of which controller. Base 2.1 sections 5.1.26, 5.1.27. */
import { type MemoryRange, MemoryTracker } from '../../migration/memory-tracker.ts';
import { MEMORY_UNIT_BYTES } from '../../spec/migration.ts';
import { SpecificStatus, Status } from '../../spec/status.ts';
import type { TrackMemoryChanges } from '../../wire/cold/track-memory.ts';
import type { Controller } from '../controller.ts';

/** CMMRTD and NMMRTD. */
export const RANGES_OF_MANAGER_MAX = 256;
export const RANGES_OF_SUBSYSTEM_MAX = 1024;
/** MINMRTG and MAXMRTG: 4 KiB to 4 MiB. */
export const GRANULARITY_MIN = 0;
export const GRANULARITY_MAX = 10;
/** Units of one controller: 32 MiB for each generation of its bitmaps. */
const UNITS_MAX = 2 ** 28;
const ADDRESS_MAX = 2 ** 53;

interface Track {
  readonly manager: Controller;
  readonly tracker: MemoryTracker;
}

/** Why it does not start: a status, and for Not Enough Resources what would do. */
export interface TrackRefusal {
  readonly status: number;
  /** The finest granularity for those ranges. */
  readonly granularity?: number;
  /** Ranges that are possible at the granularity asked for. */
  readonly ranges?: number;
}

export class MemoryTracks {
  readonly #tracks = new Map<Controller, Track>();

  /** @param asked checked for nothing yet but its own length */
  start(manager: Controller, target: Controller, asked: TrackMemoryChanges): TrackRefusal | undefined {
    const { ver, rmrtg, ranges } = asked;
    const invalid = { status: Status.InvalidField };
    if (target.memory === undefined || this.#tracks.has(target)) {
      return { status: SpecificStatus.InvalidControllerIdentifier };
    }
    if (ver !== 0 || rmrtg < GRANULARITY_MIN || rmrtg > GRANULARITY_MAX || ranges.length === 0) return invalid;
    if (ranges.length + this.#rangesOf(manager) > RANGES_OF_MANAGER_MAX) return invalid;
    if (ranges.length + this.#rangesOf(undefined) > RANGES_OF_SUBSYSTEM_MAX) return invalid;
    const unit = MEMORY_UNIT_BYTES * 2 ** rmrtg;
    const list: MemoryRange[] = [];
    let units = 0;
    let fitting = 0;
    for (const { saddr, len } of ranges) {
      const end = saddr + BigInt(len) * BigInt(unit);
      if (len === 0 || saddr % BigInt(unit) !== 0n || end > BigInt(ADDRESS_MAX)) return invalid;
      units += len;
      if (units <= UNITS_MAX) fitting++;
      list.push({ address: Number(saddr), lengthBytes: len * unit });
    }
    if (units > UNITS_MAX) {
      const coarser = Math.ceil(Math.log2(units / UNITS_MAX));
      return {
        status: SpecificStatus.NotEnoughResources,
        granularity: Math.min(GRANULARITY_MAX, rmrtg + coarser),
        ranges: fitting,
      };
    }
    const tracker = new MemoryTracker(rmrtg, list);
    this.#tracks.set(target, { manager, tracker });
    target.memory.memory.tracker = tracker;
    return undefined;
  }

  /** What was not reported is forgotten. */
  stop(target: Controller): void {
    const track = this.#tracks.get(target);
    if (track === undefined) return;
    this.#tracks.delete(target);
    if (target.memory !== undefined) target.memory.memory.tracker = undefined;
  }

  /** Undefined: that manager does not follow it. */
  trackerOf(manager: Controller, target: Controller): MemoryTracker | undefined {
    const track = this.#tracks.get(target);
    return track?.manager === manager ? track.tracker : undefined;
  }

  /** It may stop it: it started it, or nobody did. */
  mayStop(manager: Controller, target: Controller): boolean {
    const track = this.#tracks.get(target);
    return track === undefined || track.manager === manager;
  }

  #rangesOf(manager: Controller | undefined): number {
    let count = 0;
    for (const track of this.#tracks.values()) {
      if (manager === undefined || track.manager === manager) count += track.tracker.rangeCount;
    }
    return count;
  }

  managerLeft(manager: Controller): void {
    for (const [target, track] of [...this.#tracks]) if (track.manager === manager) this.stop(target);
  }
}
