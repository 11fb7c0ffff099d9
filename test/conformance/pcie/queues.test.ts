/** Queues in host memory: life of a command from doorbell to interrupt. Base 2.1 section 3.3.1, PCIe Transport 1.1. */
import { expect } from 'chai';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';
import { SpecificStatus, Status } from '../../../src/spec/status.ts';
import { drive, HeldBackend, TestVm } from '../../support/vm.ts';

const pattern = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + (i >>> 8) * 13 + seed) & 0xff);
const code = (status: number): number => status & 0x7ff;

describe('conformance: PCIe queues', () => {
  let vm: TestVm;
  afterEach(() => vm.close());

  it('a guest enables, identifies, creates queues, writes and reads back', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(3);
    const identify = await guest.identify(1);
    expect(Buffer.from(identify).readUInt32LE(536), 'SGLS').to.equal(0x0005_0001);
    expect(Buffer.from(identify).readUInt16LE(256) & 0x100, 'OACS').to.equal(0x100);
    const data = pattern(8 * 512, 1);
    await guest.write(1, 100, data);
    expect(await guest.read(1, 100, 8)).to.deep.equal(data);
    expect(await guest.read(1, 100, 8, 'sgl', guest.queues[3])).to.deep.equal(data);
    await guest.flush(1);
    expect(guest.interrupts[1], 'interrupts of queue 1').to.be.at.least(3);
    expect(guest.queues.map(({ strays }) => strays)).to.deep.equal([0, 0, 0, 0]);
  });

  it('rings of every small size wrap many times, with phase and SQHD right', async () => {
    for (const entries of [2, 3, 4, 7, 64]) {
      vm = new TestVm();
      const { guest } = vm;
      await guest.start(1, entries);
      const queue = guest.queues[1]!;
      const reads = Array.from({ length: entries * 5 }, () =>
        guest.command(queue, { opcode: IoOpcode.Flush, nsid: 1 }),
      );
      for (const { status } of await Promise.all(reads)) expect(status).to.equal(0);
      expect(queue.head, `SQHD, ${entries} entries`).to.equal(queue.tail);
      expect(queue.strays).to.equal(0);
      await vm.close();
    }
  });

  it('a completion queue smaller than the submission queue: nothing is fetched that could not complete', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend, guest: { runsItself: false } });
    const { guest } = vm;
    await drive(vm, guest.start(1));
    await drive(vm, guest.deleteQueue(1));
    await drive(vm, guest.createQueue(1, 64, 1, 4));
    const queue = guest.queues[1]!;
    const done: number[] = [];
    const pages = guest.ram.allocate(4096);
    for (let i = 0; i < 20; i++) {
      guest.put(queue, { opcode: IoOpcode.Read, nsid: 1, prp1: pages, cdw10: i }, () => done.push(i));
    }
    guest.ring(queue);
    guest.run();
    expect(backend.begun, 'three slots, three commands').to.equal(3);
    while (done.length < 20) {
      backend.release(1);
      guest.run();
      expect(backend.held.length).to.be.at.most(3);
    }
    expect(done).to.deep.equal(Array.from({ length: 20 }, (_, i) => i));
  });

  it('identifiers, sizes, vectors and addresses of queues are judged', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(2);
    const { admin } = guest;
    const page = guest.ram.allocate(4096);
    const createCq = (qid: number, size: number, vector = 1, prp1 = page, flags = 3): Promise<{ status: number }> =>
      guest.command(admin, {
        opcode: AdminOpcode.CreateIoCq,
        prp1,
        cdw10: (qid | ((size - 1) << 16)) >>> 0,
        cdw11: (flags | (vector << 16)) >>> 0,
      });
    const createSq = (qid: number, cqid: number, size = 8, prp1 = page): Promise<{ status: number }> =>
      guest.command(admin, {
        opcode: AdminOpcode.CreateIoSq,
        prp1,
        cdw10: (qid | ((size - 1) << 16)) >>> 0,
        cdw11: (1 | (cqid << 16)) >>> 0,
      });
    expect(code((await createCq(0, 8)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
    expect(code((await createCq(1, 8)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
    expect(code((await createCq(3, 8)).status), 'more than was granted').to.equal(
      SpecificStatus.InvalidQueueIdentifier,
    );
    await guest.deleteQueue(2);
    expect(code((await createCq(2, 1)).status)).to.equal(SpecificStatus.InvalidQueueSize);
    expect(code((await createCq(2, 1025)).status)).to.equal(SpecificStatus.InvalidQueueSize);
    expect(code((await createCq(2, 8, 8)).status)).to.equal(SpecificStatus.InvalidInterruptVector);
    expect(code((await createCq(2, 8, 1, page + 8)).status)).to.equal(Status.PrpOffsetInvalid);
    expect(code((await createCq(2, 8, 1, page, 2)).status), 'not contiguous').to.equal(Status.InvalidField);
    expect(code((await createSq(2, 2)).status)).to.equal(SpecificStatus.CompletionQueueInvalid);
    expect(code((await createSq(2, 0)).status)).to.equal(SpecificStatus.CompletionQueueInvalid);
    expect(code((await createSq(1, 1)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
    const remove = (opcode: number, qid: number): Promise<{ status: number }> =>
      guest.command(admin, { opcode, cdw10: qid });
    expect(code((await remove(AdminOpcode.DeleteIoCq, 1)).status)).to.equal(SpecificStatus.InvalidQueueDeletion);
    expect(code((await remove(AdminOpcode.DeleteIoCq, 2)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
    expect(code((await remove(AdminOpcode.DeleteIoSq, 0)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
    expect(code((await remove(AdminOpcode.DeleteIoSq, 2)).status)).to.equal(SpecificStatus.InvalidQueueIdentifier);
  });

  it('two submission queues complete in one completion queue, with their SQIDs', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(2);
    await guest.deleteQueue(2);
    const address = guest.ram.allocate(4096);
    const { status } = await guest.command(guest.admin, {
      opcode: AdminOpcode.CreateIoSq,
      prp1: address,
      cdw10: (2 | (7 << 16)) >>> 0,
      cdw11: (1 | (1 << 16)) >>> 0,
    });
    expect(status).to.equal(0);
    const queue = guest.queues[1]!;
    const cqAt = guest.ram.at(queue.cqAddress) + queue.cqHead * 16;
    // SQ 2 is driven by hand: one Flush in slot 0
    guest.ram.view.setUint32(guest.ram.at(address), IoOpcode.Flush | (0x77 << 16), true);
    guest.ram.view.setUint32(guest.ram.at(address) + 4, 1, true);
    guest.writeDword(0x1000 + 2 * 2 * 4, 1);
    await Promise.resolve();
    expect(guest.ram.view.getUint16(cqAt + 10, true), 'SQID').to.equal(2);
    expect(guest.ram.view.getUint16(cqAt + 12, true), 'CID').to.equal(0x77);
    const removed = await guest.command(guest.admin, { opcode: AdminOpcode.DeleteIoCq, cdw10: 1 });
    expect(code(removed.status)).to.equal(SpecificStatus.InvalidQueueDeletion);
  });

  it('Delete I/O Submission Queue completes after what was fetched, and drops what was not', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend });
    const { guest } = vm;
    await guest.start(1, 512);
    const queue = guest.queues[1]!;
    const page = guest.ram.allocate(4096);
    const ends: number[] = [];
    for (let i = 0; i < 200; i++) {
      guest.put(queue, { opcode: IoOpcode.Read, nsid: 1, prp1: page, cdw10: i }, (cqe, at) =>
        ends.push(cqe.getUint16(at + 14, true) >>> 1),
      );
    }
    guest.ring(queue);
    await Promise.resolve();
    const fetched = backend.begun;
    expect(fetched).to.equal(128);
    let isDeleted = false;
    const deletion = guest.command(guest.admin, { opcode: AdminOpcode.DeleteIoSq, cdw10: 1 }).then(({ status }) => {
      isDeleted = true;
      return status;
    });
    await new Promise(setImmediate);
    expect(isDeleted).to.equal(false);
    backend.release(fetched - 1);
    await new Promise(setImmediate);
    expect(isDeleted).to.equal(false);
    backend.release();
    expect(await deletion).to.equal(0);
    expect(ends).to.deep.equal(new Array(fetched).fill(0));
    expect(backend.begun).to.equal(fetched);
    const again = await guest.command(guest.admin, { opcode: AdminOpcode.DeleteIoCq, cdw10: 1 });
    expect(again.status).to.equal(0);
  });

  it('no queue waits for another that never runs dry', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    await drive(vm, guest.start(4, 1024));
    const order: number[] = [];
    for (let qid = 1; qid <= 4; qid++) {
      const queue = guest.queues[qid]!;
      const count = qid === 1 ? 1000 : 3;
      for (let i = 0; i < count; i++) guest.put(queue, { opcode: IoOpcode.Flush, nsid: 1 }, () => order.push(qid));
    }
    for (let qid = 1; qid <= 4; qid++) guest.ring(guest.queues[qid]!);
    vm.function.run();
    // one turn has a bound, and everybody had a share of it
    expect(order.length).to.be.below(1000);
    expect(order.filter((qid) => qid > 1)).to.have.length(9);
    guest.run();
    expect(order).to.have.length(1009);
  });

  it('Abort takes back an Async Event Request, not what a backend has', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend });
    const { guest } = vm;
    await guest.start(1);
    let aer: number | undefined;
    const aerCid = guest.put(guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, (cqe, at) => {
      aer = cqe.getUint16(at + 14, true) >>> 1;
    });
    guest.ring(guest.admin);
    const page = guest.ram.allocate(4096);
    const cid = guest.put(guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, prp1: page }, () => {});
    guest.ring(guest.queues[1]!);
    const abort = (qid: number, of: number): Promise<{ status: number; dw0: number }> =>
      guest.command(guest.admin, { opcode: AdminOpcode.Abort, cdw10: (qid | (of << 16)) >>> 0 });
    expect((await abort(1, cid)).dw0).to.equal(1);
    expect((await abort(0, aerCid)).dw0).to.equal(0);
    expect(code(aer!)).to.equal(Status.CommandAbortRequested);
    expect((await abort(0, aerCid)).dw0).to.equal(1);
    backend.release();
  });

  it('events are reported after a reset that ended a stop', async () => {
    vm = new TestVm();
    const { guest } = vm;
    vm.function.stop(() => {});
    vm.function.reset();
    await guest.start(1);
    await guest.command(guest.admin, { opcode: AdminOpcode.SetFeatures, cdw10: 0x0b, cdw11: 0x100 });
    let event: number | undefined;
    guest.put(guest.admin, { opcode: AdminOpcode.AsyncEventRequest }, (cqe, at) => {
      event = cqe.getUint32(at, true);
    });
    guest.ring(guest.admin);
    await guest.identify(1);
    vm.subsystem.namespaceChanged(1);
    await guest.identify(1);
    expect(event).to.equal(0x0004_0002);
  });

  it('fabrics commands, and SGLs of admin commands, are not there', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    expect(code((await guest.command(guest.admin, { opcode: 0x7f })).status)).to.equal(Status.InvalidOpcode);
    const { status } = await guest.command(guest.admin, {
      opcode: AdminOpcode.Identify,
      flags: 0x40,
      prp1: guest.ram.allocate(4096),
      prp2: 4096,
      sglType: 0,
      cdw10: 1,
    });
    expect(code(status)).to.equal(Status.InvalidField);
  });
});
