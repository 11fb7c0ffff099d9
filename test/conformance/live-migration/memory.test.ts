/** Live migration of a controller whose queues stand in host memory: queues of changes there, memory tracking, I/O queues in a state. Cases by number. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';
import { SpecificStatus, Status } from '../../../src/spec/status.ts';
import { GUEST_PAGE_BYTES } from '../../../src/vm/guest-ram.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { HeldBackend, type TestVm } from '../../support/vm.ts';
import { managedVm, VmManager } from '../../support/vm-manager.ts';

const PAGE = GUEST_PAGE_BYTES;
const code = (status: number): number => status & 0x7ff;
const turn = (): Promise<unknown> => new Promise(setImmediate);

describe('conformance: live migration, memory of the host', () => {
  let vm: TestVm;
  let manager: VmManager;
  let t: number;
  afterEach(() => vm.close());

  async function begin(queues = 2): Promise<void> {
    vm = managedVm();
    manager = new VmManager(vm);
    t = vm.controller.cntlid;
    await vm.guest.start(queues);
  }

  // ---- roles

  it('I01, I02, I08, I12, I13: what the manager says of memory tracking, and the guest nothing', async () => {
    await begin();
    const identify = Buffer.from(await manager.guest.identify(1));
    expect(identify.readUInt16LE(256) & 0x800).to.equal(0x800);
    expect(identify[576], 'TRATTR').to.equal(3);
    expect(identify.readUInt16LE(570), 'CMMRTD').to.be.at.least(1);
    expect(identify.readUInt16LE(572), 'NMMRTD').to.be.at.least(identify.readUInt16LE(570));
    expect(identify[574], 'MINMRTG').to.be.at.most(identify[575]!);
    const guest = Buffer.from(await vm.guest.identify(1));
    expect(guest.readUInt16LE(256) & 0x800).to.equal(0);
    expect(guest.subarray(570, 588).every((byte) => byte === 0)).to.equal(true);
    const effects = async (one: VmManager | TestVm): Promise<boolean[]> => {
      const page = one.guest.ram.allocate(PAGE);
      await one.guest.command(one.guest.admin, { opcode: AdminOpcode.GetLogPage, cdw10: 5 | (1023 << 16), prp1: page });
      const log = Buffer.from(one.guest.ram.slice(page, PAGE));
      return [0x3d, 0x3e, 0x41, 0x42, 0x45, 0x00, 0x7c].map((opcode) => (log.readUInt32LE(opcode * 4) & 1) === 1);
    };
    expect(await effects(manager)).to.deep.equal([true, true, true, true, true, true, true]);
    expect(await effects(vm)).to.deep.equal([false, false, false, false, false, true, true]);
  });

  // ---- queues of changes

  it('C01, C04 to C06, C16, C23: addresses and lists of a queue in host memory', async () => {
    await begin();
    const { ram } = manager.guest;
    const at = ram.allocate(8 * PAGE);
    const outside = ram.base + ram.lengthBytes;
    const create = async (...fields: [number, number, boolean?, number?]): Promise<number> =>
      code((await manager.createQueue(t, ...fields)).status);
    expect(await create(at + 32, 8), 'C04').to.equal(Status.PrpOffsetInvalid);
    ram.writeU64(at, at + PAGE);
    ram.writeU64(at + 8, at + 2 * PAGE + 64);
    expect(await create(at, 256, false), 'C05').to.equal(Status.PrpOffsetInvalid);
    expect(await create(outside, 8), 'C06').to.equal(Status.InvalidField);
    expect(await create(outside - PAGE, 256), 'its second page').to.equal(Status.InvalidField);
    expect(await create(outside, 8, false), 'the list').to.equal(Status.InvalidField);
    expect(await create(at, 0, true, 0), 'C23').to.equal(Status.InvalidField);
    expect(await create(at, 0, true, 12), 'C03').to.equal(Status.InvalidField);
    const { status, dw0 } = await manager.createQueue(t, at, 8);
    expect([status, dw0 >>> 16], 'C01').to.deep.equal([0, 0]);
    expect(await create(at, 8), 'C02').to.equal(Status.InvalidField);
    const log = await manager.data({ opcode: 2, cdw10: 0xc8 | (15 << 16), cdw11: dw0 << 16, cdw14: 1 }, 64);
    expect(code(log.status), 'it is no log page').to.equal(SpecificStatus.InvalidControllerDataQueue);
  });

  it('C16, F17, L08: entries in the order of the list, with their phase, over several turns of the ring', async () => {
    await begin();
    const { ram } = manager.guest;
    const arena = ram.allocate(8 * PAGE);
    const list = ram.allocate(PAGE);
    // three pages in disorder
    const pages = [arena + 5 * PAGE, arena + PAGE, arena + 3 * PAGE];
    pages.forEach((page, i) => {
      ram.writeU64(list + i * 8, page);
    });
    const slots = (3 * PAGE) / 32;
    const { dw0: cdqid, status } = await manager.createQueue(t, list, slots, false);
    expect(status).to.equal(0);
    expect((await manager.log(cdqid, true)).status).to.equal(0);
    const entry = (i: number): Buffer => {
      const slot = i % slots;
      return Buffer.from(ram.slice(pages[Math.floor(slot / 128)]! + (slot % 128) * 32, 32));
    };
    expect([entry(0)[31]! & 0xf, (entry(0)[31]! >>> 6) & 3], 'L01').to.deep.equal([0x3, 2]);
    let seen = 1;
    for (let i = 0; i < 2 * slots + 50; i++) {
      await vm.guest.write(1, i % 1000, new Uint8Array(512), 'prp');
      const posted = entry(seen);
      const phase = 1 ^ (Math.floor(seen / slots) & 1);
      expect([posted[31]! & 1, posted.readUInt32LE(0), posted.readUInt32LE(8), posted.readUInt32LE(4)]).to.deep.equal([
        phase,
        1,
        i % 1000,
        0,
      ]);
      seen++;
      if (seen % 100 === 0) expect((await manager.setHead(cdqid, seen % slots)).status).to.equal(0);
    }
    // S16: the suspension ends the log
    await manager.suspend(t);
    expect((entry(seen)[31]! >>> 1) & 7, '011b').to.equal(3);
    await manager.resume(t);
    expect((entry(seen + 1)[31]! >>> 1) & 7, 'S17: 001b').to.equal(1);
  });

  it('L22, F11: a full queue says so in its last entry and by an event; a trigger fires once', async () => {
    await begin();
    const at = manager.guest.ram.allocate(PAGE);
    const { dw0: cdqid } = await manager.createQueue(t, at, 4);
    const heard: number[][] = [];
    for (let i = 0; i < 2; i++) {
      manager.guest.put(manager.guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, (cqe, offset) =>
        heard.push([cqe.getUint32(offset, true), cqe.getUint32(offset + 4, true)]),
      );
    }
    manager.guest.ring(manager.guest.admin);
    await manager.log(cdqid, true);
    await manager.admin({ opcode: 0x09, cdw10: 0x21, cdw11: (cdqid | 0x8000_0000) >>> 0, cdw12: 0, cdw13: 1 });
    for (let i = 0; i < 5; i++) await vm.guest.write(1, i * 10, new Uint8Array(512));
    await turn();
    expect(heard).to.deep.equal([
      [0x004, cdqid],
      [0x104, cdqid],
    ]);
    const ring = Buffer.from(manager.guest.ram.slice(at, 128));
    expect([0, 1, 2].map((slot) => (ring[slot * 32 + 31]! >>> 1) & 7)).to.deep.equal([1, 0, 7]);
    expect(ring.subarray(96).every((byte) => byte === 0)).to.equal(true);
  });

  it('C17, C20, C24: after Delete, and after a reset of the manager, its memory is not written any more', async () => {
    await begin();
    const at = manager.guest.ram.allocate(PAGE);
    const { dw0: cdqid } = await manager.createQueue(t, at, 16);
    await manager.log(cdqid, true);
    await vm.guest.write(1, 0, new Uint8Array(512));
    expect((await manager.admin({ opcode: 0x45, cdw10: 1, cdw11: cdqid })).status).to.equal(0);
    const before = manager.guest.ram.slice(at, PAGE);
    await vm.guest.write(1, 50, new Uint8Array(512));
    expect(manager.guest.ram.slice(at, PAGE)).to.deep.equal(before);
    const second = await manager.createQueue(t, at, 16);
    await manager.log(second.dw0, true);
    manager.guest.disable();
    manager.guest.ram.fill(at, PAGE, 0x55);
    await vm.guest.write(1, 60, new Uint8Array(512));
    expect(manager.guest.ram.slice(at, PAGE).every((byte) => byte === 0x55)).to.equal(true);
  });

  it('a manager that takes the memory of its queue away: the queue is full, nobody else notices', async () => {
    await begin();
    const extra = new Uint8Array(new SharedArrayBuffer(PAGE));
    manager.function.map({ iova: 2 ** 40, lengthBytes: PAGE, buffer: extra.buffer });
    const { dw0: cdqid } = await manager.createQueue(t, 2 ** 40, 16);
    await manager.log(cdqid, true);
    manager.function.unmap(2 ** 40, PAGE);
    const before = extra.slice();
    await vm.guest.write(1, 5, new Uint8Array(512).fill(7));
    expect(extra.slice()).to.deep.equal(before);
    expect((await vm.guest.read(1, 5, 1))[0]).to.equal(7);
    expect(vm.fatal).to.deep.equal([]);
  });

  // ---- memory tracking

  it('M01 to M05, M08 to M12, M17, M24: what starts and stops the tracking', async () => {
    await begin();
    const { base } = vm.guest.ram;
    const track = async (exponent: number, ranges: [number, number][], ver = 0, cntlid = t): Promise<number> =>
      code((await manager.track(cntlid, exponent, ranges, ver)).status);
    expect(await track(0, [[base, 16]], 1), 'M02').to.equal(Status.InvalidField);
    expect(await track(11, [[base, 16]]), 'M03').to.equal(Status.InvalidField);
    const many = Array.from({ length: 257 }, (_, i): [number, number] => [base + i * PAGE, 1]);
    expect(await track(0, many), 'M05').to.equal(Status.InvalidField);
    expect(await track(0, []), 'none').to.equal(Status.InvalidField);
    expect(await track(0, [[base, 0]]), 'LEN 0').to.equal(Status.InvalidField);
    expect(await track(1, [[base + PAGE, 1]]), 'M12').to.equal(Status.InvalidField);
    expect(await track(0, [[base, 16]], 0, manager.controller.cntlid), 'M10').to.equal(
      SpecificStatus.InvalidControllerIdentifier,
    );
    expect(await track(0, [[base, 16]], 0, 999)).to.equal(SpecificStatus.InvalidControllerIdentifier);
    expect((await manager.tracked(t)).status & 0x7ff).to.equal(SpecificStatus.InvalidControllerIdentifier);
    expect((await manager.untrack(t)).status, 'M17').to.equal(0);
    expect(await track(0, [[base, 16]]), 'M01').to.equal(0);
    expect(await track(0, [[base, 16]]), 'M08').to.equal(SpecificStatus.InvalidControllerIdentifier);
    const other = new VmManager(vm);
    expect(code((await other.track(t, 0, [[base, 16]])).status), 'M09').to.equal(
      SpecificStatus.InvalidControllerIdentifier,
    );
    expect(code((await other.tracked(t)).status)).to.equal(SpecificStatus.InvalidControllerIdentifier);
    manager.guest.disable();
    manager.guest.enable();
    expect(code((await manager.tracked(t)).status), 'M24').to.equal(SpecificStatus.InvalidControllerIdentifier);
    expect(code((await other.track(t, 0, [[base, 16]])).status)).to.equal(0);
  });

  it('M06, M07: descriptors count for the manager, and for the subsystem', async () => {
    await begin();
    const { base } = vm.guest.ram;
    const targets = Array.from(
      { length: 6 },
      () => vm.target.addFunction(vm.subsystem, { vectorCount: 1 }).controller.cntlid,
    );
    const ranges = (count: number): [number, number][] => Array.from({ length: count }, (_, i) => [base + i * PAGE, 1]);
    expect((await manager.track(targets[0]!, 0, ranges(250))).status).to.equal(0);
    expect(code((await manager.track(targets[1]!, 0, ranges(7))).status), 'M06').to.equal(Status.InvalidField);
    expect((await manager.track(targets[1]!, 0, ranges(6))).status).to.equal(0);
    for (let i = 2; i < 5; i++) {
      expect((await new VmManager(vm).track(targets[i]!, 0, ranges(256))).status).to.equal(0);
    }
    expect(code((await new VmManager(vm).track(targets[5]!, 0, ranges(1))).status), 'M07').to.equal(
      Status.InvalidField,
    );
  });

  it('M14, M15, M22: nothing starts or stops while it is suspended; the report comes to an end', async () => {
    await begin();
    const { base, lengthBytes } = vm.guest.ram;
    await manager.track(t, 0, [[base, lengthBytes / PAGE]]);
    await vm.guest.read(1, 0, 8);
    await manager.suspend(t);
    expect(code((await manager.track(t, 0, [[base, 1]])).status), 'M14').to.equal(SpecificStatus.ControllerSuspended);
    expect(code((await manager.untrack(t)).status), 'M15').to.equal(SpecificStatus.ControllerSuspended);
    const report = await manager.tracked(t);
    expect([report.suspended, report.more, report.changes.length > 0], 'M22').to.deep.equal([true, false, true]);
    const again = await manager.tracked(t);
    expect([again.suspended, again.more, again.changes]).to.deep.equal([true, false, []]);
    await manager.resume(t);
  });

  it('M16: more than can be followed: Not Enough Resources, with what would do', async () => {
    await begin();
    const answer = await manager.track(t, 0, [
      [0, 2 ** 28],
      [2 ** 41, 2 ** 28],
    ]);
    expect([code(answer.status), answer.dw0 & 0xffff, answer.dw1]).to.deep.equal([
      SpecificStatus.NotEnoughResources,
      1,
      1,
    ]);
    expect(
      (
        await manager.track(t, 1, [
          [0, 2 ** 27],
          [2 ** 41, 2 ** 27],
        ])
      ).status,
    ).to.equal(0);
  });

  it('M18, M19, M20, M25: reads and admin data are reported once, at both ranges', async () => {
    await begin();
    const { ram } = vm.guest;
    const here = ram.allocate(4 * PAGE);
    const there = ram.allocate(4 * PAGE);
    await manager.track(t, 0, [
      [here, 4],
      [there, 4],
    ]);
    await vm.guest.command(vm.guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, prp1: there + PAGE, cdw12: 7 });
    await vm.guest.command(vm.guest.admin, { opcode: AdminOpcode.Identify, prp1: here + 2 * PAGE, cdw10: 1 });
    const report = await manager.tracked(t);
    expect(report.exponent).to.equal(0);
    expect(report.changes).to.deep.equal([
      { address: here + 2 * PAGE, units: 1 },
      { address: there + PAGE, units: 1 },
    ]);
    const again = await manager.tracked(t);
    expect([again.changes, again.more], 'M20').to.deep.equal([[], false]);
  });

  it('M21, M23: more changes than the buffer holds come with the next reports, none twice', async () => {
    await begin();
    const { ram } = vm.guest;
    const at = ram.allocate(64 * PAGE);
    await manager.track(t, 0, [[at, 64]]);
    for (let i = 0; i < 64; i += 2) {
      await vm.guest.command(vm.guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, prp1: at + i * PAGE });
    }
    const found: number[] = [];
    for (let more = true; more; ) {
      const report = await manager.tracked(t, 16 + 5 * 16);
      more = report.more;
      found.push(...report.changes.map(({ address }) => (address - at) / PAGE));
    }
    expect(found).to.deep.equal(Array.from({ length: 32 }, (_, i) => 2 * i));
    expect((await manager.tracked(t, 1 << 20)).changes, 'M23').to.deep.equal([]);
    const tiny = await manager.data({ opcode: 0x3e, cdw11: t, cdw12: 3 }, 16);
    expect(code(tiny.status), 'no room for a change').to.equal(Status.InvalidField);
  });

  for (const exponent of [0, 2]) {
    it(`whatever the guest does: tracked pages hold all that changed, and no more than was written (2^${exponent} pages)`, async () => {
      await begin(3);
      const seed = randomSeed();
      const random = new Random(seed);
      const { ram } = vm.guest;
      const unit = PAGE << exponent;
      const start = ram.base;
      await manager.track(t, exponent, [[start, ram.lengthBytes / unit]]);
      const log = (): void => vm.function.startDirtyLog(PAGE, []);
      log();
      let copy = Buffer.from(ram.bytes);
      for (let round = 0; round < 12; round++) {
        /** Units that a command may write: its buffer, and its completion. */
        const allowed = new Set<number>();
        const mayWrite = (address: number, length: number): void => {
          for (
            let u = Math.floor((address - start) / unit);
            u <= Math.floor((address + length - 1 - start) / unit);
            u++
          )
            allowed.add(u);
        };
        for (const queue of vm.guest.queues) mayWrite(queue.cqAddress, queue.completionEntries * 16);
        const driver = Buffer.from(ram.bytes);
        for (let i = 0; i < 30; i++) {
          const queue = random.pick(vm.guest.queues.slice(1));
          const blocks = 1 + random.below(40);
          const address = start + (8 << 20) + random.below(4000) * PAGE + random.below(8) * 512;
          const list = ram.allocate(2 * PAGE);
          const pointers = vm.guest.prps(address, blocks * 512, list);
          const kind = random.below(4);
          if (kind === 0) mayWrite(address, blocks * 512);
          if (kind === 3) mayWrite(address - (address % PAGE), PAGE);
          if (kind <= 1) {
            const opcode = kind === 0 ? IoOpcode.Read : IoOpcode.Write;
            await vm.guest.command(queue, {
              opcode,
              nsid: 1,
              ...pointers,
              cdw10: random.below(90_000),
              cdw12: blocks - 1,
            });
          } else if (kind === 2) {
            await vm.guest.command(queue, { opcode: IoOpcode.Flush, nsid: 1 });
          } else {
            await vm.guest.command(vm.guest.admin, {
              opcode: AdminOpcode.Identify,
              prp1: address - (address % PAGE),
              cdw10: 1,
            });
          }
          ram.release(list, 2 * PAGE);
        }
        // what the guest itself writes (its queues, its lists) is not the controller's
        const own = new Set<number>();
        for (const queue of vm.guest.queues) own.add(Math.floor((queue.sqAddress - start) / unit));
        const dirty = vm.function.reportDirty(start, ram.lengthBytes, PAGE);
        const { changes, more } = await manager.tracked(t, 1 << 20);
        expect(more).to.equal(false);
        const tracked = new Set<number>();
        for (const { address, units } of changes)
          for (let u = 0; u < units; u++) tracked.add((address - start) / unit + u);
        for (let u = 0; u < ram.lengthBytes / unit; u++) {
          const differs =
            Buffer.compare(copy.subarray(u * unit, (u + 1) * unit), Buffer.from(ram.bytes.buffer, u * unit, unit)) !==
            0;
          const isInArena = u * unit >= 8 << 20;
          if (differs && isInArena && !tracked.has(u))
            expect.fail(`NVMEFERRY_SEED=${seed}: unit ${u} changed and is not tracked`);
          if (tracked.has(u) && !allowed.has(u) && !own.has(u))
            expect.fail(`NVMEFERRY_SEED=${seed}: unit ${u} is tracked, and nothing wrote it`);
        }
        for (const queue of vm.guest.queues) {
          const page = (queue.cqAddress - start) / PAGE;
          const changed =
            Buffer.compare(
              copy.subarray(page * PAGE, (page + 1) * PAGE),
              Buffer.from(ram.bytes.buffer, page * PAGE, PAGE),
            ) !== 0;
          if (changed) expect(tracked.has(Math.floor((page * PAGE) / unit)), `CQ ${queue.qid}`).to.equal(true);
        }
        // the front end's own log says the same, by page
        for (let page = 0; page < ram.lengthBytes / PAGE; page++) {
          const isDirty = (dirty[page >>> 3]! & (1 << (page & 7))) !== 0;
          if (isDirty && !tracked.has(Math.floor((page * PAGE) / unit)))
            expect.fail(`NVMEFERRY_SEED=${seed}: page ${page} only in the log`);
        }
        expect(driver.length).to.equal(copy.length);
        copy = Buffer.from(ram.bytes);
      }
    }).timeout(60_000);
  }

  // ---- suspend, state, resume

  it('S05 to S10: everything fetched completes; nothing is fetched; AERs stay; registers are as always', async () => {
    const backend = new HeldBackend();
    vm = managedVm({ backend });
    manager = new VmManager(vm);
    t = vm.controller.cntlid;
    const { guest } = vm;
    await guest.start(1);
    const queue = guest.queues[1]!;
    const page = guest.ram.allocate(PAGE);
    let ended = 0;
    for (let i = 0; i < 32; i++)
      guest.put(queue, { opcode: IoOpcode.Read, nsid: 1, prp1: page, cdw10: i }, () => ended++);
    guest.ring(queue);
    let aer = 0;
    guest.put(guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, () => aer++);
    guest.ring(guest.admin);
    await turn();
    let isSuspended = false;
    const suspended = manager.suspend(t).then(({ status }) => {
      isSuspended = true;
      return status;
    });
    await turn();
    for (let i = 32; i < 40; i++)
      guest.put(queue, { opcode: IoOpcode.Read, nsid: 1, prp1: page, cdw10: i }, () => ended++);
    guest.ring(queue);
    let identified = 0;
    guest.put(guest.admin, { opcode: AdminOpcode.Identify, prp1: page, cdw10: 1 }, () => identified++);
    guest.ring(guest.admin);
    await turn();
    expect([isSuspended, backend.begun]).to.deep.equal([false, 32]);
    backend.release(31);
    await turn();
    expect(isSuspended).to.equal(false);
    backend.release();
    expect(await suspended).to.equal(0);
    await turn();
    expect([ended, aer, identified, backend.begun], 'S05 to S08').to.deep.equal([32, 0, 0, 32]);
    expect([guest.readDword(8), guest.readDword(0x1c) & 1], 'S09').to.deep.equal([0x0002_0100, 1]);
    const before = guest.ram.slice(guest.ram.base, guest.ram.lengthBytes);
    vm.subsystem.namespaceChanged(1);
    guest.run();
    expect(Buffer.compare(before, guest.ram.slice(guest.ram.base, guest.ram.lengthBytes)), 'no transaction').to.equal(
      0,
    );
    await manager.resume(t);
    await turn();
    backend.release();
    await turn();
    expect([ended, identified], 'S06').to.deep.equal([40, 1]);
  });

  it('G01 to G05, G14: I/O queues in a state', async () => {
    await begin(0 + 2);
    const { guest } = vm;
    const before = manager.controller.cntlid;
    expect(before).to.not.equal(t);
    await guest.deleteQueue(2);
    const second = await guest.createQueue(2, 16, 3, 4);
    // one full round of the completion queue
    for (let i = 0; i < 4; i++) await guest.command(second, { opcode: IoOpcode.Flush, nsid: 1 });
    await manager.suspend(t);
    guest.put(second, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
    guest.ring(second);
    const state = await manager.getState(t);
    expect(state.readUInt32LE(16), 'G01: NVMECSS').to.equal(26);
    expect([state.readUInt16LE(48), state.readUInt16LE(50), state.readUInt16LE(52)]).to.deep.equal([0, 2, 2]);
    const sq = state.subarray(56 + 24, 56 + 48);
    expect(Number(sq.readBigUInt64LE(0)), 'G02').to.equal(second.sqAddress);
    expect(
      [8, 10, 12, 14, 16, 18].map((at) => sq.readUInt16LE(at)),
      'G03',
    ).to.deep.equal([15, 2, 2, 1, 4, 5]);
    const cq = state.subarray(56 + 72, 56 + 96);
    expect(Number(cq.readBigUInt64LE(0))).to.equal(second.cqAddress);
    expect(
      [8, 10, 12, 14, 16, 18].map((at) => cq.readUInt16LE(at)),
      'G05: S0PT 1',
    ).to.deep.equal([3, 2, 0, 0, 7, 3]);
    const first = state.subarray(56 + 48, 56 + 72);
    expect([first.readUInt16LE(12), first.readUInt16LE(14), first.readUInt16LE(16)], 'G04: S0PT 0').to.deep.equal([
      0, 0, 3,
    ]);
    const empty = new VmManager(vm);
    expect(empty).to.not.equal(undefined);
    const idle = vm.target.addFunction(vm.subsystem).controller.cntlid;
    const none = await manager.getState(idle, 1, 0);
    expect([none.readUInt32LE(16), none.readUInt16LE(50), none.readUInt16LE(52)], 'G14').to.deep.equal([2, 0, 0]);
  });

  /** A second machine with the same disk. */
  function secondMachine(backend: MemoryBackend, cntlid: number): { vm: TestVm; manager: VmManager } {
    const other = managedVm({ backend, function: { cntlid } });
    return { vm: other, manager: new VmManager(other) };
  }

  it('G16, G23, G31, G32, G36, G37, E07: queues, what was not fetched, AERs and interrupts go on on another machine', async () => {
    const backend = new MemoryBackend({ blockSize: 512, blockCount: 1 << 16 });
    vm = managedVm({ backend });
    manager = new VmManager(vm);
    const { guest } = vm;
    t = vm.controller.cntlid;
    await guest.start(3, 8);
    await guest.command(guest.admin, { opcode: AdminOpcode.SetFeatures, cdw10: 0x0b, cdw11: 0x100 });
    let event: number | undefined;
    guest.put(guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, (cqe, at) => {
      event = cqe.getUint32(at, true);
    });
    guest.ring(guest.admin);
    for (let i = 0; i < 21; i++)
      await guest.write(1, i, new Uint8Array(512).fill(i + 1), 'prp', guest.queues[1 + (i % 3)]!);
    await manager.suspend(t);
    // rung, and never fetched here
    const late = [1, 2, 3].map((qid) =>
      guest.write(1, 100 + qid, new Uint8Array(512).fill(0x40 + qid), 'sgl', guest.queues[qid]!),
    );
    const slow = guest.identify(1);
    await turn();
    const state = await manager.getState(t);
    const there = secondMachine(backend, t);
    try {
      expect((await there.manager.suspend(t)).status).to.equal(0);
      const wrong = Buffer.from(state);
      wrong.writeUInt16LE(99, 56 + 10);
      expect(code((await there.manager.setState(t, wrong)).status), 'G31').to.equal(Status.InvalidField);
      expect(code((await there.manager.resume(t)).status)).to.equal(Status.CommandSequenceError);
      expect(code((await there.manager.setState(t, state)).status), 'G16, G32').to.equal(0);
      expect(code((await there.manager.setState(t, state)).status), 'G23').to.equal(Status.InvalidField);
      // the machine is paused: its memory goes over
      vm.guest.unplug();
      const ram = new Uint8Array(new SharedArrayBuffer(guest.ram.lengthBytes));
      ram.set(guest.ram.bytes);
      guest.ram.moveTo(ram);
      there.vm.guest.unplug();
      guest.plug(there.vm.function);
      // what was committed and refused afterwards is not for running: reset and take it again
      there.vm.function.reset();
      expect((await there.manager.suspend(t)).status).to.equal(0);
      expect(code((await there.manager.setState(t, state)).status)).to.equal(0);
      expect((await there.manager.resume(t)).status).to.equal(0);
      await Promise.all(late);
      expect((await slow).length).to.equal(4096);
      for (let i = 0; i < 40; i++) {
        const queue = guest.queues[1 + (i % 3)]!;
        await guest.write(1, 200 + i, new Uint8Array(512).fill(i), 'prp', queue);
        expect((await guest.read(1, 200 + i, 1, 'sgl', queue))[0]).to.equal(i);
      }
      for (let i = 0; i < 21; i++) expect((await guest.read(1, i, 1))[0]).to.equal(i + 1);
      for (const qid of [1, 2, 3]) expect((await guest.read(1, 100 + qid, 1))[0]).to.equal(0x40 + qid);
      expect(event).to.equal(undefined);
      there.vm.subsystem.namespaceChanged(1);
      await turn();
      expect(event, 'E07').to.equal(0x0004_0002);
      expect(guest.queues.map(({ strays }) => strays)).to.deep.equal([0, 0, 0, 0]);
      await guest.deleteQueue(3);
    } finally {
      await there.vm.close();
    }
  });

  it('the same by the front end alone: stop, saveState, loadState, resume', async () => {
    const backend = new MemoryBackend({ blockSize: 512, blockCount: 1 << 16 });
    vm = managedVm({ backend });
    const { guest } = vm;
    await guest.start(2, 8);
    await guest.write(1, 7, new Uint8Array(512).fill(0x77));
    let isQuiet = false;
    vm.function.stop(() => {
      isQuiet = true;
    });
    expect(isQuiet).to.equal(true);
    const late = guest.read(1, 7, 1, 'prp', guest.queues[2]!);
    await turn();
    const state = vm.function.saveState();
    const other = managedVm({ backend, function: { cntlid: vm.controller.cntlid } });
    try {
      other.guest.unplug();
      other.function.stop(() => {});
      const damaged = state.slice();
      damaged[damaged.length - 1]! ^= 1;
      damaged[200]! ^= 0x80;
      expect(() => other.function.loadState(damaged)).to.throw();
      other.function.loadState(state);
      guest.unplug();
      guest.plug(other.function);
      await turn();
      other.function.resume();
      expect((await late)[0]).to.equal(0x77);
      await guest.write(1, 8, new Uint8Array(512).fill(0x78));
      expect((await guest.read(1, 8, 1))[0]).to.equal(0x78);
    } finally {
      await other.close();
    }
  });
});
