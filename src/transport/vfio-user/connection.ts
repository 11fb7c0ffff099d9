/**
 * One client: reads its messages, does what they say in the order they came, answers. Region accesses never wait for anything; a change of the
 * migration state may, and what comes behind it waits as well.
 */
import { FdSocket } from '../../native/fd-socket.ts';
import {
  DeviceFlag,
  Errno,
  IRQ_INDEX_COUNT,
  IrqIndex,
  MAX_DATA_XFER_SIZE_DEFAULT,
  MigState,
  REGION_COUNT,
  RegionFlag,
  RegionIndex,
  VFIO_USER_HEADER_BYTES,
  VFIO_USER_MAJOR,
  VFIO_USER_MINOR,
  VfioUserCommand,
  VfioUserFlag,
} from '../../spec/vfio-user.ts';
import {
  decodeVersion,
  deviceInfoCodec,
  dmaUnmapCodec,
  encodeVersion,
  irqInfoCodec,
  regionInfoCodec,
  setIrqsCodec,
} from '../../wire/cold/vfio-user.ts';
import {
  accessCount,
  accessOffset,
  accessRegion,
  MULTI_WRITE_BYTES,
  messageCommand,
  messageFlags,
  messageId,
  REGION_ACCESS_BYTES,
  writeMessageHeader,
} from '../../wire/vfio-user.ts';
import type { PciFunction } from '../pcie/pci-function.ts';
import { DmaTable } from './dma-table.ts';
import { MessageDmaWriter } from './dma-writer.ts';
import { IrqLines } from './irq-lines.ts';
import { MessageReader, ReadResult } from './message-reader.ts';
import { Migration } from './migration.ts';
import type { RunState } from './run-state.ts';
import { errnoOf, invalid, VfioUserError } from './vfio-user-error.ts';

/** Descriptors taken in one message: as many as QEMU sends at most. */
const FDS_MAX = 16;
const MESSAGE_BYTES_MAX = VFIO_USER_HEADER_BYTES + MAX_DATA_XFER_SIZE_DEFAULT + 64;
/** Messages handled before others get their turn. */
const MESSAGES_PER_TURN = 512;
const MULTI_WRITES_MAX = 200;
const PIN_REGISTER = 0x3d;
const UNREACHABLE_BYTES = 16 << 20;
const NO_BYTES = new Uint8Array(0);

export interface ConnectionOwner {
  readonly function: PciFunction;
  readonly run: RunState;
  /** Writes to guest memory go by DMA_WRITE messages. */
  readonly dmaByMessage: boolean;
  /** The client has begun to use the device: a BAR was accessed, interrupts were armed, or it was reset. */
  used(): void;
  /** The function may have work. */
  work(): void;
  closed(reason: string, error: Error | undefined): void;
  /** Something that an operator should know. */
  warning(message: string): void;
}

type Handler = (body: Uint8Array) => Uint8Array | Promise<Uint8Array> | undefined;

export class VfioUserConnection {
  readonly #owner: ConnectionOwner;
  readonly #socket: FdSocket;
  readonly #reader = new MessageReader(MESSAGE_BYTES_MAX);
  readonly #handlers: readonly (Handler | undefined)[];
  readonly #irqs: IrqLines;
  readonly #migration: Migration;
  #writer: MessageDmaWriter | undefined;
  #dma: DmaTable;
  #versionKnown = false;
  /** A message is being worked on that takes more than this turn, or the client does not take its answers. */
  #waiting = false;
  #clogged = false;
  #reason = 'the client closed the connection';
  #closed = false;
  #warned = false;

  /** Owns `fd`, a connected socket. */
  constructor(fd: number, owner: ConnectionOwner) {
    this.#owner = owner;
    const pin = new Uint8Array(1);
    owner.function.readConfig(PIN_REGISTER, pin);
    this.#irqs = new IrqLines(owner.function, pin[0] !== 0);
    this.#migration = new Migration(owner.function, owner.run, MAX_DATA_XFER_SIZE_DEFAULT);
    this.#dma = new DmaTable(owner.function, undefined);
    this.#handlers = this.#makeHandlers();
    this.#socket = new FdSocket(
      fd,
      {
        onReadable: () => this.#onReadable(),
        onClose: (error) => this.#onClose(error),
        onDrain: () => {
          this.#clogged = false;
          this.#flow();
        },
      },
      { fdsMax: FDS_MAX },
    );
    // the table of MSI-X vectors and their masks are the client's
    owner.function.setInterruptSink(this.#irqs, true);
  }

