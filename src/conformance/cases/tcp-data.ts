/** Data transfer: lines 68 to 71 and 81 to 92 of the NVMe/TCP checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, Inconclusive, NotApplicable } from '../check.ts';
import type { Peer } from '../peer.ts';
import type { RawHost, ReceivedPdu } from '../raw-host.ts';
import { type PduOptions, pattern, sqeBytes } from '../raw-pdu.ts';
import { readBlocks } from './tcp-setup.ts';

const MIB = 1 << 20;
const CID = 0x34;
const Fes = { HeaderField: 1, Sequence: 2, OutOfRange: 4, LimitExceeded: 5 } as const;

/** The largest transfer up to 1 MiB that MDTS and the namespace allow. */
function largest(peer: Peer): number {
  const bytes = Math.min(MIB, peer.facts.mdtsBytes ?? MIB, Number(peer.facts.blockCount) * peer.facts.blockBytes);
  return Math.floor(bytes / peer.facts.blockBytes);
}

/** Asks for a write of `bytes`, or what no capsule holds, from block 0 on a queue of its own; what it was asked for. */
async function solicit(peer: Peer, bytes: number): Promise<{ io: RawHost; r2t: ReceivedPdu; bytes: number }> {
  const { io } = await peer.association();
  const blocks = Math.min(largest(peer), Math.ceil(Math.max(bytes, peer.facts.inCapsuleBytes + 1) / io.blockBytes));
  const length = blocks * io.blockBytes;
  void io.completion(CID, { manual: true });
  const sgl = { id: 0x5a, length };
  await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: io.nsid, cid: CID, cdw12: blocks - 1, sgl })));
  const r2t = await peer.within(io.next(), 'R2T');
  check.equal([r2t.name, r2t.cccid, r2t.offset], ['R2T', CID, 0], 'R2T, CCCID and R2TO');
  check.that(r2t.length > 0 && r2t.length <= length && r2t.length % 4 === 0, `R2TL is ${r2t.length}`);
  return { io, r2t, bytes: length };
}

/** The cases that finish a write know one R2T for all of it. */
function wholeR2t(r2t: ReceivedPdu, bytes: number): void {
  if (r2t.length !== bytes) throw new Inconclusive(`an R2T asks for ${r2t.length} of ${bytes} bytes`);
}

/** H2CData of `data` from byte `from` on, no longer than MAXH2CDATA; the one that ends at `lastAt` has LAST_PDU. */
function pieces(io: RawHost, r2t: ReceivedPdu, data: Buffer, lastAt = -1, from = 0): Buffer[] {
  const list: Buffer[] = [];
  for (let at = from; at < data.length; at += io.maxH2cData) {
    const end = Math.min(data.length, at + io.maxH2cData);
    const fields = { cccid: CID, ttag: r2t.ttag, offset: at, last: end === lastAt };
    list.push(io.h2cData(fields, data.subarray(at, end)));
  }
  return list;
}

interface Fields {
  cccid?: number;
  ttag?: number;
  offset?: number;
  length?: number;
  last?: boolean;
}

/** H2CData that must end the connection. */
async function badData(
  peer: Peer,
  what: string,
  allowed: readonly (readonly [number, number])[],
  make: (r2t: ReceivedPdu, io: RawHost, bytes: number) => { fields: Fields; data: number; options?: PduOptions },
  bytes = 4096,
): Promise<void> {
  const asked = await solicit(peer, bytes);
  const { io, r2t } = asked;
  const { fields, data, options = {} } = make(r2t, io, asked.bytes);
  const all = { cccid: CID, ttag: r2t.ttag, offset: 0, ...fields };
  await io.send(io.h2cData(all, Buffer.alloc(data, 0xee), options));
  await peer.expectFatal(io, allowed, what);
}

