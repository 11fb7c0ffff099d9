/**
 * A device behind a vfio-user socket, as a VMM uses it: regions, interrupts by eventfd, memory by descriptor, reset. For the front process, for tests of
 * the server, and for programs that bring a VM of their own.
 */
import {
  DmaFlag,
  DmaUnmapFlag,
  Errno,
  IrqSetFlag,
  MAX_DATA_XFER_SIZE_DEFAULT,
  VFIO_USER_HEADER_BYTES,
  VFIO_USER_MAJOR,
  VFIO_USER_MINOR,
  VfioUserCommand,
  VfioUserFlag,
} from '../../../spec/vfio-user.ts';
import {
  type DeviceInfo,
  decodeVersion,
  deviceInfoCodec,
  dmaAccessCodec,
  dmaMapCodec,
  dmaUnmapCodec,
  encodeVersion,
  type IrqInfo,
  irqInfoCodec,
  type RegionInfo,
  regionInfoCodec,
  setIrqsCodec,
  type VersionCapabilities,
} from '../../../wire/cold/vfio-user.ts';
import {
  messageCommand,
  messageFlags,
  messageId,
  REGION_ACCESS_BYTES,
  writeMessageHeader,
} from '../../../wire/vfio-user.ts';
import { VfioUserError } from '../vfio-user-error.ts';
import { MessageLink } from './message-link.ts';

/** Of one message, where the server names no other number (vfio-user, VERSION). */
const SERVER_FDS_DEFAULT = 1;
const OWN_FDS_MAX = 16;
const VERSION_BYTES_MAX = 4096;
const NO_BYTES = new Uint8Array(0);

/** @public */
export interface DeviceLimits {
  /** Descriptors in one message. */
  readonly fdsMax: number;
  /** Bytes of one region access. */
  readonly transferBytesMax: number;
  /** REGION_WRITE_MULTI is understood. */
  readonly writesMultiple: boolean;
}

/** @public */
export interface DmaMapping {
  readonly iova: number;
  readonly lengthBytes: number;
  /** Default true. */
  readonly writable?: boolean | undefined;
  /** Absent: the device knows the range, and reaches it by messages only. It stays the caller's. */
  readonly fd?: number | undefined;
  /** In the file of `fd`. Default 0. */
  readonly offsetBytes?: number | undefined;
}

/** @public */
export interface VfioUserClientOptions {
  /** DMA_WRITE: the device wrote this without a mapping. Absent: it is refused. @param data valid until this returns */
  readonly onDmaWrite?: ((iova: number, data: Uint8Array) => void) | undefined;
  /** DMA_READ. Absent: it is refused. */
  readonly onDmaRead?: ((iova: number, lengthBytes: number) => Uint8Array) | undefined;
  /** The connection is gone. */
  readonly onClose?: ((error: Error | undefined) => void) | undefined;
}