  get dma(): DmaTable {
    return this.#dma;
  }

  get migration(): Migration {
    return this.#migration;
  }

  /** The function has worked. */
  worked(): void {
    this.#irqs.worked();
  }

  close(reason: string): void {
    this.#reason = reason;
    this.#socket.close();
  }

  // ---- messages in

  #onReadable(): void {
    try {
      for (let i = 0; i < MESSAGES_PER_TURN && !this.#waiting && !this.#clogged && !this.#closed; i++) {
        const result = this.#reader.next(this.#socket);
        if (result === ReadResult.Again) break;
        if (result === ReadResult.Message) {
          this.#handle();
          continue;
        }
        this.close(result === ReadResult.End ? this.#reason : 'a message has a size that none has');
      }
    } catch (error) {
      if (!this.#socket.isClosed) this.close(error instanceof Error ? error.message : String(error));
    }
    this.#owner.work();
  }

  #handle(): void {
    const { view } = this.#reader;
    const command = messageCommand(view, 0);
    const flags = messageFlags(view, 0);
    if ((flags & VfioUserFlag.TypeMask) === VfioUserFlag.Reply) {
      if (this.#writer?.answered(messageId(view, 0), command) !== true) this.close('a reply came to nothing asked');
      return;
    }
    if ((flags & VfioUserFlag.TypeMask) !== VfioUserFlag.Command) {
      this.close(`a message has type ${flags & VfioUserFlag.TypeMask}`);
      return;
    }
    // doorbells
    if (command === VfioUserCommand.RegionWrite && this.#versionKnown) {
      this.#regionWrite(flags);
      return;
    }
    this.#command(messageId(view, 0), command, flags);
  }

  #command(id: number, command: number, flags: number): void {
    const { bytes, length } = this.#reader;
    const isQuiet = (flags & VfioUserFlag.NoReply) !== 0;
    const fail = (error: unknown): void => {
      const errno = errnoOf(error);
      if (errno === undefined) throw error;
      if (!isQuiet) this.#sendError(id, command, errno);
    };
    try {
      if (command !== VfioUserCommand.Version && !this.#versionKnown)
        throw invalid(`Command ${command} before the version was agreed upon`);
      const handler = this.#handlers[command];
      if (handler === undefined) throw new VfioUserError(Errno.NotSupported, `Command ${command} is not known`);
      const answer = handler(bytes.subarray(VFIO_USER_HEADER_BYTES, length));
      if (!(answer instanceof Promise)) {
        if (!isQuiet) this.#sendReply(id, command, answer ?? NO_BYTES);
        return;
      }
      this.#waiting = true;
      this.#flow();
      const end = (work: () => void): void => {
        this.#waiting = false;
        if (this.#closed) return;
        work();
        this.#flow();
      };
      void answer.then(
        (body) => end(() => isQuiet || this.#sendReply(id, command, body)),
        (error: unknown) => end(() => this.#orClose(() => fail(error))),
      );
    } catch (error) {
      fail(error);
    }
  }

  #orClose(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.close(error instanceof Error ? error.message : String(error));
    }
  }

  /** Reading goes on only while nothing has to be waited for. */
  #flow(): void {
    if (this.#closed) return;
    if (this.#waiting || this.#clogged) this.#socket.pause();
    else this.#socket.resume();
  }

  // ---- messages out

  #sendReply(id: number, command: number, body: Uint8Array): void {
    const message = new Uint8Array(VFIO_USER_HEADER_BYTES + body.length);
    const view = new DataView(message.buffer);
    writeMessageHeader(view, 0, id, command, message.length, VfioUserFlag.Reply, 0);
    message.set(body, VFIO_USER_HEADER_BYTES);
    this.#send(message);
  }

  #sendError(id: number, command: number, errno: number): void {
    const message = new Uint8Array(VFIO_USER_HEADER_BYTES);
    const flags = VfioUserFlag.Reply | VfioUserFlag.Error;
    writeMessageHeader(new DataView(message.buffer), 0, id, command, message.length, flags, errno);
    this.#send(message);
  }

  #send(message: Uint8Array): void {
    if (this.#closed || this.#socket.isClosed) return;
    if (this.#socket.write(message)) return;
    this.#clogged = true;
    this.#flow();
  }

  // ---- the device

  #makeHandlers(): (Handler | undefined)[] {
    const handlers: (Handler | undefined)[] = [];
    const { run } = this.#owner;
    const C = VfioUserCommand;
    handlers[C.Version] = (body) => this.#version(body);
    handlers[C.DmaMap] = (body) => {
      this.#dma.map(body, this.#reader.takeFds());
      this.#warnUnreachable();
      return undefined;
    };
    handlers[C.DmaUnmap] = (body) => dmaUnmapCodec.encode(this.#dma.unmap(body));
    handlers[C.DeviceGetInfo] = (body) => {
      deviceInfoCodec.decode(body);
      return deviceInfoCodec.encode({
        argsz: deviceInfoCodec.size,
        flags: DeviceFlag.Reset | DeviceFlag.Pci,
        numRegions: REGION_COUNT,
        numIrqs: IRQ_INDEX_COUNT,
      });
    };
    // no region can be mapped: doorbells come as messages (bench/README.md says what a page of them would save)
    handlers[C.DeviceGetRegionInfo] = (body) => {
      const { index } = regionInfoCodec.decode(body);
      if (index >= REGION_COUNT) throw invalid(`There is no region ${index}`);
      const size = this.#regionBytes(index);
      const flags = size === 0 ? 0 : RegionFlag.Read | RegionFlag.Write;
      return regionInfoCodec.encode({ argsz: regionInfoCodec.size, flags, index, size: BigInt(size) });
    };
    handlers[C.DeviceGetIrqInfo] = (body) => {
      const { index } = irqInfoCodec.decode(body);
      return irqInfoCodec.encode({ argsz: irqInfoCodec.size, index, ...this.#irqs.info(index) });
    };
    handlers[C.DeviceSetIrqs] = (body) => {
      const request = setIrqsCodec.decode(body);
      const fds = this.#reader.takeFds();
      this.#irqs.set(request, body.subarray(setIrqsCodec.size), fds);
      if (fds.length > 0 && (request.index === IrqIndex.Msi || request.index === IrqIndex.MsiX)) this.#used();
      return undefined;
    };
    handlers[C.RegionRead] = () => this.#regionRead();
    handlers[C.RegionWrite] = () => undefined;
    handlers[C.RegionWriteMulti] = (body) => this.#regionWriteMulti(body);
    handlers[C.DeviceReset] = () => {
      run.reset();
      this.#migration.reset();
      this.#used();
      return undefined;
    };
    handlers[C.DeviceFeature] = (body) => this.#migration.feature(body);
    handlers[C.MigDataRead] = (body) => this.#migration.read(body);
    handlers[C.MigDataWrite] = (body) => {
      this.#migration.write(body);
      return undefined;
    };
    return handlers;
  }

  #version(body: Uint8Array): Uint8Array {
    if (this.#versionKnown) throw invalid('The version was agreed upon already');
    const { major, minor, capabilities } = decodeVersion(body);
    if (major !== VFIO_USER_MAJOR)
      throw new VfioUserError(Errno.NotSupported, `Version ${major}.${minor}, supported is ${VFIO_USER_MAJOR}`);
    this.#versionKnown = true;
    if (this.#owner.dmaByMessage) {
      const bytesMax = Math.min(
        MAX_DATA_XFER_SIZE_DEFAULT,
        Math.max(4096, capabilities.max_data_xfer_size ?? MAX_DATA_XFER_SIZE_DEFAULT),
      );
      this.#writer = new MessageDmaWriter((message) => this.#send(message), bytesMax);
      this.#dma = new DmaTable(this.#owner.function, this.#writer);
    }
    const answer = {
      max_msg_fds: FDS_MAX,
      max_data_xfer_size: MAX_DATA_XFER_SIZE_DEFAULT,
      ...(capabilities.write_multiple === true ? { write_multiple: true } : {}),
    };
    // not longer than what was asked: QEMU's room for it
    return encodeVersion(
      { major: VFIO_USER_MAJOR, minor: Math.min(minor, VFIO_USER_MINOR), capabilities: answer },
      body.length,
    );
  }

  /** ROM comes without a descriptor; memory that does is a VM that was started wrongly. */
  #warnUnreachable(): void {
    if (this.#warned || this.#dma.unreachableBytes < UNREACHABLE_BYTES) return;
    this.#warned = true;
    this.#owner.warning(
      'The VM shares its memory without a descriptor: the device cannot reach it. Give QEMU a memory backend with share=on',
    );
  }

  // ---- regions

  /** While a migration has it stopped, the client's accesses do not let it run. */
  #used(): void {
    if (this.#migration.state === MigState.Running) this.#owner.used();
  }

  #regionBytes(index: number): number {
    if (index === RegionIndex.Config) return this.#owner.function.configBytes;
    return this.#owner.function.bars.find((bar) => bar.index === index)?.lengthBytes ?? 0;
  }

  #checkAccess(region: number, offset: number, count: number): void {
    const size = this.#regionBytes(region);
    if (count === 0 || count > MAX_DATA_XFER_SIZE_DEFAULT || offset + count > size)
      throw invalid(`Access to ${count} bytes at ${offset} of region ${region}, which has ${size}`);
  }

  #regionRead(): Uint8Array {
    const { view, length, bytes } = this.#reader;
    if (length < VFIO_USER_HEADER_BYTES + REGION_ACCESS_BYTES) throw invalid(`Region read of ${length} bytes`);
    const region = accessRegion(view, 0);
    const offset = accessOffset(view, 0);
    const count = accessCount(view, 0);
    this.#checkAccess(region, offset, count);
    const answer = new Uint8Array(REGION_ACCESS_BYTES + count);
    answer.set(bytes.subarray(VFIO_USER_HEADER_BYTES, VFIO_USER_HEADER_BYTES + REGION_ACCESS_BYTES));
    const data = answer.subarray(REGION_ACCESS_BYTES);
    if (region === RegionIndex.Config) {
      this.#owner.function.readConfig(offset, data);
    } else {
      this.#used();
      this.#owner.function.readBar(region, offset, data);
    }
    return answer;
  }

