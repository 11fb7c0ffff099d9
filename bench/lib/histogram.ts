/**
 * Latencies in a fixed table: 64 buckets per power of two, so that a percentile is off by less than 1.6 %. Recording allocates nothing.
 */
const SUB_BITS = 6;
const SUB_COUNT = 1 << SUB_BITS;
/** One unit is 100 ns: 31 bits reach beyond three minutes. */
const UNITS_PER_MS = 1e4;
const UNITS_MAX = 0x7fff_ffff;

export class Histogram {
  readonly #counts: Float64Array = new Float64Array(SUB_COUNT * (32 - SUB_BITS));
  #total = 0;

  /** Milliseconds as what `record` takes. */
  static units(ms: number): number {
    const scaled = ms * UNITS_PER_MS;
    return scaled < UNITS_MAX ? scaled | 0 : UNITS_MAX;
  }

  record(units: number): void {
    const exponent = 31 - Math.clz32(units | SUB_COUNT);
    const index = (exponent - SUB_BITS) * SUB_COUNT + (units >>> (exponent - SUB_BITS));
    this.#counts[index]!++;
    this.#total++;
  }

  reset(): void {
    this.#counts.fill(0);
    this.#total = 0;
  }

  get total(): number {
    return this.#total;
  }

  /** Microseconds below which `fraction` of the values lie: the middle of the bucket. */
  percentileUs(fraction: number): number {
    const wanted = Math.max(1, Math.ceil(this.#total * fraction));
    let seen = 0;
    for (let index = 0; index < this.#counts.length; index++) {
      seen += this.#counts[index]!;
      if (seen >= wanted) return bucketMiddle(index) / (UNITS_PER_MS / 1000);
    }
    return Number.NaN;
  }
}

function bucketMiddle(index: number): number {
  if (index < 2 * SUB_COUNT) return index;
  const shift = Math.floor(index / SUB_COUNT) - 1;
  const base = (index - shift * SUB_COUNT) * 2 ** shift;
  return base + 2 ** (shift - 1);
}