/** @public */
export class VfioUserClient {
  readonly link: MessageLink;
  readonly #options: VfioUserClientOptions;
  #limits: DeviceLimits = {
    fdsMax: SERVER_FDS_DEFAULT,
    transferBytesMax: MAX_DATA_XFER_SIZE_DEFAULT,
    writesMultiple: false,
  };

  private constructor(path: string, options: VfioUserClientOptions) {
    this.#options = options;
    this.link = new MessageLink(path, {
      onCommand: (bytes, length) => this.#serve(bytes.subarray(0, length)),
      onClose: (error) => options.onClose?.(error),
    });
  }

  /** Connects, and agrees upon the version. @throws NativeError, VfioUserError, TransportError */
  static async connect(path: string, options: VfioUserClientOptions = {}): Promise<VfioUserClient> {
    const client = new VfioUserClient(path, options);
    try {
      client.#limits = await agreeOnVersion(client.link);
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  get limits(): DeviceLimits {
    return this.#limits;
  }

  get isClosed(): boolean {
    return this.link.isClosed;
  }

  // ---- what it is

  deviceInfo(): Promise<DeviceInfo> {
    return readDeviceInfo(this.link);
  }

  regionInfo(index: number): Promise<RegionInfo> {
    return readRegionInfo(this.link, index);
  }

  irqInfo(index: number): Promise<IrqInfo> {
    return readIrqInfo(this.link, index);
  }

  // ---- regions

  /** @throws VfioUserError */
  async readRegion(region: number, offset: number, lengthBytes: number): Promise<Uint8Array> {
    const answer = await this.link.call(VfioUserCommand.RegionRead, access(offset, region, lengthBytes, NO_BYTES));
    const data = answer.subarray(REGION_ACCESS_BYTES);
    if (data.length !== lengthBytes)
      throw new VfioUserError(Errno.IoError, `Region ${region}: ${data.length} of ${lengthBytes} bytes came`);
    return data;
  }

  /** Done when it resolves. @throws VfioUserError */
  async writeRegion(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.link.call(VfioUserCommand.RegionWrite, access(offset, region, data.length, data));
  }

  /** Without an answer, in order with everything else: how doorbells are rung. */
  postRegion(region: number, offset: number, data: Uint8Array): void {
    this.link.post(VfioUserCommand.RegionWrite, access(offset, region, data.length, data));
  }

  // ---- interrupts

  /** Vectors from `start` on signal these eventfds, which stay the caller's; undefined: none. */
  async setEventFds(index: number, start: number, fds: readonly number[]): Promise<void> {
    for (let at = 0; at < fds.length; at += this.#limits.fdsMax) {
      const some = fds.slice(at, at + this.#limits.fdsMax);
      await this.#setIrqs(IrqSetFlag.DataEventFd | IrqSetFlag.ActionTrigger, index, start + at, some.length, some);
    }
  }

  /** Vectors from `start` on have no eventfd any more. */
  clearEventFds(index: number, start: number, count: number): Promise<void> {
    return this.#setIrqs(IrqSetFlag.DataEventFd | IrqSetFlag.ActionTrigger, index, start, count);
  }

  /** The whole type is off. */
  disableInterrupts(index: number): Promise<void> {
    return this.#setIrqs(IrqSetFlag.DataNone | IrqSetFlag.ActionTrigger, index, 0, 0);
  }

  /** The guest has dealt with its pin (false), or does not want it now. */
  maskPin(masked: boolean): Promise<void> {
    const action = masked ? IrqSetFlag.ActionMask : IrqSetFlag.ActionUnmask;
    return this.#setIrqs(IrqSetFlag.DataNone | action, 0, 0, 1);
  }

  async #setIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    fds: readonly number[] = [],
  ): Promise<void> {
    const body = setIrqsCodec.encode({ argsz: setIrqsCodec.size, flags, index, start, count });
    await this.link.call(VfioUserCommand.DeviceSetIrqs, body, fds);
  }

  // ---- memory

  /** @throws VfioUserError EEXIST if it overlaps */
  async mapDma({ iova, lengthBytes, writable = true, fd, offsetBytes = 0 }: DmaMapping): Promise<void> {
    const body = dmaMapCodec.encode({
      argsz: dmaMapCodec.size,
      flags: DmaFlag.Readable | (writable ? DmaFlag.Writable : 0),
      offset: BigInt(offsetBytes),
      address: BigInt(iova),
      size: BigInt(lengthBytes),
    });
    await this.link.call(VfioUserCommand.DmaMap, body, fd === undefined ? [] : [fd]);
  }

  /** The exact range of a map. Nothing of it is used any more when it resolves. @throws VfioUserError ENOENT */
  unmapDma(iova: number, lengthBytes: number): Promise<void> {
    return this.#unmap(0, BigInt(iova), BigInt(lengthBytes));
  }

  unmapAllDma(): Promise<void> {
    return this.#unmap(DmaUnmapFlag.All, 0n, 0n);
  }

  async #unmap(flags: number, address: bigint, size: bigint): Promise<void> {
    const body = dmaUnmapCodec.encode({ argsz: dmaUnmapCodec.size, flags, address, size });
    await this.link.call(VfioUserCommand.DmaUnmap, body);
  }

  // ---- life

  async reset(): Promise<void> {
    await this.link.call(VfioUserCommand.DeviceReset, NO_BYTES);
  }

  /** Idempotent. */
  close(): void {
    this.link.close();
  }

  // ---- commands of the device

  #serve(message: Uint8Array): void {
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const command = messageCommand(view, 0);
    if ((messageFlags(view, 0) & VfioUserFlag.NoReply) !== 0) return;
    const answer = this.#answerTo(command, message.subarray(VFIO_USER_HEADER_BYTES));
    const errno = typeof answer === 'number' ? answer : 0;
    const body = typeof answer === 'number' ? NO_BYTES : answer;
    const reply = new Uint8Array(VFIO_USER_HEADER_BYTES + body.length);
    const flags = VfioUserFlag.Reply | (errno === 0 ? 0 : VfioUserFlag.Error);
    writeMessageHeader(new DataView(reply.buffer), 0, messageId(view, 0), command, reply.length, flags, errno);
    reply.set(body, VFIO_USER_HEADER_BYTES);
    this.link.pass(reply, reply.length);
  }

  /** @returns the body of the answer, or an errno */
  #answerTo(command: number, body: Uint8Array): Uint8Array | number {
    const { onDmaRead, onDmaWrite } = this.#options;
    const isWrite = command === VfioUserCommand.DmaWrite;
    if (!isWrite && command !== VfioUserCommand.DmaRead) return Errno.NotSupported;
    if (body.length < dmaAccessCodec.size) return Errno.Invalid;
    const { address, count } = dmaAccessCodec.decode(body);
    const lengthBytes = Number(count);
    if (lengthBytes > MAX_DATA_XFER_SIZE_DEFAULT || address > BigInt(Number.MAX_SAFE_INTEGER)) return Errno.Invalid;
    const head = body.slice(0, dmaAccessCodec.size);
    if (isWrite) {
      const data = body.subarray(dmaAccessCodec.size);
      if (data.length !== lengthBytes) return Errno.Invalid;
      if (onDmaWrite === undefined) return Errno.BadAddress;
      onDmaWrite(Number(address), data);
      return head;
    }
    if (onDmaRead === undefined) return Errno.BadAddress;
    const data = onDmaRead(Number(address), lengthBytes);
    const answer = new Uint8Array(head.length + data.length);
    answer.set(head);
    answer.set(data, head.length);
    return answer;
  }
}

