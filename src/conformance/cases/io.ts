/** I/O commands of the NVM command set: lines 40 to 44, 47 to 52, 63, 75, 79 to 84 and 99 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { applies, check, checkStatus, Inconclusive } from '../check.ts';
import { Onc } from '../facts.ts';
import type { Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { pattern, type SqeFields } from '../raw-pdu.ts';
import { inactiveNsid } from './identify.ts';
import { readBlocks, writePattern } from './tcp-setup.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const SGL_LENGTH_INVALID = 0x0f;
const WRITE_PROTECTED = 0x20;
const LBA_OUT_OF_RANGE = 0x80;
const UNRECOVERED_READ = 0x281;
const DEALLOCATED_BLOCK = 0x287;
const SIZE_LIMIT = 0x183;
const ALL = 0xffff_ffff;
const PRACT = 0x2000_0000;
const NSZ = 0x0080_0000;

/** CDW10 and CDW11 of a block. */
export const slba = (block: bigint): { cdw10: number; cdw11: number } => ({
  cdw10: Number(block & 0xffff_ffffn),
  cdw11: Number(block >> 32n),
});

/** Runs a command of the namespace under test. */
export function io(
  peer: Peer,
  host: RawHost,
  fields: Omit<SqeFields, 'nsid'> & { nsid?: number },
  data?: Uint8Array | number,
): Promise<Completion> {
  const by = data instanceof Uint8Array && data.length > peer.facts.inCapsuleBytes ? 'r2t' : 'capsule';
  const options = data === undefined ? {} : typeof data === 'number' ? { readBytes: data } : ({ data, by } as const);
  return peer.within(host.command({ nsid: host.nsid, ...fields }, options), `opcode ${fields.opcode.toString(16)}h`);
}

/** Ranges of DSM. */
function ranges(list: readonly (readonly [block: number, blocks: number])[]): Buffer {
  const bytes = Buffer.alloc(list.length * 16);
  for (const [i, [block, blocks]] of list.entries()) {
    bytes.writeUInt32LE(blocks, i * 16 + 4);
    bytes.writeBigUInt64LE(BigInt(block), i * 16 + 8);
  }
  return bytes;
}

const deallocate = (peer: Peer, host: RawHost, list: readonly (readonly [number, number])[]): Promise<Completion> =>
  io(peer, host, { opcode: 9, cdw10: list.length - 1, cdw11: 4 }, ranges(list));

const hasDsm = (peer: Peer): boolean => peer.facts.oncs(Onc.DatasetManagement) || peer.facts.nvmLimit(3) !== 0;
/** A command that ONCS names, or whose limit in CNS 06h says that it exists (NVM 1.2 section 4.1.5.2). */
const has = (peer: Peer, onc: number, limit: number): boolean =>
  peer.facts.oncs(onc) || peer.facts.nvmLimit(limit) !== 0;
const hasVerify = (peer: Peer): boolean => has(peer, Onc.Verify, 0);
const hasWriteZeroes = (peer: Peer): boolean => has(peer, Onc.WriteZeroes, 1);
export const hasWriteUncorrectable = (peer: Peer): boolean => has(peer, Onc.WriteUncorrectable, 2);

/** Blocks in a limit of CNS 06h, which counts in 2^n pages. */
function limitBlocks(peer: Peer, offset: number): number {
  const page = 4096 << Number((peer.facts.raw.cap >> 48n) & 0xfn);
  return Math.floor((page * 2 ** peer.facts.nvmLimit(offset)) / peer.facts.blockBytes);
}

/** A command over a limit of CNS 06h: refused where the limit is hard, served where it is a recommendation. */
async function overLimit(
  peer: Peer,
  host: RawHost,
  opcode: number,
  onc: number,
  limit: number,
  name: string,
): Promise<void> {
  applies(peer.facts.nvmLimit(limit) !== 0, `no limit of ${name}`);
  const blocks = limitBlocks(peer, limit) + 1;
  applies(
    blocks <= 65536 && BigInt(blocks) <= peer.facts.blockCount,
    `more than the limit (${blocks - 1} blocks) does not fit a command`,
  );
  const completion = await io(peer, host, { opcode, cdw12: blocks - 1 });
  checkStatus(completion, peer.facts.oncs(onc) ? 0 : INVALID_FIELD, `${name} of ${blocks} blocks`, 'io');
}

