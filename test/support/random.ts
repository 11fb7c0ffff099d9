/** Randomness of tests: from a seed that a failure prints, so that `NVMEFERRY_SEED=<seed>` runs the same again. */

/** xorshift32. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  /** An integer from 0 to `below` - 1. */
  below(below: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % below;
  }

  /** True in one of `of` cases. */
  oneIn(of: number): boolean {
    return this.below(of) === 0;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** The seed of NVMEFERRY_SEED, or one by chance; for tests that wait, which name it in their title. */
export function randomSeed(): number {
  const given = process.env.NVMEFERRY_SEED;
  return given === undefined ? (Math.random() * 0x7fff_ffff) | 0 : Number(given);
}

/** Runs `act` with `rounds` seeds (or the one of NVMEFERRY_SEED); a failure names its seed. */
export function withSeeds(rounds: number, act: (random: Random, seed: number) => void): void {
  const given = process.env.NVMEFERRY_SEED;
  const first = randomSeed();
  for (let seed = first; seed < first + (given === undefined ? rounds : 1); seed++) {
    try {
      act(new Random(seed), seed);
    } catch (error) {
      throw new Error(`NVMEFERRY_SEED=${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
}
