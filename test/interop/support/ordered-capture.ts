/**
 * Rewrites a capture (pcap, Ethernet, TCP over IPv4) so that a dissector has an easy time: every connection as its
 * receivers saw it, in order and each byte once, without bare acknowledgements.
 *
 * On the loopback interface two CPUs send, so segments of a 64 KiB burst overtake each other and are sent again; tshark
 * then misses PDUs, or holds them back until after their answers.
 */
import { createReadStream } from 'node:fs';

const fileHeaderBytes = 24;
const recordHeaderBytes = 16;
const ethernetBytes = 14;
const linkTypeEthernet = 1;
const etherTypeIpv4 = 0x0800;
const etherTypeExperimental = 0x88b5;
const protocolTcp = 6;
const Flag = { Fin: 0x01, Syn: 0x02, Rst: 0x04 } as const;

/**
 * tshark 4.4 files the data of CID 0 under its frame number and that of any other CID under the CID, in one tree; where a
 * frame number equals a CID, it crashes. So no segment may have a frame number of 16 bits.
 */
const paddingFrames = 0x10000;

/** One captured segment: its record, and where the TCP header and its data are in it. */
interface Segment {
  readonly record: Buffer;
  readonly tcp: number;
  readonly data: number;
  readonly end: number;
  readonly seq: number;
  readonly flags: number;
}

/** One direction of a connection. */
interface Direction {
  /** Sequence number of what comes next. */
  next: number;
  /** Segments from beyond a gap. */
  held: Segment[];
}

export class OrderedCapture {
  readonly #file: string;
  readonly #directions = new Map<string, Direction>();

  constructor(file: string) {
    this.#file = file;
  }

  /** Segments that could not be put in order, for want of what comes before them; to be read at the end. */
  get strandedCount(): number {
    let count = 0;
    for (const { held } of this.#directions.values()) count += held.length;
    return count;
  }

  /** The file, rewritten, behind `paddingFrames` empty frames. */
  async *bytes(): AsyncGenerator<Buffer> {
    let rest: Buffer = Buffer.alloc(0);
    let isBegun = false;
    for await (const chunk of createReadStream(this.#file, { highWaterMark: 4 << 20 }) as AsyncIterable<Buffer>) {
      rest = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
      if (!isBegun) {
        if (rest.length < fileHeaderBytes) continue;
        yield checkedFileHeader(this.#file, rest);
        yield padding();
        rest = rest.subarray(fileHeaderBytes);
        isBegun = true;
      }
      const out: Buffer[] = [];
      rest = rest.subarray(this.#takeRecords(rest, out));
      yield Buffer.concat(out);
    }
  }

  /** @returns the number of bytes taken */
  #takeRecords(bytes: Buffer, out: Buffer[]): number {
    let offset = 0;
    while (bytes.length - offset >= recordHeaderBytes) {
      const end = offset + recordHeaderBytes + bytes.readUInt32LE(offset + 8);
      if (bytes.length < end) break;
      const segment = segmentOf(bytes.subarray(offset, end));
      if (segment) this.#takeSegment(segment, out);
      offset = end;
    }
    return offset;
  }

  #takeSegment(segment: Segment, out: Buffer[]): void {
    const key = segment.record.toString('latin1', segment.tcp - 8, segment.tcp + 4); // both addresses, both ports
    if (segment.flags & Flag.Syn) {
      this.#directions.set(key, { next: (segment.seq + 1) >>> 0, held: [] });
      out.push(segment.record);
      return;
    }
    const direction = this.#directions.get(key);
    if (!direction || segment.flags & Flag.Rst) {
      out.push(segment.record);
      return;
    }
    if (sequenceLength(segment) === 0) return;
    direction.held.push(segment);
    while (takeNext(direction, out));
  }
}

/** Passes on one held segment that begins at or before what comes next, without what was passed on before. */
function takeNext(direction: Direction, out: Buffer[]): boolean {
  const index = direction.held.findIndex(({ seq }) => distance(direction.next, seq) <= 0);
  const segment = direction.held[index];
  if (!segment) return false;
  direction.held.splice(index, 1);
  const knownBytes = -distance(direction.next, segment.seq);
  const newLength = sequenceLength(segment) - knownBytes;
  if (newLength > 0) {
    out.push(knownBytes === 0 ? segment.record : trimmed(segment, knownBytes));
    direction.next = (direction.next + newLength) >>> 0;
  }
  return true;
}

/** Of sequence numbers, which wrap. */
function distance(from: number, to: number): number {
  return (to - from) | 0;
}

function sequenceLength(segment: Segment): number {
  return segment.end - segment.data + (segment.flags & Flag.Fin ? 1 : 0);
}

function segmentOf(record: Buffer): Segment | undefined {
  const ip = recordHeaderBytes + ethernetBytes;
  if (record.length < ip + 40 || record.readUInt16BE(ip - 2) !== etherTypeIpv4) return undefined;
  if (record[ip + 9] !== protocolTcp) return undefined;
  const tcp = ip + (record[ip]! & 0x0f) * 4;
  return {
    record,
    tcp,
    data: tcp + (record[tcp + 12]! >> 4) * 4,
    end: Math.min(ip + record.readUInt16BE(ip + 2), record.length),
    seq: record.readUInt32BE(tcp + 4),
    flags: record[tcp + 13]!,
  };
}

/** The segment without its first bytes. */
function trimmed({ record, tcp, data, end, seq }: Segment, bytes: number): Buffer {
  const cut = Math.min(bytes, end - data);
  const shorter = Buffer.concat([record.subarray(0, data), record.subarray(data + cut, end)]);
  const ip = recordHeaderBytes + ethernetBytes;
  shorter.writeUInt32LE(shorter.length - recordHeaderBytes, 8);
  shorter.writeUInt32LE(shorter.length - recordHeaderBytes, 12);
  shorter.writeUInt16BE(shorter.length - ip, ip + 2);
  shorter.writeUInt32BE((seq + bytes) >>> 0, tcp + 4);
  return shorter;
}

function checkedFileHeader(file: string, bytes: Buffer): Buffer {
  const header = bytes.subarray(0, fileHeaderBytes);
  const magic = header.readUInt32LE(0);
  const isPcap = magic === 0xa1b2c3d4 || magic === 0xa1b23c4d; // microseconds, nanoseconds
  if (!isPcap || header.readUInt32LE(20) !== linkTypeEthernet) throw new Error(`${file} is no pcap file of Ethernet`);
  return header;
}

function padding(): Buffer {
  const frame = Buffer.alloc(recordHeaderBytes + ethernetBytes);
  frame.writeUInt32LE(ethernetBytes, 8);
  frame.writeUInt32LE(ethernetBytes, 12);
  frame.writeUInt16BE(etherTypeExperimental, recordHeaderBytes + 12);
  return Buffer.alloc(paddingFrames * frame.length, frame);
}
