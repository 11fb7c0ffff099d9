/** Random choices that one number repeats, and rounds of them as mocha cases. */

/** Values at which widths, signs and limits end. */
const EDGES_U32: readonly number[] = [
  0, 1, 2, 3, 4, 7, 8, 15, 16, 23, 24, 27, 28, 31, 32, 63, 64, 71, 72, 75, 76, 79, 80, 127, 128, 255, 256, 511, 512,
  1023, 1024, 4095, 4096, 4097, 8191, 8192, 8193, 0xfffe, 0xffff, 0x1_0000, 0xf_ffff, 0x7fff_ffff, 0x8000_0000,
  0xffff_fffe, 0xffff_ffff,
];

export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = Math.imul(seed >>> 0, 0x9e3779b1) >>> 0; // neighbouring seeds shall differ at once
  }

  /** 0 to 2^32 - 1 (mulberry32). */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    const a = this.#state;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 to `count - 1`. */
  below(count: number): number {
    return this.u32() % count;
  }

  /** `min` to `max`. */
  between(min: number, max: number): number {
    return min + this.below(max - min + 1);
  }

  /** True once in `oneIn` times. */
  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  /** A choice by weight: `[weight, value]`. */
  weighted<T>(from: readonly (readonly [number, T])[]): T {
    let left = this.below(from.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, value] of from) {
      if (left < weight) return value;
      left -= weight;
    }
    throw new Error('no weights');
  }

  /** A number of `bits` bits: an edge, something near `valid`, or anything. */
  field(bits: number, valid: number = 0): number {
    const max = bits === 32 ? 0xffff_ffff : 2 ** bits - 1;
    switch (this.below(4)) {
      case 0:
        return this.pick(EDGES_U32) & max ? (this.pick(EDGES_U32) & max) >>> 0 : 0;
      case 1:
        return (valid + this.pick([-4, -2, -1, 1, 2, 4]) + max + 1) % (max + 1);
      case 2:
        return (valid ^ (1 << this.below(bits))) >>> 0;
      default:
        return (this.u32() & max) >>> 0;
    }
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = this.u32();
    return bytes;
  }
}

const SEED_DEFAULT = 20_261_126;

/**
 * A mocha case of many rounds; round n runs on seed + n, so that a failing one repeats alone. NVMEFERRY_FUZZ_SEED, _ROUNDS and _SECONDS (instead of
 * rounds) change what `npm test` does; `npm run fuzz` sets them.
 */
export function fuzz(title: string, rounds: number, round: (random: Random) => Promise<void>): void {
  it(title, async function () {
    const { NVMEFERRY_FUZZ_SEED, NVMEFERRY_FUZZ_ROUNDS, NVMEFERRY_FUZZ_SECONDS, NVMEFERRY_FUZZ_TRACE } = process.env;
    const seed = Number(NVMEFERRY_FUZZ_SEED ?? SEED_DEFAULT);
    const seconds = Number(NVMEFERRY_FUZZ_SECONDS ?? 0);
    const count = Number(NVMEFERRY_FUZZ_ROUNDS ?? rounds);
    this.timeout(seconds > 0 ? 0 : 120_000);
    let current = seed;
    const replay = (): string => `Replay: npm run fuzz -- --seed ${current} --rounds 1 --only '${title}'`;
    // what is thrown outside of a promise would not tell which round it was
    const monitor = (): void => console.error(replay());
    process.on('uncaughtExceptionMonitor', monitor);
    const until = performance.now() + seconds * 1000;
    try {
      let done = 0;
      for (; seconds > 0 ? performance.now() < until : done < count; done++) {
        current = seed + done;
        if (NVMEFERRY_FUZZ_TRACE !== undefined) console.error(`      ${title}: seed ${current}`);
        await round(new Random(current));
      }
      console.log(`      ${done} rounds from seed ${seed}`);
    } catch (error) {
      if (error instanceof Error) error.message = `${replay()}\n${error.message}`;
      throw error;
    } finally {
      process.off('uncaughtExceptionMonitor', monitor);
    }
  });
}