// ---- as functions: the front has a connection of its own

/** Body of REGION_READ and REGION_WRITE. */
export function access(offset: number, region: number, count: number, data: Uint8Array): Uint8Array {
  const body = new Uint8Array(REGION_ACCESS_BYTES + data.length);
  const view = new DataView(body.buffer);
  view.setBigUint64(0, BigInt(offset), true);
  view.setUint32(8, region, true);
  view.setUint32(12, count, true);
  body.set(data, REGION_ACCESS_BYTES);
  return body;
}

/** VERSION. @throws VfioUserError, TransportError */
export async function agreeOnVersion(link: MessageLink): Promise<DeviceLimits> {
  const capabilities: VersionCapabilities = {
    max_msg_fds: OWN_FDS_MAX,
    max_data_xfer_size: MAX_DATA_XFER_SIZE_DEFAULT,
    write_multiple: true,
  };
  const body = encodeVersion({ major: VFIO_USER_MAJOR, minor: VFIO_USER_MINOR, capabilities }, VERSION_BYTES_MAX);
  const answer = decodeVersion(await link.call(VfioUserCommand.Version, body));
  if (answer.major !== VFIO_USER_MAJOR)
    throw new VfioUserError(Errno.NotSupported, `Socket ${link.path}: speaks version ${answer.major}.${answer.minor}`);
  const said = answer.capabilities;
  return {
    fdsMax: Math.max(1, Math.min(OWN_FDS_MAX, said.max_msg_fds ?? SERVER_FDS_DEFAULT)),
    transferBytesMax: Math.min(MAX_DATA_XFER_SIZE_DEFAULT, said.max_data_xfer_size ?? MAX_DATA_XFER_SIZE_DEFAULT),
    writesMultiple: said.write_multiple === true,
  };
}

export async function readDeviceInfo(link: MessageLink): Promise<DeviceInfo> {
  const body = deviceInfoCodec.encode({ argsz: deviceInfoCodec.size });
  return deviceInfoCodec.decode(await link.call(VfioUserCommand.DeviceGetInfo, body));
}

/** Without capabilities. */
export async function readRegionInfo(link: MessageLink, index: number): Promise<RegionInfo> {
  const body = regionInfoCodec.encode({ argsz: regionInfoCodec.size, index });
  return regionInfoCodec.decode(await link.call(VfioUserCommand.DeviceGetRegionInfo, body));
}

export async function readIrqInfo(link: MessageLink, index: number): Promise<IrqInfo> {
  const body = irqInfoCodec.encode({ argsz: irqInfoCodec.size, index });
  return irqInfoCodec.decode(await link.call(VfioUserCommand.DeviceGetIrqInfo, body));
}
