/** Digests: lines 41 to 53 of the NVMe/TCP checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, NotApplicable } from '../check.ts';
import type { Association, Peer } from '../peer.ts';
import { checkTermReqData, type RawHost } from '../raw-host.ts';
import { pattern, referenceCrc32c, sqeBytes } from '../raw-pdu.ts';
import { expectInSync, readBlocks, writePattern } from './tcp-setup.ts';

const TRANSIENT_TRANSPORT_ERROR = 0x22;

/** An association with these digests. */
async function withDigests(peer: Peer, dgst: number): Promise<Association> {
  const association = await peer.association({ icReq: { dgst } });
  const { io } = association;
  if (((dgst & 1) !== 0 && !io.headerDigest) || ((dgst & 2) !== 0 && !io.dataDigest)) {
    throw new NotApplicable(`the target declines digests (asked for ${dgst})`);
  }
  return association;
}

const flushSqe = (io: RawHost): Buffer => sqeBytes({ opcode: 0, cid: 1, nsid: io.nsid });

/** A wrong data digest fails its command, and nothing else. A close is reported as such: peers are known for it. */
async function expectTransient(
  peer: Peer,
  io: RawHost,
  done: Promise<{ code: number; status: number }>,
): Promise<void> {
  let completion: { code: number; status: number };
  try {
    completion = await peer.within(done, 'wrong DDGST');
  } catch (error) {
    if (!io.ended) throw error;
    throw new CheckFailure('wrong DDGST: the connection was closed, needed status 22h for the command alone');
  }
  checkStatus(completion, TRANSIENT_TRANSPORT_ERROR, 'wrong DDGST', 'io');
  check.equal(completion.status & 0x4000, 0, 'DNR');
}

