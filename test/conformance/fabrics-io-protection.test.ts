/** Namespace Write Protection (feature 84h): sheet of commands 7.2, 9; checklist 50. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, MemoryStateStore, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INTERNAL_ERROR = 0x06;
const INVALID_NAMESPACE = 0x0b;
const WRITE_PROTECTED = 0x20;
const NOT_CHANGEABLE = 0x10e;
const PROTECTION = 0x84;

describe('conformance: namespace write protection', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  const protect = (state: number, nsid = 1): Promise<number> =>
    admin.setFeature(PROTECTION, state, { nsid }).then(({ code }) => code);
  const state = async (nsid = 1): Promise<number> =>
    (await admin.command({ opcode: 0x0a, nsid, cdw10: PROTECTION })).result0;

  describe('of memory', () => {
    beforeEach(async () => {
      t = await TestTarget.start();
      ({ admin, io } = await t.association());
    });
    afterEach(() => t.close());

    it('50: everything that changes blocks is 20h DNR, the rest works; state 0 lets it all through again', async () => {
      expect((await admin.identify(1)).data[531], 'NWPC').to.equal(7);
      await io.write(0, pattern(4096, 1));
      expect(await protect(1)).to.equal(0);
      const range = Buffer.alloc(16);
      range.writeUInt32LE(1, 4);
      const changes = [
        [{ opcode: 1 }, Buffer.alloc(512)],
        [{ opcode: 4 }, undefined],
        [{ opcode: 8 }, undefined],
        [{ opcode: 9, cdw11: 4 }, range],
        [{ opcode: 0x19, cdw10: 100 }, Buffer.alloc(32)],
      ] as const;
      for (const [fields, data] of changes) {
        const done = await io.command({ nsid: 1, ...fields }, data === undefined ? {} : { data });
        expect([done.code, done.dnr], `opcode ${fields.opcode}`).to.deep.equal([WRITE_PROTECTED, true]);
      }
      expect((await io.read(0, 8)).data.equals(pattern(4096, 1))).to.equal(true);
      for (const opcode of [0, 0x0c]) expect((await io.command({ opcode, nsid: 1 })).status).to.equal(0);
      expect((await io.command({ opcode: 5, nsid: 1 }, { data: pattern(4096, 1).subarray(0, 512) })).status).to.equal(
        0,
      );
      expect((await io.command({ opcode: 9, nsid: 1, cdw11: 3 }, { data: range })).status, 'hints').to.equal(0);
      expect((await admin.identify(0, { nsid: 1 })).data[99]! & 1, 'NSATTR').to.equal(1);
      expect((await admin.identify(8, { nsid: 1 })).data[8]! & 1, 'NSATTR').to.equal(1);
      expect(await protect(0)).to.equal(0);
      for (const [fields, data] of changes) {
        const done = await io.command({ nsid: 1, ...fields }, data === undefined ? {} : { data });
        expect(done.status, `opcode ${fields.opcode}`).to.equal(0);
      }
    });

    it('holds for every controller, and all hear of it', async () => {
      const other = await t.association();
      await other.admin.setFeature(0x0b, 0x100);
      const notice = other.admin.command({ opcode: 0x0c });
      await protect(1);
      expect((await notice).result0).to.equal(0x0004_0002);
      expect((await other.io.write(0, Buffer.alloc(512))).code).to.equal(WRITE_PROTECTED);
    });

    it('a state that does not end before the power does cannot be changed; 3 neither', async () => {
      t.target.addNamespace(t.subsystem, { nsid: 2, backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }) });
      for (const [nsid, last] of [
        [1, 2],
        [2, 3],
      ] as const) {
        expect(await protect(last, nsid)).to.equal(0);
        for (const next of [0, 1, 5 - last])
          expect(await protect(next, nsid), `${last} to ${next}`).to.equal(NOT_CHANGEABLE);
        expect(await protect(last, nsid), 'the same again').to.equal(0);
        expect(await state(nsid)).to.equal(last);
      }
      await admin.propertySet(0x14, 0);
      await admin.enable();
      expect(await state(1), 'over a controller reset').to.equal(2);
    });

    it('is of one namespace: FFFFFFFFh, 0, inactive, beyond NN; values that are none', async () => {
      expect(await protect(1, 0xffff_ffff)).to.equal(INVALID_FIELD);
      expect(await protect(1, 0)).to.equal(INVALID_NAMESPACE);
      expect(await protect(1, 9)).to.equal(INVALID_FIELD);
      expect(await protect(1, 5000)).to.equal(INVALID_NAMESPACE);
      for (const value of [4, 7, 8, 0x100]) expect(await protect(value)).to.equal(INVALID_FIELD);
      expect(await state()).to.equal(0);
    });

    it('a Compare and Write onto it: the Compare answers, the Write is 20h', async () => {
      await protect(1);
      const done = await Promise.all([
        io.command({ opcode: 5, flags: 0x41, nsid: 1 }, { data: Buffer.alloc(512) }),
        io.command({ opcode: 1, flags: 0x42, nsid: 1 }, { data: Buffer.alloc(512) }),
      ]);
      expect(done.map(({ code }) => code)).to.deep.equal([0, WRITE_PROTECTED]);
    });
  });

  describe('of what outlives the process', () => {
    afterEach(() => t.close());
    const start = async (store?: MemoryStateStore): Promise<CopyBackend> => {
      const backend = new CopyBackend({ volatileWriteCache: true });
      t = await TestTarget.start({ backend, ...(store === undefined ? {} : { state: store }) });
      ({ admin, io } = await t.association());
      return backend;
    };

    it('without a store it is not offered: NWPC 0, Invalid Field, not in the feature log', async () => {
      await start();
      expect((await admin.identify(1)).data[531]).to.equal(0);
      expect(await protect(1)).to.equal(INVALID_FIELD);
      expect((await admin.logPage(0x12, 1024)).data.readUInt32LE(PROTECTION * 4)).to.equal(0);
    });

    it('with a store: 1 and 3 come back after a restart, 2 does not', async () => {
      for (const [set, after] of [
        [1, 1],
        [2, 0],
        [3, 3],
      ] as const) {
        const store = new MemoryStateStore();
        await start(store);
        expect(await protect(set)).to.equal(0);
        await t.close();
        await start(store);
        expect(await state(), `state ${set}`).to.equal(after);
        expect((await io.write(0, Buffer.alloc(512))).code).to.equal(after === 0 ? 0 : WRITE_PROTECTED);
        await t.close();
      }
      await start(new MemoryStateStore());
    });

    it('what was written before is flushed before it answers; a flush that fails fails it', async () => {
      const backend = await start(new MemoryStateStore());
      await io.write(0, Buffer.alloc(512));
      expect(await protect(1)).to.equal(0);
      expect(backend.flushCount).to.equal(1);
      backend.flush = (request): void => request.complete(0x280);
      expect(await protect(0)).to.equal(0x280);
    });

    it('what cannot be kept is an error, and the stricter state is in force', async () => {
      const store = new MemoryStateStore();
      await start(store);
      store.failing = true;
      expect(await protect(1)).to.equal(INTERNAL_ERROR);
      expect((await io.write(0, Buffer.alloc(512))).code).to.equal(WRITE_PROTECTED);
      expect(await protect(0)).to.equal(INTERNAL_ERROR);
      expect((await io.write(0, Buffer.alloc(512))).code).to.equal(WRITE_PROTECTED);
      store.failing = false;
      expect(await protect(0)).to.equal(0);
      expect((await io.write(0, Buffer.alloc(512))).status).to.equal(0);
    });
  });
});
