/** Compare, fused pairs, Copy, Get LBA Status, protection information: lines 45, 46, 49, 76 to 78 and 85 to 92. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { applies, check, checkStatus, Inconclusive } from '../check.ts';
import { Oac, Onc } from '../facts.ts';
import type { Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { pattern, type SqeFields, sqeBytes } from '../raw-pdu.ts';
import { inactiveNsid } from './identify.ts';
import { io, slba } from './io.ts';
import { readBlocks, writePattern } from './tcp-setup.ts';

const INVALID_FIELD = 0x02;
const FAILED_FUSED = 0x09;
const MISSING_FUSED = 0x0a;
const INVALID_NAMESPACE = 0x0b;
const SGL_LENGTH_INVALID = 0x0f;
const ATOMIC_UNIT_EXCEEDED = 0x14;
const LBA_OUT_OF_RANGE = 0x80;
const SIZE_LIMIT = 0x183;
const INCOMPATIBLE_FORMAT = 0x185;
const OVERLAPPING_RANGE = 0x187;
const COMPARE_FAILURE = 0x285;
const CDFE_FORMAT_2 = 0x04;

interface Half {
  readonly block: number;
  readonly blocks: number;
  readonly data: Buffer;
  /** Bytes that the SGL names, if not those of the data. */
  readonly sglBytes?: number;
}

function fusedSqe(host: RawHost, opcode: number, fuse: number, cid: number, half: Half): Buffer {
  const sgl = { id: 0x5a, length: half.sglBytes ?? half.data.length };
  const fields: SqeFields = {
    opcode,
    flags: 0x40 | fuse,
    cid,
    nsid: host.nsid,
    cdw10: half.block,
    cdw12: half.blocks - 1,
    sgl,
  };
  return sqeBytes(fields);
}

/** Compare and Write as a fused pair, adjacent in one segment. */
async function fusedPair(peer: Peer, host: RawHost, compare: Half, write: Half): Promise<[Completion, Completion]> {
  const [first, second] = [host.nextCid(), host.nextCid()];
  const done = [host.completion(first, { data: compare.data }), host.completion(second, { data: write.data })] as const;
  await host.send(
    host.capsule(fusedSqe(host, 5, 1, first, compare)),
    host.capsule(fusedSqe(host, 1, 2, second, write)),
  );
  return peer.within(Promise.all(done), 'fused pair');
}

const needsFused = (peer: Peer): void => applies(peer.facts.fused, 'no fused Compare and Write (FUSES bit 0)');

