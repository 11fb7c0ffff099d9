/**
 * A capture file, seen by tshark's NVMe/TCP dissector: which PDUs passed, and what was wrong with them.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { OrderedCapture } from './ordered-capture.ts';
import { installedPath } from './paths.ts';

export interface Dissection {
  readonly connectionCount: number;
  readonly pduCount: number;
  /** PDU type -> how many. */
  readonly pdusByType: ReadonlyMap<number, number>;
  /** What connections agreed on: DGST of their ICResp. */
  readonly digestsAgreed: ReadonlySet<number>;
  /** Everything malformed or unexpected, each with its connection (tshark's tcp.stream) and time; at most `maxViolations`. */
  readonly violations: readonly string[];
}

export interface DissectOptions {
  /** The TCP ports on which controllers listen. */
  readonly ports: readonly number[];
  /** A peer was killed under load: connections may end within a PDU. Default false. */
  readonly mayBeCut?: boolean;
}

const maxViolations = 50;

const fields = [
  'frame.time_epoch',
  'tcp.stream',
  'tcp.srcport',
  'tcp.seq',
  'tcp.len',
  'tcp.flags.syn',
  'tcp.flags.fin',
  'tcp.flags.reset',
  'nvme-tcp.type',
  'nvme-tcp.flags',
  'nvme-tcp.hlen',
  'nvme-tcp.pdo',
  'nvme-tcp.plen',
  'nvme-tcp.hdgst.status',
  'nvme-tcp.ddgst.status',
  'nvme-tcp.icresp.digest',
  'nvme-tcp.unknown_data',
  '_ws.malformed',
  '_ws.expert.severity',
  '_ws.expert.message',
] as const;
type Field = (typeof fields)[number];

/** One frame: per field, its values in order of appearance. */
export type Frame = Readonly<Record<Field, readonly string[]>>;

/** Runs tshark over a capture file (pcap, not pcapng). */
export async function dissect(file: string, options: DissectOptions): Promise<Dissection> {
  const orderedFile = `${file}.ordered`;
  try {
    const ordered = new OrderedCapture(file);
    await pipeline(ordered.bytes(), createWriteStream(orderedFile));
    const trace = new PduTrace(options);
    for await (const line of tsharkLines(orderedFile, options.ports)) trace.add(parseFrame(line));
    return trace.finish(ordered.strandedCount);
  } finally {
    await rm(orderedFile, { force: true });
  }
}

