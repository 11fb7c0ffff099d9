/**
 * Cases about what no controller of ours has: that it is so, by all that says it, and what a host gets that tries. And the order in which an entry
 * gets into host memory, which no host can catch in the act.
 */
import { expect } from 'chai';
import { AdminOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import { GUEST_PAGE_BYTES } from '../../../src/vm/guest-ram.ts';
import { managerOf, startManaged } from '../../support/manager.ts';
import type { TestVm } from '../../support/vm.ts';
import { managedVm, VmManager } from '../../support/vm-manager.ts';

const PAGE = GUEST_PAGE_BYTES;
const QUEUE_SLOTS_MAX = 32_768;
const INVALID_OPCODE = 0x01;
const code = (status: number): number => status & 0x7ff;

describe('conformance: live migration, what is not there', () => {
  let vm: TestVm;
  let manager: VmManager;
  beforeEach(async () => {
    vm = managedVm();
    manager = new VmManager(vm);
    await vm.guest.start(1);
  });
  afterEach(() => vm.close());

  it('C07, C08: MCMR and NMCMR are 0, so no number of memory ranges is too many: the longest queues, every page of them apart', async () => {
    const identify = Buffer.from(await manager.guest.identify(1));
    expect([identify.readUInt16LE(582), identify.readUInt16LE(584)], 'MCMR, NMCMR').to.deep.equal([0, 0]);
    const { ram } = manager.guest;
    const pages = (QUEUE_SLOTS_MAX * 32) / PAGE;
    // every second page, so that none joins another: as many ranges as there are pages
    const arena = ram.allocate(2 * pages * PAGE);
    const list = ram.allocate(PAGE);
    for (let i = 0; i < pages; i++) ram.writeU64(list + i * 8, arena + 2 * i * PAGE);
    const { status, dw0 } = await manager.createQueue(vm.controller.cntlid, list, QUEUE_SLOTS_MAX, false);
    expect(status).to.equal(0);
    expect((await manager.log(dw0, true)).status).to.equal(0);
    expect(ram.slice(arena, 32)[31]! & 1, 'its first entry').to.equal(1);
  });

  it('F18: byte 31 of an entry is written last', async () => {
    const at = manager.guest.ram.allocate(PAGE);
    const { dw0: cdqid } = await manager.createQueue(vm.controller.cntlid, at, 8);
    const { buffer } = manager.guest.ram.bytes;
    const first = manager.guest.ram.at(at);
    /** Bytes of the queue in the order in which they were stored. */
    const stored: [from: number, to: number][] = [];
    const note = (target: ArrayBufferLike, offset: number, length: number): void => {
      if (target === buffer && offset >= first && offset < first + PAGE)
        stored.push([offset - first, offset - first + length]);
    };
    const { setUint32 } = DataView.prototype;
    const { store } = Atomics;
    const { set } = Uint8Array.prototype;
    DataView.prototype.setUint32 = function (this: DataView, offset: number, value: number, little?: boolean): void {
      note(this.buffer, this.byteOffset + offset, 4);
      setUint32.call(this, offset, value, little);
    };
    Atomics.store = ((array: Int32Array, index: number, value: number): number => {
      note(array.buffer, array.byteOffset + index * 4, 4);
      return store(array, index, value);
    }) as typeof Atomics.store;
    Uint8Array.prototype.set = function (this: Uint8Array, source: ArrayLike<number>, offset = 0): void {
      note(this.buffer, this.byteOffset + offset, source.length);
      set.call(this, source, offset);
    };
    try {
      await manager.log(cdqid, true);
    } finally {
      DataView.prototype.setUint32 = setUint32;
      Atomics.store = store;
      Uint8Array.prototype.set = set;
    }
    const written = stored.reduce((sum, [from, to]) => sum + to - from, 0);
    expect(written, 'bytes of one entry').to.equal(32);
    expect(stored.length, 'in more than one store').to.be.greaterThan(1);
    expect(stored.at(-1)![1], 'the last store').to.equal(32);
    expect(manager.guest.ram.slice(at, 32)[31]! & 1).to.equal(1);
  });

  it('M13, S10: no CMB and no PMR: their capabilities and registers are 0 and stay so, suspended or not', async () => {
    const registers = [0x38, 0x3c, 0x50, 0x54, 0x58, 0x5c, 0xe00, 0xe04, 0xe08, 0xe0c, 0xe10, 0xe14, 0xe18];
    const look = (): void => {
      expect((vm.guest.readDword(4) >>> 24) & 3, 'CAP.PMRS, CAP.CMBS').to.equal(0);
      for (const offset of registers) {
        vm.guest.writeDword(offset, 0xffff_ffff);
        expect(vm.guest.readDword(offset), offset.toString(16)).to.equal(0);
      }
      expect(
        vm.function.bars.map(({ index }) => index),
        'no BAR but that of the registers',
      ).to.deep.equal([0]);
    };
    look();
    expect((await manager.suspend(vm.controller.cntlid)).status).to.equal(0);
    look();
    expect((await manager.resume(vm.controller.cntlid)).status).to.equal(0);
    await vm.guest.flush(1);
  });

  it('I16, G30: no secondary controllers: OACS, Identify 14h and 15h, Virtualization Management', async () => {
    for (const { guest } of [vm, manager]) {
      const identify = Buffer.from(await guest.identify(1));
      expect(identify.readUInt16LE(256) & 0x80, 'OACS.VMS').to.equal(0);
      const page = guest.ram.allocate(PAGE);
      const admin = async (opcode: number, cdw10: number): Promise<number> =>
        code((await guest.command(guest.admin, { opcode, cdw10, prp1: page })).status);
      expect(await admin(AdminOpcode.Identify, 0x14)).to.equal(Status.InvalidField);
      expect(await admin(AdminOpcode.Identify, 0x15)).to.equal(Status.InvalidField);
      expect(await admin(0x1c, 9), 'Virtualization Management: Secondary Controller Online').to.equal(INVALID_OPCODE);
    }
  });

  it('A09, A12: no controller with one of RALBAS and GLSS alone: I/O controllers have both, behind TCP and PCIe', async () => {
    for (const { guest } of [vm, manager]) {
      const identify = Buffer.from(await guest.identify(1));
      expect(identify.readUInt16LE(256) & 0x200, 'OACS.GLSS').to.equal(0x200);
      expect(Buffer.from(await guest.identify(6)).readUInt16LE(18) & 1, 'RALBAS').to.equal(1);
      const page = guest.ram.allocate(PAGE);
      for (const action of [0x02, 0x10, 0x11]) {
        const sqe = { opcode: 0x86, nsid: 1, prp1: page, cdw12: 15, cdw13: (action * 2 ** 24 + 8) >>> 0 };
        expect((await guest.command(guest.admin, sqe)).status, `ATYPE ${action}`).to.equal(0);
      }
    }
    const t = await startManaged();
    try {
      const { host } = await managerOf(t);
      expect((await host.identify(1)).data.readUInt16LE(256) & 0x200).to.equal(0x200);
      expect((await host.identify(6)).data.readUInt16LE(18) & 1).to.equal(1);
    } finally {
      await t.close();
    }
  });
});
