/** What a guest may do wrong or at the wrong moment, enumerated: doorbell values, memory taken away under a command, priorities that are not served. */
import { expect } from 'chai';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import { drive, HeldBackend, TestVm } from '../../support/vm.ts';

const PAGE = 4096;
const EXTRA = 2 ** 40;
const CSTS = 0x1c;
const code = (status: number): number => status & 0x7ff;
const turn = (): Promise<unknown> => new Promise(setImmediate);
const doorbell = (qid: number, isCompletion = false): number => 0x1000 + (2 * qid + (isCompletion ? 1 : 0)) * 4;

describe('conformance: PCIe, what a guest may do wrong', () => {
  let vm: TestVm;
  afterEach(() => vm.close());

  it('tail doorbell: every value in every state of a queue of four entries', async () => {
    const entries = 4;
    for (let head = 0; head < entries; head++) {
      for (let waiting = 0; waiting < entries; waiting++) {
        for (const value of [0, 1, 2, 3, 4, 5, 7, 0x7fff, 0x8000, 0xffff]) {
          const backend = new HeldBackend(64);
          vm = new TestVm({ backend, guest: { runsItself: false, ramBytes: 1 << 20 } });
          const { guest } = vm;
          await drive(vm, guest.start(1, entries));
          const queue = guest.queues[1]!;
          for (let i = 0; i < head; i++) {
            const flush = guest.command(queue, { opcode: IoOpcode.Flush, nsid: 1 });
            guest.run();
            backend.release();
            await drive(vm, flush);
          }
          // rung, and not fetched: the function has not run since
          for (let i = 0; i < waiting; i++) guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
          guest.ring(queue);
          const tail = (head + waiting) % entries;
          const begun = backend.begun;
          const errors = vm.controller.errorLog.count;
          // what lies behind the tail are commands that were executed before, or none: flushes all the same
          for (let i = 0; i < entries; i++) {
            const at = guest.ram.at(queue.sqAddress) + i * 64;
            guest.ram.view.setUint32(at, IoOpcode.Flush | (i << 16), true);
            guest.ram.view.setUint32(at + 4, 1, true);
          }
          guest.writeDword(doorbell(1), value);
          vm.function.run();
          const added = (value - tail + entries) % entries;
          const isValid = value < entries && waiting + added < entries;
          const what = `head ${head}, ${waiting} wait, doorbell ${value}`;
          expect(vm.controller.errorLog.count - errors, what).to.equal(isValid ? 0 : 1);
          expect(backend.begun - begun, `${what}: fetched`).to.equal(isValid ? waiting + added : waiting);
          expect(vm.fatal).to.deep.equal([]);
          await vm.close();
        }
      }
    }
    vm = new TestVm();
  });

  it('head doorbell: every value with none to all entries posted', async () => {
    const entries = 4;
    for (let head = 0; head < entries; head++) {
      for (let posted = 0; posted < entries; posted++) {
        for (const value of [0, 1, 2, 3, 4, 5, 0x8000, 0xffff]) {
          vm = new TestVm({ guest: { runsItself: false, ramBytes: 1 << 20 } });
          const { guest } = vm;
          guest.enable();
          await drive(vm, guest.createQueue(1, 8, undefined, entries));
          const queue = guest.queues[1]!;
          for (let i = 0; i < head; i++) await drive(vm, guest.command(queue, { opcode: IoOpcode.Flush, nsid: 1 }));
          vm.function.setInterruptSink(undefined);
          for (let i = 0; i < posted; i++) guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
          guest.ring(queue);
          guest.run();
          const errors = vm.controller.errorLog.count;
          guest.writeDword(doorbell(1, true), value);
          const isValid = value < entries && (value - head + entries) % entries <= posted;
          expect(vm.controller.errorLog.count - errors, `head ${head}, ${posted} posted, doorbell ${value}`).to.equal(
            isValid ? 0 : 1,
          );
          await vm.close();
        }
      }
    }
    vm = new TestVm();
  });

  it('memory of a command taken away before it is fetched, and while the backend has it: what a PRP, a list, an SGL and a segment name', async () => {
    /** Where the parts of the command stand; each in a region of its own, of which one goes. */
    const at = { first: EXTRA, second: 2 * EXTRA, list: 3 * EXTRA } as const;
    const forms = {
      'PRP1, PRP2': { parts: ['first', 'second'], flags: 0 },
      'PRP list': { parts: ['first', 'second', 'list'], flags: 0 },
      SGL: { parts: ['first', 'second', 'list'], flags: 0x40 },
    } as const;
    for (const [form, { parts, flags }] of Object.entries(forms)) {
      for (const gone of parts) {
        for (const when of ['before', 'within'] as const) {
          for (const opcode of [IoOpcode.Read, IoOpcode.Write]) {
            const what = `${form}, ${gone} goes ${when}, opcode ${opcode}`;
            const backend = new HeldBackend(64);
            vm = new TestVm({ backend, guest: { ramBytes: 1 << 20 } });
            const { guest, function: pci } = vm;
            await guest.start(1);
            const buffers = { first: region(0x11), second: region(0x22), list: region(0) };
            for (const part of parts) pci.map({ iova: at[part], lengthBytes: 2 * PAGE, buffer: buffers[part].buffer });
            const list = new DataView(buffers.list.buffer);
            // two pages of data, or three by a list
            const usesList = form === 'PRP list';
            if (usesList) {
              list.setBigUint64(0, BigInt(at.second), true);
              list.setBigUint64(8, BigInt(at.second + PAGE), true);
            } else {
              [at.first, at.second].forEach((address, i) => {
                list.setBigUint64(i * 16, BigInt(address), true);
                list.setUint32(i * 16 + 8, PAGE, true);
              });
            }
            const blocks = usesList ? 24 : 16;
            const prp1 = flags === 0 ? at.first : at.list;
            const prp2 = flags !== 0 ? 32 : usesList ? at.list : at.second;
            const command = { opcode, nsid: 1, flags, prp1, prp2, cdw12: blocks - 1 };
            let status = -1;
            guest.put(guest.queues[1]!, { ...command, ...(flags === 0 ? {} : { sglType: 0x30 }) }, (cqe, offset) => {
              status = cqe.getUint16(offset + 14, true) >>> 1;
            });
            if (when === 'before') pci.unmap(at[gone], 2 * PAGE);
            guest.ring(guest.queues[1]!);
            await turn();
            if (when === 'within') pci.unmap(at[gone], 2 * PAGE);
            const before = Buffer.from(buffers[gone]);
            backend.data.fill(0x99);
            backend.release();
            await turn();
            // a write that was fetched has its data
            const isDone = when === 'within' && opcode === IoOpcode.Write;
            expect(code(status), what).to.equal(isDone ? 0 : Status.DataTransferError);
            expect(Buffer.compare(before, buffers[gone]), `${what}: memory that is gone`).to.equal(0);
            if (when === 'before') expect(backend.begun, `${what}: at the backend`).to.equal(0);
            expect(guest.readDword(CSTS) & 2, `${what}: CFS`).to.equal(0);
            expect(vm.target.pool.usedBytes).to.equal(0);
            await vm.close();
          }
        }
      }
    }
    vm = new TestVm();
  });

  it('shadow doorbells whose memory goes: the registers are left, and the guest goes on by them after a reset', async () => {
    vm = new TestVm();
    const { guest, function: pci } = vm;
    await guest.start(1);
    pci.map({ iova: EXTRA, lengthBytes: 2 * PAGE, buffer: region(0).buffer });
    const config = await guest.command(guest.admin, {
      opcode: AdminOpcode.DoorbellBufferConfig,
      prp1: EXTRA,
      prp2: EXTRA + PAGE,
    });
    expect(config.status).to.equal(0);
    pci.unmap(EXTRA, 2 * PAGE);
    let answered = false;
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Flush, nsid: 1 }, () => {
      answered = true;
    });
    guest.ring(guest.queues[1]!);
    await turn();
    expect(answered).to.equal(false);
    expect(vm.fatal).to.deep.equal([]);
    guest.disable();
    await guest.start(1);
    await guest.flush(1);
  });

  it('queue priorities are accepted, and all served alike; weighted round robin is not advertised, and not taken', async () => {
    vm = new TestVm();
    const { guest } = vm;
    expect((guest.readDword(0) >>> 17) & 3, 'CAP.AMS').to.equal(0);
    await guest.start(4);
    expect((await guest.identify(1))[72], 'RAB').to.be.at.most(7);
    for (let priority = 0; priority < 4; priority++) {
      await guest.deleteQueue(1 + priority);
      const cq = guest.ram.allocate(PAGE);
      const sq = guest.ram.allocate(PAGE);
      const create = async (opcode: number, prp1: number, cdw11: number): Promise<number> =>
        (await guest.command(guest.admin, { opcode, prp1, cdw10: (1 + priority) | (15 << 16), cdw11 })).status;
      expect(await create(AdminOpcode.CreateIoCq, cq, 1)).to.equal(0);
      const qprio = priority << 1;
      expect(
        await create(AdminOpcode.CreateIoSq, sq, 1 | qprio | ((1 + priority) << 16)),
        `QPRIO ${priority}`,
      ).to.equal(0);
    }
    // weights of feature 01h are kept, as the feature is
    const set = await guest.command(guest.admin, { opcode: AdminOpcode.SetFeatures, cdw10: 1, cdw11: 0x0302_0103 });
    const get = await guest.command(guest.admin, { opcode: AdminOpcode.GetFeatures, cdw10: 1 });
    expect([set.status, get.dw0]).to.deep.equal([0, 0x0302_0103]);
    guest.disable();
    expect(() => guest.enable(32, 0x0046_0001 | (1 << 11)), 'CC.AMS weighted round robin').to.throw(/not ready/);
  });

  const region = (content: number): Uint8Array<SharedArrayBuffer> =>
    new Uint8Array(new SharedArrayBuffer(2 * PAGE)).fill(content);
});
