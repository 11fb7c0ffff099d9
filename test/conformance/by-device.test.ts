/** Verify and Compare on a backend that has them itself: it gets the range, and what the target knows better stays the target's. */
import { expect } from 'chai';
import type { BlockIo } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { pattern } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const UNRECOVERED_READ = 0x281;
const LBA_OUT_OF_RANGE = 0x80;
const COMPARE_FAILURE = 0x285;

class Verifying extends MemoryBackend {
  readonly verified: [number, number][] = [];
  readonly compared: Buffer[] = [];
  status = 0;

  constructor() {
    super({ blockSize: 512, blockCount: 64 });
  }
  compare(io: BlockIo): void {
    io.retain();
    this.compared.push(Buffer.concat(io.segments.slice(0, io.segmentCount)));
    setImmediate(() => io.complete(this.status));
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

  it('Compare: the data, its status, and blocks made uncorrectable', async () => {
    const backend = new Verifying();
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const compare = (slba: number, data: Uint8Array): Promise<{ status: number; code: number }> =>
        io.command({ opcode: 0x05, nsid: 1, cdw10: slba, cdw12: data.length / 512 - 1 }, { data });
      const data = pattern(1024, 5);
      expect((await compare(3, data)).status).to.equal(0);
      expect(backend.compared.map((found) => found.equals(data))).to.deep.equal([true]);
      backend.status = COMPARE_FAILURE;
      expect((await compare(3, data)).code).to.equal(COMPARE_FAILURE);
      backend.status = 0;
      expect((await compare(63, data)).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 0 })).status).to.equal(0);
      expect((await compare(7, data)).code).to.equal(UNRECOVERED_READ);
      expect(backend.compared).to.have.length(2);
    } finally {
      await t.close();
    }
  });
});