export const tcpDigestCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.3.1', tags: ['tcp', 'digests'] },
  [
    [
      41,
      'wrong HDGST -> FES 3, FEI the value received',
      async (peer) => {
        const { io } = await withDigests(peer, 1);
        const bytes = io.capsule(flushSqe(io), undefined, { headerDigestError: 0x8000_0001 });
        await io.send(bytes);
        const received = (referenceCrc32c(bytes.subarray(0, 72)) ^ 0x8000_0001) >>> 0;
        await peer.expectFatal(io, [[3, received]], 'wrong HDGST');
      },
    ],
    [
      42,
      'header digest on, HDGSTF clear -> fatal',
      async (peer) => {
        const { io } = await withDigests(peer, 1);
        const bytes = io.capsule(flushSqe(io), undefined, { headerDigest: false });
        await io.send(bytes, bytes); // who reads a digest that is not there finds bytes
        await peer.expectFatal(
          io,
          [
            [1, 1],
            [1, 4],
          ],
          'HDGSTF clear',
        );
      },
    ],
    [
      43,
      'header digest off, HDGSTF set -> fatal',
      async (peer) => {
        const { io } = await peer.association();
        await io.send(io.capsule(flushSqe(io), undefined, { headerDigest: true }));
        await peer.expectFatal(
          io,
          [
            [1, 1],
            [1, 4],
          ],
          'HDGSTF set',
        );
      },
    ],
    [
      44,
      'wrong DDGST on an in-capsule write -> status 22h without DNR, the queue works on',
      async (peer) => {
        const { io } = await withDigests(peer, 2);
        if (peer.facts.inCapsuleBytes < io.blockBytes) throw new NotApplicable('no block fits a capsule (IOCCSZ)');
        const cid = io.nextCid();
        const done = io.completion(cid);
        const sqe = sqeBytes({ opcode: 1, cid, nsid: io.nsid, sgl: { id: 1, length: io.blockBytes } });
        await io.send(io.capsule(sqe, pattern(io.blockBytes, 2), { dataDigestError: 0x100 }));
        await expectTransient(peer, io, done);
        await expectInSync(peer, io);
      },
      { writes: 'namespace' },
    ],
    [
      45,
      'one of several H2CData with wrong DDGST -> the rest is drained, status 22h, connection alive',
      async (peer) => {
        const { io } = await withDigests(peer, 3);
        // more than a capsule holds, and four pieces of whole dwords
        const blocks = Math.ceil((peer.facts.inCapsuleBytes + 4096) / io.blockBytes);
        const bytes = blocks * io.blockBytes;
        const done = io.completion(7, { manual: true });
        const sgl = { id: 0x5a, length: bytes };
        await io.send(io.capsule(sqeBytes({ opcode: 1, cid: 7, nsid: io.nsid, cdw12: blocks - 1, sgl })));
        const r2t = await peer.within(io.next(), 'R2T');
        check.equal([r2t.name, r2t.length], ['R2T', bytes], 'R2T');
        for (let i = 0; i < 4; i++) {
          const fields = { cccid: 7, ttag: r2t.ttag, offset: (i * bytes) / 4, last: i === 3 };
          await io.send(io.h2cData(fields, pattern(bytes / 4, i), { dataDigestError: i === 1 ? 0xffff_ffff : 0 }));
        }
        await expectTransient(peer, io, done);
        await expectInSync(peer, io);
      },
      { writes: 'namespace' },
    ],
    [
      46,
      'data digest on, capsule without data: DDGSTF 0 -> accepted',
      async (peer) => {
        const { io } = await withDigests(peer, 2);
        await expectInSync(peer, io);
      },
    ],
    [
      47,
      'wrong DDGST -> the data is not stored',
      async (peer) => {
        const { io } = await withDigests(peer, 2);
        if (peer.facts.inCapsuleBytes < io.blockBytes) throw new NotApplicable('no block fits a capsule (IOCCSZ)');
        const old = await writePattern(peer, io, 0, 1, 1);
        const cid = io.nextCid();
        const done = io.completion(cid);
        const sqe = sqeBytes({ opcode: 1, cid, nsid: io.nsid, sgl: { id: 1, length: io.blockBytes } });
        await io.send(io.capsule(sqe, pattern(io.blockBytes, 2), { dataDigestError: 1 }));
        await peer.within(done, 'wrong DDGST').catch((error: unknown) => {
          if (!io.ended) throw error;
        });
        const { io: again } = await peer.association();
        check.bytes(await readBlocks(peer, again, 0, 1), old, 'block after a write with wrong DDGST');
      },
      { writes: 'namespace' },
    ],
    [
      48,
      'digests on, C2HTermReq carries none',
      async (peer) => {
        const { io } = await withDigests(peer, 3);
        const bytes = io.capsule(flushSqe(io), undefined, { type: 0x08 });
        await io.send(bytes);
        try {
          const received = await peer.within(io.next(), 'C2HTermReq');
          checkTermReqData(received, bytes.subarray(0, received.data.length));
        } catch (error) {
          if (!io.ended || error instanceof CheckFailure) throw error;
          throw new NotApplicable('the target closed without C2HTermReq');
        }
      },
    ],
    [
      52,
      'CRC32C: digests of what the target sends are right, in both directions',
      async (peer) => {
        const { admin, io } = await withDigests(peer, 3);
        // the host checks HDGST and DDGST of everything it receives
        checkStatus(await peer.within(admin.identify(1), 'Identify'), 0, 'Identify CNS 01h');
        await readBlocks(peer, io, 0, Math.max(1, Math.ceil(4096 / io.blockBytes)));
        await expectInSync(peer, io);
      },
    ],
    [
      53,
      'digest over DATA only, PAD excluded: writes and reads with HPDA 7 and digests',
      async (peer) => {
        const host = await peer.connect();
        try {
          await peer.within(host.icReq({ hpda: 7, dgst: 3 }), 'ICResp');
        } catch (error) {
          if (!host.ended) throw error;
          throw new NotApplicable('the target refuses HPDA 7');
        }
        const { io } = await peer.association({ icReq: { hpda: 7, dgst: 3 } });
        const data = await writePattern(peer, io, 0, 4, 9);
        check.bytes(await readBlocks(peer, io, 0, 4), data, 'what was written');
      },
      { writes: 'namespace' },
    ],
  ],
);