/** One line per TCP segment, `fields` separated by tabs. */
async function* tsharkLines(file: string, ports: readonly number[]): AsyncGenerator<string> {
  const args = [
    ...['-n', '-r', file, '-T', 'fields', '-E', 'separator=/t', '-E', 'aggregator=,', '-E', 'occurrence=a'],
    ...['-o', 'nvme-tcp.check_hdgst:TRUE', '-o', 'nvme-tcp.check_ddgst:TRUE'],
    ...ports.flatMap((port) => ['-d', `tcp.port==${port},nvme-tcp`]),
    ...['-Y', 'tcp', ...fields.flatMap((field) => ['-e', field])],
  ];
  const child = spawn(installedPath('bin', 'tshark'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = once(child, 'exit');
  const stderr: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  yield* createInterface({ input: child.stdout });
  const [code, signal] = (await exited) as [number | null, string | null];
  if (code !== 0)
    throw new Error(`tshark on ${file} ended with ${code ?? signal}: ${Buffer.concat(stderr).toString()}`);
}

function parseFrame(line: string): Frame {
  const cells = line.split('\t');
  const entries = fields.map((field, index) => [field, cells[index] ? cells[index].split(',') : []]);
  return Object.fromEntries(entries) as Frame;
}

/** NVMe/TCP Transport Specification, PDU types and header lengths. Even types go to the controller. */
const headerLength: Readonly<Record<number, number>> = {
  0: 128,
  1: 128,
  2: 24,
  3: 24,
  4: 72,
  5: 24,
  6: 24,
  7: 24,
  9: 24,
};
const typeName: Readonly<Record<number, string>> = {
  0: 'ICReq',
  1: 'ICResp',
  2: 'H2CTermReq',
  3: 'C2HTermReq',
  4: 'CapsuleCmd',
  5: 'CapsuleResp',
  6: 'H2CData',
  7: 'C2HData',
  9: 'R2T',
};
const hdgstFlag = 0x01;
const ddgstFlag = 0x02;
const successFlag = 0x08;
const badChecksum = '0';
const errorSeverity = 0x800000; // of tshark's expert information

interface Direction {
  bytes: number;
  pduBytes: number;
  pdus: number;
}

interface Connection {
  readonly fromHost: Direction;
  readonly fromController: Direction;
  started: boolean;
  ended: boolean;
  /** DGST of ICResp. */
  digests: number;
  commands: number;
  completions: number;
}

interface Pdu {
  readonly type: number;
  readonly flags: number;
  readonly hlen: number;
  readonly pdo: number;
  readonly plen: number;
}

/**
 * The rules. What tshark calls malformed is reported; on top of it, since the dissector believes what a header says:
 * which PDU may come from which side and when, header lengths, data offsets, digests as negotiated and correct, never
 * more completions than commands, and that the PDUs account for every byte of the connection.
 */
export class PduTrace {
  readonly #options: DissectOptions;
  readonly #connections = new Map<string, Connection>();
  readonly #pdusByType = new Map<number, number>();
  readonly #digestsAgreed = new Set<number>();
  readonly #violations: string[] = [];
  #startTime: number | undefined;

  constructor(options: DissectOptions) {
    this.#options = options;
  }

  add(frame: Frame): void {
    const stream = frame['tcp.stream'][0] ?? '?';
    const time = Number(frame['frame.time_epoch'][0]);
    this.#startTime ??= time;
    const where = `connection ${stream} at ${(time - this.#startTime).toFixed(6)} s`;
    const fromController = this.#options.ports.includes(Number(frame['tcp.srcport'][0]));
    const connection = this.#connection(stream);
    const direction = fromController ? connection.fromController : connection.fromHost;

    connection.started ||= isSet(frame['tcp.flags.syn']);
    connection.ended ||= isSet(frame['tcp.flags.fin']) || isSet(frame['tcp.flags.reset']);
    const segmentBytes = Number(frame['tcp.len'][0]);
    if (segmentBytes > 0) {
      // relative sequence numbers start at 1 after SYN
      direction.bytes = Math.max(direction.bytes, Number(frame['tcp.seq'][0]) - 1 + segmentBytes);
    }

    if (frame['_ws.malformed'].length > 0) this.#report(where, `malformed: ${frame['_ws.expert.message'].join(', ')}`);
    else if (frame['_ws.expert.severity'].some((severity) => Number(severity) >= errorSeverity)) {
      this.#report(where, frame['_ws.expert.message'].join(', '));
    }
    if (frame['nvme-tcp.unknown_data'].length > 0) this.#report(where, 'bytes that belong to no PDU');
    if (frame['nvme-tcp.hdgst.status'].includes(badChecksum)) this.#report(where, 'wrong header digest');
    if (frame['nvme-tcp.ddgst.status'].includes(badChecksum)) this.#report(where, 'wrong data digest');

    const digests = frame['nvme-tcp.icresp.digest'][0];
    if (digests !== undefined) {
      connection.digests = Number(digests);
      this.#digestsAgreed.add(connection.digests);
    }
    for (const pdu of pdusOf(frame)) this.#addPdu(where, connection, fromController, pdu);
  }

  /** @param strandedCount segments behind a gap in the capture */
  finish(strandedCount: number): Dissection {
    if (strandedCount > 0) this.#report('capture', `lacks what comes before ${strandedCount} of its segments`);
    for (const [stream, connection] of this.#connections) {
      const where = `connection ${stream}`;
      if (!connection.started) this.#report(where, 'began before the capture');
      if (!connection.ended) this.#report(where, 'was still open at the end of the capture');
      this.#checkCoverage(where, 'host', connection.fromHost);
      this.#checkCoverage(where, 'controller', connection.fromController);
    }
    let pduCount = 0;
    for (const count of this.#pdusByType.values()) pduCount += count;
    return {
      connectionCount: this.#connections.size,
      pduCount,
      pdusByType: this.#pdusByType,
      digestsAgreed: this.#digestsAgreed,
      violations: this.#violations,
    };
  }

  #addPdu(where: string, connection: Connection, fromController: boolean, pdu: Pdu): void {
    const { type, flags, hlen, pdo, plen } = pdu;
    const direction = fromController ? connection.fromController : connection.fromHost;
    const name = typeName[type] ?? `PDU of type ${type}`;
    const sender = fromController ? 'controller' : 'host';
    const isFirst = direction.pdus === 0;
    direction.pdus++;
    direction.pduBytes += plen;
    this.#pdusByType.set(type, (this.#pdusByType.get(type) ?? 0) + 1);

    if (typeName[type] === undefined || (type % 2 === 1) !== fromController) {
      this.#report(where, `${name} from the ${sender}`);
      return;
    }
    if (type === 2 || type === 3) this.#report(where, `${name}: the ${sender} gave up the connection`);
    if (isFirst !== type <= 1) this.#report(where, `${name} as PDU number ${direction.pdus} of the ${sender}`);
    if (hlen !== headerLength[type]) this.#report(where, `${name} with HLEN ${hlen}`);
    if (pdo !== 0 && (pdo < hlen || pdo >= plen || pdo % 4 !== 0)) {
      this.#report(where, `${name} with PDO ${pdo}, HLEN ${hlen}, PLEN ${plen}`);
    }
    if (type >= 4) this.#checkDigestFlags(where, name, connection, pdu);

    if (type === 4) connection.commands++;
    if (type === 5 || (type === 7 && flags & successFlag)) connection.completions++;
    if (connection.completions > connection.commands) this.#report(where, `${name} completes a command never sent`);
  }

  #checkDigestFlags(where: string, name: string, connection: Connection, pdu: Pdu): void {
    const negotiated = connection.digests;
    const hasData = pdu.pdo !== 0;
    if ((pdu.flags & hdgstFlag) !== (negotiated & hdgstFlag)) this.#report(where, `${name} with HDGSTF against ICResp`);
    const expected = hasData ? negotiated & ddgstFlag : 0;
    if ((pdu.flags & ddgstFlag) !== expected) this.#report(where, `${name} with DDGSTF against ICResp`);
  }

  #checkCoverage(where: string, sender: string, { bytes, pduBytes }: Direction): void {
    if (bytes === pduBytes || (bytes > pduBytes && this.#options.mayBeCut)) return;
    this.#report(where, `the ${sender} sent ${bytes} bytes, its PDUs have ${pduBytes}`);
  }

  #connection(stream: string): Connection {
    let connection = this.#connections.get(stream);
    if (!connection) {
      const direction = (): Direction => ({ bytes: 0, pduBytes: 0, pdus: 0 });
      connection = {
        fromHost: direction(),
        fromController: direction(),
        started: false,
        ended: false,
        digests: 0,
        commands: 0,
        completions: 0,
      };
      this.#connections.set(stream, connection);
    }
    return connection;
  }

  #report(where: string, what: string): void {
    if (this.#violations.length < maxViolations) this.#violations.push(`${where}: ${what}`);
  }
}

function isSet(flag: readonly string[]): boolean {
  return flag[0] === 'True' || flag[0] === '1';
}

function pdusOf(frame: Frame): Pdu[] {
  return frame['nvme-tcp.type'].map((type, index) => ({
    type: Number(type),
    flags: Number(frame['nvme-tcp.flags'][index] ?? 0),
    hlen: Number(frame['nvme-tcp.hlen'][index]),
    pdo: Number(frame['nvme-tcp.pdo'][index] ?? 0),
    plen: Number(frame['nvme-tcp.plen'][index]),
  }));
}
