/** A host that sends what it is told, right or wrong, and checks every byte that comes back. */
import { connect, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CheckFailure, check } from './check.ts';
import {
  CC_ENABLE,
  type ConnectFields,
  connectData,
  connectSqe,
  type IcReqFields,
  icReqPdu,
  PDU_NAMES,
  type PduOptions,
  pdu,
  RECEIVED_HLEN,
  ReceivedPdu,
  referenceCrc32c,
  type SqeFields,
  sqeBytes,
} from './raw-pdu.ts';

export * from './raw-pdu.ts';

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
  /** Answers an R2T in pieces of this many bytes, at most MAXH2CDATA; default MAXH2CDATA. */
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

/** The connection ended while something was awaited. */
export class ConnectionEnded extends Error {}

/** A C2HTermReq carries `header`, the bytes of the offending PDU's header, and nothing else. */
export function checkTermReqData(received: ReceivedPdu, header: Uint8Array): void {
  check.equal(received.data.toString('hex'), Buffer.from(header).toString('hex'), 'header in C2HTermReq');
  check.equal(received.plen, 24 + header.length, 'PLEN of C2HTermReq');
  check.equal(received.header.readUInt8(1), 0, 'FLAGS of C2HTermReq');
  check.zeroes(received.header.subarray(14, 24), 'reserved bytes of C2HTermReq');
}

// ---- the host ------------------------------------------------------------------------------------------------------------------------

