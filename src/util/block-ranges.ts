/** A set of block numbers kept as ascending ranges that neither overlap nor touch. */

export interface BlockRange {
  readonly start: number;
  /** One past the last block. */
  readonly end: number;
}

export class BlockRanges {
  #ranges: BlockRange[] = [];

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** How many ranges it takes. */
  get rangeCount(): number {
    return this.#ranges.length;
  }

  /** Index of the first range that ends after `block`. */
  #at(block: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ranges[middle]!.end > block) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  intersects(start: number, count: number): boolean {
    const range = this.#ranges[this.#at(start)];
    return range !== undefined && range.start < start + count;
  }

  add(start: number, count: number): void {
    // from the first range that overlaps or touches
    const first = this.#at(start - 1);
    let last = first;
    let low = start;
    let high = start + count;
    while (last < this.#ranges.length && this.#ranges[last]!.start <= start + count) {
      low = Math.min(low, this.#ranges[last]!.start);
      high = Math.max(high, this.#ranges[last]!.end);
      last++;
    }
    this.#ranges.splice(first, last - first, { start: low, end: high });
  }

  /** @returns true if any block of it was in the set */
  remove(start: number, count: number): boolean {
    const end = start + count;
    const first = this.#at(start);
    const rest: BlockRange[] = [];
    let last = first;
    while (last < this.#ranges.length && this.#ranges[last]!.start < end) {
      const range = this.#ranges[last]!;
      if (range.start < start) rest.push({ start: range.start, end: start });
      if (range.end > end) rest.push({ start: end, end: range.end });
      last++;
    }
    if (last === first) return false;
    this.#ranges.splice(first, last - first, ...rest);
    return true;
  }

  /** The parts of the set from `start` to before `end`, ascending. */
  *within(start: number, end: number): Generator<BlockRange> {
    for (let i = this.#at(start); i < this.#ranges.length && this.#ranges[i]!.start < end; i++) {
      const range = this.#ranges[i]!;
      yield { start: Math.max(range.start, start), end: Math.min(range.end, end) };
    }
  }

  clear(): void {
    this.#ranges = [];
  }
}
