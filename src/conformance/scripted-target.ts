/**
 * A target that does exactly what a test tells it: raw PDUs over node:net. It shares no code with `src/wire`, so that both would have to be
 * wrong in the same way to agree.
 */
import { createServer, type Server, type Socket } from 'node:net';

/** CRC32C bit by bit. */
export function referenceCrc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) !== 0 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

/** A PDU as it came from the host. */
export interface HostPdu {
  readonly type: number;
  readonly flags: number;
  readonly hlen: number;
  readonly pdo: number;
  readonly plen: number;
  /** All PLEN bytes. */
  readonly bytes: Buffer;
  /** CapsuleCmd: the SQE. */
  readonly sqe: Buffer;
  readonly opcode: number;
  readonly fctype: number;
  /** CapsuleCmd: CID; H2CData: CCCID. */
  readonly cid: number;
  readonly nsid: number;
  /** CapsuleCmd: SGLID and SGL length. */
  readonly sglId: number;
  readonly sglLength: number;
  cdw(n: number): number;
  /** H2CData: TTAG, DATAO, DATAL. TermReq: FES, FEI. */
  readonly ttag: number;
  readonly dataOffset: number;
  readonly dataLength: number;
  readonly fes: number;
  readonly fei: number;
  /** In-capsule data, H2CData's data, or TermReq's copied header. */
  readonly data: Buffer;
}

function parsePdu(bytes: Buffer): HostPdu {
  const type = bytes[0]!;
  const flags = bytes[1]!;
  const hlen = bytes[2]!;
  const pdo = bytes[3]!;
  const sqe = type === 4 ? bytes.subarray(8, 72) : Buffer.alloc(64);
  const isTerm = type === 2;
  const dataStart = isTerm ? 24 : pdo;
  const dataEnd = bytes.length - ((flags & 2) !== 0 && !isTerm ? 4 : 0);
  return {
    type,
    flags,
    hlen,
    pdo,
    plen: bytes.readUInt32LE(4),
    bytes,
    sqe,
    opcode: sqe[0]!,
    fctype: sqe[4]!,
    cid: type === 4 ? sqe.readUInt16LE(2) : bytes.readUInt16LE(8),
    nsid: sqe.readUInt32LE(4),
    sglId: sqe[39]!,
    sglLength: sqe.readUInt32LE(32),
    cdw: (n) => sqe.readUInt32LE(n * 4),
    ttag: bytes.readUInt16LE(10),
    dataOffset: type === 6 ? bytes.readUInt32LE(12) : 0,
    dataLength: type === 6 ? bytes.readUInt32LE(16) : 0,
    fes: bytes.readUInt16LE(8),
    fei: bytes.readUInt32LE(10),
    data:
      (isTerm || type === 6 || type === 4) && dataStart !== 0 ? bytes.subarray(dataStart, dataEnd) : Buffer.alloc(0),
  };
}

/** Common header of a PDU to the host; the rest of `bytes` stays as it is. */
function header(bytes: Buffer, type: number, flags: number, hlen: number, pdo: number, plen: number): Buffer {
  bytes[0] = type;
  bytes[1] = flags;
  bytes[2] = hlen;
  bytes[3] = pdo;
  bytes.writeUInt32LE(plen, 4);
  return bytes;
}

export interface Digests {
  readonly hdgst?: boolean;
  readonly ddgst?: boolean;
}

function withHeaderDigest(head: Buffer, digests: Digests): Buffer {
  if (!digests.hdgst) return head;
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(referenceCrc32c(head));
  return Buffer.concat([head, sum]);
}

