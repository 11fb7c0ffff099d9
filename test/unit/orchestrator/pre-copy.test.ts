import { expect } from 'chai';
import { BlockCopier, pieces } from '../../../src/orchestrator/block-copier.ts';
import { BlockStream } from '../../../src/orchestrator/block-stream.ts';
import { PreCopy, type PreCopyOptions } from '../../../src/orchestrator/pre-copy.ts';
import { RateLimit } from '../../../src/orchestrator/rate-limit.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MODEL_BLOCK_SIZE, ModelDestination, ModelSource } from '../../support/model-volume.ts';
import { Random, randomSeed } from '../../support/random.ts';

const BLOCKS = 512;
const CHUNK_BYTES = 8 * MODEL_BLOCK_SIZE;
const IN_FLIGHT = 4 * CHUNK_BYTES;

class Move {
  readonly clock = new ManualClock();
  readonly source: ModelSource;
  readonly destination: ModelDestination;
  readonly copier: BlockCopier;

  constructor(random: Random, fill = 0) {
    this.source = new ModelSource(BLOCKS, random);
    this.destination = new ModelDestination(BLOCKS, random, fill);
    this.copier = new BlockCopier({
      source: this.source,
      destination: this.destination,
      rate: new RateLimit(this.clock),
      chunkBytes: CHUNK_BYTES,
      inFlightBytes: IN_FLIGHT,
    });
  }

  stream(destinationIsZero = false): BlockStream {
    const { source, destination, copier } = this;
    return new BlockStream({ name: 'namespace 1', source, destination, copier, destinationIsZero });
  }

  preCopy(options: Partial<PreCopyOptions> = {}): PreCopy {
    return new PreCopy({
      streams: [this.stream()],
      clock: this.clock,
      blackoutBudgetMs: 300,
      switchMs: 50,
      ...options,
    });
  }

  expectSame(what: string): void {
    expect(Buffer.compare(this.destination.bytes, this.source.bytes), what).to.equal(0);
  }
}

/** A guest that changes what it likes, whenever a read is under way, `left` times. */
function guest(move: Move, random: Random, times: number): void {
  const { source } = move;
  let left = times;
  source.onTurn = () => {
    if (left === 0) return;
    move.clock.advance(random.below(3));
    if (!random.oneIn(3)) return;
    left--;
    const blockCount = 1 + random.below(20);
    const slba = random.below(BLOCKS - blockCount);
    source.change(slba, blockCount, random.oneIn(3) ? undefined : 1 + random.below(255));
  };
}