export const compareCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 3.4.2', tags: ['nvme', 'io', 'compare', 'fused'], writes: 'namespace' },
  [
    [
      45,
      'Compare with other data -> Compare Failure; with the same -> success',
      async (peer) => {
        applies(peer.facts.oncs(Onc.Compare), 'no Compare (ONCS bit 0)');
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 4, 45);
        const compare = (what: Buffer): Promise<Completion> => io(peer, host, { opcode: 5, cdw12: 3 }, what);
        checkStatus(await compare(data), 0, 'Compare with the same data', 'io');
        const other = Buffer.from(data);
        other[other.length - 1]! ^= 1;
        checkStatus(await compare(other), COMPARE_FAILURE, 'Compare with one bit changed', 'io');
      },
      { requirement: 'NVM Command Set 1.2 section 3.3.1' },
    ],
    [
      46,
      'fused pair: a compare that fails -> the write gets 09h; a missing partner -> 0Ah',
      async (peer) => {
        needsFused(peer);
        const { io: host } = await peer.association();
        const size = host.blockBytes;
        const old = await writePattern(peer, host, 0, 1, 46);
        const half = (data: Buffer): Half => ({ block: 0, blocks: 1, data });
        const [compared, written] = await fusedPair(peer, host, half(pattern(size, 1)), half(pattern(size, 2)));
        checkStatus(compared, COMPARE_FAILURE, 'Compare of the pair', 'io');
        checkStatus(written, FAILED_FUSED, 'Write of the pair', 'io');
        check.bytes(await readBlocks(peer, host, 0, 1), old, 'block after the pair failed');
        const [first, second] = await fusedPair(peer, host, half(old), half(pattern(size, 3)));
        checkStatus(first, 0, 'Compare of a pair that fits', 'io');
        checkStatus(second, 0, 'Write of a pair that fits', 'io');
        check.bytes(await readBlocks(peer, host, 0, 1), pattern(size, 3), 'block after the pair');
        // a first half without the second
        const cid = host.nextCid();
        const lonely = host.completion(cid, { data: old });
        await host.send(host.capsule(fusedSqe(host, 5, 1, cid, half(old))));
        const read = await peer.within(host.read(0, 1), 'Read behind a lonely Compare');
        checkStatus(read, 0, 'Read behind a lonely Compare', 'io');
        checkStatus(await peer.within(lonely, 'a first half alone'), MISSING_FUSED, 'a first half alone', 'io');
        const last = host.nextCid();
        const alone = host.completion(last, { data: old });
        await host.send(host.capsule(fusedSqe(host, 1, 2, last, half(old))));
        checkStatus(await peer.within(alone, 'a second half alone'), MISSING_FUSED, 'a second half alone', 'io');
        check.bytes(await readBlocks(peer, host, 0, 1), pattern(size, 3), 'block after the halves');
      },
    ],
    [
      76,
      'fused pair with different ranges -> Invalid Field on both',
      async (peer) => {
        needsFused(peer);
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 2, 76);
        const size = host.blockBytes;
        const [compared, written] = await fusedPair(
          peer,
          host,
          { block: 0, blocks: 1, data: data.subarray(0, size) },
          { block: 1, blocks: 1, data: pattern(size, 77) },
        );
        checkStatus(compared, INVALID_FIELD, 'Compare of the pair', 'io');
        checkStatus(written, INVALID_FIELD, 'Write of the pair', 'io');
        check.bytes(await readBlocks(peer, host, 0, 2), data, 'blocks afterwards');
      },
    ],
    [
      77,
      'fused pair: Compare succeeds, Write fails by itself -> each its own status',
      async (peer) => {
        needsFused(peer);
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 1, 77);
        const [compared, written] = await fusedPair(
          peer,
          host,
          { block: 0, blocks: 1, data },
          { block: 0, blocks: 1, data: Buffer.alloc(0), sglBytes: 4 },
        );
        checkStatus(compared, 0, 'Compare of the pair', 'io');
        checkStatus(written, SGL_LENGTH_INVALID, 'Write of the pair, SGL too short', 'io');
      },
    ],
    [
      78,
      'fused pair larger than ACWU -> performed, or Atomic Write Unit Exceeded',
      async (peer) => {
        needsFused(peer);
        const { io: host } = await peer.association();
        const blocks = peer.facts.raw.controller.readUInt16LE(532) + 2;
        const most = Math.floor((peer.facts.mdtsBytes ?? 1 << 20) / host.blockBytes);
        applies(blocks <= most && BigInt(blocks) <= peer.facts.blockCount, 'ACWU is as much as a command can move');
        const old = await writePattern(peer, host, 0, blocks, 78);
        const fresh = pattern(old.length, 79);
        const [compared, written] = await fusedPair(
          peer,
          host,
          { block: 0, blocks, data: old },
          { block: 0, blocks, data: fresh },
        );
        const now = await readBlocks(peer, host, 0, blocks);
        if (compared.code === 0 && written.code === 0) check.bytes(now, fresh, 'blocks after the pair');
        else {
          const codes = [compared.code, written.code];
          check.that(codes.includes(ATOMIC_UNIT_EXCEEDED), `neither performed nor 14h: ${JSON.stringify(codes)}`);
          check.bytes(now, old, 'blocks after the refused pair');
        }
      },
    ],
  ],
);

interface Range {
  readonly block: bigint;
  readonly blocks: number;
  readonly snsid?: number;
}

/** Copy with descriptors of 32 bytes (formats 0 and 2). */
function copy(peer: Peer, host: RawHost, to: bigint, list: readonly Range[], format = 0): Promise<Completion> {
  const data = Buffer.alloc(list.length * 32);
  for (const [i, range] of list.entries()) {
    data.writeUInt32LE(range.snsid ?? 0, i * 32);
    data.writeBigUInt64LE(range.block, i * 32 + 8);
    data.writeUInt16LE(range.blocks - 1, i * 32 + 16);
  }
  return io(peer, host, { opcode: 0x19, ...slba(to), cdw12: (list.length - 1) | (format << 8) }, data);
}

function needsCopy(peer: Peer, format = 0): void {
  applies(peer.facts.oncs(Onc.Copy), 'no Copy (ONCS bit 8)');
  const formats = peer.facts.raw.controller.readUInt16LE(534);
  applies((formats & (1 << format)) !== 0, `no Copy descriptor format ${format} (OCFS)`);
}

