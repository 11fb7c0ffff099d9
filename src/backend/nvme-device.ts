/** A node of a local NVMe device: opened, asked, claimed, watched. Admin commands here; the I/O of a namespace is in `nvme.ts`. */
import fs from 'node:fs';
import { basename } from 'node:path';
import { type IoEngine, NvmeCall } from '../native/io-engine.ts';
import { requireNative } from '../native/load.ts';
import { errnoName } from '../native/native-error.ts';
import { type EngineChoice, type EngineLease, leaseThreadEngine } from '../native/thread-engine.ts';
import { AdminOpcode, IoOpcode } from '../spec/opcode.ts';
import { DNR, Status } from '../spec/status.ts';
import { ConfigError, NvmeofError, NvmeStatusError } from '../util/error.ts';

export interface NvmeCommand {
  readonly opcode: number;
  readonly nsid?: number | undefined;
  readonly cdw2?: number | undefined;
  readonly cdw3?: number | undefined;
  readonly cdw10To15?: readonly number[] | undefined;
  readonly data?: Uint8Array | undefined;
  readonly metadata?: Uint8Array | undefined;
  readonly timeoutMs?: number | undefined;
}

export interface NvmeAnswer {
  /** 15 bits; 0 is success. */
  readonly status: number;
  /** DW0 and DW1. */
  readonly result0: number;
  readonly result1: number;
}

/** The kernel did not carry a command to the device. @public */
export class DeviceError extends NvmeofError {
  override readonly name = 'DeviceError';
  /** Its name, such as `ENODEV`. */
  readonly errno: string;
  constructor(message: string, errno: string) {
    super('NVMEOF_ERR_DEVICE', message);
    this.errno = errno;
  }
}

/** `/dev/nvme0`: a controller. `/dev/nvme0n1`, `/dev/ng0n1`: a namespace, whose node takes admin commands as well. */
export type NvmeNodeKind = 'controller' | 'block' | 'character';

/** By its name; undefined for anything else. */
export function nvmeNodeKind(path: string): NvmeNodeKind | undefined {
  const name = basename(path);
  if (/^nvme\d+$/.test(name)) return 'controller';
  if (/^nvme\d+n\d+$/.test(name)) return 'block';
  return /^ng\d+n\d+$/.test(name) ? 'character' : undefined;
}

/** @public */
export class NvmeDevice {
  readonly path: string;
  readonly kind: NvmeNodeKind;
  readonly fd: number;
  readonly engine: IoEngine;
  readonly #lease: EngineLease;
  #closed = false;

  private constructor(path: string, kind: NvmeNodeKind, fd: number, lease: EngineLease) {
    this.path = path;
    this.kind = kind;
    this.fd = fd;
    this.engine = lease.engine;
    this.#lease = lease;
  }

  /** @throws ConfigError or NativeError: one line with the remedy */
  static open(path: string, options: { readOnly?: boolean; engine?: EngineChoice | undefined } = {}): NvmeDevice {
    requireNative(`${path}: a local NVMe device`);
    const kind = nvmeNodeKind(path);
    if (kind === undefined)
      throw new ConfigError(
        `${path}: is no NVMe device node; name a controller (/dev/nvme0) or a namespace (/dev/ng0n1)`,
      );
    const lease = leaseThreadEngine(options.engine === 'node' ? 'thread-pool' : options.engine);
    if (lease === undefined) throw new ConfigError(`${path}: a local NVMe device needs an I/O engine`);
    try {
      const fd = fs.openSync(path, options.readOnly === true ? fs.constants.O_RDONLY : fs.constants.O_RDWR);
      const device = new NvmeDevice(path, kind, fd, lease);
      const stat = fs.fstatSync(fd);
      if (stat.isBlockDevice() || stat.isCharacterDevice()) return device;
      device.close();
      throw new ConfigError(`${path}: is no device node`);
    } catch (error) {
      lease.release();
      throw openFailure(path, error);
    }
  }

  /** NSID of a namespace node. @throws ConfigError */
  nsid(): number {
    const nsid = requireNative(this.path).nvmeNsid(this.fd);
    if (nsid > 0) return nsid;
    throw new ConfigError(`${this.path}: has no NSID (${errnoName(nsid)}); it is no NVMe namespace`);
  }

  /** @throws DeviceError if the kernel did not carry it to the device */
  admin(command: NvmeCommand): Promise<NvmeAnswer> {
    // namespace nodes take admin commands by ioctl only
    return this.#command(true, command, this.kind !== 'controller');
  }

  /** @throws DeviceError if the kernel did not carry it to the device */
  io(command: NvmeCommand, ioctl = false): Promise<NvmeAnswer> {
    return this.#command(false, command, ioctl || this.kind !== 'character');
  }

