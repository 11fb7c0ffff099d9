// @hot
/**
 * Which pages of a VM's memory a controller has written: Track Memory Changes and Tracked Memory Changes. Base 2.1 sections 5.1.26, 5.1.27. Fed by the
 * one function that writes guest memory.
 */
import { MEMORY_UNIT_BYTES } from '../spec/migration.ts';
import { ChangeBitmap } from './change-bitmap.ts';

/** A range of memory. */
export interface MemoryRange {
  /** Address as the controller's PRPs and SGLs name it, below 2^53. */
  readonly address: number;
  readonly lengthBytes: number;
}

export interface MemoryReport {
  /** Ascending within a range; lengths in bytes. */
  readonly changes: readonly MemoryRange[];
  /** MTR: there is more to report. */
  readonly more: boolean;
}

interface TrackedRange {
  readonly address: number;
  readonly end: number;
  readonly bitmap: ChangeBitmap;
}

export class MemoryTracker {
  /** n of 2^n x 4 KiB. */
  readonly granularityExponent: number;
  readonly #unitBytes: number;
  readonly #ranges: readonly TrackedRange[];

  /** @param ranges aligned to the granularity; they may overlap */
  constructor(granularityExponent: number, ranges: readonly MemoryRange[]) {
    this.granularityExponent = granularityExponent;
    this.#unitBytes = MEMORY_UNIT_BYTES * 2 ** granularityExponent;
    this.#ranges = ranges.map(({ address, lengthBytes }) => ({
      address,
      end: address + lengthBytes,
      bitmap: new ChangeBitmap(this.#unitBytes, lengthBytes),
    }));
  }

  /** Descriptors that it takes. */
  get rangeCount(): number {
    return this.#ranges.length;
  }

  /** The controller wrote there. @param lengthBytes 1 and more */
  mark(address: number, lengthBytes: number): void {
    const end = address + lengthBytes;
    for (let i = 0; i < this.#ranges.length; i++) {
      const range = this.#ranges[i]!;
      if (address >= range.end || end <= range.address) continue;
      const first = Math.max(address, range.address) - range.address;
      range.bitmap.mark(first, Math.min(end, range.end) - range.address - first);
    }
  }

  /**
   * Reports changes and forgets them, in one step.
   * @param countMax changes that the answer has room for
   */
  report(countMax: number): MemoryReport {
    const changes: MemoryRange[] = [];
    let more = false;
    for (const { address, end, bitmap } of this.#ranges) {
      if (more) break;
      bitmap.takeSnapshot();
      let granule = 0;
      for (let run = bitmap.nextRun(0); run !== undefined; run = bitmap.nextRun(granule)) {
        if (changes.length === countMax) {
          more = true;
          break;
        }
        const start = address + run.first * this.#unitBytes;
        changes.push({ address: start, lengthBytes: Math.min(run.count * this.#unitBytes, end - start) });
        granule = run.first + run.count;
      }
      const { epoch } = bitmap;
      if (!more) bitmap.acknowledge(epoch);
      else bitmap.keepFrom(granule);
    }
    return { changes, more };
  }
}
