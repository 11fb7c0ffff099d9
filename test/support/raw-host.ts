/**
 * A host that sends what it is told, right or wrong, and checks every byte that comes back. It shares no code with the product: its layouts are
 * written here from the specification, so that one mistake cannot hide another.
 */
import { connect, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';

// ---- CRC32C, bit by bit --------------------------------------------------------------------------------------------------------------

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = (c & 1) === 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c >>> 0;
});

/** CRC32C of `data`. */
export function referenceCrc32c(data: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of data) c = CRC_TABLE[(c ^ byte) & 0xff]! ^ (c >>> 8);
  return ~c >>> 0;
}

// ---- what is sent --------------------------------------------------------------------------------------------------------------------

export interface IcReqFields {
  flags?: number;
  hlen?: number;
  plen?: number;
  pfv?: number;
  hpda?: number;
  dgst?: number;
  maxr2t?: number;
  /** Value of the reserved bytes. */
  reserved?: number;
}

export function icReqPdu(fields: IcReqFields = {}): Buffer {
  const pdu = Buffer.alloc(128, fields.reserved ?? 0);
  pdu.writeUInt8(0x00, 0);
  pdu.writeUInt8(fields.flags ?? 0, 1);
  pdu.writeUInt8(fields.hlen ?? 128, 2);
  pdu.writeUInt8(fields.reserved ?? 0, 3);
  pdu.writeUInt32LE(fields.plen ?? 128, 4);
  pdu.writeUInt16LE(fields.pfv ?? 0, 8);
  pdu.writeUInt8(fields.hpda ?? 0, 10);
  pdu.writeUInt8(fields.dgst ?? 0, 11);
  pdu.writeUInt32LE(fields.maxr2t ?? 0, 12);
  return pdu;
}

/** An SQE by fields; what is not given is 0, FLAGS is 40h. */
export interface SqeFields {
  opcode: number;
  flags?: number;
  cid?: number;
  nsid?: number;
  /** FCTYPE: byte 4. */
  fctype?: number;
  sgl?: { id: number; length?: number; address?: number };
  cdw10?: number;
  cdw11?: number;
  cdw12?: number;
  cdw13?: number;
  cdw14?: number;
  cdw15?: number;
}

export function sqeBytes(fields: SqeFields): Buffer {
  const sqe = Buffer.alloc(64);
  sqe.writeUInt8(fields.opcode, 0);
  sqe.writeUInt8(fields.flags ?? 0x40, 1);
  sqe.writeUInt16LE(fields.cid ?? 0, 2);
  sqe.writeUInt32LE(fields.nsid ?? 0, 4);
  if (fields.fctype !== undefined) sqe.writeUInt8(fields.fctype, 4);
  sqe.writeUInt32LE(fields.sgl?.address ?? 0, 24);
  sqe.writeUInt32LE(fields.sgl?.length ?? 0, 32);
  sqe.writeUInt8(fields.sgl?.id ?? 0x5a, 39);
  const dwords = [fields.cdw10, fields.cdw11, fields.cdw12, fields.cdw13, fields.cdw14, fields.cdw15];
  for (const [i, value] of dwords.entries()) sqe.writeUInt32LE((value ?? 0) >>> 0, 40 + i * 4);
  return sqe;
}

/** How a PDU with data is built; what is not given follows what was negotiated. */
export interface PduOptions {
  headerDigest?: boolean;
  dataDigest?: boolean;
  /** Alignment of the data, bytes. */
  alignBytes?: number;
  /** Value of the padding. */
  pad?: number;
  // header fields that override the right ones
  type?: number;
  flags?: number;
  hlen?: number;
  pdo?: number;
  plen?: number;
  /** XOR of the digests sent. */
  headerDigestError?: number;
  dataDigestError?: number;
  /** Bytes that follow the data inside the PDU. */
  trailing?: Uint8Array;
}

