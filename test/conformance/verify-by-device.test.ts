/** Verify on a backend that has one of its own: it gets the range, and what the target knows better stays the target's. */
import { expect } from 'chai';
import type { BlockIo } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { TestTarget } from '../support/test-target.ts';

const UNRECOVERED_READ = 0x281;
const LBA_OUT_OF_RANGE = 0x80;

class Verifying extends MemoryBackend {
  readonly verified: [number, number][] = [];
  status = 0;

  constructor() {
    super({ blockSize: 512, blockCount: 64 });
  }
  verify(io: BlockIo): void {
    this.verified.push([io.offsetBytes, io.lengthBytes]);
    setImmediate(() => io.complete(this.status));
  }
}

describe('conformance: Verify by the device', () => {
  it('the range, its status, and blocks made uncorrectable', async () => {
    const backend = new Verifying();
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const verify = (slba: number, blocks: number): Promise<{ status: number; code: number }> =>
        io.command({ opcode: 0x0c, nsid: 1, cdw10: slba, cdw12: blocks - 1 });
      expect((await verify(3, 5)).status).to.equal(0);
      expect(backend.verified).to.deep.equal([[3 * 512, 5 * 512]]);
      backend.status = UNRECOVERED_READ;
      expect((await verify(0, 64)).code).to.equal(UNRECOVERED_READ);
      backend.status = 0;
      expect((await verify(60, 5)).code).to.equal(LBA_OUT_OF_RANGE);
      // Write Uncorrectable is kept by the target: the device would read these blocks
      expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 0 })).status).to.equal(0);
      expect((await verify(7, 3)).code).to.equal(UNRECOVERED_READ);
      expect((await verify(0, 8)).status).to.equal(0);
      expect(backend.verified).to.have.length(3);
    } finally {
      await t.close();
    }
  });
});