describe('PreCopy', () => {
  const seed = randomSeed();
  for (let round = 0; round < 60; round++) {
    const fill = round % 2 === 0 ? 0 : 0xee;
    it(`a guest that writes all the time: the copy is its source in the end, seed ${seed + round}, destination of ${fill}`, async () => {
      const random = new Random(seed + round);
      const move = new Move(random, fill);
      for (let i = 0; i < 40; i++) {
        const blockCount = 1 + random.below(30);
        move.source.change(random.below(BLOCKS - blockCount), blockCount, 1 + random.below(255));
      }
      if (random.oneIn(3)) move.source.snapshotRunsMax = 1 + random.below(4);
      guest(move, random, 1 + random.below(200));
      const preCopy = move.preCopy({ streams: [move.stream(fill === 0)], onStuck: async () => 'again' });
      expect(await preCopy.run()).to.equal(true);
      move.source.onTurn = undefined; // suspended
      await preCopy.finish();
      move.expectSame('the copy');
      expect(Buffer.compare(move.destination.durable, move.source.bytes), 'durable').to.equal(0);
      expect(move.destination.mostInFlight, 'bytes in flight').to.be.at.most(IN_FLIGHT);
      expect((await move.source.changes()).runs, 'changes not acknowledged').to.deep.equal([]);
    });
  }

  it('reads what is allocated and what was changed, and no more', async () => {
    const move = new Move(new Random(1));
    move.source.change(100, 16, 7);
    move.source.change(300, 40, 8);
    let once = true;
    move.source.onTurn = () => {
      if (once) move.source.change(310, 5, 9);
      once = false;
    };
    const stream = move.stream(true);
    const preCopy = move.preCopy({ streams: [stream] });
    await preCopy.run();
    await preCopy.finish();
    move.expectSame('the copy');
    expect(stream.allocatedBytes).to.equal(56 * MODEL_BLOCK_SIZE);
    expect(move.source.readBytes).to.equal((56 + 5) * MODEL_BLOCK_SIZE);
  });

  it('blocks that the source never had are cleared where something was before', async () => {
    const move = new Move(new Random(2), 0x55);
    move.source.change(0, 1, 1);
    move.source.change(511, 1, 2);
    const preCopy = move.preCopy();
    await preCopy.run();
    move.expectSame('holes');
  });

  it('a failure of either side ends it once nothing is under way, and keeps what is not copied for another try', async () => {
    for (const side of ['source', 'destination'] as const) {
      const random = new Random(3);
      const move = new Move(random);
      move.source.change(0, 400, 5);
      if (side === 'source') move.source.failAfterReads = 7;
      else move.destination.failAfterWrites = 7;
      const failure = await move
        .preCopy()
        .run()
        .then(
          () => 'none',
          (error: Error) => error.message,
        );
      expect(failure).to.equal(side === 'source' ? 'read failed' : 'write failed');
      expect(move.destination.inFlight).to.equal(0);
      move.source.failAfterReads = Number.POSITIVE_INFINITY;
      move.destination.failAfterWrites = Number.POSITIVE_INFINITY;
      const again = move.preCopy();
      await again.run();
      await again.finish();
      move.expectSame(`after a failure of the ${side}`);
    }
  });

  it('a changed block whose copy failed is copied by the next try', async () => {
    const move = new Move(new Random(4));
    const preCopy = move.preCopy({ streams: [move.stream(true)] });
    await preCopy.run();
    move.source.change(5, 1, 9);
    move.destination.failAfterWrites = 0;
    expect(await preCopy.finish().catch((error: Error) => error.message)).to.equal('write failed');
    const { runs } = await move.source.changes(); // as another orchestrator sees it
    expect(runs).to.deep.equal([{ slba: 5, blockCount: 1 }]);
    move.destination.failAfterWrites = Number.POSITIVE_INFINITY;
    await preCopy.finish();
    move.expectSame('the copy');
  });

  it('stops where the signal says, with nothing under way', async () => {
    const move = new Move(new Random(5));
    move.source.change(0, 500, 5);
    const abort = new AbortController();
    let reads = 0;
    move.source.onTurn = () => {
      if (++reads === 10) abort.abort(new Error('enough'));
    };
    const message = await move
      .preCopy({ signal: abort.signal })
      .run()
      .catch((error: Error) => error.message);
    expect(message).to.equal('enough');
    expect(move.destination.inFlight).to.equal(0);
    expect(move.source.readBytes).to.be.below(500 * MODEL_BLOCK_SIZE);
  });

  it('a guest that never rests: stuck is asked about, and ends without convergence', async () => {
    const move = new Move(new Random(6));
    move.source.change(0, 500, 1);
    let count = 0;
    // as much as is read; and time goes by with each read, so that there is a rate
    move.source.onTurn = () => {
      move.clock.advance(10);
      const at = (count++ * 16) % 480;
      move.source.change(at, 16, 1 + (count % 250));
    };
    const asked: number[] = [];
    const preCopy = move.preCopy({
      onStuck: async ({ bytesPerSecond, blackoutMs }) => {
        asked.push(bytesPerSecond);
        expect(blackoutMs).to.be.greaterThan(300);
        return asked.length < 2 ? 'again' : 'refuse';
      },
    });
    expect(await preCopy.run()).to.equal(false);
    const { convergence } = preCopy;
    expect(asked.length).to.equal(2);
    expect(convergence.blackoutMs).to.be.greaterThan(300);
    expect(asked[0]).to.be.within(1, convergence.copyRate! * 2);
    expect(move.source.tracking).to.equal(true);
  });

  it('a low rate is kept from the first byte on: no chunk is longer than a burst', async () => {
    const random = new Random(8);
    const clock = new ManualClock();
    const rate = new RateLimit(clock, 1 << 20);
    const source = new ModelSource(4096, random);
    const destination = new ModelDestination(4096, random);
    const bytes = source.blockCount * source.blockSize;
    let isDone = false;
    const copier = new BlockCopier({ source, destination, rate });
    const copied = copier.copy([{ slba: 0, blockCount: source.blockCount }]).then(() => {
      isDone = true;
    });
    for (let ms = 0; !isDone; ms += 10) {
      expect(copier.counters.read, `after ${ms} ms`).to.be.at.most(rate.burstBytes + (ms / 1000) * rate.bytesPerSecond);
      clock.advance(10);
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    await copied;
    expect(copier.counters.read).to.equal(bytes);
    expect(Buffer.compare(destination.bytes, source.bytes)).to.equal(0);
  });

  it('refuses a destination of another geometry before it copies anything', () => {
    const random = new Random(7);
    const source = new ModelSource(8, random);
    const rate = new RateLimit(new ManualClock());
    const make = (destination: ModelDestination): BlockCopier => new BlockCopier({ source, destination, rate });
    expect(() => make(new ModelDestination(9, random))).to.throw(/has 9 blocks, the source has 8/);
    const other = new ModelDestination(8, random);
    Object.assign(other, { blockSize: 4096 });
    expect(() => make(other)).to.throw(/blocks of 4096 bytes, the source has 512/);
  });
});

describe('pieces of a chunk', () => {
  const cut = (text: string, unit: number): string => {
    const data = new Uint8Array(text.length * unit);
    for (const [i, letter] of [...text].entries()) if (letter !== '0') data[(i + 1) * unit - 1] = 1;
    return pieces(data, unit)
      .map(({ start, end, zero }) => `${start / unit}-${end / unit}${zero ? 'z' : ''}`)
      .join(' ');
  };
  it('zeroes of 64 KiB and more are holes, shorter ones stay with their data', () => {
    const unit = 32 << 10;
    expect(cut('x', unit)).to.equal('0-1');
    expect(cut('0', unit)).to.equal('0-1z');
    expect(cut('00x', unit)).to.equal('0-2z 2-3');
    expect(cut('0x', unit)).to.equal('0-2');
    expect(cut('x0x', unit)).to.equal('0-3');
    expect(cut('x00x', unit)).to.equal('0-1 1-3z 3-4');
    expect(cut('x0', unit)).to.equal('0-2');
    expect(cut('xx000', unit)).to.equal('0-2 2-5z');
    expect(cut('0x00x0', unit)).to.equal('0-2 2-4z 4-6');
  });
});