async function enableFormat2(peer: Peer, admin: RawHost): Promise<void> {
  const data = Buffer.alloc(512);
  data.writeUInt16LE(CDFE_FORMAT_2, 4);
  checkStatus(
    await peer.within(admin.setFeature(0x16, 0, { data }), 'Set Features 16h'),
    0,
    'Set Features 16h with CDFE',
  );
}

const copyLimits = (peer: Peer): { mssrl: number; mcl: number; msrc: number } => ({
  mssrl: peer.facts.namespace.readUInt16LE(74),
  mcl: peer.facts.namespace.readUInt32LE(76),
  msrc: peer.facts.namespace.readUInt8(80) + 1,
});

export const copyCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'NVM Command Set 1.2 section 3.3.2', tags: ['nvme', 'io', 'copy'], writes: 'namespace' },
  [
    [
      49,
      'Copy beyond MSRC, MSSRL or MCL -> Command Size Limit Exceeded; format 2 without CDFE -> Invalid Field',
      async (peer) => {
        needsCopy(peer);
        const { io: host } = await peer.association();
        const { mssrl, mcl, msrc } = copyLimits(peer);
        check.that(mssrl > 0 && mcl > 0, `MSSRL ${mssrl} and MCL ${mcl}: not 0 with Copy`);
        const far = peer.facts.blockCount / 2n;
        let tried = 0;
        const over = async (what: string, list: Range[]): Promise<void> => {
          tried++;
          checkStatus(await copy(peer, host, far, list), SIZE_LIMIT, `Copy over ${what}`, 'io');
        };
        const one = { block: 0n, blocks: 1 };
        if (msrc < 256)
          await over(
            'MSRC',
            Array.from({ length: msrc + 1 }, () => one),
          );
        if (mssrl < 65535) await over('MSSRL', [{ block: 0n, blocks: mssrl + 1 }]);
        const full = Math.floor(mcl / mssrl);
        if (full + 1 <= Math.min(msrc, 256))
          await over(
            'MCL',
            Array.from({ length: full + 1 }, () => ({ block: 0n, blocks: mssrl })),
          );
        peer.note(`${tried} limits exceeded`);
        checkStatus(
          await copy(peer, host, far, [{ ...one, snsid: host.nsid }], 2),
          INVALID_FIELD,
          'format 2 without CDFE',
          'io',
        );
      },
    ],
    [
      85,
      'Copy format 2 that overlaps its source -> Overlapping I/O Range; format 0 -> success',
      async (peer) => {
        needsCopy(peer);
        const { admin, io: host } = await peer.association();
        await writePattern(peer, host, 0, 16, 85);
        checkStatus(await copy(peer, host, 4n, [{ block: 0n, blocks: 8 }]), 0, 'overlapping Copy, format 0', 'io');
        needsCopy(peer, 2);
        await enableFormat2(peer, admin);
        const overlap = await copy(peer, host, 4n, [{ block: 0n, blocks: 8, snsid: host.nsid }], 2);
        checkStatus(overlap, OVERLAPPING_RANGE, 'overlapping Copy, format 2', 'io');
      },
    ],
    [
      86,
      'Copy with SNSID 0 -> Invalid Namespace or Format; with an inactive SNSID -> Invalid Field',
      async (peer) => {
        needsCopy(peer, 2);
        const { admin, io: host } = await peer.association();
        await enableFormat2(peer, admin);
        const from = (snsid: number): Promise<Completion> => copy(peer, host, 8n, [{ block: 0n, blocks: 1, snsid }], 2);
        checkStatus(await from(0), INVALID_NAMESPACE, 'SNSID 0', 'io');
        checkStatus(await from(inactiveNsid(peer)), INVALID_FIELD, 'inactive SNSID', 'io');
      },
    ],
    [
      87,
      'Copy between different block sizes -> Incompatible Namespace or Format, DW0 the range',
      async (peer) => {
        needsCopy(peer, 2);
        const { admin, io: host } = await peer.association();
        let other: number | undefined;
        for (const nsid of peer.facts.raw.nsids) {
          const data = (await peer.within(admin.identify(0, { nsid }), 'Identify')).data;
          const format = data.readUInt32LE(128 + 4 * (data.readUInt8(26) & 0xf));
          if (2 ** ((format >>> 16) & 0xff) + (format & 0xffff) !== host.blockBytes) other = nsid;
        }
        applies(other !== undefined, 'all namespaces have blocks of one size');
        await enableFormat2(peer, admin);
        const mismatch = await copy(
          peer,
          host,
          16n,
          [
            { block: 0n, blocks: 1, snsid: host.nsid },
            { block: 0n, blocks: 1, snsid: other! },
          ],
          2,
        );
        checkStatus(mismatch, INCOMPATIBLE_FORMAT, 'Copy between block sizes', 'io');
        check.oneOf(mismatch.result0, [0, 1], 'DW0, the first range that was not copied');
      },
    ],
    [
      88,
      'Copy that fails in range 2 of 4 -> DW0 2, or 0 if nothing was written',
      async (peer) => {
        needsCopy(peer);
        applies(copyLimits(peer).msrc >= 4, 'a Copy takes fewer than 4 ranges (MSRC)');
        const { io: host } = await peer.association();
        const data = await writePattern(peer, host, 0, 32, 88);
        const past = peer.facts.blockCount;
        const failed = await copy(peer, host, 16n, [
          { block: 0n, blocks: 2 },
          { block: 2n, blocks: 2 },
          { block: past, blocks: 2 },
          { block: 4n, blocks: 2 },
        ]);
        checkStatus(failed, LBA_OUT_OF_RANGE, 'Copy from past the end', 'io');
        check.oneOf(failed.result0, [0, 2], 'DW0, the first range that was not copied');
        const now = await readBlocks(peer, host, 16, 4);
        const size = host.blockBytes;
        if (failed.result0 === 2) check.bytes(now, data.subarray(0, 4 * size), 'ranges 0 and 1 at the destination');
        else
          check.bytes(now, data.subarray(16 * size, 20 * size), 'destination, as DW0 0 says that nothing was written');
      },
    ],
  ],
);

