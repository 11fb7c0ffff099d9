/** Capsules and SGLs: lines 54 to 67 of the NVMe/TCP checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, NotApplicable } from '../check.ts';
import type { Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { connectData, connectSqe, type SqeFields, sqeBytes } from '../raw-pdu.ts';
import { expectInSync, readBlocks } from './tcp-setup.ts';

const INVALID_FIELD = 0x02;
const SGL_LENGTH_INVALID = 0x0f;
const SGL_TYPE_INVALID = 0x11;
const SGL_OFFSET_INVALID = 0x16;

/** A command exactly as given: SGL and data need not fit together. */
async function run(peer: Peer, host: RawHost, fields: SqeFields, data?: Uint8Array): Promise<Completion> {
  const cid = host.nextCid();
  const done = host.completion(cid);
  await host.send(host.capsule(sqeBytes({ ...fields, cid }), data));
  return peer.within(done, 'completion');
}

/** `run`; a fatal error instead of a status is told apart. */
async function refusedBy(
  peer: Peer,
  host: RawHost,
  what: string,
  fields: SqeFields,
  data?: Uint8Array,
): Promise<Completion> {
  try {
    return await run(peer, host, fields, data);
  } catch (error) {
    if (!host.ended || error instanceof CheckFailure) throw error;
    throw new CheckFailure(`${what}: the connection was closed, needed a status for the command`);
  }
}

const read = (io: RawHost, sgl: { id: number; length: number; address?: number }, flags = 0x40): SqeFields => ({
  opcode: 2,
  flags,
  nsid: io.nsid,
  sgl,
});

