/** Admin commands of a target's hosts, on a local SSD. */

import { Status } from '../spec/status.ts';
import type { DeviceAnswer, DeviceCommand, DevicePassthrough } from './device-passthrough.ts';
import { DeviceError, type NvmeDevice, statusOfDevice, statusOfErrno } from './nvme-device.ts';

export class NvmePassthrough implements DevicePassthrough {
  readonly device: string;
  readonly #node: Pick<NvmeDevice, 'admin'>;
  readonly #nsid: number;
  readonly #running = new Set<Promise<unknown>>();
  #stopped = false;

  /**
   * @param node takes the commands
   * @param device which device it is, such as `nvme0`
   * @param nsid of the namespace there
   */
  constructor(node: Pick<NvmeDevice, 'admin'>, device: string, nsid: number) {
    this.#node = node;
    this.device = device;
    this.#nsid = nsid;
  }

  async admin(command: DeviceCommand): Promise<DeviceAnswer> {
    if (this.#stopped) return { status: Status.NamespaceNotReady, result0: 0, result1: 0 };
    const nsid = command.nsid === 'own' ? this.#nsid : command.nsid;
    const work = this.#node.admin({ ...command, nsid });
    this.#running.add(work);
    try {
      const answer = await work;
      return { ...answer, status: statusOfDevice(answer.status) };
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      return { status: statusOfErrno(error.errno), result0: 0, result1: 0 };
    } finally {
      this.#running.delete(work);
    }
  }

  /** Takes no more commands; resolves when none is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.allSettled(this.#running);
  }
}
