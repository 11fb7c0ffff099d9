/**
 * A controller behind PCIe is held by two: its manager suspends it (NVMe), its front end stops it while no VM is there. It goes on when both let it.
 * Base 2.1 section 5.1.17; an Async Event that has happened and found no room in the completion queue is what would show a mistake.
 */
import { expect } from 'chai';
import type { TestVm } from '../../support/vm.ts';
import { managedVm, VmManager } from '../../support/vm-manager.ts';

const ENTRIES = 4;
const AER = 0x0c;
const IDENTIFY = 0x06;
const HEAD_DOORBELL = 0x1004;
const FATAL = 2;

describe('PCIe: suspended and stopped', () => {
  let vm: TestVm;
  let manager: VmManager;
  let aer: number;

  beforeEach(async () => {
    vm = managedVm();
    manager = new VmManager(vm);
    const { guest } = vm;
    guest.enable(ENTRIES);
    // nothing is reaped
    vm.function.setInterruptSink(undefined);
    aer = guest.put(guest.admin, { opcode: AER }, () => {});
    guest.ring(guest.admin);
    guest.run();
    const data = guest.ram.allocate(4096);
    for (let i = 1; i < ENTRIES; i++) {
      guest.put(guest.admin, { opcode: IDENTIFY, prp1: data, cdw10: 1 }, () => {});
      guest.admin.head = guest.admin.tail; // as its completion will say
      guest.ring(guest.admin);
      guest.run();
    }
    // a doorbell of no queue is an event, and the completion queue is full
    guest.writeDword(0x1000 + 8 * 5, 1);
    guest.run();
    expect(slot(ENTRIES - 1)).to.equal(undefined);
    expect((await manager.suspend(vm.controller.cntlid)).status).to.equal(0);
    guest.writeDword(HEAD_DOORBELL, ENTRIES - 1);
    guest.run();
    expect(slot(ENTRIES - 1), 'suspended').to.equal(undefined);
  });
  afterEach(() => vm.close());

  /** CID of the entry there, if there is one. */
  function slot(index: number): number | undefined {
    const { ram, admin } = vm.guest;
    const last = ram.view.getUint32(ram.at(admin.cqAddress) + index * 16 + 12, true);
    return last >>> 16 === 0 ? undefined : last & 0xffff;
  }

  it('a VM that comes back does not let a suspended controller go on; Resume does', async () => {
    vm.function.stop(() => {});
    vm.function.resume();
    vm.guest.run();
    expect(slot(ENTRIES - 1)).to.equal(undefined);
    expect((await manager.resume(vm.controller.cntlid)).status).to.equal(0);
    vm.guest.run();
    expect(slot(ENTRIES - 1)).to.equal(aer);
  });

  it('Resume while no VM is there reaches no memory; the VM that comes lets it go on', async () => {
    const { ram } = vm.guest;
    vm.function.stop(() => {});
    vm.function.unmapAll();
    expect((await manager.resume(vm.controller.cntlid)).status).to.equal(0);
    vm.guest.run();
    expect(vm.fatal).to.deep.equal([]);
    expect(vm.guest.readDword(0x1c) & FATAL).to.equal(0);
    vm.function.map({ iova: ram.base, lengthBytes: ram.lengthBytes, buffer: ram.bytes.buffer });
    vm.function.resume();
    vm.guest.run();
    expect(slot(ENTRIES - 1)).to.equal(aer);
  });
});