const Atype = { Allocated: 0x02, Tracked: 0x10 } as const;

export const lbaStatusCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'NVM Command Set 1.2 section 4.2.1', tags: ['nvme', 'admin', 'lba-status'] },
  [
    [
      89,
      'Get LBA Status: RL 0 -> the whole rest; MNDW too small -> CMPC 1',
      async (peer) => {
        const allocated = (peer.facts.nvmLimit(18) & 1) !== 0;
        applies(allocated || peer.facts.oacs(Oac.GetLbaStatus), 'no Get LBA Status (OACS bit 9, AOCS bit 0)');
        const { admin, io: host } = await peer.association();
        await writePattern(peer, host, 0, 8, 89);
        const ask = (bytes: number): Promise<Completion> => {
          const cdw13 = (allocated ? Atype.Allocated : Atype.Tracked) << 24;
          const fields = { opcode: 0x86, nsid: host.nsid, cdw12: bytes / 4 - 1, cdw13 };
          return peer.within(admin.command(fields, { readBytes: bytes }), 'Get LBA Status');
        };
        const all = await ask(4096);
        checkStatus(all, 0, 'Get LBA Status');
        const count = all.data.readUInt32LE(0);
        let from = 0n;
        for (let i = 0; i < Math.min(count, 255); i++) {
          const block = all.data.readBigUInt64LE(8 + i * 16);
          check.that(block >= from, `descriptor ${i} starts at block ${block}, before the end of the one before`);
          from = block + BigInt(all.data.readUInt32LE(16 + i * 16));
          check.that(from <= peer.facts.blockCount, `descriptor ${i} ends behind the namespace`);
        }
        if (allocated) {
          check.that(count > 0 && all.data.readBigUInt64LE(8) === 0n, 'block 0, which was written, is not allocated');
        }
        if (count === 0) return;
        const few = await ask(8);
        checkStatus(few, 0, 'Get LBA Status of 8 bytes');
        check.equal(few.data[4], 1, 'CMPC where no descriptor fits');
      },
      { writes: 'namespace' },
    ],
  ],
);

/** Namespaces with protection information are told, not judged: this release builds none. */
const protection = async (peer: Peer): Promise<void> => {
  applies(peer.facts.protection !== 0, 'the namespace has no protection information (DPS)');
  throw new Inconclusive('this command does not build protection information yet');
};

export const protectionCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'NVM Command Set 1.2 section 5.3', tags: ['nvme', 'io', 'protection'] },
  [
    [90, 'PI type 1: EILBRT that is not SLBA with RTCHK -> Invalid Protection Information', protection],
    [91, 'PI: application tag FFFFh -> no check', protection],
    [92, 'PI guards as the specification computes them', protection],
  ],
);
