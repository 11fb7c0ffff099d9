// @hot
/** Latencies in a fixed table: 64 steps per power of two, so that a percentile is exact to 1.6 %. */
const STEPS_SHIFT = 6;
const STEPS = 1 << STEPS_SHIFT;
const BUCKETS = (32 - STEPS_SHIFT + 1) * STEPS;
const NS_MAX = 0x7fffffff;

/** Values of STEPS and more: the power of two above the first STEPS, then its 64th. */
const bucketOf = (value: number, shift: number): number =>
  ((shift + 1) << STEPS_SHIFT) + ((value >>> shift) & (STEPS - 1));

export class LatencyHistogram {
  readonly #counts: Float64Array = new Float64Array(BUCKETS);
  count = 0;
  #sum = 0;
  #sumOfSquares = 0;
  minNs: number = NS_MAX;
  maxNs = 0;

  /** @param ns nanoseconds; above 2.1 s they count as that */
  add(ns: number): void {
    const value = ns > NS_MAX ? NS_MAX : ns | 0;
    const index = value < STEPS ? value : bucketOf(value, 31 - Math.clz32(value) - STEPS_SHIFT);
    this.#counts[index] = this.#counts[index]! + 1;
    this.count++;
    this.#sum += value;
    this.#sumOfSquares += value * value;
    if (value < this.minNs) this.minNs = value;
    if (value > this.maxNs) this.maxNs = value;
  }

  get meanNs(): number {
    return this.count === 0 ? 0 : this.#sum / this.count;
  }

  get stddevNs(): number {
    return this.count === 0 ? 0 : Math.sqrt(Math.max(0, this.#sumOfSquares / this.count - this.meanNs ** 2));
  }

  /** The latency that `percent` of all do not exceed. */
  percentileNs(percent: number): number {
    let left = Math.ceil((this.count * percent) / 100);
    for (let index = 0; index < BUCKETS; index++) {
      left -= this.#counts[index]!;
      if (left > 0) continue;
      if (index < STEPS) return index;
      const shift = (index >> STEPS_SHIFT) - 1;
      const low = (STEPS + (index & (STEPS - 1))) * 2 ** shift;
      return Math.min(this.maxNs, low + 2 ** shift - 1);
    }
    return this.maxNs;
  }

  clear(): void {
    this.#counts.fill(0);
    this.count = 0;
    this.#sum = 0;
    this.#sumOfSquares = 0;
    this.minNs = NS_MAX;
    this.maxNs = 0;
  }
}
