/** What a guest has read of its controller's registers is in its state (block 18), and a function whose doorbells are elsewhere takes none of it. */
import { expect } from 'chai';
import type { PciFunctionOptions } from '../../../src/transport/pcie/pci-function.ts';
import { blocksOf, stateOf } from '../../support/state-bytes.ts';
import type { TestVm } from '../../support/vm.ts';
import { managedVm, VmManager } from '../../support/vm-manager.ts';

const REGISTERS_BLOCK = 18;
const INVALID_FIELD = 0x002;

describe('PCIe: registers in the state', () => {
  const open: TestVm[] = [];
  afterEach(async () => {
    for (const vm of open.splice(0)) await vm.close();
  });

  function side(options: PciFunctionOptions): { vm: TestVm; manager: VmManager } {
    const vm = managedVm({ function: { cntlid: 5, ...options } });
    open.push(vm);
    return { vm, manager: new VmManager(vm) };
  }

  async function stateOfGuest(options: PciFunctionOptions): Promise<Buffer> {
    const { vm, manager } = side(options);
    vm.guest.enable();
    expect((await manager.suspend(5)).status).to.equal(0);
    return manager.getState(5, 0); // no I/O queues: their part is another
  }

  it('CAP and VS as they are read', async () => {
    const state = await stateOfGuest({ doorbellStride: 2, queueEntriesMax: 256 });
    const vm = open[0]!;
    const { bytes, essential } = blocksOf(state).find(({ kind }) => kind === REGISTERS_BLOCK)!;
    expect(essential).to.equal(false);
    expect(bytes.readUInt32LE(0)).to.equal(vm.guest.readDword(0));
    expect(bytes.readUInt32LE(4)).to.equal(vm.guest.readDword(4));
    expect(bytes.readUInt32LE(8)).to.equal(vm.guest.readDword(8));
    expect(bytes).to.have.length(16);
  });

  it('another stride is refused, fewer queue entries are not, and an older writer tells neither', async () => {
    const state = await stateOfGuest({ doorbellStride: 2, queueEntriesMax: 256 });
    const load = async (options: PciFunctionOptions, bytes: Buffer): Promise<number> => {
      const { manager } = side(options);
      expect((await manager.suspend(5)).status).to.equal(0);
      return (await manager.setState(5, bytes, { csvi: 0 })).status & 0x7ff;
    };
    expect(await load({ doorbellStride: 0, queueEntriesMax: 256 }, state)).to.equal(INVALID_FIELD);
    expect(await load({ doorbellStride: 2, queueEntriesMax: 128 }, state)).to.equal(0);
    const older = stateOf(blocksOf(state).filter(({ kind }) => kind !== REGISTERS_BLOCK));
    expect(await load({ doorbellStride: 2 }, older)).to.equal(0);
  });
});
