/** Bus Master Enable: memory is reached, and messages are sent, only while the guest has set it. PCI Express Base 4.0 section 7.5.1.1.3. */
import { expect } from 'chai';
import { IoOpcode } from '../../../src/spec/opcode.ts';
import { HeldBackend, TestVm } from '../../support/vm.ts';

const COMMAND = 0x04;
const MEMORY = 0x2;
const BUS_MASTER = 0x4;
const CSTS = 0x1c;
const turn = (): Promise<unknown> => new Promise(setImmediate);

describe('conformance: PCIe Bus Master Enable', () => {
  let vm: TestVm;
  afterEach(() => vm.close());

  const setMaster = (on: boolean): void => vm.guest.writeConfigWord(COMMAND, MEMORY | (on ? BUS_MASTER : 0));
  const ready = (): number => vm.guest.readDword(CSTS) & 3;

  it('commands wait while it is clear: nothing is read or written, no message is sent; they run once it is set', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    await guest.write(1, 3, new Uint8Array(512).fill(7));
    const page = guest.ram.allocate(4096);
    setMaster(false);
    let status = -1;
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, cdw10: 3, prp1: page }, (cqe, at) => {
      status = cqe.getUint16(at + 14, true) >>> 1;
    });
    const before = guest.ram.bytes.slice();
    const interrupts = [...guest.interrupts];
    guest.ring(guest.queues[1]!);
    for (let i = 0; i < 4; i++) await turn();
    expect(Buffer.compare(before, guest.ram.bytes), 'memory').to.equal(0);
    expect(guest.interrupts).to.deep.equal(interrupts);
    expect([status, ready()]).to.deep.equal([-1, 1]);
    setMaster(true);
    for (let i = 0; i < 4; i++) await turn();
    expect([status, guest.ram.slice(page, 512)[511]]).to.deep.equal([0, 7]);
    expect(vm.fatal).to.deep.equal([]);
  });

  it('cleared under a command: its memory is not touched any more, the controller is fatal, a reset brings it back', async () => {
    const backend = new HeldBackend();
    vm = new TestVm({ backend });
    const { guest } = vm;
    await guest.start(1);
    const page = guest.ram.allocate(4096);
    guest.put(guest.queues[1]!, { opcode: IoOpcode.Read, nsid: 1, prp1: page }, () => expect.fail('it was answered'));
    guest.ring(guest.queues[1]!);
    await turn();
    expect(backend.held).to.have.length(1);
    setMaster(false);
    backend.data.fill(0x99);
    const before = guest.ram.bytes.slice();
    backend.release();
    await turn();
    expect(Buffer.compare(before, guest.ram.bytes), 'memory').to.equal(0);
    expect(ready() & 2, 'CFS').to.equal(2);
    guest.disable();
    await guest.start(1);
    const flush = guest.flush(1);
    await turn();
    backend.release();
    await flush;
    expect(vm.target.pool.usedBytes).to.equal(0);
  });

  it('an interrupt that was due while it was clear comes when it is set; the pin needs no memory', async () => {
    vm = new TestVm({ guest: { runsItself: false } });
    const { guest } = vm;
    guest.enable();
    const page = guest.ram.allocate(4096);
    let answered = false;
    guest.put(guest.admin, { opcode: 0x06, prp1: page, cdw10: 1 }, () => {
      answered = true;
    });
    guest.ring(guest.admin);
    // posted, and held back by the mask of its vector
    const table = guest.readConfigWord(guest.capability(0x11) + 4) & ~7;
    guest.writeDword(table + 12, 1);
    guest.run();
    setMaster(false);
    guest.writeDword(table + 12, 0);
    expect(answered, 'a message without the bus').to.equal(false);
    setMaster(true);
    expect(answered).to.equal(true);
  });

  it('a function level reset clears it, and the queues of a controller that is enabled without it wait', async () => {
    vm = new TestVm();
    const { guest } = vm;
    await guest.start(1);
    guest.writeConfigWord(guest.capability(0x10) + 8, 0x8000);
    expect(guest.readConfigWord(COMMAND) & BUS_MASTER).to.equal(0);
    guest.enable();
    setMaster(false);
    const identified = guest.identify(1);
    await turn();
    setMaster(true);
    expect((await identified).length).to.equal(4096);
  });
});
