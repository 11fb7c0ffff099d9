/** Volumes in memory for the orchestrator: every operation takes a number of turns of the event loop that chance decides. */
import type { BlockRun, ChangeSnapshot, DestinationVolume, SourceVolume } from '../../src/orchestrator/volume.ts';
import type { Random } from './random.ts';

export const MODEL_BLOCK_SIZE = 512;

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function turns(random: Random, most: number): Promise<void> {
  for (let left = random.below(most + 1); left > 0; left--) await nextTurn();
}

function runsOf(blocks: Iterable<number>): BlockRun[] {
  const runs: { slba: number; blockCount: number }[] = [];
  for (const block of [...blocks].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && last.slba + last.blockCount === block) last.blockCount++;
    else runs.push({ slba: block, blockCount: 1 });
  }
  return runs;
}

/** Tracks as the product's bitmap does: changes go to one set, a snapshot is another one until it is acknowledged. */
export class ModelSource implements SourceVolume {
  readonly blockSize: number = MODEL_BLOCK_SIZE;
  readonly blockCount: number;
  readonly bytes: Uint8Array;
  readonly #random: Random;
  readonly #allocated = new Set<number>();
  #tracking = false;
  #active = new Set<number>();
  #snapshot: Set<number> | undefined;
  /** Called while reads are under way. */
  onTurn: (() => void) | undefined;
  readBytes = 0;
  snapshotRunsMax: number = Number.POSITIVE_INFINITY;
  failAfterReads: number = Number.POSITIVE_INFINITY;

  constructor(blockCount: number, random: Random) {
    this.blockCount = blockCount;
    this.bytes = new Uint8Array(blockCount * MODEL_BLOCK_SIZE);
    this.#random = random;
  }

  get tracking(): boolean {
    return this.#tracking;
  }

  /** The guest writes. `undefined`: deallocates. */
  change(slba: number, blockCount: number, byte: number | undefined): void {
    this.bytes.fill(byte ?? 0, slba * MODEL_BLOCK_SIZE, (slba + blockCount) * MODEL_BLOCK_SIZE);
    for (let block = slba; block < slba + blockCount; block++) {
      if (byte === undefined) this.#allocated.delete(block);
      else this.#allocated.add(block);
      if (this.#tracking) this.#active.add(block);
    }
  }

  async startTracking(): Promise<void> {
    this.#tracking = true;
    this.#active.clear();
    this.#snapshot = undefined;
  }
  async stopTracking(): Promise<void> {
    this.#tracking = false;
  }

  async *allocated(): AsyncGenerator<BlockRun> {
    for (const run of runsOf(this.#allocated)) {
      await nextTurn();
      yield run;
    }
  }

  async changes(): Promise<ChangeSnapshot> {
    await nextTurn();
    if (this.#snapshot === undefined) {
      this.#snapshot = this.#active;
      this.#active = new Set();
    }
    const snapshot = this.#snapshot;
    const all = runsOf(snapshot);
    const runs = all.slice(0, this.snapshotRunsMax);
    return {
      runs,
      complete: runs.length === all.length,
      acknowledge: async () => {
        await nextTurn();
        for (const { slba, blockCount } of runs) for (let i = 0; i < blockCount; i++) snapshot.delete(slba + i);
        // what was not named counts as changed again
        for (const block of snapshot) this.#active.add(block);
        this.#snapshot = undefined;
      },
    };
  }

  async readInto(slba: number, buffer: Uint8Array): Promise<void> {
    await turns(this.#random, 3);
    if (--this.failAfterReads < 0) throw new Error('read failed');
    this.onTurn?.();
    const from = slba * MODEL_BLOCK_SIZE;
    buffer.set(this.bytes.subarray(from, from + buffer.length));
    this.readBytes += buffer.length;
    this.onTurn?.();
    await turns(this.#random, 3);
  }
}

export class ModelDestination implements DestinationVolume {
  readonly blockSize: number = MODEL_BLOCK_SIZE;
  readonly blockCount: number;
  readonly bytes: Uint8Array;
  readonly #random: Random;
  /** What would survive a loss of power. */
  durable: Uint8Array;
  inFlight = 0;
  mostInFlight = 0;
  failAfterWrites: number = Number.POSITIVE_INFINITY;
  commands = 0;

  constructor(blockCount: number, random: Random, fill = 0) {
    this.blockCount = blockCount;
    this.bytes = new Uint8Array(blockCount * MODEL_BLOCK_SIZE).fill(fill);
    this.durable = this.bytes.slice();
    this.#random = random;
  }

  async #operate(length: number, act: () => void): Promise<void> {
    this.commands++;
    this.inFlight += length;
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight);
    try {
      await turns(this.#random, 5);
      if (--this.failAfterWrites < 0) throw new Error('write failed');
      act();
      await turns(this.#random, 2);
    } finally {
      this.inFlight -= length;
    }
  }

  write(slba: number, data: Uint8Array): Promise<void> {
    // taken at the end: who changes the buffer before this settles is found out
    return this.#operate(data.length, () => this.bytes.set(data, slba * MODEL_BLOCK_SIZE));
  }

  clear(slba: number, blockCount: number): Promise<void> {
    const from = slba * MODEL_BLOCK_SIZE;
    return this.#operate(0, () => this.bytes.fill(0, from, from + blockCount * MODEL_BLOCK_SIZE));
  }

  async flush(): Promise<void> {
    const now = this.bytes.slice();
    await nextTurn();
    this.durable = now;
  }
}
