/** Comparing the copy of a namespace with its source: what is a difference, and when. */
import { expect } from 'chai';
import { BlockCopier } from '../../../src/orchestrator/block-copier.ts';
import { BlockStream } from '../../../src/orchestrator/block-stream.ts';
import { RateLimit } from '../../../src/orchestrator/rate-limit.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MODEL_BLOCK_SIZE, ModelDestination, ModelSource } from '../../support/model-volume.ts';
import { Random } from '../../support/random.ts';

const BLOCKS = 512;
const never = new AbortController().signal;

function setUp(verification: 'sampled' | 'full') {
  const random = new Random(1);
  const source = new ModelSource(BLOCKS, random);
  const destination = new ModelDestination(BLOCKS, random);
  // as the destination's own controller reads it
  const written = new ModelSource(BLOCKS, random);
  written.bytes.set(destination.bytes);
  Object.assign(destination, { bytes: written.bytes });
  const rate = new RateLimit(new ManualClock());
  const copier = new BlockCopier({ source, destination, rate });
  source.change(0, BLOCKS, 0xa5);
  const stream = new BlockStream({
    name: 'namespace 1',
    ...{ source, destination, copier, verification, written },
    destinationIsZero: true,
  });
  return { source, destination, stream };
}

async function failure(act: Promise<unknown>): Promise<{ readonly code?: string; readonly message?: string }> {
  try {
    await act;
  } catch (error) {
    return error as Error & { code: string };
  }
  return {};
}

for (const verification of ['sampled', 'full'] as const) {
  describe(`BlockStream, verification ${verification}`, () => {
    it('a write that is under way while it is compared is no difference, however late it is among the changes', async () => {
      const { source, destination, stream } = setUp(verification);
      await stream.first(never);
      await stream.look();
      await stream.again(never);
      // it has reached the medium, and is not complete
      source.bytes.fill(0x5a, 0, 4 * MODEL_BLOCK_SIZE);
      await stream.verify(never);
      for (let looks = 0; looks < 3; looks++) {
        await stream.look();
        await stream.again(never);
      }
      expect(stream.unverifiedBytes, 'it is to be compared again').to.be.greaterThan(0);
      // complete: it is marked
      source.change(0, 4, 0x5a);
      await stream.finish(never);
      expect(Buffer.compare(destination.durable, source.bytes)).to.equal(0);
      expect(stream.unverifiedBytes).to.equal(0);
    });

    it('what differs when nothing is under way any more ends the move, also if it was seen before', async () => {
      for (const isSeenBefore of [false, true]) {
        const { destination, stream } = setUp(verification);
        await stream.first(never);
        await stream.look();
        await stream.again(never);
        destination.bytes[3 * MODEL_BLOCK_SIZE] = 0;
        if (isSeenBefore) await stream.verify(never);
        const { code, message } = await failure(stream.finish(never));
        expect(code).to.equal('NVMEOF_ERR_MISCOMPARE');
        expect(message).to.include(
          'The copy of namespace 1 differs from its source in 1 parts, the first at blocks 0 to 127',
        );
      }
    });
  });
}
