import { expect } from 'chai';
import { NullBackend } from '../../../src/backend/null.ts';
import { Status } from '../../../src/spec/status.ts';
import { submit, TestBlockIo } from '../../support/backend-compliance.ts';

describe('NullBackend', () => {
  const backend = new NullBackend({ blockSize: 512, blockCount: 1 << 20 });

  async function lent(length: number): Promise<Uint8Array[]> {
    const io = new TestBlockIo({ length });
    await submit(backend, 'read', io);
    return io.lent;
  }

  it('lends the same memory every time: nothing is made per I/O', async () => {
    const arenas = new Set<unknown>();
    const io = new TestBlockIo({ length: 300 << 10 });
    io.lendAt = (arena) => arenas.add(arena);
    for (let i = 0; i < 3; i++) {
      io.status = undefined;
      backend.read(io);
    }
    expect(arenas.size).to.equal(1);
  });

  it('answers a read longer than its zero buffer by several views', async () => {
    const views = await lent(300 * 1024);
    expect(views.map((view) => view.length)).to.deep.equal([131_072, 131_072, 45_056]);
    expect(await lent(256 * 1024)).to.have.length(2);
  });

  it('refuses changes when read-only', async () => {
    const readOnly = new NullBackend({ blockSize: 512, blockCount: 8, readOnly: true });
    for (const operation of ['write', 'writeZeroes', 'deallocate'] as const) {
      const io = new TestBlockIo({ data: [new Uint8Array(512)] });
      expect(await submit(readOnly, operation, io)).to.equal(Status.NamespaceWriteProtected);
    }
    expect(await submit(readOnly, 'flush', new TestBlockIo({}))).to.equal(Status.Success);
  });
});