/** PDUs to the host; every field can be made wrong. */
export const pdu = {
  icResp(
    fields: { pfv?: number; cpda?: number; dgst?: number; maxh2cdata?: number; hlen?: number; plen?: number } = {},
  ): Buffer {
    const bytes = header(Buffer.alloc(128), 1, 0, fields.hlen ?? 128, 0, fields.plen ?? 128);
    bytes.writeUInt16LE(fields.pfv ?? 0, 8);
    bytes[10] = fields.cpda ?? 0;
    bytes[11] = fields.dgst ?? 0;
    bytes.writeUInt32LE(fields.maxh2cdata ?? 131072, 12);
    return bytes;
  },
  /** @param status 15-bit */
  capsuleResp(
    cid: number,
    fields: {
      status?: number;
      dw0?: number;
      dw1?: number;
      sqhd?: number;
      plen?: number;
      hlen?: number;
      flags?: number;
    } & Digests = {},
  ): Buffer {
    const size = fields.hdgst ? 28 : 24;
    const flags = fields.flags ?? (fields.hdgst ? 1 : 0);
    const head = header(Buffer.alloc(24), 5, flags, fields.hlen ?? 24, 0, fields.plen ?? size);
    head.writeUInt32LE(fields.dw0 ?? 0, 8);
    head.writeUInt32LE(fields.dw1 ?? 0, 12);
    head.writeUInt16LE(fields.sqhd ?? 0, 16);
    head.writeUInt16LE(cid, 20);
    head.writeUInt16LE((fields.status ?? 0) << 1, 22);
    return withHeaderDigest(head, fields);
  },
  c2hData(
    cccid: number,
    data: Uint8Array,
    fields: {
      offset?: number;
      last?: boolean;
      success?: boolean;
      length?: number;
      pdo?: number;
      plen?: number;
      hlen?: number;
      flags?: number;
      badDigest?: boolean;
      padByte?: number;
    } & Digests = {},
  ): Buffer {
    const base = fields.hdgst ? 28 : 24;
    const pdo = fields.pdo ?? base;
    const size = pdo + data.length + (fields.ddgst ? 4 : 0);
    const flags =
      fields.flags ??
      (fields.hdgst ? 1 : 0) | (fields.ddgst ? 2 : 0) | ((fields.last ?? true) ? 4 : 0) | (fields.success ? 8 : 0);
    const head = header(Buffer.alloc(24), 7, flags, fields.hlen ?? 24, pdo, fields.plen ?? size);
    head.writeUInt16LE(cccid, 8);
    head.writeUInt32LE(fields.offset ?? 0, 12);
    head.writeUInt32LE(fields.length ?? data.length, 16);
    const parts = [withHeaderDigest(head, fields), Buffer.alloc(Math.max(0, pdo - base), fields.padByte ?? 0), data];
    if (fields.ddgst) {
      const sum = Buffer.alloc(4);
      sum.writeUInt32LE((referenceCrc32c(data) ^ (fields.badDigest ? 1 : 0)) >>> 0);
      parts.push(sum);
    }
    return Buffer.concat(parts);
  },
  r2t(
    cccid: number,
    fields: { ttag?: number; offset?: number; length?: number; hlen?: number; plen?: number } & Digests = {},
  ): Buffer {
    const head = header(
      Buffer.alloc(24),
      9,
      fields.hdgst ? 1 : 0,
      fields.hlen ?? 24,
      0,
      fields.plen ?? (fields.hdgst ? 28 : 24),
    );
    head.writeUInt16LE(cccid, 8);
    head.writeUInt16LE(fields.ttag ?? 1, 10);
    head.writeUInt32LE(fields.offset ?? 0, 12);
    head.writeUInt32LE(fields.length ?? 4096, 16);
    return withHeaderDigest(head, fields);
  },
  c2hTermReq(fes: number, fei: number, fields: { plen?: number } = {}): Buffer {
    const bytes = header(Buffer.alloc(24), 3, 0, 24, 0, fields.plen ?? 24);
    bytes.writeUInt16LE(fes, 8);
    bytes.writeUInt32LE(fei, 10);
    return bytes;
  },
};