/** A PDU with a header of `psh.length + 8` bytes. */
export function pdu(type: number, psh: Uint8Array, data: Uint8Array | undefined, options: PduOptions): Buffer {
  const hlen = 8 + psh.length;
  const hasData = data !== undefined && data.length > 0;
  const headerDigest = options.headerDigest === true;
  const dataDigest = options.dataDigest === true && hasData;
  const align = options.alignBytes ?? 4;
  const base = hlen + (headerDigest ? 4 : 0);
  const pdo = hasData ? Math.ceil(base / align) * align : 0;
  const trailing = options.trailing ?? new Uint8Array(0);
  const plen = (hasData ? pdo + data.length : base) + trailing.length + (dataDigest ? 4 : 0);
  const header = Buffer.alloc(hlen);
  header.writeUInt8(options.type ?? type, 0);
  header.writeUInt8(options.flags ?? (headerDigest ? 1 : 0) | (dataDigest ? 2 : 0), 1);
  header.writeUInt8(options.hlen ?? hlen, 2);
  header.writeUInt8(options.pdo ?? pdo, 3);
  header.writeUInt32LE(options.plen ?? plen, 4);
  header.set(psh, 8);
  const parts: Uint8Array[] = [header];
  if (headerDigest) parts.push(u32((referenceCrc32c(header) ^ (options.headerDigestError ?? 0)) >>> 0));
  if (hasData) {
    parts.push(Buffer.alloc(pdo - base, options.pad ?? 0), data);
    parts.push(trailing);
    if (dataDigest) {
      const covered = trailing.length === 0 ? data : Buffer.concat([data, trailing]);
      parts.push(u32((referenceCrc32c(covered) ^ (options.dataDigestError ?? 0)) >>> 0));
    }
  } else {
    parts.push(trailing);
  }
  return Buffer.concat(parts);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

// ---- what comes back -----------------------------------------------------------------------------------------------------------------

const HLEN: Readonly<Record<number, number>> = { 0x01: 128, 0x03: 24, 0x05: 24, 0x07: 24, 0x09: 24 };
const NAMES: Readonly<Record<number, string>> = {
  0x01: 'ICResp',
  0x03: 'C2HTermReq',
  0x05: 'CapsuleResp',
  0x07: 'C2HData',
  0x09: 'R2T',
};

/** A PDU of the target, its framing and digests checked. */
export class ReceivedPdu {
  readonly header: Buffer;
  readonly data: Buffer;

  constructor(header: Buffer, data: Buffer) {
    this.header = header;
    this.data = data;
  }

  get type(): number {
    return this.header.readUInt8(0);
  }
  get name(): string {
    return NAMES[this.type] ?? `type ${this.type}`;
  }
  get flags(): number {
    return this.header.readUInt8(1);
  }
  get isLast(): boolean {
    return (this.flags & 4) !== 0;
  }
  get isSuccess(): boolean {
    return (this.flags & 8) !== 0;
  }
  get pdo(): number {
    return this.header.readUInt8(3);
  }
  get plen(): number {
    return this.header.readUInt32LE(4);
  }
  // CapsuleResp
  get result0(): number {
    return this.header.readUInt32LE(8);
  }
  get result1(): number {
    return this.header.readUInt32LE(12);
  }
  get sqhd(): number {
    return this.header.readUInt16LE(16);
  }
  get cid(): number {
    return this.header.readUInt16LE(20);
  }
  /** 15-bit status. */
  get status(): number {
    return this.header.readUInt16LE(22) >>> 1;
  }
  // C2HData, R2T
  get cccid(): number {
    return this.header.readUInt16LE(8);
  }
  get ttag(): number {
    return this.header.readUInt16LE(10);
  }
  get offset(): number {
    return this.header.readUInt32LE(12);
  }
  get length(): number {
    return this.header.readUInt32LE(16);
  }
  // C2HTermReq
  get fes(): number {
    return this.header.readUInt16LE(8);
  }
  get fei(): number {
    return this.header.readUInt32LE(10);
  }
}

/** How a command ended. */
export interface Completion {
  /** 15-bit status; 0 for a SUCCESS flag. */
  status: number;
  /** SCT and SC only. */
  code: number;
  dnr: boolean;
  more: boolean;
  result0: number;
  result1: number;
  /** Undefined if the SUCCESS flag ended it. */
  sqhd: number | undefined;
  /** Data of all C2HData, in order. */
  data: Buffer;
  c2hData: ReceivedPdu[];
  r2ts: ReceivedPdu[];
}

export interface CommandOptions {
  /** To the controller. */
  data?: Uint8Array;
  /** 'capsule' (default with data) or 'r2t'. */
  by?: 'capsule' | 'r2t';
  /** Answers an R2T in pieces of this many bytes; default MAXH2CDATA. */
  pieceBytes?: number;
  /** Bytes the SGL says a read takes. */
  readBytes?: number;
  /** Leaves R2Ts in the queue of PDUs. */
  manual?: boolean;
}

interface Pending {
  readonly c2hData: ReceivedPdu[];
  readonly r2ts: ReceivedPdu[];
  readonly options: CommandOptions;
  resolve(completion: Completion): void;
  reject(error: Error): void;
}

export interface ConnectFields {
  subnqn?: string;
  hostnqn?: string;
  hostid?: Uint8Array;
  cntlid?: number;
  qid?: number;
  /** 0's based. */
  sqsize?: number;
  cattr?: number;
  katoMs?: number;
  recfmt?: number;
  by?: 'capsule' | 'r2t';
  /** Changes the data before it is sent. */
  edit?: (data: Buffer) => void;
}

export const HOST_NQN = 'nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555';
export const HOST_ID: Uint8Array = Uint8Array.from({ length: 16 }, (_, i) => i + 0x10);

/** Connect's data. */
export function connectData(fields: ConnectFields & { subnqn: string }): Buffer {
  const data = Buffer.alloc(1024);
  data.set(fields.hostid ?? HOST_ID, 0);
  data.writeUInt16LE(fields.cntlid ?? 0xffff, 16);
  data.write(fields.subnqn, 256);
  data.write(fields.hostnqn ?? HOST_NQN, 512);
  fields.edit?.(data);
  return data;
}

export function connectSqe(fields: ConnectFields, cid: number, by: 'capsule' | 'r2t'): Buffer {
  const sqe = sqeBytes({ opcode: 0x7f, fctype: 0x01, cid, sgl: { id: by === 'capsule' ? 0x01 : 0x5a, length: 1024 } });
  sqe.writeUInt16LE(fields.recfmt ?? 0, 40);
  sqe.writeUInt16LE(fields.qid ?? 0, 42);
  sqe.writeUInt16LE(fields.sqsize ?? 31, 44);
  sqe.writeUInt8(fields.cattr ?? 0, 46);
  sqe.writeUInt32LE(fields.katoMs ?? 0, 48);
  return sqe;
}

/** The connection ended while something was awaited. */
export class ConnectionEnded extends Error {}

// ---- the host ------------------------------------------------------------------------------------------------------------------------

export class RawHost {
  readonly socket: Socket;
  /** Every segment carries one byte. */
  oneByteSegments = false;
  headerDigest = false;
  dataDigest = false;
  /** Alignment that the host asked for (HPDA) and the target asked for (CPDA), bytes. */
  hostAlignBytes = 4;
  controllerAlignBytes = 4;
  maxH2cData = 0;
  cntlid = 0;
  /** The target closed its direction, or the connection is gone. */
  ended = false;
  receivedBytes = 0;
  #nextCid = 0;
  readonly #pending = new Map<number, Pending>();
  readonly #pdus: ReceivedPdu[] = [];
  readonly #waiters: ((pdu: ReceivedPdu | Error) => void)[] = [];
  readonly #endWaiters: (() => void)[] = [];
  #chunks: Buffer[] = [];
  #buffered = 0;
  #wanted = 8;
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('error', () => this.#end());
    socket.on('end', () => this.#end());
    socket.on('close', () => this.#end());
  }

  /** A TCP connection, nothing sent. */
  static connect(port: number): Promise<RawHost> {
    return new Promise((resolve, reject) => {
      // half open: a TermReq may be followed by FIN, and the test decides when this side closes
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => {
        socket.off('error', reject);
        resolve(new RawHost(socket));
      });
      socket.once('error', reject);
    });
  }

  // ---- sending

  /** In the order of the calls. */
  async send(...parts: Uint8Array[]): Promise<void> {
    const bytes = Buffer.concat(parts);
    if (!this.oneByteSegments) {
      this.#write(bytes);
      return;
    }
    this.#sending = this.#sending.then(() => this.sendSliced(bytes, () => 1));
    await this.#sending;
  }
  #sending: Promise<void> = Promise.resolve();

  #write(bytes: Uint8Array): void {
    if (!this.socket.destroyed && this.socket.writable) this.socket.write(bytes);
  }

  /** Sends `bytes` in segments of `size()` bytes: the target reads each before the next is sent. */
  async sendSliced(bytes: Uint8Array, size: () => number): Promise<void> {
    for (let at = 0; at < bytes.length && !this.ended; ) {
      const end = Math.min(bytes.length, at + size());
      const before = this.receivedBytes;
      await new Promise<void>((resolve) => {
        if (this.socket.destroyed || !this.socket.writable) resolve();
        else this.socket.write(bytes.subarray(at, end), () => resolve());
      });
      // the target shares this process: within two turns of the loop it has polled its socket
      await nextTurn();
      if (before === this.receivedBytes) await nextTurn();
      at = end;
    }
  }

  /** Options of a PDU as negotiated. */
  get negotiated(): { headerDigest: boolean; dataDigest: boolean; alignBytes: number } {
    return {
      headerDigest: this.headerDigest,
      dataDigest: this.dataDigest,
      alignBytes: this.controllerAlignBytes,
    };
  }

  /** A CapsuleCmd. */
  capsule(sqe: Uint8Array, data?: Uint8Array, options: PduOptions = {}): Buffer {
    return pdu(0x04, sqe, data, { ...this.negotiated, ...options });
  }

  /** An H2CData. `length` is DATAL if it differs from the data. */
  h2cData(
    fields: { cccid: number; ttag: number; offset: number; length?: number; last?: boolean },
    data: Uint8Array,
    options: PduOptions = {},
  ): Buffer {
    const psh = Buffer.alloc(16);
    psh.writeUInt16LE(fields.cccid, 0);
    psh.writeUInt16LE(fields.ttag, 2);
    psh.writeUInt32LE(fields.offset, 4);
    psh.writeUInt32LE(fields.length ?? data.length, 8);
    const flags = (this.headerDigest ? 1 : 0) | (this.dataDigest && data.length > 0 ? 2 : 0) | (fields.last ? 4 : 0);
    return pdu(0x06, psh, data, { ...this.negotiated, flags, ...options });
  }

  // ---- receiving

  #onData(chunk: Buffer): void {
    this.receivedBytes += chunk.length;
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    if (this.#buffered < this.#wanted) return;
    let bytes = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks);
    this.#wanted = 8;
    try {
      while (bytes.length >= 8) {
        const plen = bytes.readUInt32LE(4);
        if (bytes.length < plen) {
          this.#wanted = plen;
          break;
        }
        if (plen < 24) throw new Error(`PLEN ${plen} of type ${bytes[0]}`);
        this.#dispatch(this.#decode(bytes.subarray(0, plen)));
        bytes = bytes.subarray(plen);
      }
    } catch (error) {
      this.#failure = error as Error;
      this.socket.destroy();
      this.#end();
    }
    this.#chunks = bytes.length > 0 ? [bytes] : [];
    this.#buffered = bytes.length;
  }

  /** Checks framing, digests, alignment and padding. */
  #decode(bytes: Buffer): ReceivedPdu {
    const type = bytes.readUInt8(0);
    const flags = bytes.readUInt8(1);
    const hlen = bytes.readUInt8(2);
    const pdo = bytes.readUInt8(3);
    const name = NAMES[type] ?? `type ${type}`;
    expect(hlen, `HLEN of ${name}`).to.equal(HLEN[type]);
    const header = Buffer.from(bytes.subarray(0, hlen));
    const mayDigest = type === 0x05 || type === 0x07 || type === 0x09;
    const headerDigest = mayDigest && this.headerDigest;
    expect((flags & 1) !== 0, `HDGSTF of ${name}`).to.equal(headerDigest);
    if (headerDigest) expect(bytes.readUInt32LE(hlen), `HDGST of ${name}`).to.equal(referenceCrc32c(header));
    const base = hlen + (headerDigest ? 4 : 0);
    if (type === 0x03) return new ReceivedPdu(header, Buffer.from(bytes.subarray(24)));
    if (type !== 0x07) {
      expect(flags & 0xfe, `flags of ${name}`).to.equal(0);
      expect(bytes.length, `PLEN of ${name}`).to.equal(base);
      return new ReceivedPdu(header, Buffer.alloc(0));
    }
    expect((flags & 2) !== 0, 'DDGSTF of C2HData').to.equal(this.dataDigest);
    expect(pdo, 'PDO of C2HData').to.equal(Math.ceil(base / this.hostAlignBytes) * this.hostAlignBytes);
    expect(bytes.subarray(base, pdo).every((byte) => byte === 0), 'padding of C2HData').to.equal(true);
    const end = bytes.length - (this.dataDigest ? 4 : 0);
    const data = Buffer.from(bytes.subarray(pdo, end));
    expect(header.readUInt32LE(16), 'DATAL of C2HData').to.equal(data.length);
    expect(data.length % 4, 'DATAL in dwords').to.equal(0);
    if (this.dataDigest) expect(bytes.readUInt32LE(end), 'DDGST of C2HData').to.equal(referenceCrc32c(data));
    return new ReceivedPdu(header, data);
  }

  #dispatch(received: ReceivedPdu): void {
    const pending = this.#pending;
    if (received.type === 0x05) {
      const command = pending.get(received.cid);
      if (command !== undefined) {
        pending.delete(received.cid);
        this.#settle(command, received);
        return;
      }
    } else if (received.type === 0x07) {
      const command = pending.get(received.cccid);
      if (command !== undefined) {
        expect(received.offset, 'DATAO').to.equal(command.c2hData.reduce((sum, one) => sum + one.data.length, 0));
        expect(command.c2hData.at(-1)?.isLast ?? false, 'data after LAST_PDU').to.equal(false);
        command.c2hData.push(received);
        if (received.isSuccess) {
          expect(received.isLast, 'LAST_PDU with SUCCESS').to.equal(true);
          pending.delete(received.cccid);
          this.#settle(command, undefined);
        }
        return;
      }
    } else if (received.type === 0x09) {
      const command = pending.get(received.cccid);
      if (command !== undefined && command.options.manual !== true) {
        command.r2ts.push(received);
        this.#answerR2t(received, command);
        return;
      }
    }
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) waiter(received);
    else this.#pdus.push(received);
  }

  #answerR2t(r2t: ReceivedPdu, command: Pending): void {
    const data = command.options.data ?? new Uint8Array(0);
    const piece = command.options.pieceBytes ?? this.maxH2cData;
    const parts: Buffer[] = [];
    for (let at = r2t.offset; at < r2t.offset + r2t.length; at += piece) {
      const end = Math.min(at + piece, r2t.offset + r2t.length);
      const fields = { cccid: r2t.cccid, ttag: r2t.ttag, offset: at, last: end === r2t.offset + r2t.length };
      parts.push(this.h2cData(fields, data.subarray(at, end)));
    }
    void this.send(...parts);
  }

  #settle(command: Pending, response: ReceivedPdu | undefined): void {
    const last = command.c2hData.at(-1);
    if (last !== undefined) expect(last.isLast, 'LAST_PDU on the last C2HData').to.equal(true);
    const status = response?.status ?? 0;
    command.resolve({
      status,
      code: status & 0x7ff,
      dnr: (status & 0x4000) !== 0,
      more: (status & 0x2000) !== 0,
      result0: response?.result0 ?? 0,
      result1: response?.result1 ?? 0,
      sqhd: response?.sqhd,
      data: Buffer.concat(command.c2hData.map((one) => one.data)),
      c2hData: command.c2hData,
      r2ts: command.r2ts,
    });
  }

  #end(): void {
    if (this.ended) return;
    this.ended = true;
    const error = this.#failure ?? new ConnectionEnded('the target closed the connection');
    for (const waiter of this.#waiters.splice(0)) waiter(error);
    for (const command of this.#pending.values()) command.reject(error);
    this.#pending.clear();
    for (const waiter of this.#endWaiters.splice(0)) waiter();
  }

  /** The next PDU that belongs to no command of `command`. */
  async next(): Promise<ReceivedPdu> {
    const known = this.#pdus.shift();
    if (known !== undefined) return known;
    if (this.ended) throw this.#failure ?? new ConnectionEnded('the target closed the connection');
    const received = await new Promise<ReceivedPdu | Error>((resolve) => this.#waiters.push(resolve));
    if (received instanceof Error) throw received;
    return received;
  }

  /** PDUs that came and were not asked for. */
  get unread(): number {
    return this.#pdus.length;
  }

  /** The next PDU is a C2HTermReq with exactly this content. `header`: the bytes of the offending PDU's header. */
  async expectTermReq(expected: { fes: number; fei: number; header: Uint8Array }): Promise<void> {
    const received = await this.next();
    expect(received.name).to.equal('C2HTermReq');
    expect({ fes: received.fes, fei: received.fei }).to.deep.equal({ fes: expected.fes, fei: expected.fei });
    expect(received.data.toString('hex'), 'the offending header').to.equal(Buffer.from(expected.header).toString('hex'));
    expect(received.plen, 'PLEN').to.equal(24 + expected.header.length);
    expect(received.header.readUInt8(1), 'FLAGS').to.equal(0);
    expect(received.header.subarray(14, 24).every((byte) => byte === 0), 'reserved bytes').to.equal(true);
  }

  /** The target closes (at least its direction), and sends no further PDU before. */
  async expectClosed(): Promise<void> {
    await this.untilEnded();
    if (this.#failure !== undefined) throw this.#failure;
    expect(
      this.#pdus.map((one) => one.name),
      'PDUs before the close',
    ).to.deep.equal([]);
  }

  async untilEnded(): Promise<void> {
    if (!this.ended) await new Promise<void>((resolve) => this.#endWaiters.push(resolve));
  }

  /** Leaves at once (RST if something is unread). */
  destroy(): void {
    this.socket.destroy();
  }

  // ---- NVMe

  /** Sends ICReq and checks ICResp. */
  async icReq(fields: IcReqFields = {}): Promise<ReceivedPdu> {
    this.hostAlignBytes = ((fields.hpda ?? 0) + 1) * 4;
    await this.send(icReqPdu(fields));
    return this.acceptIcResp();
  }

  /** Reads ICResp and follows it. */
  async acceptIcResp(): Promise<ReceivedPdu> {
    const response = await this.next();
    expect(response.name).to.equal('ICResp');
    this.controllerAlignBytes = (response.header.readUInt8(10) + 1) * 4;
    this.headerDigest = (response.header.readUInt8(11) & 1) !== 0;
    this.dataDigest = (response.header.readUInt8(11) & 2) !== 0;
    this.maxH2cData = response.header.readUInt32LE(12);
    return response;
  }

  nextCid(): number {
    const cid = this.#nextCid;
    this.#nextCid = (cid + 1) & 0x7fff;
    return cid;
  }

  /** Awaits how the command with `cid` ends, however it was sent. */
  completion(cid: number, options: CommandOptions = {}): Promise<Completion> {
    const promise = new Promise<Completion>((resolve, reject) => {
      if (this.ended) reject(this.#failure ?? new ConnectionEnded('the connection is closed'));
      else this.#pending.set(cid, { c2hData: [], r2ts: [], options, resolve, reject });
    });
    promise.catch(() => {}); // whoever awaits it sees it
    return promise;
  }

  /** The bytes of a command as `command` would send it. */
  commandBytes(fields: SqeFields & { cid: number }, options: CommandOptions = {}): Buffer {
    const { data } = options;
    const inCapsule = data !== undefined && options.by !== 'r2t';
    const length = data?.length ?? options.readBytes ?? 0;
    const sqe = sqeBytes({ sgl: { id: inCapsule ? 0x01 : 0x5a, length }, ...fields });
    return this.capsule(sqe, inCapsule ? data : undefined);
  }

  /** Runs one command to its end. */
  command(fields: SqeFields, options: CommandOptions = {}): Promise<Completion> {
    const cid = fields.cid ?? this.nextCid();
    const done = this.completion(cid, options);
    void this.send(this.commandBytes({ ...fields, cid }, options));
    return done;
  }

  async connectQueue(fields: ConnectFields & { subnqn: string }): Promise<Completion> {
    const cid = this.nextCid();
    const by = fields.by ?? 'capsule';
    const data = connectData(fields);
    const done = this.completion(cid, { data, by });
    await this.send(this.capsule(connectSqe(fields, cid, by), by === 'capsule' ? data : undefined));
    const completion = await done;
    if (completion.status === 0) this.cntlid = completion.result0 & 0xffff;
    return completion;
  }

  propertyGet(offset: number, bytes: 4 | 8 = 4): Promise<Completion> {
    return this.command({ opcode: 0x7f, fctype: 0x04, cdw10: bytes === 8 ? 1 : 0, cdw11: offset });
  }

  propertySet(offset: number, value: number, bytes: 4 | 8 = 4): Promise<Completion> {
    return this.command({ opcode: 0x7f, fctype: 0x00, cdw10: bytes === 8 ? 1 : 0, cdw11: offset, cdw12: value });
  }

  async csts(): Promise<number> {
    return (await this.propertyGet(0x1c)).result0;
  }

  /** CC.EN = 1 with the entry sizes of an I/O controller; checks that it becomes ready. */
  async enable(): Promise<void> {
    expect((await this.propertySet(0x14, CC_ENABLE)).status).to.equal(0);
    expect((await this.csts()) & 0x03, 'CSTS.RDY').to.equal(1);
  }

  identify(cns: number, more: Partial<SqeFields> = {}): Promise<Completion> {
    return this.command({ opcode: 0x06, ...more, cdw10: cns }, { readBytes: 4096 });
  }

  /** Get Log Page of `bytes` bytes. */
  logPage(
    lid: number,
    bytes: number,
    more: { offset?: number; rae?: boolean; nsid?: number; cdw14?: number } = {},
  ): Promise<Completion> {
    const dwords = bytes / 4 - 1;
    return this.command(
      {
        opcode: 0x02,
        nsid: more.nsid ?? 0,
        cdw10: lid | (more.rae === true ? 0x8000 : 0) | ((dwords & 0xffff) << 16),
        cdw11: dwords >>> 16,
        cdw12: more.offset ?? 0,
        cdw14: more.cdw14 ?? 0,
      },
      { readBytes: bytes },
    );
  }

  getFeature(fid: number, more: { sel?: number; cdw11?: number; readBytes?: number } = {}): Promise<Completion> {
    return this.command(
      { opcode: 0x0a, cdw10: fid | ((more.sel ?? 0) << 8), cdw11: more.cdw11 ?? 0 },
      more.readBytes === undefined ? {} : { readBytes: more.readBytes },
    );
  }

  setFeature(fid: number, cdw11: number, more: { data?: Uint8Array; save?: boolean; nsid?: number } = {}): Promise<Completion> {
    return this.command(
      { opcode: 0x09, nsid: more.nsid ?? 0, cdw10: fid | (more.save === true ? 0x8000_0000 : 0), cdw11 },
      more.data === undefined ? {} : { data: more.data },
    );
  }

  read(block: number, blocks: number, more: Partial<SqeFields> & { blockBytes?: number } = {}): Promise<Completion> {
    const { blockBytes = 512, ...fields } = more;
    return this.command(
      { opcode: 0x02, nsid: 1, cdw10: block, cdw12: blocks - 1, ...fields },
      { readBytes: blocks * blockBytes },
    );
  }

  write(block: number, data: Uint8Array, options: CommandOptions & { blockBytes?: number } = {}): Promise<Completion> {
    const blocks = data.length / (options.blockBytes ?? 512);
    return this.command({ opcode: 0x01, nsid: 1, cdw10: block, cdw12: blocks - 1 }, { ...options, data });
  }
}

/** EN, IOSQES 6, IOCQES 4. */
export const CC_ENABLE = 0x0046_0001;

/** Bytes that differ from place to place and from `seed` to `seed`. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let x = (seed * 2654435761 + 0x9e3779b9) >>> 0;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}