/** A block that was deallocated reads as DLFEAT says, or (deallocation is advice) as it was. */
function checkDeallocated(peer: Peer, now: Buffer, before: Buffer): void {
  const fill = peer.facts.dlfeat & 7;
  const all = (value: number): boolean => now.every((byte) => byte === value);
  if (now.equals(before)) peer.note('blocks were not deallocated');
  else if (fill === 1) check.that(all(0), 'deallocated blocks do not read as zeroes, as DLFEAT says');
  else if (fill === 2) check.that(all(0xff), 'deallocated blocks do not read as FFh, as DLFEAT says');
  else check.that(all(0) || all(0xff), 'deallocated blocks read neither as zeroes nor as FFh');
}

export const ioCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'NVM Command Set 1.2 section 3.3', tags: ['nvme', 'io'] },
  [
    [
      40,
      'Read past the end -> LBA Out of Range, no data',
      async (peer) => {
        const { io: host } = await peer.association();
        for (const [block, blocks] of [
          [peer.facts.blockCount, 1],
          [peer.facts.blockCount - 1n, 2],
        ] as const) {
          const read = await io(peer, host, { opcode: 2, ...slba(block), cdw12: blocks - 1 }, blocks * host.blockBytes);
          checkStatus(read, LBA_OUT_OF_RANGE, `Read of block ${block}, ${blocks} blocks`, 'io');
          check.equal(read.data.length, 0, 'data sent');
        }
      },
    ],
    [
      41,
      'Read with NLB over MDTS -> Invalid Field',
      async (peer) => {
        const { mdtsBytes, blockBytes, blockCount } = peer.facts;
        applies(mdtsBytes !== undefined, 'no limit of transfers (MDTS 0)');
        const blocks = Math.floor(mdtsBytes! / blockBytes) + 1;
        applies(blocks <= 65536 && BigInt(blocks) <= blockCount, 'a command cannot ask for more than MDTS');
        const { io: host } = await peer.association();
        const read = await peer.within(host.read(0, blocks), 'Read');
        checkStatus(read, INVALID_FIELD, `Read of ${blocks} blocks (MDTS is ${blocks - 1})`, 'io');
        check.equal(read.data.length, 0, 'data sent');
      },
      { requirement: 'Base 2.1 section 5.1.13.2.1' },
    ],
    [
      42,
      'Write with an SGL too short -> Data SGL Length Invalid, nothing written',
      async (peer) => {
        const { io: host } = await peer.association();
        const old = await writePattern(peer, host, 0, 2, 42);
        const short = await io(peer, host, { opcode: 1, cdw12: 1 }, pattern(host.blockBytes, 43));
        checkStatus(short, SGL_LENGTH_INVALID, 'Write of two blocks with an SGL of one', 'io');
        check.bytes(await readBlocks(peer, host, 0, 2), old, 'blocks afterwards');
      },
      { writes: 'namespace', requirement: 'Base 2.1 section 4.3.2' },
    ],
    [
      43,
      'I/O on an inactive NSID -> Invalid Field or Invalid Namespace, DNR',
      async (peer) => {
        const nsid = inactiveNsid(peer);
        const { io: host } = await peer.association();
        const read = await io(peer, host, { opcode: 2, nsid }, host.blockBytes);
        checkStatus(read, [INVALID_FIELD, INVALID_NAMESPACE], `Read of inactive NSID ${nsid}`, 'io');
        check.that(read.dnr, 'DNR is 0');
        check.equal(read.data.length, 0, 'data sent');
      },
      { requirement: 'Base 2.1 section 3.2.1.5' },
    ],
    [
      44,
      'Flush with NSID FFFFFFFFh -> as VWC bits 2:1 say',
      async (peer) => {
        const flush = (peer.facts.vwc >> 1) & 3;
        applies(flush !== 0, 'VWC bits 2:1 are 00b: not reported');
        const { io: host } = await peer.association();
        const completion = await io(peer, host, { opcode: 0, nsid: ALL });
        checkStatus(completion, flush === 3 ? 0 : INVALID_NAMESPACE, 'Flush with NSID FFFFFFFFh', 'io');
      },
      { requirement: 'Base 2.1 section 7.2' },
    ],
    [
      47,
      'Write Zeroes over WZSL -> Invalid Field if the limit is hard (ONCS bit 3 = 0), else success',
      async (peer) => {
        applies(hasWriteZeroes(peer), 'no Write Zeroes');
        const { io: host } = await peer.association();
        await overLimit(peer, host, 8, Onc.WriteZeroes, 1, 'Write Zeroes');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.8' },
    ],
    [
      48,
      'Deallocate, then read -> DLFEAT value; neighbours stay',
      async (peer) => {
        applies(hasDsm(peer), 'no Dataset Management (ONCS bit 2)');
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 32, 48);
        checkStatus(await deallocate(peer, host, [[8, 8]]), 0, 'Deallocate', 'io');
        const now = await readBlocks(peer, host, 0, 32);
        const size = host.blockBytes;
        check.bytes(now.subarray(0, 8 * size), data.subarray(0, 8 * size), 'blocks before the range');
        check.bytes(now.subarray(16 * size), data.subarray(16 * size), 'blocks behind the range');
        checkDeallocated(peer, now.subarray(8 * size, 16 * size), data.subarray(8 * size, 16 * size));
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.3' },
    ],
    [
      50,
      'Write to a write protected namespace -> Namespace is Write Protected',
      async (peer) => {
        const { admin, io: host } = await peer.association();
        const attempt = async (): Promise<void> => {
          checkStatus(
            await peer.within(host.write(0, pattern(host.blockBytes, 50)), 'Write'),
            WRITE_PROTECTED,
            'Write',
            'io',
          );
          checkStatus(await peer.within(host.read(0, 1), 'Read'), 0, 'Read', 'io');
        };
        if ((peer.facts.namespace.readUInt8(99) & 1) !== 0) {
          await attempt();
          return;
        }
        applies((peer.facts.raw.controller.readUInt8(531) & 1) !== 0, 'no namespace write protection (NWPC bit 0)');
        const protect = (state: number): Promise<Completion> =>
          peer.within(admin.setFeature(0x84, state, { nsid: host.nsid }), 'Set Features 84h');
        checkStatus(await protect(1), 0, 'Set Features 84h, write protect');
        try {
          await attempt();
        } finally {
          checkStatus(await protect(0), 0, 'Set Features 84h, no write protect');
        }
        checkStatus(
          await peer.within(host.write(0, pattern(host.blockBytes, 51)), 'Write'),
          0,
          'Write afterwards',
          'io',
        );
      },
      { writes: 'namespace', requirement: 'Base 2.1 section 8.1.16', tags: ['write-protect'] },
    ],
    [
      51,
      'Write Uncorrectable, then read -> Unrecovered Read Error; a rewrite clears it',
      async (peer) => {
        applies(hasWriteUncorrectable(peer), 'no Write Uncorrectable (ONCS bit 1)');
        const { io: host } = await peer.association();
        await writePattern(peer, host, 0, 4, 51);
        checkStatus(await io(peer, host, { opcode: 4, cdw10: 1 }), 0, 'Write Uncorrectable', 'io');
        try {
          const read = await peer.within(host.read(0, 4), 'Read');
          checkStatus(read, UNRECOVERED_READ, 'Read of a block written uncorrectable', 'io');
          checkStatus(await peer.within(host.read(0, 1), 'Read'), 0, 'Read of its neighbour', 'io');
        } finally {
          await writePattern(peer, host, 1, 1, 52);
        }
        check.bytes(await readBlocks(peer, host, 1, 1), pattern(host.blockBytes, 52), 'the block rewritten');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.7' },
    ],
    [
      52,
      'Verify of what cannot be read -> an error without data transfer; of what can -> success',
      async (peer) => {
        applies(hasVerify(peer), 'no Verify (ONCS bit 7)');
        const { io: host } = await peer.association();
        checkStatus(await io(peer, host, { opcode: 0x0c, cdw12: 3 }), 0, 'Verify', 'io');
        const past = await io(peer, host, { opcode: 0x0c, ...slba(peer.facts.blockCount) });
        checkStatus(past, LBA_OUT_OF_RANGE, 'Verify past the end', 'io');
        check.equal(past.data.length, 0, 'data sent');
        if (!hasWriteUncorrectable(peer)) return;
        await writePattern(peer, host, 0, 4, 51);
        checkStatus(await io(peer, host, { opcode: 4, cdw10: 1 }), 0, 'Write Uncorrectable', 'io');
        try {
          const bad = await io(peer, host, { opcode: 0x0c, cdw12: 3 });
          checkStatus(bad, UNRECOVERED_READ, 'Verify of a block written uncorrectable', 'io');
        } finally {
          await writePattern(peer, host, 1, 1, 52);
        }
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.5' },
    ],
    [
      63,
      'unsupported opcode, and an Admin opcode, on an I/O queue -> Invalid Opcode',
      async (peer) => {
        const { io: host } = await peer.association();
        const { effects } = peer.facts.raw;
        const unsupported = [0x7e, 0x1b, 0x7c].find(
          (opcode) => ((effects?.readUInt32LE(1024 + opcode * 4) ?? 0) & 1) === 0,
        );
        if (unsupported === undefined) throw new Inconclusive('every opcode that was thought of is supported');
        for (const opcode of [unsupported, 0x06]) {
          const what = `opcode ${opcode.toString(16).padStart(2, '0')}h on an I/O queue`;
          checkStatus(await io(peer, host, { opcode }), INVALID_OPCODE, what, 'io');
        }
      },
      { requirement: 'Base 2.1 section 4.2.3.1' },
    ],
    [
      75,
      'Read with SLBA 2^64-1 -> LBA Out of Range, no wrap',
      async (peer) => {
        const { io: host } = await peer.association();
        for (const blocks of [1, 2]) {
          const read = await io(
            peer,
            host,
            { opcode: 2, cdw10: ALL, cdw11: ALL, cdw12: blocks - 1 },
            blocks * host.blockBytes,
          );
          checkStatus(read, LBA_OUT_OF_RANGE, `Read of ${blocks} blocks from 2^64-1`, 'io');
          check.equal(read.data.length, 0, 'data sent');
        }
      },
    ],
    [
      79,
      'Verify with PRACT -> Invalid Field; over VSL where the limit is hard -> Invalid Field',
      async (peer) => {
        applies(hasVerify(peer), 'no Verify (ONCS bit 7)');
        const { io: host } = await peer.association();
        checkStatus(await io(peer, host, { opcode: 0x0c, cdw12: PRACT }), INVALID_FIELD, 'Verify with PRACT', 'io');
        if (peer.facts.nvmLimit(0) !== 0) await overLimit(peer, host, 0x0c, Onc.Verify, 0, 'Verify');
      },
      { requirement: 'NVM Command Set 1.2 section 3.3.5' },
    ],
    [
      80,
      'Write Uncorrectable over WUSL where the limit is hard -> Invalid Field',
      async (peer) => {
        applies(hasWriteUncorrectable(peer), 'no Write Uncorrectable (ONCS bit 1)');
        applies(!peer.facts.oncs(Onc.WriteUncorrectable), 'WUSL is no hard limit (ONCS bit 1 is set)');
        const { io: host } = await peer.association();
        await overLimit(peer, host, 4, Onc.WriteUncorrectable, 2, 'Write Uncorrectable');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.7' },
    ],
    [
      81,
      'Write Zeroes with NSZ and without DEAC -> Invalid Field where NSZ is supported, else the range alone is cleared',
      async (peer) => {
        applies(hasWriteZeroes(peer), 'no Write Zeroes');
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 4, 81);
        const completion = await io(peer, host, { opcode: 8, cdw10: 1, cdw12: NSZ });
        if (peer.facts.oncs(Onc.NamespaceZeroes)) {
          checkStatus(completion, INVALID_FIELD, 'Write Zeroes with NSZ, without DEAC', 'io');
        } else {
          checkStatus(completion, 0, 'Write Zeroes with NSZ, which is not supported', 'io');
          check.equal(completion.result0 & 1, 0, 'DW0 bit 0');
          data.fill(0, host.blockBytes, 2 * host.blockBytes);
        }
        check.bytes(await readBlocks(peer, host, 0, 4), data, 'blocks afterwards');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.8' },
    ],
    [
      82,
      'DSM over DMRL -> Command Size Limit Exceeded if the limit is hard (ONCS bit 2 = 0), else success',
      async (peer) => {
        applies(hasDsm(peer), 'no Dataset Management');
        const dmrl = peer.facts.nvmLimit(3);
        applies(dmrl !== 0 && dmrl < 255, 'no limit of ranges below 256 (DMRL)');
        const { io: host } = await peer.association();
        const list = Array.from({ length: dmrl + 1 }, (_, i) => [i % 8, 1] as const);
        const hard = !peer.facts.oncs(Onc.DatasetManagement);
        checkStatus(await deallocate(peer, host, list), hard ? SIZE_LIMIT : 0, `DSM with ${dmrl + 1} ranges`, 'io');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.3' },
    ],
    [
      83,
      'DSM that does not deallocate -> success, data unchanged',
      async (peer) => {
        applies(hasDsm(peer), 'no Dataset Management (ONCS bit 2)');
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 8, 83);
        const hints = await io(peer, host, { opcode: 9, cdw10: 0, cdw11: 3 }, ranges([[0, 8]]));
        checkStatus(hints, 0, 'DSM with IDR and IDW', 'io');
        check.bytes(await readBlocks(peer, host, 0, 8), data, 'blocks afterwards');
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.3' },
    ],
    [
      84,
      'DULBE on, read of a deallocated block -> Deallocated or Unwritten Logical Block; off -> fill',
      async (peer) => {
        applies((peer.facts.namespace.readUInt8(24) & 4) !== 0, 'no error for deallocated blocks (NSFEAT bit 2)');
        applies(hasDsm(peer), 'no Dataset Management (ONCS bit 2)');
        const { admin, io: host } = await peer.association();
        const recovery = (value: number): Promise<Completion> =>
          peer.within(admin.setFeature(0x05, value, { nsid: host.nsid }), 'Set Features 05h');
        const data = await writePattern(peer, host, 0, 8, 84);
        checkStatus(await deallocate(peer, host, [[0, 8]]), 0, 'Deallocate', 'io');
        checkStatus(await recovery(1 << 16), 0, 'Set Features 05h with DULBE');
        try {
          checkStatus(await peer.within(host.read(0, 8), 'Read'), DEALLOCATED_BLOCK, 'Read with DULBE', 'io');
        } finally {
          checkStatus(await recovery(0), 0, 'Set Features 05h without DULBE');
        }
        checkDeallocated(peer, await readBlocks(peer, host, 0, 8), data);
      },
      { writes: 'namespace', requirement: 'NVM Command Set 1.2 section 3.3.3.2.1' },
    ],
    [
      99,
      'Flush with NSID FFFFFFFFh and VWC bits 2:1 = 10b -> Invalid Namespace or Format',
      async (peer) => {
        applies(((peer.facts.vwc >> 1) & 3) === 2, 'VWC bits 2:1 are not 10b');
        const { io: host } = await peer.association();
        checkStatus(
          await io(peer, host, { opcode: 0, nsid: ALL }),
          INVALID_NAMESPACE,
          'Flush with NSID FFFFFFFFh',
          'io',
        );
      },
      { requirement: 'Base 2.1 section 7.2' },
    ],
  ],
);