/** One connection that the host made. */
export class ScriptedConnection {
  readonly socket: Socket;
  /** Everything that came, in order. */
  readonly pdus: HostPdu[] = [];
  /** Bytes of each 'data' event: how the host cut its writes. */
  readonly chunks: number[] = [];
  #parts: Buffer[] = [];
  #partBytes = 0;
  #needBytes = 8;
  #taken = 0;
  #wake: (() => void)[] = [];
  ended = false;
  /** Called for each PDU; returns true if it was dealt with and `next` must not see it. */
  handler: ((request: HostPdu, connection: ScriptedConnection) => boolean) | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#onData(chunk));
    socket.on('error', () => {});
    socket.on('close', () => {
      this.ended = true;
      this.#wakeAll();
    });
  }

  #onData(chunk: Buffer): void {
    this.chunks.push(chunk.length);
    this.#parts.push(chunk);
    this.#partBytes += chunk.length;
    // joined only when a whole PDU is there: a long one would be copied once per chunk otherwise
    if (this.#partBytes < this.#needBytes) return;
    let bytes = Buffer.concat(this.#parts);
    this.#needBytes = 8;
    while (bytes.length >= 8) {
      const plen = bytes.readUInt32LE(4);
      if (bytes.length < plen) {
        this.#needBytes = plen;
        break;
      }
      const request = parsePdu(Buffer.from(bytes.subarray(0, plen)));
      bytes = bytes.subarray(plen);
      if (this.handler?.(request, this) !== true) this.pdus.push(request);
    }
    this.#parts = [bytes];
    this.#partBytes = bytes.length;
    this.#wakeAll();
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  /** PDUs that `next` has not returned. */
  get pendingCount(): number {
    return this.pdus.length - this.#taken;
  }

  /** The next PDU that no handler took. @throws if the host closes first */
  async next(): Promise<HostPdu> {
    while (this.pdus.length === this.#taken) {
      if (this.ended) throw new Error('The host closed the connection');
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
    return this.pdus[this.#taken++]!;
  }

  async nextOf(type: number): Promise<HostPdu> {
    const request = await this.next();
    if (request.type !== type) throw new Error(`Expected PDU type ${type}, the host sent ${request.type}`);
    return request;
  }

  send(...parts: Uint8Array[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(parts));
  }

  /** One TCP segment per byte, as far as the kernels keep them apart. */
  async trickle(bytes: Uint8Array): Promise<void> {
    for (const byte of bytes) {
      this.socket.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Settles when the host has closed. */
  async closed(): Promise<void> {
    while (!this.ended) {
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
  }

  destroy(): void {
    this.socket.destroy();
  }
}

/** Listens on a free port of 127.0.0.1. */
export class ScriptedTarget {
  readonly #server: Server;
  readonly connections: ScriptedConnection[] = [];
  #taken = 0;
  #wake: (() => void)[] = [];
  port = 0;
  /** Prepares each new connection. */
  onConnection: ((connection: ScriptedConnection) => void) | undefined;

  private constructor() {
    this.#server = createServer((socket) => {
      const connection = new ScriptedConnection(socket);
      this.connections.push(connection);
      this.onConnection?.(connection);
      for (const wake of this.#wake.splice(0)) wake();
    });
  }

  static async listen(port = 0, address = '127.0.0.1'): Promise<ScriptedTarget> {
    const target = new ScriptedTarget();
    await new Promise<void>((resolve, reject) => {
      target.#server.once('error', reject);
      target.#server.listen(port, address, resolve);
    });
    target.port = (target.#server.address() as { port: number }).port;
    return target;
  }

  async accept(): Promise<ScriptedConnection> {
    while (this.connections.length === this.#taken) {
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
    return this.connections[this.#taken++]!;
  }

  /** Closes everything at once. */
  async close(): Promise<void> {
    for (const connection of this.connections) connection.destroy();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }
}

/** What a `ScriptedController` says about itself. */
export interface ControllerShape {
  readonly cntlid?: number;
  readonly cap?: bigint;
  readonly ioccsz?: number;
  readonly mdts?: number;
  readonly oaes?: number;
  readonly oncs?: number;
  readonly aerl?: number;
  readonly cqt?: number;
  readonly ctratt?: number;
  readonly cntrltype?: number;
  readonly maxcmd?: number;
  /** Blocks of 512 bytes of namespace 1. */
  readonly nsze?: number;
  readonly ioQueues?: number;
}

/**
 * A well-behaved little controller with one namespace of zeroes, on every connection of a target. `override` sees each command first and returns
 * true if it dealt with it (or wants no answer).
 */
export class ScriptedController {
  readonly target: ScriptedTarget;
  shape: ControllerShape;
  override: ((command: HostPdu, connection: ScriptedConnection, qid: number) => boolean) | undefined;
  /** Names of the commands that came, in order: `Connect 0`, `PropertySet 14`, `Admin 06`, `Io 02`... */
  readonly seen: string[] = [];
  readonly aers: { cid: number; connection: ScriptedConnection }[] = [];
  readonly qids: Map<ScriptedConnection, number> = new Map();
  cc = 0;
  shn = 0;

  constructor(target: ScriptedTarget, shape: ControllerShape = {}) {
    this.target = target;
    this.shape = shape;
    target.onConnection = (connection) => {
      connection.handler = (request) => this.#handle(request, connection);
    };
  }

  /** Connections on which the host connected queue `qid`, oldest first. */
  queue(qid: number): ScriptedConnection[] {
    return [...this.qids].filter(([, id]) => id === qid).map(([connection]) => connection);
  }

  /** Completes an outstanding AER. @returns false if there is none */
  event(dw0: number, dw1 = 0): boolean {
    const aer = this.aers.shift();
    if (aer === undefined) return false;
    aer.connection.send(pdu.capsuleResp(aer.cid, { dw0, dw1 }));
    return true;
  }

  #handle(request: HostPdu, connection: ScriptedConnection): boolean {
    if (request.type === 0) {
      connection.send(pdu.icResp());
      return true;
    }
    if (request.type !== 4) return false;
    const qid = this.qids.get(connection) ?? request.sqe.readUInt16LE(42);
    this.seen.push(describe(request, qid));
    if (this.override?.(request, connection, qid) === true) return true;
    const answer = (fields: { status?: number; dw0?: number; dw1?: number } = {}): void =>
      connection.send(pdu.capsuleResp(request.cid, fields));
    const data = (bytes: Uint8Array): void =>
      connection.send(pdu.c2hData(request.cid, bytes.subarray(0, request.sglLength)), pdu.capsuleResp(request.cid));
    if (request.opcode === 0x7f) this.#fabrics(request, connection, answer);
    else if (qid !== 0) {
      if (request.opcode === 2) data(new Uint8Array(request.sglLength));
      else answer();
    } else this.#admin(request, connection, answer, data);
    return true;
  }

  #fabrics(
    request: HostPdu,
    connection: ScriptedConnection,
    answer: (fields?: { dw0?: number; dw1?: number }) => void,
  ): void {
    if (request.fctype === 1) {
      const qid = request.sqe.readUInt16LE(42);
      this.qids.set(connection, qid);
      if (qid === 0) this.cc = 0;
      answer({ dw0: this.shape.cntlid ?? 1 });
      return;
    }
    const offset = request.cdw(11);
    if (request.fctype === 0) {
      this.cc = request.cdw(12);
      this.shn = (this.cc >> 14) & 3;
      answer();
      return;
    }
    const cap = this.shape.cap ?? (4n << 24n) | (1n << 37n) | 127n;
    if (offset === 0) answer({ dw0: Number(cap & 0xffffffffn), dw1: Number(cap >> 32n) });
    else if (offset === 8) answer({ dw0: 0x20100 });
    else if (offset === 0x14) answer({ dw0: this.cc });
    else answer({ dw0: (this.cc & 1) | (this.shn !== 0 ? 8 : 0) });
  }

  #admin(
    request: HostPdu,
    connection: ScriptedConnection,
    answer: (fields?: { status?: number; dw0?: number }) => void,
    data: (bytes: Uint8Array) => void,
  ): void {
    if (request.opcode === 0x06) data(this.identify(request.cdw(10) & 0xff, request.nsid));
    else if (request.opcode === 0x02) data(new Uint8Array(request.sglLength));
    else if (request.opcode === 0x0c) this.aers.push({ cid: request.cid, connection });
    else if (request.opcode === 0x09 && (request.cdw(10) & 0xff) === 7) {
      const granted = (this.shape.ioQueues ?? 128) - 1;
      answer({ dw0: granted | (granted << 16) });
    } else if (request.opcode === 0x08) answer({ dw0: 1 });
    else answer();
  }

  identify(cns: number, nsid: number): Buffer {
    const { shape } = this;
    const bytes = Buffer.alloc(4096);
    if (cns === 1) {
      bytes.write('SCRIPTED            ', 4);
      bytes[77] = shape.mdts ?? 0;
      bytes.writeUInt16LE(shape.cntlid ?? 1, 78);
      bytes.writeUInt32LE(shape.oaes ?? 0, 92);
      bytes.writeUInt16LE(shape.oncs ?? 0, 520);
      bytes.writeUInt32LE(shape.ctratt ?? 0, 96);
      bytes[111] = shape.cntrltype ?? 1;
      bytes[259] = shape.aerl ?? 3;
      bytes.writeUInt16LE(10, 320);
      bytes.writeUInt16LE(shape.cqt ?? 0, 386);
      bytes.writeUInt16LE(shape.maxcmd ?? 1024, 514);
      bytes.writeUInt32LE(16, 516);
      bytes.writeUInt32LE(1, 536);
      bytes.writeUInt32LE(shape.ioccsz ?? 4 + 8192 / 16, 1792);
      bytes.writeUInt32LE(1, 1796);
    } else if (cns === 2) {
      if (nsid === 0) bytes.writeUInt32LE(1, 0);
    } else if (cns === 0 && nsid === 1) {
      const blocks = BigInt(shape.nsze ?? 1 << 20);
      for (const offset of [0, 8, 16]) bytes.writeBigUInt64LE(blocks, offset);
      bytes[130] = 9;
    }
    return bytes;
  }
}

function describe(request: HostPdu, qid: number): string {
  const hex = (value: number): string => value.toString(16).padStart(2, '0');
  if (request.opcode !== 0x7f) return `${qid === 0 ? 'Admin' : 'Io'} ${hex(request.opcode)}`;
  if (request.fctype === 1) return `Connect ${qid}`;
  return `${request.fctype === 0 ? 'PropertySet' : 'PropertyGet'} ${hex(request.cdw(11))}`;
}
