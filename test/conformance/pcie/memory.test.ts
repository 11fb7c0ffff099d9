/** Guest memory that comes, goes and moves under a controller behind PCIe; commands that a suspension meets half way. */
import { expect } from 'chai';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import { type DmaWriter, PciError } from '../../../src/transport/pcie/pci-function.ts';
import { Guest } from '../../../src/vm/guest.ts';
import { managerOf, startManaged } from '../../support/manager.ts';
import { drive, HeldBackend, TestVm } from '../../support/vm.ts';
import { managedVm, VmManager } from '../../support/vm-manager.ts';

const PAGE = 4096;
const EXTRA = 2 ** 40;
const code = (status: number): number => status & 0x7ff;
const turn = (): Promise<unknown> => new Promise(setImmediate);
const region = (bytes: number): Uint8Array => new Uint8Array(new SharedArrayBuffer(bytes));

describe('conformance: PCIe guest memory', () => {
  let vm: TestVm;
  afterEach(() => vm.close());

  it('maps that overlap, are none, or are not there are refused; neighbours are one memory', async () => {
    vm = new TestVm();
    const { guest, function: pci } = vm;
    const errno = (act: () => void): number => {
      try {
        act();
      } catch (error) {
        if (error instanceof PciError) return error.errno;
        throw error;
      }
      return 0;
    };
    const both = region(2 * PAGE);
    const map = (iova: number, lengthBytes: number, bufferOffset = 0): number =>
      errno(() => pci.map({ iova, lengthBytes, buffer: both.buffer, bufferOffset }));
    expect(map(EXTRA, PAGE)).to.equal(0);
    expect(map(EXTRA, PAGE)).to.equal(17);
    expect(map(EXTRA - 1, 2)).to.equal(17);
    expect(map(EXTRA + PAGE - 1, PAGE)).to.equal(17);
    expect(map(EXTRA + PAGE, 0)).to.equal(22);
    expect(map(2 ** 53 - 1, PAGE)).to.equal(22);
    expect(map(-PAGE, PAGE)).to.equal(22);
    expect(map(EXTRA + PAGE, 3 * PAGE, PAGE), 'longer than its buffer').to.equal(22);
    expect(errno(() => pci.unmap(EXTRA, PAGE - 1))).to.equal(2);
    expect(errno(() => pci.unmap(EXTRA + PAGE, PAGE))).to.equal(2);
    expect(map(EXTRA + PAGE, PAGE, PAGE)).to.equal(0);
    await guest.start(1);
    // from the middle of one into the other
    const { status } = await guest.command(guest.admin, {
      opcode: AdminOpcode.Identify,
      prp1: EXTRA + 512,
      prp2: EXTRA + PAGE,
      cdw10: 1,
    });
    expect(status).to.equal(0);
    expect([...both.slice(512, 4608)]).to.deep.equal([...(await guest.identify(1))]);
  });

  it('memory that may not be written, or is not reachable: Data Transfer Error; reading what is read-only works', async () => {
    vm = new TestVm();
    const { guest, function: pci } = vm;
    await guest.start(1);
    const rom = region(PAGE).fill(0x5a);
    pci.map({ iova: EXTRA, lengthBytes: PAGE, buffer: rom.buffer, writable: false });
    pci.map({ iova: 2 * EXTRA, lengthBytes: PAGE });
    const io = async (opcode: number, prp1: number): Promise<number> =>
      code((await guest.command(guest.queues[1]!, { opcode, nsid: 1, prp1, cdw12: 7 })).status);
    expect(await io(IoOpcode.Read, EXTRA)).to.equal(Status.DataTransferError);
    expect(await io(IoOpcode.Write, EXTRA)).to.equal(0);
    expect((await guest.read(1, 0, 1))[0]).to.equal(0x5a);
    expect(await io(IoOpcode.Read, 2 * EXTRA)).to.equal(Status.DataTransferError);
    expect(await io(IoOpcode.Write, 2 * EXTRA)).to.equal(Status.DataTransferError);
    expect(rom.every((byte) => byte === 0x5a)).to.equal(true);
  });

  it('data whose memory goes while the backend works: Data Transfer Error, no stale access; a write has its data already', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend });
    const { guest, function: pci } = vm;
    await guest.start(1);
    const extra = region(4 * PAGE).fill(0x11);
    const map = (): void => pci.map({ iova: EXTRA, lengthBytes: 4 * PAGE, buffer: extra.buffer });
    map();
    const read = guest.command(guest.queues[1]!, {
      opcode: IoOpcode.Read,
      nsid: 1,
      prp1: EXTRA,
      prp2: EXTRA + PAGE,
      cdw12: 15,
    });
    const write = guest.command(guest.queues[1]!, {
      opcode: IoOpcode.Write,
      nsid: 1,
      prp1: EXTRA + 2 * PAGE,
      cdw10: 100,
      cdw12: 7,
    });
    await turn();
    pci.unmap(EXTRA, 4 * PAGE);
    extra.fill(0x22);
    backend.release();
    expect(code((await read).status)).to.equal(Status.DataTransferError);
    expect((await write).status).to.equal(0);
    expect(extra.every((byte) => byte === 0x22)).to.equal(true);
    expect(backend.data[100 * 512], 'what it was when it was fetched').to.equal(0x11);
    // gone and back again, elsewhere: the answer goes where the address leads now
    map();
    const again = guest.command(guest.queues[1]!, {
      opcode: IoOpcode.Read,
      nsid: 1,
      prp1: EXTRA,
      cdw10: 100,
      cdw12: 0,
    });
    await turn();
    pci.unmap(EXTRA, 4 * PAGE);
    const other = region(PAGE);
    pci.map({ iova: EXTRA, lengthBytes: PAGE, buffer: other.buffer });
    backend.release();
    expect((await again).status).to.equal(0);
    expect([other[0], other[511], other[512]]).to.deep.equal([0x11, 0x11, 0]);
    expect(extra.every((byte) => byte === 0x22)).to.equal(true);
    expect(vm.target.pool.usedBytes).to.equal(0);
  });

  it('a queue whose memory goes: Controller Fatal Status, until a reset', async () => {
    for (const which of ['sq', 'cq'] as const) {
      vm = new TestVm();
      const { guest, function: pci } = vm;
      await guest.start(1);
      const extra = region(2 * PAGE);
      pci.map({ iova: EXTRA, lengthBytes: PAGE, buffer: extra.buffer });
      pci.map({ iova: 2 * EXTRA, lengthBytes: PAGE, buffer: extra.buffer, bufferOffset: PAGE });
      const create = (opcode: number, prp1: number, cdw11: number): Promise<{ status: number }> =>
        guest.command(guest.admin, { opcode, prp1, cdw10: 2 | (7 << 16), cdw11 });
      await guest.command(guest.admin, { opcode: AdminOpcode.DeleteIoSq, cdw10: 1 });
      await guest.command(guest.admin, { opcode: AdminOpcode.DeleteIoCq, cdw10: 1 });
      guest.disable();
      await guest.start(2);
      await guest.deleteQueue(2);
      expect((await create(AdminOpcode.CreateIoCq, EXTRA, 3)).status).to.equal(0);
      expect((await create(AdminOpcode.CreateIoSq, 2 * EXTRA, 1 | (2 << 16))).status).to.equal(0);
      extra[PAGE] = IoOpcode.Flush;
      extra[PAGE + 4] = 1;
      if (which === 'sq') pci.unmap(2 * EXTRA, PAGE);
      else pci.unmap(EXTRA, PAGE);
      guest.writeDword(0x1000 + 2 * 2 * 4, 1);
      await turn();
      expect(guest.readDword(0x1c) & 2, `CFS, ${which}`).to.equal(2);
      expect((vm.fatal[0] as Error).message).to.match(/queue 2 is not in guest memory/);
      guest.disable();
      await guest.start(1);
      await guest.flush(1);
      await vm.close();
    }
  });

  it('writes by message: in order, interrupts only after the fence, nothing around them', async () => {
    vm = new TestVm();
    const { guest, function: pci } = vm;
    const { ram } = guest;
    const queue: (() => void)[] = [];
    const order: string[] = [];
    const writer: DmaWriter = {
      write(iova, bytes) {
        const copy = bytes.slice();
        queue.push(() => {
          order.push(`write ${copy.length}`);
          ram.write(iova, copy);
        });
      },
      fence(done) {
        queue.push(() => {
          order.push('fence');
          done();
        });
      },
    };
    pci.unmapAll();
    pci.map({ iova: ram.base, lengthBytes: ram.lengthBytes, buffer: ram.bytes.buffer, writer });
    const deliver = async (work: Promise<unknown>): Promise<void> => {
      let isDone = false;
      void work.then(() => {
        isDone = true;
      });
      while (!isDone) {
        await turn();
        for (const act of queue.splice(0)) act();
      }
    };
    await deliver(guest.start(1));
    order.length = 0;
    await deliver(guest.write(1, 3, new Uint8Array(512).fill(9)));
    expect(order).to.deep.equal(['write 16', 'fence']);
    order.length = 0;
    let got: Uint8Array | undefined;
    await deliver(guest.read(1, 3, 1).then((data) => (got = data)));
    expect(order).to.deep.equal(['write 512', 'write 16', 'fence']);
    expect(got!.every((byte) => byte === 9)).to.equal(true);
  });

  it('an event that finds no room in the admin completion queue waits for it', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    guest.enable(4);
    const { admin } = guest;
    vm.function.setInterruptSink(undefined);
    const ends: string[] = [];
    const page = guest.ram.allocate(PAGE);
    guest.put(admin, { opcode: AdminOpcode.AsyncEventRequest }, () => ends.push('event'));
    guest.put(admin, { opcode: AdminOpcode.SetFeatures, cdw10: 0x0b, cdw11: 0x100 }, () => ends.push('features'));
    guest.ring(admin);
    guest.run();
    guest.reap(admin);
    // the three slots that there are
    for (let i = 0; i < 3; i++) {
      guest.put(admin, { opcode: AdminOpcode.Identify, prp1: page, cdw10: 1 }, () => ends.push('identify'));
    }
    guest.ring(admin);
    guest.run();
    vm.subsystem.namespaceChanged(1);
    guest.run();
    expect(admin.reap()).to.equal(3);
    expect(ends).to.deep.equal(['features', 'identify', 'identify', 'identify']);
    guest.writeDword(0x1004, admin.cqHead);
    guest.run();
    expect(admin.reap()).to.equal(1);
    expect(ends.at(-1)).to.equal('event');
    expect(admin.strays).to.equal(0);
  });

  it('a fused pair that a suspension cuts: its first is not fetched, and runs with its second afterwards', async () => {
    vm = managedVm({ guest: { runsItself: false } });
    const manager = new VmManager(vm);
    const { guest } = vm;
    await drive(vm, guest.start(1));
    await drive(vm, guest.write(1, 0, new Uint8Array(512).fill(1)));
    const queue = guest.queues[1]!;
    const compare = guest.ram.allocate(PAGE);
    const write = guest.ram.allocate(PAGE);
    guest.ram.fill(compare, 512, 1);
    guest.ram.fill(write, 512, 2);
    const ends: number[] = [];
    const put = (opcode: number, flags: number, prp1: number): void => {
      guest.put(queue, { opcode, nsid: 1, flags, prp1 }, (cqe, at) => ends.push(cqe.getUint16(at + 14, true) >>> 1));
    };
    put(IoOpcode.Compare, 1, compare);
    guest.ring(queue);
    guest.run();
    await manager.suspend(vm.controller.cntlid);
    const state = await manager.getState(vm.controller.cntlid);
    const sq = state.subarray(56, 80);
    expect((sq.readUInt16LE(16) + 1) % 64, 'one command waits').to.equal(sq.readUInt16LE(18));
    put(IoOpcode.Write, 2, write);
    guest.ring(queue);
    await manager.resume(vm.controller.cntlid);
    guest.run();
    expect(ends).to.deep.equal([0, 0]);
    await drive(
      vm,
      guest.read(1, 0, 1).then((data) => expect(data[0]).to.equal(2)),
    );
  });

  it('a manager over NVMe/TCP follows the memory of a controller behind PCIe', async () => {
    vm = new TestVm();
    const t = await startManaged();
    try {
      const { host } = await managerOf(t);
      const { function: pci, controller } = t.target.addFunction(t.subsystem, { vectorCount: 4 });
      const guest = new Guest();
      guest.plug(pci);
      await guest.start(1);
      expect((await host.identify(1)).data[576], 'TRATTR').to.equal(3);
      const at = guest.ram.allocate(8 * PAGE);
      const data = Buffer.alloc(20);
      data.writeUInt32LE(1, 4);
      data.writeBigUInt64LE(BigInt(at), 8);
      data.writeUInt32LE(8, 16);
      const track = await host.command(
        { opcode: 0x3d, cdw10: 0x1_0001, cdw11: controller.cntlid },
        { data, by: 'r2t' },
      );
      expect(track.code).to.equal(0);
      await guest.command(guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, prp1: at + 3 * PAGE, cdw12: 7 });
      const report = await host.command({ opcode: 0x3e, cdw11: controller.cntlid, cdw12: 255 }, { readBytes: 1024 });
      expect(report.data.readUInt32LE(4)).to.equal(1);
      expect(Number(report.data.readBigUInt64LE(16))).to.equal(at + 3 * PAGE);
      const short = await host.command(
        { opcode: 0x3d, cdw10: 0x1_0001, cdw11: controller.cntlid },
        { data: data.subarray(0, 4), by: 'r2t' },
      );
      expect(short.code).to.equal(Status.DataSglLengthInvalid);
      const cut = await host.command(
        { opcode: 0x3d, cdw10: 0x1_0001, cdw11: controller.cntlid },
        { data: data.subarray(0, 12), by: 'r2t' },
      );
      expect(cut.code).to.equal(Status.InvalidField);
    } finally {
      await t.close();
    }
  });
});