export const tcpC2hCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.3.2', tags: ['tcp', 'data', 'c2h'] },
  [
    [
      68,
      'a long read -> C2HData contiguous, LAST_PDU once, all of it',
      async (peer) => {
        for (const cattr of [0, 4]) {
          const { io } = await peer.association({ cattr });
          const blocks = largest(peer);
          // the host checks that DATAO is contiguous and that nothing follows LAST_PDU
          const read = await peer.within(io.read(0, blocks), 'Read');
          checkStatus(read, 0, 'Read', 'io');
          check.equal(read.data.length, blocks * io.blockBytes, 'bytes read');
          check.equal(read.c2hData.filter((one) => one.isLast).length, 1, 'C2HData with LAST_PDU');
        }
      },
    ],
    [
      69,
      'flow control on -> never SUCCESS',
      async (peer) => {
        const { admin, io } = await peer.association({ cattr: 0 });
        for (let i = 0; i < 4; i++) {
          const read = await peer.within(io.read(0, 1), 'Read');
          check.that(
            read.c2hData.every((one) => !one.isSuccess),
            'SUCCESS on an I/O queue with flow control',
          );
        }
        const identify = await peer.within(admin.identify(1), 'Identify');
        check.that(
          identify.c2hData.every((one) => !one.isSuccess),
          'SUCCESS on an admin queue with flow control',
        );
      },
    ],
    [
      70,
      'flow control off, DW0 not 0 -> CapsuleResp, not SUCCESS',
      async (peer) => {
        const host = await peer.initialized();
        const connect = await peer.connectQueue(host, { cattr: 4 });
        checkStatus(connect, 0, 'Connect', 'fabrics');
        if (connect.sqhd !== 0xffff) throw new NotApplicable('the target does not disable SQ flow control');
        await peer.enable(host);
        const feature = await peer.within(host.getFeature(0x07), 'Get Features 07h');
        checkStatus(feature, 0, 'Get Features 07h');
        check.that(feature.sqhd !== undefined, 'SUCCESS though DW0 is not 0');
        check.that(feature.result0 !== 0, 'Number of Queues is 0');
      },
    ],
    [
      71,
      'a read that fails -> no data, CapsuleResp with the error',
      async (peer) => {
        const { io } = await peer.association({ cattr: 4 });
        const failed = await peer.within(
          io.command(
            { opcode: 2, nsid: io.nsid, cdw10: 0xffff_fff0, cdw11: 0x0fff_ffff },
            { readBytes: io.blockBytes },
          ),
          'Read past the end',
        );
        check.that(failed.code !== 0, 'a read past the end succeeded');
        check.equal(failed.c2hData.length, 0, 'C2HData of a read that failed');
      },
    ],
  ],
);

