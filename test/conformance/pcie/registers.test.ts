/** Registers, resets, doorbells, interrupts and config space of a controller behind PCIe. Base 2.1 section 3.1.4, PCIe Transport 1.1. */
import { expect } from 'chai';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import type { GuestQueue } from '../../../src/vm/guest-queue.ts';
import { drive, HeldBackend, TestVm } from '../../support/vm.ts';

const CC = 0x14;
const CSTS = 0x1c;
const AQA = 0x24;
const ASQ = 0x28;
const ENABLE = 0x0046_0001;
const code = (status: number): number => status & 0x7ff;
const turn = (): Promise<unknown> => new Promise(setImmediate);

/** The doorbell register of a queue. */
const doorbell = (qid: number, isCompletion = false, stride = 4): number =>
  0x1000 + (2 * qid + (isCompletion ? 1 : 0)) * stride;

/** Outstanding AER. @returns what it said, once it has */
function listen(vm: TestVm): { dw0: number | undefined } {
  const heard: { dw0: number | undefined } = { dw0: undefined };
  vm.guest.put(vm.guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, (cqe, at) => {
    heard.dw0 = cqe.getUint32(at, true);
  });
  vm.guest.ring(vm.guest.admin);
  return heard;
}

describe('conformance: PCIe registers', () => {
  let vm: TestVm;
  afterEach(() => vm.close());

  it('CAP, VS, CRTO; 64-bit registers by halves; registers that are not there read 0', () => {
    vm = new TestVm({ function: { doorbellStride: 2, queueEntriesMax: 256 } });
    const { guest } = vm;
    expect(guest.readDword(0) & 0xffff, 'MQES').to.equal(255);
    expect((guest.readDword(0) >>> 16) & 1, 'CQR').to.equal(1);
    expect(guest.readDword(4) & 0xf, 'DSTRD').to.equal(2);
    expect((guest.readDword(4) >>> 5) & 1, 'NVM command set').to.equal(1);
    expect((guest.readDword(4) >>> 16) & 0xff, 'MPSMIN, MPSMAX').to.equal(0x40);
    expect(guest.readDword(8)).to.equal(0x0002_0100);
    expect(guest.readDword(0x68) & 0xffff, 'CRWMT').to.be.greaterThan(0);
    guest.writeAddress(ASQ, 0x1_2345_6789_a123);
    expect([guest.readDword(ASQ), guest.readDword(ASQ + 4)]).to.deep.equal([0x6789_a000, 0x1_2345]);
    for (const offset of [0x38, 0x3c, 0x40, 0x50, 0xff8, 0x20]) expect(guest.readDword(offset)).to.equal(0);
    const two = new Uint8Array(2);
    vm.function.readBar(0, 1, two);
    expect([...two], 'bytes within a dword').to.deep.equal([0, 1]);
  });

  it('stride: queues work wherever their doorbells are', async () => {
    for (const doorbellStride of [0, 1, 4]) {
      vm = new TestVm({ function: { doorbellStride } });
      await vm.guest.start(3);
      await vm.guest.write(1, 0, new Uint8Array(512).fill(doorbellStride), 'prp', vm.guest.queues[3]!);
      expect((await vm.guest.read(1, 0, 1))[0]).to.equal(doorbellStride);
      await vm.close();
    }
  });

  it('an admin queue that cannot be: CSTS.CFS, never RDY; after a reset a good one is ready', () => {
    vm = new TestVm();
    const { guest } = vm;
    for (const [aqa, configuration] of [
      [0x001f_0000, ENABLE], // one entry
      [0x0000_001f, ENABLE],
      [0x001f_001f, ENABLE | (5 << 7)], // MPS
      [0x001f_001f, ENABLE | (1 << 11)], // AMS
      [0x001f_001f, 0x0000_0001], // entry sizes
    ] as const) {
      guest.writeDword(AQA, aqa);
      guest.writeDword(CC, configuration);
      expect(guest.readDword(CSTS) & 3).to.equal(2);
      guest.writeDword(CC, 0);
      expect(guest.readDword(CSTS) & 3).to.equal(0);
    }
    guest.enable();
    expect(guest.readDword(CSTS) & 3).to.equal(1);
  });

  it('AQA, ASQ, ACQ: they stay over a controller reset, and cannot be changed while it is enabled', () => {
    vm = new TestVm();
    const { guest } = vm;
    guest.enable(16);
    const before = [AQA, ASQ, ASQ + 4, 0x30].map((offset) => guest.readDword(offset));
    for (const offset of [AQA, ASQ, ASQ + 4, 0x30]) guest.writeDword(offset, 0x7777_7000);
    expect([AQA, ASQ, ASQ + 4, 0x30].map((offset) => guest.readDword(offset))).to.deep.equal(before);
    guest.disable();
    expect([AQA, ASQ, ASQ + 4, 0x30].map((offset) => guest.readDword(offset))).to.deep.equal(before);
    vm.function.reset();
    expect([AQA, ASQ, ASQ + 4, 0x30].map((offset) => guest.readDword(offset))).to.deep.equal([0, 0, 0, 0]);
  });

  it('shutdown: complete at once, nothing runs after it; a reset brings it back', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    guest.writeDword(CC, ENABLE | (1 << 14));
    expect(guest.readDword(CSTS) & 0xc).to.equal(8);
    let answered = false;
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Flush, nsid: 1 }, () => {
      answered = true;
    });
    guest.ring(guest.queues[1]!);
    await turn();
    expect(answered).to.equal(false);
    guest.disable();
    await guest.start(1);
    await guest.flush(1);
  });

  for (const how of ['CC.EN', 'function reset', 'FLR'] as const) {
    it(`${how} at every point of a command's life: no answer, no touch of memory, and the next life is clean`, async () => {
      const backend = new HeldBackend();
      vm = new TestVm({ backend, guest: { runsItself: false } });
      const { guest } = vm;
      const reset = (): void => {
        if (how === 'CC.EN') guest.disable();
        else if (how === 'function reset') vm.function.reset();
        else guest.writeConfigWord(guest.capability(0x10) + 8, 0x8000);
        guest.queues.length = 0;
      };
      /** Ready, with one queue. */
      const begin = async (): Promise<GuestQueue> => {
        await drive(vm, guest.start(1));
        return guest.queues[1]!;
      };
      const target = guest.ram.allocate(8 * 4096);
      // 0: in memory, not rung; 1: rung; 2: fetched, at the backend; 3: completed; 4: consumed
      for (let point = 0; point <= 4; point++) {
        for (const opcode of [IoOpcode.Read, IoOpcode.Write, IoOpcode.Flush]) {
          const queue = await begin();
          guest.ram.fill(target, 8 * 4096, 0xaa);
          const cq = guest.ram.slice(queue.cqAddress, queue.completionEntries * 16);
          let answers = 0;
          const isIo = opcode !== IoOpcode.Flush;
          guest.put(queue, { opcode, nsid: 1, prp1: isIo ? target : 0, cdw12: isIo ? 7 : 0 }, () => answers++);
          if (point >= 1) guest.ring(queue);
          if (point >= 2) vm.function.run();
          if (point >= 3) backend.release();
          if (point >= 4) guest.run();
          reset();
          const what = `point ${point}, opcode ${opcode}`;
          expect(guest.readDword(CSTS) & 1, what).to.equal(0);
          const memory = guest.ram.slice(target, 8 * 4096);
          const entries = guest.ram.slice(queue.cqAddress, queue.completionEntries * 16);
          backend.release();
          guest.run();
          expect(guest.ram.slice(target, 8 * 4096), `${what}: data after the reset`).to.deep.equal(memory);
          expect(guest.ram.slice(queue.cqAddress, entries.length), `${what}: entries after the reset`).to.deep.equal(
            entries,
          );
          if (point < 3) expect(entries, what).to.deep.equal(cq);
          expect(answers, what).to.equal(point < 4 ? (point === 3 ? answers : 0) : 1);
        }
      }
      const queue = await begin();
      await drive(
        vm,
        Promise.all([guest.command(queue, { opcode: IoOpcode.Flush, nsid: 1 }), turn().then(() => backend.release())]),
      );
      expect(vm.fatal).to.deep.equal([]);
    });
  }

  it('a write that the backend still has is not overtaken by those after the reset', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend, guest: { runsItself: false } });
    const { guest } = vm;
    const blocks = (value: number): Uint8Array => new Uint8Array(2 * 512).fill(value);
    await drive(vm, guest.start(1));
    void guest.write(1, 10, blocks(1), 'prp').catch(() => {});
    guest.run();
    vm.function.run();
    expect(backend.begun).to.equal(1);
    guest.disable();
    await drive(vm, guest.start(1));
    const late = guest.write(1, 11, blocks(2), 'prp');
    const elsewhere = guest.write(1, 12 + 2, blocks(3), 'prp');
    guest.run();
    vm.function.run();
    expect(backend.begun, 'what overlaps waits, nothing else does').to.equal(2);
    // the newest first, as a disk may
    backend.held.reverse();
    backend.release();
    expect(backend.begun).to.equal(3);
    backend.release();
    await drive(vm, Promise.all([late, elsewhere]));
    const bytes = [10, 11, 12, 13, 14, 15, 16].map((block) => backend.data[block * 512]);
    expect(bytes).to.deep.equal([1, 2, 2, 0, 3, 3, 0]);
    // and nobody waits for it any more
    const last = guest.write(1, 10, blocks(4), 'prp');
    guest.run();
    vm.function.run();
    backend.release();
    await drive(vm, last);
    expect(backend.data[10 * 512]).to.equal(4);
  });

  it('a reset with everything in flight lets go of all of it', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend, guest: { runsItself: false } });
    const { guest } = vm;
    for (let round = 0; round < 5; round++) {
      await drive(vm, guest.start(3));
      const page = guest.ram.allocate(4096);
      for (let qid = 1; qid <= 3; qid++) {
        const queue = guest.queues[qid]!;
        while (queue.room > 0) guest.put(queue, { opcode: IoOpcode.Read, nsid: 1, prp1: page }, () => {});
        guest.ring(queue);
      }
      listen(vm);
      guest.run();
      guest.disable();
    }
    expect(backend.held.length).to.equal(5 * 3 * 63);
    backend.release();
    guest.run();
    expect(vm.target.pool.usedBytes, 'buffers').to.equal(0);
    expect([...vm.subsystem.lingering()]).to.deep.equal([]);
    await drive(vm, guest.start(1));
  });

  it('doorbells: of no queue, behind the end, over the entries: an error event, and the queue goes on', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1, 8);
    await guest.command(guest.admin, { opcode: AdminOpcode.SetFeatures, cdw10: 0x0b, cdw11: 0xff });
    const queue = guest.queues[1]!;
    const abuses: [string, number, () => void][] = [
      ['a queue that is not there', 0, () => guest.writeDword(doorbell(5), 1)],
      ['a completion queue that is not there', 0, () => guest.writeDword(doorbell(5, true), 1)],
      ['a tail behind the end', 1, () => guest.writeDword(doorbell(1), 8)],
      ['a head behind the end', 1, () => guest.writeDword(doorbell(1, true), 8)],
      ['a head before the entries', 1, () => guest.writeDword(doorbell(1, true), (queue.cqHead + 1) % 8)],
    ];
    for (const [what, info, abuse] of abuses) {
      const heard = listen(vm);
      await turn();
      expect(heard.dw0, what).to.equal(undefined);
      abuse();
      await turn();
      expect(heard.dw0, what).to.equal((info << 8) | (1 << 16));
      // reading the log clears it
      const page = guest.ram.allocate(4096);
      await guest.command(guest.admin, { opcode: AdminOpcode.GetLogPage, cdw10: 0x01 | (15 << 16), prp1: page });
      await guest.flush(1);
    }
    expect(vm.controller.errorLog.count).to.equal(abuses.length);
  });

  it('a doorbell that runs over commands not yet fetched is refused', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend, guest: { runsItself: false } });
    const { guest } = vm;
    await drive(vm, guest.start(1, 8));
    const queue = guest.queues[1]!;
    for (let i = 0; i < 6; i++) guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
    guest.ring(queue);
    guest.writeDword(doorbell(1), (queue.tail + 2) % 8);
    guest.run();
    expect(backend.begun).to.equal(6);
    expect(vm.controller.errorLog.count).to.equal(1);
  });

  it('MSI-X: masked vectors wait in the pending bits, and come when they are unmasked', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    const at = guest.capability(0x11);
    const table = guest.readConfigWord(at + 4) & ~7;
    const pending = (guest.readConfigWord(at + 8) & ~7) as number;
    guest.writeDword(table + 1 * 16 + 12, 1);
    const before = guest.interrupts[1] ?? 0;
    const flush = guest.flush(1);
    await turn();
    expect(guest.interrupts[1] ?? 0).to.equal(before);
    expect(guest.readDword(pending)).to.equal(2);
    guest.writeDword(table + 1 * 16 + 12, 0);
    expect(guest.interrupts[1]).to.equal(before + 1);
    expect(guest.readDword(pending)).to.equal(0);
    await flush;
    // the function mask
    const control = guest.readConfigWord(at + 2);
    guest.writeConfigWord(at + 2, control | 0x4000);
    const second = guest.flush(1);
    await turn();
    expect(guest.interrupts[1]).to.equal(before + 1);
    guest.writeConfigWord(at + 2, control);
    await second;
    guest.writeDword(table + 4, 0xfee0_0000);
    expect(guest.readDword(table + 4)).to.equal(0xfee0_0000);
  });

  it('a front end that owns the MSI-X table gets every message', async () => {
    vm = new TestVm();
    const { guest } = vm;
    const messages: number[] = [];
    await guest.start(1);
    const at = guest.capability(0x11);
    guest.writeDword((guest.readConfigWord(at + 4) & ~7) + 16 + 12, 1);
    vm.function.setInterruptSink({ message: (vector) => messages.push(vector), pin: () => {} }, true);
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
    guest.ring(guest.queues[1]!);
    guest.run();
    expect(messages).to.deep.equal([1]);
  });

  it('resume: one interrupt for every queue with entries that were not consumed, and none for others', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    await drive(vm, guest.start(2));
    const messages: number[] = [];
    vm.function.setInterruptSink({ message: (vector) => messages.push(vector), pin: () => {} });
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
    guest.ring(guest.queues[1]!);
    guest.run();
    expect(messages.splice(0)).to.deep.equal([1]);
    vm.function.stop(() => {});
    guest.run();
    expect(messages).to.deep.equal([]);
    vm.function.resume();
    expect(messages.splice(0)).to.deep.equal([1]);
    guest.reap(guest.queues[1]!);
    vm.function.stop(() => {});
    vm.function.resume();
    expect(messages).to.deep.equal([]);
  });

  it('the pin is a level: asserted until the entries are consumed, INTMS masks it', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    const levels: boolean[] = [];
    vm.function.setInterruptSink({ message: () => expect.fail('a message'), pin: (asserted) => levels.push(asserted) });
    const entries = 8;
    guest.ram.allocate(1);
    guest.enable(entries);
    guest.writeConfigWord(guest.capability(0x11) + 2, 0);
    const page = guest.ram.allocate(4096);
    let answered = 0;
    guest.put(guest.admin, { opcode: AdminOpcode.Identify, prp1: page, cdw10: 1 }, () => answered++);
    guest.ring(guest.admin);
    guest.run();
    expect([levels.splice(0), vm.function.pinAsserted]).to.deep.equal([[true], true]);
    guest.writeDword(0x0c, 1);
    expect(levels.splice(0)).to.deep.equal([false]);
    expect(guest.readDword(0x10)).to.equal(1);
    guest.writeDword(0x10, 1);
    expect(levels.splice(0)).to.deep.equal([true]);
    guest.reap(guest.admin);
    expect([levels.splice(0), answered]).to.deep.equal([[false], 1]);
  });

  it('MSI: messages by vector, as many as were granted', async () => {
    vm = new TestVm();
    const { guest } = vm;
    const messages: number[] = [];
    guest.enable();
    guest.writeConfigWord(guest.capability(0x11) + 2, 0);
    guest.writeConfigWord(guest.capability(0x05) + 2, 0x0001 | (1 << 4));
    vm.function.setInterruptSink({
      message(vector) {
        messages.push(vector);
        for (const queue of guest.queues) if (queue.vector === vector) guest.reap(queue);
      },
      pin: () => expect.fail('the pin'),
    });
    await guest.createQueue(1, 8, 1);
    await guest.flush(1);
    expect(messages).to.include.members([0, 1]);
    const third = await guest.command(guest.admin, {
      opcode: AdminOpcode.CreateIoCq,
      prp1: guest.ram.allocate(4096),
      cdw10: 2 | (7 << 16),
      cdw11: 3 | (2 << 16),
    });
    expect(code(third.status), 'a third message').to.equal(0x108);
  });

  it('interrupt coalescing: one interrupt for many completions, or after the time; not for a vector that is exempt', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(2);
    const set = (cdw10: number, cdw11: number): Promise<unknown> =>
      guest.command(guest.admin, { opcode: AdminOpcode.SetFeatures, cdw10, cdw11 });
    await set(0x08, 3 | (10 << 8)); // 4 entries, or 1 ms
    await set(0x09, 2 | 0x1_0000);
    const flush = (qid: number): void => {
      guest.put(guest.queues[qid]!, { opcode: IoOpcode.Flush, nsid: 1 }, () => {});
      guest.ring(guest.queues[qid]!);
    };
    const one = guest.interrupts[1] ?? 0;
    for (let i = 0; i < 3; i++) {
      flush(1);
      await turn();
    }
    expect(guest.interrupts[1] ?? 0).to.equal(one);
    flush(1);
    await turn();
    expect(guest.interrupts[1]).to.equal(one + 1);
    flush(1);
    await turn();
    expect(guest.interrupts[1]).to.equal(one + 1);
    vm.clock.advance(1);
    expect(guest.interrupts[1]).to.equal(one + 2);
    const two = guest.interrupts[2] ?? 0;
    flush(2);
    await turn();
    expect(guest.interrupts[2]).to.equal(two + 1);
    const got = await guest.command(guest.admin, { opcode: AdminOpcode.GetFeatures, cdw10: 0x09, cdw11: 2 });
    expect(got.dw0).to.equal(0x1_0002);
    const wrong = await guest.command(guest.admin, { opcode: AdminOpcode.GetFeatures, cdw10: 0x09, cdw11: 8 });
    expect(code(wrong.status)).to.equal(Status.InvalidField);
  });

  it('shadow doorbells: commands are found in memory, the register is needed only past the event index', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    await drive(vm, guest.start(1, 16));
    const shadow = guest.ram.allocate(4096);
    const events = guest.ram.allocate(4096);
    const configure = (prp1: number, prp2: number): Promise<{ status: number }> => {
      const done = guest.command(guest.admin, { opcode: AdminOpcode.DoorbellBufferConfig, prp1, prp2 });
      guest.run();
      return done;
    };
    expect(code((await configure(shadow + 8, events)).status)).to.equal(Status.InvalidField);
    expect(code((await configure(shadow, 2 ** 40)).status)).to.equal(Status.DataTransferError);
    const queue = guest.queues[1]!;
    guest.ram.view.setUint32(guest.ram.at(shadow) + 8, queue.tail, true);
    guest.ram.view.setUint32(guest.ram.at(shadow) + 12, queue.cqHead, true);
    expect((await configure(shadow, events)).status).to.equal(0);
    guest.run();
    let done = 0;
    for (let round = 0; round < 50; round++) {
      guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => done++);
      guest.ram.view.setUint32(guest.ram.at(shadow) + 8, queue.tail, true);
      const eventIndex = guest.ram.view.getUint32(guest.ram.at(events) + 8, true);
      expect(eventIndex, 'armed where the guest is').to.equal((queue.tail + 15) % 16);
      // the value in the register is not what counts
      guest.writeDword(doorbell(1), 3);
      guest.run();
      queue.reap();
      guest.ram.view.setUint32(guest.ram.at(shadow) + 12, queue.cqHead, true);
    }
    expect(done).to.equal(50);
    // two in memory for one ring
    guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => done++);
    guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => done++);
    guest.ram.view.setUint32(guest.ram.at(shadow) + 8, queue.tail, true);
    guest.writeDword(doorbell(1), 0);
    guest.run();
    queue.reap();
    expect(done).to.equal(52);
    expect(vm.controller.errorLog.count).to.be.at.most(2);
    // a reset ends it
    guest.disable();
    await drive(vm, guest.start(1, 16));
    await drive(vm, guest.flush(1));
  });

  it('config space: identity, capabilities in a chain, read-only bits, BAR size', () => {
    vm = new TestVm({ function: { vectorCount: 5 } });
    const { guest } = vm;
    expect(guest.readConfigWord(0x0a), 'class').to.equal(0x0108);
    expect(guest.readConfigWord(0x08) >>> 8, 'programming interface').to.equal(2);
    const ids: number[] = [];
    for (let at = guest.readConfigWord(0x34) & 0xff; at !== 0; at = guest.readConfigWord(at) >>> 8) {
      ids.push(guest.readConfigWord(at) & 0xff);
    }
    expect(ids).to.deep.equal([0x01, 0x05, 0x11, 0x10]);
    expect(guest.readConfigWord(guest.capability(0x11) + 2) & 0x7ff, 'table size').to.equal(4);
    guest.writeConfigWord(0x00, 0xffff);
    expect(guest.readConfigWord(0x00)).to.not.equal(0xffff);
    vm.function.writeConfig(0x10, new Uint8Array(8).fill(0xff));
    const bar = new Uint8Array(8);
    vm.function.readConfig(0x10, bar);
    const size = 2 ** 32 - (new DataView(bar.buffer).getUint32(0, true) & ~0xf) - 2 ** 32;
    expect((size >>> 0) % 2 ** 32).to.equal(vm.function.bars[0]!.lengthBytes);
    expect(vm.function.bars[0]!.lengthBytes).to.equal(16384);
    const beyond = new Uint8Array(4).fill(1);
    vm.function.readConfig(254, beyond);
    expect([...beyond.subarray(2)]).to.deep.equal([0, 0]);
  });

  it('NSSR: only where it is allowed', async () => {
    vm = new TestVm();
    vm.guest.enable();
    vm.guest.writeDword(0x20, 0x4e56_4d65);
    expect(vm.guest.readDword(CSTS) & 1).to.equal(1);
    await vm.close();
    vm = new TestVm({ function: { allowSubsystemReset: true } });
    vm.guest.enable();
    expect((vm.guest.readDword(4) >>> 4) & 1, 'NSSRS').to.equal(1);
    vm.guest.writeDword(0x20, 0x1234_5678);
    expect(vm.guest.readDword(CSTS) & 1).to.equal(1);
    vm.guest.writeDword(0x20, 0x4e56_4d65);
    expect(vm.guest.readDword(CSTS)).to.equal(0x10);
    vm.guest.writeDword(CSTS, 0x10);
    expect(vm.guest.readDword(CSTS)).to.equal(0);
  });

  it('a function whose subsystem is removed reads as ones, and takes nothing', async () => {
    vm = new TestVm();
    await vm.guest.start(1);
    await vm.target.removeSubsystem(vm.subsystem.nqn);
    expect(vm.guest.readDword(CSTS)).to.equal(0xffff_ffff);
    vm.guest.writeDword(CC, 0);
    vm.guest.writeDword(doorbell(0), 1);
    expect(vm.function.run()).to.equal(false);
    vm.function.close();
  });

  it('a host identifier is set once, of either length, and forgotten by a reset', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    const page = guest.ram.allocate(4096);
    const set = async (bytes: number[], exhid: number): Promise<number> => {
      guest.ram.write(page, Uint8Array.from(bytes));
      const { status } = await guest.command(guest.admin, {
        opcode: AdminOpcode.SetFeatures,
        cdw10: 0x81,
        cdw11: exhid,
        prp1: page,
      });
      return code(status);
    };
    const long = Array.from({ length: 16 }, (_, i) => i + 1);
    expect(await set(long, 1)).to.equal(0);
    expect([...vm.controller.hostid]).to.deep.equal(long);
    expect(
      await set(
        long.map((byte) => byte + 1),
        1,
      ),
    ).to.equal(Status.CommandSequenceError);
    guest.disable();
    await guest.start(1);
    expect(vm.controller.hostid.some((byte) => byte !== 0)).to.equal(false);
    expect(await set([9, 8, 7, 6, 5, 4, 3, 2], 0)).to.equal(0);
    expect([...vm.controller.hostid.subarray(0, 9)]).to.deep.equal([9, 8, 7, 6, 5, 4, 3, 2, 0]);
  });
});