export class RawHost {
  readonly socket: Socket;
  /** Sizes of the segments in which everything is sent; undefined: as the kernel likes. */
  segmentBytes: (() => number) | undefined;
  headerDigest = false;
  dataDigest = false;
  /** Alignment that the host asked for (HPDA) and the target asked for (CPDA), bytes. */
  hostAlignBytes = 4;
  controllerAlignBytes = 4;
  maxH2cData = 0;
  cntlid = 0;
  /** What `read` and `write` work on. */
  nsid = 1;
  blockBytes = 512;
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
  static connect(port: number, address = '127.0.0.1'): Promise<RawHost> {
    return new Promise((resolve, reject) => {
      // half open: a TermReq may be followed by FIN, and the test decides when this side closes
      const socket = connect({ port, host: address, allowHalfOpen: true }, () => {
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
    const size = this.segmentBytes;
    if (size === undefined) {
      this.#write(bytes);
      return;
    }
    this.#sending = this.#sending.then(() => this.sendSliced(bytes, size));
    await this.#sending;
  }
  #sending: Promise<void> = Promise.resolve();

  #write(bytes: Uint8Array): void {
    if (!this.socket.destroyed && this.socket.writable) this.socket.write(bytes);
  }

  /** Sends `bytes` in segments of `size()` bytes: the target reads each before the next is sent. Nothing else may be sent meanwhile. */
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
        if (plen < 24) throw new CheckFailure(`PLEN ${plen} of PDU type ${bytes[0]}`);
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
    const name = PDU_NAMES[type] ?? `type ${type}`;
    check.equal(hlen, RECEIVED_HLEN[type], `HLEN of ${name}`);
    const header = Buffer.from(bytes.subarray(0, hlen));
    const mayDigest = type === 0x05 || type === 0x07 || type === 0x09;
    const headerDigest = mayDigest && this.headerDigest;
    check.equal((flags & 1) !== 0, headerDigest, `HDGSTF of ${name}`);
    if (headerDigest) check.equal(bytes.readUInt32LE(hlen), referenceCrc32c(header), `HDGST of ${name}`);
    const base = hlen + (headerDigest ? 4 : 0);
    if (type === 0x03) return new ReceivedPdu(header, Buffer.from(bytes.subarray(24)));
    if (type !== 0x07) {
      check.equal(flags & 0xfe, 0, `flags of ${name}`);
      check.equal(bytes.length, base, `PLEN of ${name}`);
      return new ReceivedPdu(header, Buffer.alloc(0));
    }
    check.equal((flags & 2) !== 0, this.dataDigest, 'DDGSTF of C2HData');
    check.equal(pdo, Math.ceil(base / this.hostAlignBytes) * this.hostAlignBytes, 'PDO of C2HData');
    check.zeroes(bytes.subarray(base, pdo), 'padding of C2HData');
    const end = bytes.length - (this.dataDigest ? 4 : 0);
    const data = Buffer.from(bytes.subarray(pdo, end));
    check.equal(header.readUInt32LE(16), data.length, 'DATAL of C2HData');
    check.equal(data.length % 4, 0, 'DATAL of C2HData modulo 4');
    if (this.dataDigest) check.equal(bytes.readUInt32LE(end), referenceCrc32c(data), 'DDGST of C2HData');
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
        const soFar = command.c2hData.reduce((sum, one) => sum + one.data.length, 0);
        check.equal(received.offset, soFar, 'DATAO of C2HData');
        check.that(command.c2hData.at(-1)?.isLast !== true, 'C2HData after LAST_PDU');
        command.c2hData.push(received);
        if (received.isSuccess) {
          check.that(received.isLast, 'SUCCESS without LAST_PDU');
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
    const piece = Math.min(command.options.pieceBytes ?? this.maxH2cData, this.maxH2cData);
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
    if (last !== undefined) check.that(last.isLast, 'LAST_PDU is missing on the last C2HData');
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
    const term = this.#pdus.find((one) => one.type === 0x03);
    const why = term === undefined ? '' : ` after C2HTermReq FES ${term.fes} FEI ${term.fei}`;
    const error = this.#failure ?? new ConnectionEnded(`the target closed the connection${why}`);
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
    check.equal(received.name, 'C2HTermReq', 'PDU');
    check.equal({ fes: received.fes, fei: received.fei }, { fes: expected.fes, fei: expected.fei }, 'C2HTermReq');
    checkTermReqData(received, expected.header);
  }

  /** The target closes (at least its direction), and sends no further PDU before. */
  async expectClosed(): Promise<void> {
    await this.untilEnded();
    if (this.#failure !== undefined) throw this.#failure;
    const names = this.#pdus.map((one) => one.name);
    check.equal(names, [], 'PDUs before the close');
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
    check.equal(response.name, 'ICResp', 'PDU');
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
    check.equal((await this.propertySet(0x14, CC_ENABLE)).status, 0, 'status of Property Set CC');
    check.equal((await this.csts()) & 0x03, 1, 'CSTS.RDY');
  }

  identify(cns: number, more: Partial<SqeFields> = {}): Promise<Completion> {
    return this.command({ opcode: 0x06, ...more, cdw10: cns }, { readBytes: 4096 });
  }

  /** Get Log Page of `bytes` bytes. */
  logPage(
    lid: number,
    bytes: number,
    more: { offset?: number; rae?: boolean; nsid?: number; cdw14?: number; lsp?: number } = {},
  ): Promise<Completion> {
    const dwords = bytes / 4 - 1;
    return this.command(
      {
        opcode: 0x02,
        nsid: more.nsid ?? 0,
        cdw10: lid | ((more.lsp ?? 0) << 8) | (more.rae === true ? 0x8000 : 0) | ((dwords & 0xffff) << 16),
        cdw11: dwords >>> 16,
        cdw12: more.offset ?? 0,
        cdw14: more.cdw14 ?? 0,
      },
      { readBytes: bytes },
    );
  }

  getFeature(
    fid: number,
    more: { sel?: number; cdw11?: number; readBytes?: number; nsid?: number } = {},
  ): Promise<Completion> {
    return this.command(
      { opcode: 0x0a, nsid: more.nsid ?? 0, cdw10: fid | ((more.sel ?? 0) << 8), cdw11: more.cdw11 ?? 0 },
      more.readBytes === undefined ? {} : { readBytes: more.readBytes },
    );
  }

  setFeature(
    fid: number,
    cdw11: number,
    more: { data?: Uint8Array; save?: boolean; nsid?: number } = {},
  ): Promise<Completion> {
    return this.command(
      { opcode: 0x09, nsid: more.nsid ?? 0, cdw10: fid | (more.save === true ? 0x8000_0000 : 0), cdw11 },
      more.data === undefined ? {} : { data: more.data },
    );
  }

  read(block: number, blocks: number, more: Partial<SqeFields> & { blockBytes?: number } = {}): Promise<Completion> {
    const { blockBytes = this.blockBytes, ...fields } = more;
    return this.command(
      { opcode: 0x02, nsid: this.nsid, cdw10: block, cdw12: blocks - 1, ...fields },
      { readBytes: blocks * blockBytes },
    );
  }

  write(block: number, data: Uint8Array, options: CommandOptions & { blockBytes?: number } = {}): Promise<Completion> {
    const blocks = data.length / (options.blockBytes ?? this.blockBytes);
    return this.command({ opcode: 0x01, nsid: this.nsid, cdw10: block, cdw12: blocks - 1 }, { ...options, data });
  }
}