export const tcpH2cCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.3.2', tags: ['tcp', 'data', 'h2c'], writes: 'namespace' },
  [
    [
      81,
      'a long write -> R2Ts contiguous from 0, no more outstanding than MAXR2T allows',
      async (peer) => {
        const { io } = await peer.association();
        const blocks = largest(peer);
        const data = pattern(blocks * io.blockBytes, 6);
        const done = io.completion(CID, { manual: true });
        const sgl = { id: 0x5a, length: data.length };
        await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: io.nsid, cid: CID, cdw12: blocks - 1, sgl })));
        for (let sent = 0; sent < data.length; ) {
          const r2t = await peer.within(io.next(), 'R2T');
          check.equal([r2t.name, r2t.offset], ['R2T', sent], 'R2T and its R2TO');
          // another one before this is answered would break MAXR2T 0; it would come with the answer to a command
          const flush = io.command({ opcode: 0, nsid: io.nsid });
          checkStatus(await peer.within(flush, 'Flush'), 0, 'Flush', 'io');
          check.equal(io.unread, 0, 'R2Ts beside the outstanding one');
          for (const end = r2t.offset + r2t.length; sent < end; ) {
            const next = Math.min(end, sent + io.maxH2cData);
            await io.send(
              io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: sent, last: next === end }, data.subarray(sent, next)),
            );
            sent = next;
          }
        }
        checkStatus(await peer.within(done, 'Write'), 0, 'Write', 'io');
        check.bytes(await readBlocks(peer, io, 0, blocks), data, 'what was written');
      },
    ],
    [
      82,
      'H2CData with unknown TTAG -> FES 1, FEI 10',
      (peer) =>
        badData(peer, 'unknown TTAG', [[Fes.HeaderField, 10]], (r2t) => ({
          fields: { ttag: r2t.ttag ^ 0x40 },
          data: 512,
        })),
    ],
    [
      83,
      'right TTAG, wrong CCCID -> fatal',
      (peer) =>
        badData(
          peer,
          'wrong CCCID',
          [
            [Fes.HeaderField, 8],
            [Fes.Sequence, 0],
          ],
          () => ({
            fields: { cccid: CID + 1 },
            data: 512,
          }),
        ),
    ],
    [
      84,
      'DATAO skips -> FES 2',
      (peer) => badData(peer, 'DATAO 512', [[Fes.Sequence, 0]], () => ({ fields: { offset: 512 }, data: 512 })),
    ],
    [
      85,
      'DATAO overlaps what was received -> FES 2',
      (peer) =>
        badData(peer, 'overlap', [[Fes.Sequence, 0]], (r2t, io) => {
          void io.send(io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0 }, Buffer.alloc(1024)));
          return { fields: { offset: 512 }, data: 1024 };
        }),
    ],
    [
      86,
      'data past R2TO + R2TL -> FES 4',
      (peer) =>
        badData(
          peer,
          'data past the R2T',
          [[Fes.OutOfRange, 0]],
          (r2t, io) => {
            const last = r2t.length - 512;
            void io.send(...pieces(io, r2t, Buffer.alloc(last)));
            return { fields: { offset: last }, data: 516 };
          },
          512,
        ),
    ],
    [
      87,
      'DATAL over MAXH2CDATA -> FES 5',
      async (peer) => {
        const { io, r2t } = await solicit(peer, largest(peer) * peer.facts.blockBytes);
        if (r2t.length <= io.maxH2cData) throw new NotApplicable(`no R2T is longer than MAXH2CDATA (${io.maxH2cData})`);
        await io.send(io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0 }, Buffer.alloc(io.maxH2cData + 4)));
        await peer.expectFatal(io, [[Fes.LimitExceeded, 0]], 'DATAL over MAXH2CDATA');
      },
    ],
    [
      88,
      'H2CData without any R2T -> FES 1, FEI 10, or FES 2',
      async (peer) => {
        const { io } = await peer.association();
        await io.send(io.h2cData({ cccid: 3, ttag: 3, offset: 0 }, Buffer.alloc(512)));
        await peer.expectFatal(
          io,
          [
            [Fes.HeaderField, 10],
            [Fes.Sequence, 0],
          ],
          'H2CData without R2T',
        );
      },
    ],
    [
      89,
      'H2CData after LAST_PDU was satisfied -> FES 2',
      async (peer) => {
        const { io, r2t, bytes } = await solicit(peer, 512);
        const done = io.completion(CID);
        wholeR2t(r2t, bytes);
        const data = pieces(io, r2t, Buffer.alloc(bytes), bytes);
        await io.send(...data);
        checkStatus(await peer.within(done, 'Write'), 0, 'Write', 'io');
        await io.send(data.at(-1)!);
        // the tag is free again: "unknown" and "out of sequence" both say so
        await peer.expectFatal(
          io,
          [
            [Fes.Sequence, 0],
            [Fes.HeaderField, 10],
          ],
          'a second H2CData',
        );
      },
    ],
    [
      90,
      'DATAL 0 -> fatal',
      (peer) =>
        badData(
          peer,
          'DATAL 0',
          [
            [Fes.HeaderField, 16],
            [Fes.HeaderField, 4],
            [Fes.HeaderField, 3],
          ],
          () => ({ fields: { length: 0 }, data: 0 }),
        ),
    ],
    [
      91,
      'DATAL no multiple of 4 -> FES 1, FEI 16, or accepted',
      async (peer) => {
        const { io, r2t, bytes } = await solicit(peer, 512);
        const done = io.completion(CID);
        const data = pattern(bytes, 5);
        const fields = { cccid: CID, ttag: r2t.ttag };
        wholeR2t(r2t, bytes);
        await io.send(io.h2cData({ ...fields, offset: 0 }, data.subarray(0, 510)));
        await io.send(...pieces(io, r2t, data, bytes, 510));
        try {
          checkStatus(await peer.within(done, 'Write'), 0, 'Write in pieces of no whole dwords', 'io');
        } catch (error) {
          if (!io.ended || error instanceof CheckFailure) throw error;
          await peer.expectFatal(
            io,
            [
              [Fes.HeaderField, 16],
              [Fes.HeaderField, 12],
            ],
            'DATAL no multiple of 4',
          );
          return;
        }
        check.bytes(await readBlocks(peer, io, 0, bytes / io.blockBytes), data, 'what was written');
      },
    ],
    [
      92,
      'DATAL disagrees with PLEN -> FES 1, FEI 4',
      async (peer) => {
        for (const length of [508, 516]) {
          await badData(peer, `DATAL ${length} with 512 bytes`, [[Fes.HeaderField, 4]], () => ({
            fields: { length },
            data: 512,
          }));
        }
      },
    ],
  ],
);
