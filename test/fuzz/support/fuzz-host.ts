/**
 * A host in a test's hands, over a link in memory: sends whatever it is told, keeps book of every command that the target may have seen, and
 * judges every byte that comes back: framing, digests, and that each answer belongs to a command that waits for it.
 */
import { type PduOptions, pdu, referenceCrc32c, type SqeFields, sqeBytes } from '../../support/raw-pdu.ts';
import { HostStream } from './framing.ts';
import type { MemoryEnd } from './memory-link.ts';

/** A command that the target may answer. */
export interface Outstanding {
  readonly opcode: number;
  readonly cid: number;
  readonly sqe: Buffer;
  /** Most bytes that it may send. */
  readonly readBytes: number;
  receivedBytes: number;
  lastSeen: boolean;
  /** Checks the data of a read, where the test knows it. */
  check?: ((offset: number, data: Buffer) => void) | undefined;
  /** The answer. */
  completion?: Answer;
  readonly data: Buffer[];
}

export interface Answer {
  readonly status: number;
  readonly result0: number;
  readonly result1: number;
}

export interface SolicitedData {
  readonly cid: number;
  readonly ttag: number;
  readonly offset: number;
  readonly length: number;
}

const HLEN: Readonly<Record<number, number>> = { 1: 128, 3: 24, 5: 24, 7: 24, 9: 24 };
const CONFLICT = 0x003;

