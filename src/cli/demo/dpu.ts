/** A DPU of the demo, in this process: an NVMe controller on PCIe for a VM, its namespace on a target of the network, a manager beside it. */
import type { BlockBackend } from '../../backend/block-backend.ts';
import { FileStateStore } from '../../service/file-state-store.ts';
import { openRemoteNamespace } from '../../service/remote-namespace.ts';
import { Target } from '../../target/target.ts';
import type { PciFunction } from '../../transport/pcie/pci-function.ts';

export const VM_NQN = 'nqn.2026-01.io.nvmeferry:demo-vm';
export const MANAGER_NQN = 'nqn.2026-01.io.nvmeferry:demo-manager';
export const NSID = 1;
const UUID = '0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f';
const VECTORS = 4;

export interface DpuOptions {
  /** Of the namespace behind it. */
  readonly uri: string;
  readonly stateDirectory: string;
  /** Guests may not use the namespace yet. */
  readonly closed: boolean;
}

export class Dpu {
  readonly target: Target;
  readonly function: PciFunction;
  readonly cntlid: number;
  readonly port: number;

  private constructor(target: Target, pci: PciFunction, cntlid: number, port: number) {
    this.target = target;
    this.function = pci;
    this.cntlid = cntlid;
    this.port = port;
  }

  static async start({ uri, stateDirectory, closed }: DpuOptions): Promise<Dpu> {
    const target = new Target({ state: new FileStateStore(stateDirectory) });
    let backend: BlockBackend | undefined;
    try {
      const subsystem = target.addSubsystem({
        nqn: VM_NQN,
        hosts: [MANAGER_NQN],
        migration: { managers: { hosts: [MANAGER_NQN] } },
      });
      backend = await openRemoteNamespace({ type: 'remote', uri });
      target.addNamespace(subsystem, { nsid: NSID, backend, uuid: UUID, closed });
      backend = undefined;
      const made = target.addFunction(subsystem, { vectorCount: VECTORS });
      const port = await target.addPort({ portId: 1, address: '127.0.0.1', service: 0, subsystems: ['*'] });
      return new Dpu(target, made.function, made.controller.cntlid, port.service);
    } catch (error) {
      await backend?.close();
      await target.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.target.close();
  }
}
