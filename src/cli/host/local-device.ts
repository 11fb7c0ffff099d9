/** A local NVMe device, as the verbs of a controller see it: `/dev/nvme0`, `/dev/nvme0n1`, `/dev/ng0n1`. */
import { NvmeDevice, nvmeNodeKind } from '../../backend/nvme-device.ts';
import type { PassthruCommand, PassthruResult } from '../../initiator/admin-queue.ts';
import type { HostController } from '../../initiator/controller.ts';
import * as commands from '../../initiator/controller-commands.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { AdminOpcode } from '../../spec/opcode.ts';
import { NvmeStatusError } from '../../util/error.ts';

/** What the verbs that a local device serves as well ask of a controller. */
export type AdminHost = Pick<
  HostController,
  | 'executeAdmin'
  | 'adminPassthru'
  | 'ioPassthru'
  | 'identifyController'
  | 'identifyNamespace'
  | 'activeNamespaces'
  | 'getLogPage'
  | 'getFeature'
  | 'setFeature'
>;

export const isDevicePath = (text: string): boolean => text.startsWith('/dev/');

/** NSID of a namespace's node; undefined for a controller's. @throws ConfigError, NativeError */
export function nsidOfDevice(path: string): number | undefined {
  if (nvmeNodeKind(path) === 'controller') return undefined;
  const device = NvmeDevice.open(path, { readOnly: true });
  try {
    return device.nsid();
  } finally {
    device.close();
  }
}

/** Owns the open device. */
export class LocalController implements AdminHost {
  readonly #device: NvmeDevice;
  readonly #timeoutMs: number | undefined;

  /** @throws ConfigError, NativeError */
  constructor(path: string, timeoutMs: number | undefined) {
    this.#device = NvmeDevice.open(path);
    this.#timeoutMs = timeoutMs;
  }

  adminPassthru(command: PassthruCommand): Promise<PassthruResult> {
    return this.#send(true, command);
  }

  ioPassthru(command: PassthruCommand): Promise<PassthruResult> {
    return this.#send(false, command);
  }

  async executeAdmin(what: string, command: PassthruCommand): Promise<PassthruResult> {
    const result = await this.#send(true, command);
    if (result.status !== 0) throw new NvmeStatusError(what, result.status, 'admin', result.result);
    return result;
  }

  readonly #execute: commands.ExecuteAdmin = (what, command) => this.executeAdmin(what, command);

  identifyController(): ReturnType<AdminHost['identifyController']> {
    return commands.identifyController(this.#execute);
  }

  identifyNamespace(nsid: number): ReturnType<AdminHost['identifyNamespace']> {
    return commands.identifyNamespace(this.#execute, nsid);
  }

  activeNamespaces(): Promise<number[]> {
    return commands.activeNamespaces(this.#execute);
  }

  getLogPage(options: commands.GetLogPageOptions): Promise<Uint8Array> {
    return commands.getLogPage(this.#execute, { nsid: NSID_ALL, ...options });
  }

  getFeature(...[fid, options = {}]: Parameters<AdminHost['getFeature']>): Promise<PassthruResult> {
    const { select = 0, ...rest } = options;
    const cdw10 = fid | (select << 8);
    return this.executeAdmin('Get Features', { ...rest, opcode: AdminOpcode.GetFeatures, cdw10 });
  }

  setFeature(...[fid, options = {}]: Parameters<AdminHost['setFeature']>): Promise<PassthruResult> {
    const { save = false, ...rest } = options;
    const cdw10 = (fid | (save ? 0x8000_0000 : 0)) >>> 0;
    return this.executeAdmin('Set Features', { ...rest, opcode: AdminOpcode.SetFeatures, cdw10 });
  }

  async #send(admin: boolean, command: PassthruCommand): Promise<PassthruResult> {
    const readBytes = command.readBytes ?? 0;
    const data = readBytes > 0 ? new Uint8Array(readBytes) : command.data;
    const whole = {
      opcode: command.opcode,
      nsid: command.nsid,
      cdw2: command.cdw2,
      cdw3: command.cdw3,
      cdw10To15: [command.cdw10, command.cdw11, command.cdw12, command.cdw13, command.cdw14, command.cdw15].map(
        (word) => word ?? 0,
      ),
      data: data === undefined || data.length === 0 ? undefined : data,
      timeoutMs: this.#timeoutMs,
    };
    const { status, result0, result1 } = await (admin ? this.#device.admin(whole) : this.#device.io(whole));
    return { status, result: result0, resultHigh: result1, data: readBytes > 0 ? data! : new Uint8Array(0) };
  }

  close(): void {
    this.#device.close();
  }
}
