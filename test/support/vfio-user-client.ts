/** The client's end of a vfio-user socket, byte by byte: it shares no encoder with the server. */
import { type FdRead, FdSocket } from '../../src/native/fd-socket.ts';

export const Cmd = {
  Version: 1,
  DmaMap: 2,
  DmaUnmap: 3,
  GetInfo: 4,
  GetRegionInfo: 5,
  GetIrqInfo: 7,
  SetIrqs: 8,
  RegionRead: 9,
  RegionWrite: 10,
  DmaRead: 11,
  DmaWrite: 12,
  Reset: 13,
  RegionWriteMulti: 15,
  Feature: 16,
  MigDataRead: 17,
  MigDataWrite: 18,
} as const;

export interface Message {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly body: Buffer;
}

/** Little-endian fields: `[2, 5]` is a u16 with 5, a bare number a u32, a bigint a u64. */
export function fields(...values: (number | bigint | readonly [bytes: number, value: number] | Uint8Array)[]): Buffer {
  return Buffer.concat(
    values.map((value) => {
      if (value instanceof Uint8Array) return value;
      if (typeof value === 'bigint') {
        const bytes = Buffer.alloc(8);
        bytes.writeBigUInt64LE(value);
        return bytes;
      }
      const [size, number] = typeof value === 'number' ? [4, value] : value;
      const bytes = Buffer.alloc(size);
      bytes.writeUIntLE(number, 0, size);
      return bytes;
    }),
  );
}

export function message(id: number, command: number, body: Uint8Array, flags = 0, errno = 0): Buffer {
  return Buffer.concat([fields([2, id], [2, command], 16 + body.length, flags, errno), body]);
}

/** What QEMU 11.1.3 says of itself. */
export const QEMU_CAPABILITIES =
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
  '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';

export class VfioUserClient {
  readonly #socket: FdSocket;
  #received = Buffer.alloc(0);
  readonly #waiting = new Map<number, (message: Message) => void>();
  /** Commands of the server, in order. */
  readonly requests: Message[] = [];
  /** Answers the server's commands; undefined: they stay unanswered. */
  onRequest: ((request: Message) => void) | undefined;
  #nextId = 1;
  #wake: (() => void)[] = [];
  isClosed = false;
  /** Framing was broken on purpose: the server may answer what was never meant as a message. */
  takesStrays = false;

  private constructor(path: string) {
    this.#socket = FdSocket.connect(path, {
      onReadable: () => this.#read(),
      onClose: () => {
        this.isClosed = true;
        for (const wake of this.#wake.splice(0)) wake();
        for (const [id, settle] of this.#waiting)
          settle({ id, command: 0, flags: -1, errno: -1, body: Buffer.alloc(0) });
        this.#waiting.clear();
      },
    });
  }

  /** Without VERSION. */
  static raw(path: string): VfioUserClient {
    return new VfioUserClient(path);
  }

  /** With the version agreed upon. */
  static async connect(path: string, capabilities: string = QEMU_CAPABILITIES): Promise<VfioUserClient> {
    const client = new VfioUserClient(path);
    const { flags } = await client.call(Cmd.Version, fields([2, 0], [2, 0], Buffer.from(`${capabilities}\0`)));
    if (flags !== 1) throw new Error(`VERSION was answered with flags ${flags}`);
    return client;
  }

  #read(): void {
    const chunk = Buffer.alloc(65_536);
    for (;;) {
      let got: FdRead | undefined;
      try {
        got = this.#socket.read(chunk, 0, chunk.length);
      } catch (error) {
        if ((error as { errno?: string }).errno !== 'ECONNRESET') throw error;
      }
      if (got === undefined) break;
      if (got.bytes === 0) {
        this.#socket.close();
        return;
      }
      this.#received = Buffer.concat([this.#received, chunk.subarray(0, got.bytes)]);
    }
    while (this.#received.length >= 16) {
      const length = this.#received.readUInt32LE(4);
      if (this.#received.length < length) break;
      const bytes = this.#received.subarray(0, length);
      this.#received = this.#received.subarray(length);
      const got: Message = {
        id: bytes.readUInt16LE(0),
        command: bytes.readUInt16LE(2),
        flags: bytes.readUInt32LE(8),
        errno: bytes.readUInt32LE(12),
        body: Buffer.from(bytes.subarray(16)),
      };
      if ((got.flags & 0xf) === 1) {
        const settle = this.#waiting.get(got.id);
        if (settle === undefined && this.takesStrays) continue;
        if (settle === undefined) throw new Error(`An answer to message ${got.id}, which was not sent`);
        this.#waiting.delete(got.id);
        settle(got);
      } else {
        this.requests.push(got);
        this.onRequest?.(got);
      }
      for (const wake of this.#wake.splice(0)) wake();
    }
  }

  /** Sends bytes as they are. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (!this.isClosed) this.#socket.write(bytes, fds);
  }

  /** Sends a command; resolves with its answer, with flags -1 if the connection ends before. */
  call(command: number, body: Uint8Array = Buffer.alloc(0), fds: readonly number[] = []): Promise<Message> {
    const id = this.#nextId++ & 0xffff;
    const answer = this.answerTo(id);
    this.send(message(id, command, body), fds);
    return answer;
  }

  answerTo(id: number): Promise<Message> {
    return new Promise((resolve) => {
      if (this.isClosed) resolve({ id, command: 0, flags: -1, errno: -1, body: Buffer.alloc(0) });
      else this.#waiting.set(id, resolve);
    });
  }

  /** Without wanting an answer. */
  post(command: number, body: Uint8Array): void {
    this.send(message(this.#nextId++ & 0xffff, command, body, 0x10));
  }

  reply(request: Message, body: Uint8Array, errno = 0): void {
    this.send(message(request.id, request.command, body, errno === 0 ? 1 : 0x21, errno));
  }

  /** Waits until `condition` holds; looks after each message. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition() && !this.isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
  }

  /** As QEMU reads and writes a region. */
  async readRegion(region: number, offset: number, count: number): Promise<Buffer> {
    const { flags, errno, body } = await this.call(Cmd.RegionRead, fields(BigInt(offset), region, count));
    if (flags !== 1) throw new Error(`Region ${region} at ${offset}: errno ${errno}`);
    return body.subarray(16);
  }

  async writeRegion(region: number, offset: number, data: Uint8Array): Promise<void> {
    const { flags, errno } = await this.call(Cmd.RegionWrite, fields(BigInt(offset), region, data.length, data));
    if (flags !== 1) throw new Error(`Region ${region} at ${offset}: errno ${errno}`);
  }

  map(iova: number, size: number, offset = 0, fd?: number, flags = 3): Promise<Message> {
    const body = fields(32, flags, BigInt(offset), BigInt(iova), BigInt(size));
    return this.call(Cmd.DmaMap, body, fd === undefined ? [] : [fd]);
  }

  unmap(iova: number, size: number, flags = 0): Promise<Message> {
    return this.call(Cmd.DmaUnmap, fields(24, flags, BigInt(iova), BigInt(size)));
  }

  setIrqs(flags: number, index: number, start: number, count: number, fds: readonly number[] = []): Promise<Message> {
    return this.call(Cmd.SetIrqs, fields(20, flags, index, start, count), fds);
  }

  close(): void {
    this.#socket.close();
  }
}
