/** One connection of the host under test, and what was seen on it. */
import { type Digests, type HostPdu, pdu, type ScriptedConnection } from '../scripted-target.ts';

/** Blocks of the namespace that hosts see. */
export const BLOCK_BYTES = 512;
export const BLOCK_COUNT: number = 1 << 16;
/**
 * Reads and writes that start here bring a case about; what a kernel reads by itself (partition tables, superblocks) lies elsewhere. In bytes: 8 MiB
 * to 16 MiB.
 */
export const isTrigger = (command: HostPdu): boolean => command.cdw(10) >= 1 << 14 && command.cdw(10) < 1 << 15;

/** Small, so that a write of a few blocks needs several H2CData. */
export const MAX_H2C_BYTES = 8192;

/** What block `lba` reads as: hosts' drivers check it. */
export const blockByte = (lba: number): number => (lba * 7 + 13) & 0xff;

/** Data of a read, from its first block on. */
export function blockData(lba: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += BLOCK_BYTES) data.fill(blockByte(lba + at / BLOCK_BYTES), at, at + BLOCK_BYTES);
  return data;
}

interface Write {
  readonly command: HostPdu;
  readonly ttag: number;
  readonly done: (link: HostLink, data: readonly Buffer[]) => void;
  readonly data: Buffer[];
  received: number;
}

export class HostLink {
  readonly connection: ScriptedConnection;
  digests: Digests = {};
  /** Undefined before Connect. */
  qid: number | undefined;
  /** The host disabled SQ flow control. */
  withoutFlowControl = false;
  /** PDUs that came after the misbehaviour. */
  laterPdus = 0;
  termReq: { fes: number; fei: number } | undefined;
  /** What the host did against the rules while data was asked for. */
  readonly complaints: string[] = [];
  readonly #writes = new Map<number, Write>();
  #nextTag = 1;

  constructor(connection: ScriptedConnection) {
    this.connection = connection;
  }

  get closed(): boolean {
    return this.connection.ended;
  }

  send(...parts: Uint8Array[]): void {
    this.connection.send(...parts);
  }
  complete(cid: number, fields: { status?: number; dw0?: number; dw1?: number } = {}): void {
    this.send(pdu.capsuleResp(cid, { ...fields, ...this.headerDigest }));
  }
  /** The answer to Connect. */
  connected(cid: number, cntlid: number): void {
    const sqhd = this.withoutFlowControl ? 0xffff : 0;
    this.send(pdu.capsuleResp(cid, { dw0: cntlid, sqhd, ...this.headerDigest }));
  }
  data(cid: number, bytes: Uint8Array, fields: Parameters<typeof pdu.c2hData>[2] = {}): void {
    this.send(pdu.c2hData(cid, bytes, { ...this.digests, ...fields }));
  }
  r2t(cid: number, fields: Parameters<typeof pdu.r2t>[1]): void {
    this.send(pdu.r2t(cid, { ...this.headerDigest, ...fields }));
  }
  get headerDigest(): Digests {
    return { hdgst: this.digests.hdgst === true };
  }

  /** Data and success. */
  read(command: HostPdu): void {
    this.data(command.cid, blockData(command.cdw(10), command.sglLength));
    this.complete(command.cid);
  }

  /** Takes the data of a write, by R2T unless it is in the capsule, then calls `done` (default: success). */
  write(command: HostPdu, done: (link: HostLink) => void = (link) => link.complete(command.cid)): void {
    if (command.sglId === 0x01 || command.sglLength === 0) {
      done(this);
      return;
    }
    const ttag = this.expectData(command, done);
    this.r2t(command.cid, { ttag, offset: 0, length: command.sglLength });
  }

  /** Data is to come under the tag that this returns; the R2T is for the caller to send. */
  expectData(command: HostPdu, done: (link: HostLink, data: readonly Buffer[]) => void): number {
    const ttag = this.#nextTag++ & 0xffff;
    this.#writes.set(ttag, { command, ttag, done, data: [], received: 0 });
    return ttag;
  }

  /** H2CData: contiguous, no longer than MAXH2CDATA, LAST_PDU on the last alone. */
  onData(received: HostPdu): void {
    const write = this.#writes.get(received.ttag);
    if (write === undefined) {
      this.complaints.push(`H2CData with TTAG ${received.ttag}, which no R2T named`);
      return;
    }
    if (received.dataOffset !== write.received) {
      this.complaints.push(`DATAO ${received.dataOffset}, needed ${write.received}`);
    }
    if (received.dataLength > MAX_H2C_BYTES) this.complaints.push(`DATAL ${received.dataLength} over MAXH2CDATA`);
    write.received += received.dataLength;
    write.data.push(received.data);
    const isLast = (received.flags & 4) !== 0;
    if (isLast !== write.received >= write.command.sglLength) {
      this.complaints.push(`LAST_PDU is ${isLast} at byte ${write.received} of ${write.command.sglLength}`);
    }
    if (write.received < write.command.sglLength) return;
    this.#writes.delete(received.ttag);
    write.done(this, write.data);
  }
}