export const tcpCapsuleCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.3.1.1', tags: ['tcp', 'capsules'] },
  [
    [
      54,
      '8192 bytes in the capsule on the admin queue -> accepted',
      async (peer) => {
        const { facts } = peer;
        if (!facts.oncs(6)) throw new NotApplicable('no feature with data is offered (ONCS bit 6, Timestamp)');
        const admin = await peer.admin();
        const data = Buffer.alloc(8192);
        data.writeUIntLE(1_700_000_000_000, 0, 6);
        const fields = { opcode: 9, cdw10: 0x0e, sgl: { id: 1, length: 8192 } };
        checkStatus(await run(peer, admin, fields, data), 0, 'Set Features 0Eh with 8192 in-capsule bytes');
      },
      { requirement: 'TCP 1.0 section 3.6.2.2' },
    ],
    [
      55,
      'Connect with its data by R2T -> succeeds',
      async (peer) => {
        const host = await peer.initialized();
        const completion = await peer.connectQueue(host, { by: 'r2t' });
        checkStatus(completion, 0, 'Connect by R2T', 'fabrics');
        const asked = completion.r2ts.map((r2t) => [r2t.offset, r2t.length]);
        check.equal(asked, [[0, 1024]], 'R2Ts');
      },
    ],
    [
      56,
      'in-capsule write of IOCCSZ * 16 - 64 bytes -> accepted; one dword more -> error, in sync',
      async (peer) => {
        const { admin, io } = await peer.association();
        check.that(admin.cntlid >= 0, 'CNTLID');
        const blocks = Math.floor(peer.facts.inCapsuleBytes / io.blockBytes);
        if (blocks === 0) throw new NotApplicable('no block fits a capsule (IOCCSZ)');
        const data = Buffer.alloc(blocks * io.blockBytes, 0x33);
        checkStatus(await peer.within(io.write(0, data), 'Write'), 0, 'Write of the whole capsule', 'io');
        const length = peer.facts.inCapsuleBytes + 4;
        const fields = { opcode: 1, nsid: io.nsid, cdw12: blocks - 1, sgl: { id: 1, length } };
        const over = await refusedBy(peer, io, 'one dword more than the capsule', fields, Buffer.alloc(length, 0xee));
        checkStatus(
          over,
          [SGL_LENGTH_INVALID, SGL_OFFSET_INVALID, INVALID_FIELD],
          'one dword more than the capsule',
          'io',
        );
        await expectInSync(peer, io);
        check.bytes(await readBlocks(peer, io, 0, blocks), data, 'blocks after the refused write');
      },
      { writes: 'namespace' },
    ],
    [
      57,
      'SGLID 00h with a length -> SGL Descriptor Type Invalid',
      async (peer) => {
        const { io } = await peer.association();
        const completion = await refusedBy(peer, io, 'SGLID 00h', read(io, { id: 0, length: io.blockBytes }));
        checkStatus(completion, SGL_TYPE_INVALID, 'SGLID 00h', 'io');
        check.equal(completion.data.length, 0, 'data sent');
        await expectInSync(peer, io);
      },
    ],
    [
      58,
      'keyed and segment descriptors (40h, 20h, 30h) -> SGL Descriptor Type Invalid',
      async (peer) => {
        for (const id of [0x40, 0x20, 0x30]) {
          const { io } = await peer.association();
          const what = `SGLID ${id.toString(16)}h`;
          const completion = await refusedBy(peer, io, what, read(io, { id, length: io.blockBytes }));
          checkStatus(completion, SGL_TYPE_INVALID, what, 'io');
          check.equal(completion.data.length, 0, 'data sent');
          await expectInSync(peer, io);
        }
      },
    ],
    [
      59,
      'in-capsule SGL with address 64 -> SGL Offset Invalid, or FES 6, FEI 32',
      async (peer) => {
        const { io } = await peer.association();
        const length = io.blockBytes;
        if (peer.facts.inCapsuleBytes < length) throw new NotApplicable('no block fits a capsule (IOCCSZ)');
        const cid = io.nextCid();
        const done = io.completion(cid);
        const sgl = { id: 1, length, address: 64 };
        await io.send(io.capsule(sqeBytes({ opcode: 1, cid, nsid: io.nsid, sgl }), Buffer.alloc(length)));
        const settled = await peer
          .within(Promise.race([done, io.untilEnded()]), 'address 64')
          .catch((error: unknown) => {
            if (!io.ended) throw error;
            return undefined;
          });
        if (settled === undefined) {
          await peer.expectFatal(io, [[6, 32]], 'address 64');
          return;
        }
        checkStatus(settled, SGL_OFFSET_INVALID, 'address 64', 'io');
        await expectInSync(peer, io);
      },
      { writes: 'namespace' },
    ],
    [
      60,
      'SGLID 01h on a Read -> Invalid Field or SGL Descriptor Type Invalid, no data',
      async (peer) => {
        const { io } = await peer.association();
        const what = 'SGLID 01h on a Read';
        const completion = await refusedBy(
          peer,
          io,
          what,
          read(io, { id: 1, length: io.blockBytes }),
          Buffer.alloc(io.blockBytes),
        );
        checkStatus(completion, [INVALID_FIELD, SGL_TYPE_INVALID], what, 'io');
        check.equal(completion.data.length, 0, 'data sent');
        await expectInSync(peer, io);
      },
    ],
    [
      61,
      'SGL length 512 with 1024 bytes in the capsule -> FES 1, FEI 4',
      async (peer) => {
        const { io } = await peer.association();
        const length = io.blockBytes;
        const sqe = sqeBytes({ opcode: 1, cid: 1, nsid: io.nsid, sgl: { id: 1, length } });
        await io.send(io.capsule(sqe, Buffer.alloc(length * 2)));
        await peer.expectFatal(io, [[1, 4]], 'twice the data that the SGL names');
      },
      { writes: 'namespace' },
    ],
    [
      62,
      'SGL length 5Ah shorter than NLB -> Data SGL Length Invalid',
      async (peer) => {
        const { io } = await peer.association();
        const short = { ...read(io, { id: 0x5a, length: io.blockBytes }), cdw12: 7 };
        const completion = await refusedBy(peer, io, 'SGL of one block for eight', short);
        checkStatus(completion, SGL_LENGTH_INVALID, 'SGL of one block for eight', 'io');
        check.equal(completion.data.length, 0, 'data sent');
        await expectInSync(peer, io);
      },
    ],
    [
      63,
      'SGL length 8192 on Identify -> 4096 bytes, or an error',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await run(peer, admin, { opcode: 6, cdw10: 1, sgl: { id: 0x5a, length: 8192 } });
        if (completion.status === 0)
          check.that(
            completion.data.length <= 8192 && completion.data.length >= 4096,
            `${completion.data.length} bytes of data`,
          );
        else checkStatus(completion, [SGL_LENGTH_INVALID, INVALID_FIELD], 'Identify with an SGL of 8192 bytes');
      },
    ],
    [
      64,
      'command without data, SGLID 5Ah and 01h of length 0 -> accepted',
      async (peer) => {
        // Keep Alive is an error where KATO is 0
        const admin = await peer.admin({ katoMs: 120_000 });
        const io = await peer.io(admin);
        for (const id of [0x5a, 0x01]) {
          const sgl = { id, length: 0 };
          checkStatus(
            await run(peer, io, { opcode: 0, nsid: io.nsid, sgl }),
            0,
            `Flush with SGLID ${id.toString(16)}h`,
            'io',
          );
          checkStatus(await run(peer, admin, { opcode: 0x18, sgl }), 0, `Keep Alive with SGLID ${id.toString(16)}h`);
        }
      },
    ],
    [
      65,
      'PSDT 00b on a Read -> Invalid Field',
      async (peer) => {
        const { io } = await peer.association();
        const completion = await refusedBy(peer, io, 'PSDT 00b', read(io, { id: 0x5a, length: io.blockBytes }, 0));
        checkStatus(completion, INVALID_FIELD, 'PSDT 00b', 'io');
        check.equal(completion.data.length, 0, 'data sent');
      },
      { requirement: 'Base 2.1 section 4.1' },
    ],
    [
      66,
      'PSDT 10b on Connect -> accepted',
      async (peer) => {
        const host = await peer.initialized();
        const sqe = connectSqe({}, 3, 'capsule');
        sqe[1] = 0x80;
        const done = host.completion(3);
        const [identity] = peer.options.hosts;
        await host.send(host.capsule(sqe, connectData({ subnqn: peer.options.subnqn, ...identity })));
        checkStatus(await peer.within(done, 'Connect'), 0, 'Connect with PSDT 10b', 'fabrics');
      },
      { requirement: 'Base 2.1 section 6' },
    ],
    [
      67,
      'bytes after the data of a capsule (PLEN too large) -> FES 1, FEI 4',
      async (peer) => {
        const { io } = await peer.association();
        const sqe = sqeBytes({ opcode: 1, cid: 1, nsid: io.nsid, sgl: { id: 1, length: io.blockBytes } });
        await io.send(io.capsule(sqe, Buffer.alloc(io.blockBytes), { trailing: Buffer.alloc(16, 0xcc) }));
        await peer.expectFatal(io, [[1, 4]], '16 bytes behind the data');
      },
      { writes: 'namespace' },
    ],
  ],
);
