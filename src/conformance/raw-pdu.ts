/**
 * NVMe/TCP PDUs as bytes, right or wrong, for `RawHost`. It shares no code with the product: layouts and CRC are written here from the
 * specification, so that one mistake cannot hide another.
 */

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
  cdw2?: number;
  cdw3?: number;
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
  sqe.writeUInt32LE((fields.cdw2 ?? 0) >>> 0, 8);
  sqe.writeUInt32LE((fields.cdw3 ?? 0) >>> 0, 12);
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

export const RECEIVED_HLEN: Readonly<Record<number, number>> = { 1: 128, 3: 24, 5: 24, 7: 24, 9: 24 };
export const PDU_NAMES: Readonly<Record<number, string>> = {
  1: 'ICResp',
  3: 'C2HTermReq',
  5: 'CapsuleResp',
  7: 'C2HData',
  9: 'R2T',
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
    return PDU_NAMES[this.type] ?? `type ${this.type}`;
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