function ensure(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

export class FuzzHost {
  readonly end: MemoryEnd;
  readonly stream: HostStream;
  /** By CID, oldest first: a host that uses a CID twice has two. */
  readonly outstanding: Map<number, Outstanding[]> = new Map();
  readonly r2ts: SolicitedData[] = [];
  /** Negotiated. */
  headerDigest = false;
  dataDigest = false;
  hostAlignBytes = 4;
  controllerAlignBytes = 4;
  maxH2cData = 4096;
  icResp = false;
  /** FES and FEI of the target's TermReq. */
  term: { fes: number; fei: number } | undefined;
  /** The target closed, or its FIN came. */
  ended = false;
  answers = 0;
  failure: Error | undefined;
  #received: Buffer[] = [];
  #receivedBytes = 0;
  #needBytes = 8;
  #nextCid: number;
  /** What the data of a command must be, from its SQE; undefined where the test does not know. */
  checkOf: (sqe: Buffer) => Outstanding['check'] = () => undefined;

  constructor(end: MemoryEnd, firstCid = 0) {
    this.end = end;
    this.#nextCid = firstCid;
    this.stream = new HostStream((sqe) => this.#sent(sqe));
    end.allowHalfOpen = true;
    end.on('data', (chunk: Buffer) => this.#onData(chunk));
    end.on('error', () => this.#ended());
    end.on('end', () => this.#ended());
    end.on('close', () => this.#ended());
  }

  #ended(): void {
    this.ended = true;
  }

  // ---- sending

  send(bytes: Uint8Array): void {
    if (!this.end.writable) return;
    this.stream.push(bytes);
    this.end.write(Uint8Array.from(bytes));
  }

  nextCid(): number {
    const cid = this.#nextCid;
    this.#nextCid = (cid + 1) & 0xffff;
    return cid;
  }

  get negotiated(): PduOptions {
    return {
      headerDigest: this.headerDigest,
      dataDigest: this.dataDigest,
      alignBytes: this.controllerAlignBytes,
    };
  }

  capsule(sqe: Uint8Array, data?: Uint8Array, options: PduOptions = {}): Buffer {
    return pdu(0x04, sqe, data, { ...this.negotiated, ...options });
  }

  h2cData(
    fields: { cid: number; ttag: number; offset: number; last: boolean },
    data: Uint8Array,
    options: PduOptions = {},
  ): Buffer {
    const psh = Buffer.alloc(16);
    psh.writeUInt16LE(fields.cid, 0);
    psh.writeUInt16LE(fields.ttag, 2);
    psh.writeUInt32LE(fields.offset, 4);
    psh.writeUInt32LE(data.length, 8);
    const digests = (this.headerDigest ? 1 : 0) | (this.dataDigest && data.length > 0 ? 2 : 0);
    return pdu(0x06, psh, data, { ...this.negotiated, flags: digests | (fields.last ? 4 : 0), ...options });
  }

  /** The bytes of a command; data in the capsule, or announced by length for an R2T. */
  commandBytes(fields: SqeFields, options: { capsuleData?: Uint8Array; length?: number } = {}): Buffer {
    const { capsuleData } = options;
    const length = capsuleData?.length ?? options.length ?? 0;
    const cid = fields.cid ?? this.nextCid();
    const sqe = sqeBytes({ sgl: { id: capsuleData !== undefined ? 0x01 : 0x5a, length }, ...fields, cid });
    return this.capsule(sqe, capsuleData);
  }

  #sent(sqe: Buffer): void {
    const cid = sqe.readUInt16LE(2);
    const outstanding: Outstanding = {
      opcode: sqe[0]!,
      cid,
      sqe,
      readBytes: sqe.readUInt32LE(32),
      receivedBytes: 0,
      lastSeen: false,
      check: this.checkOf(sqe),
      data: [],
    };
    const same = this.outstanding.get(cid);
    if (same === undefined) this.outstanding.set(cid, [outstanding]);
    else same.push(outstanding);
    this.lastSent = outstanding;
  }
  lastSent: Outstanding | undefined;

  get outstandingCount(): number {
    let count = 0;
    for (const same of this.outstanding.values()) count += same.length;
    return count;
  }

  // ---- what comes back

  #onData(chunk: Buffer): void {
    if (this.failure !== undefined) return;
    this.#received.push(chunk);
    this.#receivedBytes += chunk.length;
    if (this.#receivedBytes < this.#needBytes) return;
    let bytes = Buffer.concat(this.#received);
    this.#needBytes = 8;
    try {
      while (bytes.length >= 8) {
        const plen = bytes.readUInt32LE(4);
        ensure(HLEN[bytes[0]!] === bytes[2], `type ${bytes[0]} with HLEN ${bytes[2]} came: the stream is out of step`);
        ensure(plen >= 24 && plen <= 16 << 20, `PLEN ${plen} of type ${bytes[0]} came`);
        if (bytes.length < plen) {
          this.#needBytes = plen;
          break;
        }
        ensure(this.term === undefined, `type ${bytes[0]} came after C2HTermReq`);
        this.#onPdu(bytes.subarray(0, plen));
        bytes = bytes.subarray(plen);
      }
    } catch (error) {
      this.failure = error as Error;
    }
    this.#received = [bytes];
    this.#receivedBytes = bytes.length;
  }

  #onPdu(bytes: Buffer): void {
    const type = bytes[0]!;
    const flags = bytes[1]!;
    if (type === 0x01) {
      ensure(!this.icResp, 'a second ICResp came');
      this.icResp = true;
      this.controllerAlignBytes = (bytes[10]! + 1) * 4;
      this.headerDigest = (bytes[11]! & 1) !== 0;
      this.dataDigest = (bytes[11]! & 2) !== 0;
      this.maxH2cData = bytes.readUInt32LE(12);
      return;
    }
    if (type === 0x03) {
      this.term = { fes: bytes.readUInt16LE(8), fei: bytes.readUInt32LE(10) };
      ensure(this.term.fes >= 1 && this.term.fes <= 6, `FES ${this.term.fes}`);
      ensure(bytes.length <= 152, `PLEN ${bytes.length} of C2HTermReq`);
      return;
    }
    ensure(this.icResp, `type ${type} came before ICResp`);
    ensure(((flags & 1) !== 0) === this.headerDigest, `HDGSTF of type ${type}`);
    if (this.headerDigest)
      ensure(bytes.readUInt32LE(24) === referenceCrc32c(bytes.subarray(0, 24)), `HDGST of type ${type}`);
    const base = this.headerDigest ? 28 : 24;
    if (type === 0x05) this.#onResponse(bytes, base);
    else if (type === 0x07) this.#onData2(bytes, base, flags);
    else this.#onR2t(bytes, base);
  }

  #waiting(cid: number, what: string): Outstanding[] {
    const same = this.outstanding.get(cid);
    ensure(same !== undefined, `${what} for CID ${cid}, which is not outstanding`);
    return same;
  }

  #done(cid: number, index: number, answer: Answer): void {
    const same = this.outstanding.get(cid)!;
    const [command] = same.splice(index, 1);
    if (same.length === 0) this.outstanding.delete(cid);
    command!.completion = answer;
    this.answers++;
  }

  #onResponse(bytes: Buffer, base: number): void {
    ensure(bytes.length === base, `PLEN ${bytes.length} of CapsuleResp`);
    const cid = bytes.readUInt16LE(20);
    const status = bytes.readUInt16LE(22) >>> 1;
    const same = this.#waiting(cid, 'CapsuleResp');
    const conflict = (status & 0x7ff) === CONFLICT;
    ensure(!conflict || same.length > 1 || this.answers > 0, `CID conflict for CID ${cid}, used once`);
    const index = conflict ? same.length - 1 : 0;
    const command = same[index]!;
    if (status === 0 && command.receivedBytes > 0) ensure(command.lastSeen, `CID ${cid} ended without LAST_PDU`);
    this.#done(cid, index, { status, result0: bytes.readUInt32LE(8), result1: bytes.readUInt32LE(12) });
  }

  #onData2(bytes: Buffer, base: number, flags: number): void {
    const cid = bytes.readUInt16LE(8);
    const offset = bytes.readUInt32LE(12);
    const length = bytes.readUInt32LE(16);
    const pdo = bytes[3]!;
    ensure(((flags & 2) !== 0) === this.dataDigest, 'DDGSTF of C2HData');
    ensure(pdo === Math.ceil(base / this.hostAlignBytes) * this.hostAlignBytes, `PDO ${pdo} of C2HData`);
    const end = bytes.length - (this.dataDigest ? 4 : 0);
    ensure(length === end - pdo, `DATAL ${length} of C2HData`);
    const data = Buffer.from(bytes.subarray(pdo, end));
    if (this.dataDigest) ensure(bytes.readUInt32LE(end) === referenceCrc32c(data), 'DDGST of C2HData');
    const command = this.#waiting(cid, 'C2HData')[0]!;
    ensure(offset === command.receivedBytes, `DATAO ${offset} of CID ${cid}`);
    ensure(
      offset + length <= command.readBytes,
      `CID ${cid} got ${offset + length} bytes, asked for ${command.readBytes}`,
    );
    ensure(!command.lastSeen, `CID ${cid} got data after LAST_PDU`);
    command.receivedBytes += length;
    command.lastSeen = (flags & 4) !== 0;
    command.data.push(data);
    command.check?.(offset, data);
    if ((flags & 8) !== 0) {
      ensure(command.lastSeen, 'SUCCESS without LAST_PDU');
      this.#done(cid, 0, { status: 0, result0: 0, result1: 0 });
    }
  }

  #onR2t(bytes: Buffer, base: number): void {
    ensure(bytes.length === base, `PLEN ${bytes.length} of R2T`);
    const cid = bytes.readUInt16LE(8);
    const command = this.#waiting(cid, 'R2T')[0]!;
    const solicited = {
      cid,
      ttag: bytes.readUInt16LE(10),
      offset: bytes.readUInt32LE(12),
      length: bytes.readUInt32LE(16),
    };
    ensure(solicited.length > 0, 'R2T for nothing');
    ensure(solicited.offset + solicited.length <= command.readBytes, `R2T of CID ${cid} past its SGL`);
    this.r2ts.push(solicited);
  }
}