  #regionWrite(flags: number): void {
    const { view, length, bytes } = this.#reader;
    const dataAt = VFIO_USER_HEADER_BYTES + REGION_ACCESS_BYTES;
    const isQuiet = (flags & VfioUserFlag.NoReply) !== 0;
    try {
      const count = length < dataAt ? 0 : accessCount(view, 0);
      if (length < dataAt || count > length - dataAt) throw invalid(`Region write of ${count} bytes in ${length}`);
      this.#writeRegion(accessRegion(view, 0), accessOffset(view, 0), bytes.subarray(dataAt, dataAt + count));
      if (!isQuiet)
        this.#sendReply(messageId(view, 0), VfioUserCommand.RegionWrite, bytes.slice(VFIO_USER_HEADER_BYTES, dataAt));
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === undefined) throw error;
      if (!isQuiet) this.#sendError(messageId(view, 0), VfioUserCommand.RegionWrite, errno);
    }
  }

  #writeRegion(region: number, offset: number, data: Uint8Array): void {
    this.#checkAccess(region, offset, data.length);
    if (region === RegionIndex.Config) {
      this.#owner.function.writeConfig(offset, data);
      return;
    }
    this.#used();
    this.#owner.function.writeBar(region, offset, data);
  }

  #regionWriteMulti(body: Uint8Array): Uint8Array {
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    const count = body.length < 8 ? 0 : view.getUint32(0, true);
    if (body.length < 8 || view.getUint32(4, true) !== 0 || count > MULTI_WRITES_MAX)
      throw invalid(`${count} region writes at once, at most ${MULTI_WRITES_MAX}`);
    if (body.length < 8 + count * MULTI_WRITE_BYTES) throw invalid(`${count} region writes in ${body.length} bytes`);
    for (let i = 0, at = 8; i < count; i++, at += MULTI_WRITE_BYTES) {
      const offset = view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
      const bytes = view.getUint32(at + 12, true);
      if (bytes > 8) throw invalid(`A region write of ${bytes} bytes among several`);
      this.#writeRegion(view.getUint32(at + 8, true), offset, body.subarray(at + 16, at + 16 + bytes));
    }
    return body.slice(0, 8);
  }

  // ---- the end

  #onClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.closeFds();
    this.#owner.function.setInterruptSink(undefined);
    this.#irqs.close();
    this.#writer?.end();
    this.#migration.clientGone();
    this.#owner.closed(this.#reason, error);
  }
}