  async #command(admin: boolean, command: NvmeCommand, ioctl: boolean): Promise<NvmeAnswer> {
    const answer = await this.#try(admin, command, ioctl);
    if (typeof answer !== 'string') return answer;
    // kernels before 5.19, and nodes that do not take commands by io_uring
    const again = !ioctl && REFUSALS.has(answer) ? await this.#try(admin, command, true) : answer;
    if (typeof again !== 'string') return again;
    throw new DeviceError(`${this.path}: ${commandFailure(again)}`, again);
  }

  #try(admin: boolean, command: NvmeCommand, ioctl: boolean): Promise<NvmeAnswer | string> {
    const call = new NvmeCall();
    call.opcode = command.opcode;
    call.nsid = command.nsid ?? 0;
    call.cdw2 = command.cdw2 ?? 0;
    call.cdw3 = command.cdw3 ?? 0;
    call.cdw10To15.set(command.cdw10To15 ?? []);
    call.timeoutMs = command.timeoutMs ?? 0;
    call.metadata = command.metadata;
    const { data } = command;
    return new Promise((resolve) => {
      this.engine.nvme(
        this.fd,
        admin,
        call,
        data,
        data === undefined ? 0 : 1,
        data?.length ?? 0,
        ioctl,
        (error, result, result0, result1) =>
          resolve(
            error === null ? { status: result & 0x7fff, result0: result0 >>> 0, result1: result1 >>> 0 } : error.code!,
          ),
      );
    });
  }

  /** True if the kernel carries I/O commands of this node by io_uring; it tries with a Flush. */
  async takesUring(nsid: number): Promise<boolean> {
    if (this.kind !== 'character' || this.engine.passthrough !== 'io_uring') return false;
    const answer = await this.#try(false, { opcode: IoOpcode.Flush, nsid }, false);
    return typeof answer !== 'string' || !REFUSALS.has(answer);
  }

  /** @throws NvmeStatusError, DeviceError */
  async identify(cns: number, nsid = 0, csi = 0): Promise<Uint8Array> {
    const data = new Uint8Array(4096);
    const cdw10To15 = [cns, csi * 0x100_0000];
    const { status, result0 } = await this.admin({ opcode: AdminOpcode.Identify, nsid, cdw10To15, data });
    if (status !== 0) throw new NvmeStatusError(`${this.path}: Identify, CNS ${cns}`, status, 'admin', result0);
    return data;
  }

  /** Idempotent; after the last command. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    fs.closeSync(this.fd);
    this.#lease.release();
  }
}

/** The kernel does not know the command by io_uring. */
const REFUSALS = new Set(['EOPNOTSUPP', 'ENOTSUP', 'ENOTTY', 'EINVAL']);

/** More and the retry delay refer to logs and settings of the device, not to those of the target. */
const MORE_AND_RETRY_DELAY = 0x3800;

/** What a host is told for the status of a device. */
export const statusOfDevice = (status: number): number => status & 0x7fff & ~MORE_AND_RETRY_DELAY;

/** What a host is told when the kernel did not carry its command to the device; Namespace Not Ready if the device may be gone. */
export function statusOfErrno(code: string | undefined): number {
  switch (code) {
    case 'ENODEV':
    case 'ENXIO':
    case 'EIO':
    case 'EINTR':
    case 'ESHUTDOWN':
      return Status.NamespaceNotReady;
    case 'EACCES':
    case 'EPERM':
      return Status.OperationDenied | DNR;
    case 'EINVAL':
      return Status.InvalidField | DNR;
    default:
      return Status.InternalError; // this machine was short of something: the host may try again
  }
}

function commandFailure(code: string): string {
  switch (code) {
    case 'EACCES':
    case 'EPERM':
      return 'the kernel refuses that command; run as root (CAP_SYS_ADMIN)';
    case 'ENODEV':
    case 'ENXIO':
    case 'EIO':
      return 'the device is gone';
    case 'EINTR':
      return 'the command was cancelled: the device was reset, or did not answer in time';
    case 'EINVAL':
      return 'the kernel refuses that command as invalid (a transfer larger than the device takes?)';
    default:
      return `the command failed with ${code}`;
  }
}

export function openFailure(path: string, error: unknown): Error {
  if (error instanceof NvmeofError) return error;
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return new ConfigError(`${path}: no such device`, { cause: error });
    case 'EACCES':
    case 'EPERM':
      return new ConfigError(`${path}: no permission; run as root, or give this user access to the device`, {
        cause: error,
      });
    case 'ENXIO':
    case 'ENODEV':
      return new ConfigError(`${path}: the device is gone`, { cause: error });
    case 'EMFILE':
    case 'ENFILE':
      return new ConfigError(`${path}: too many open files; raise the limit (ulimit -n)`, { cause: error });
    default:
      return new ConfigError(`${path}: ${(error as Error).message}`, { cause: error });
  }
}
