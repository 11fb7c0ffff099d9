/** PDU header rules: lines 28 to 38 of the NVMe/TCP checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { checkStatus, NotApplicable } from '../check.ts';
import type { Peer } from '../peer.ts';
import type { RawHost } from '../raw-host.ts';
import { type PduOptions, pattern, sqeBytes } from '../raw-pdu.ts';
import { blocksFor, expectInSync } from './tcp-setup.ts';

const FIELD = 1;

const readSqe = (io: RawHost): Buffer =>
  sqeBytes({ opcode: 2, cid: 1, nsid: io.nsid, sgl: { id: 0x5a, length: io.blockBytes } });
const writeSqe = (io: RawHost): Buffer =>
  sqeBytes({ opcode: 1, cid: 1, nsid: io.nsid, sgl: { id: 0x01, length: io.blockBytes } });

/** A capsule that is wrong in one place, on a queue of its own. */
async function badCapsule(
  peer: Peer,
  what: string,
  allowed: readonly (readonly [number, number])[],
  options: PduOptions,
  data = false,
): Promise<void> {
  const { io } = await peer.association();
  const bytes = data
    ? io.capsule(writeSqe(io), Buffer.alloc(io.blockBytes), options)
    : io.capsule(readSqe(io), undefined, options);
  await io.send(bytes);
  await peer.expectFatal(io, allowed, what);
}

export const tcpHeaderCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.6.2', tags: ['tcp', 'headers'] },
  [
    [
      28,
      'unassigned PDU types -> FES 1, FEI 0',
      async (peer) => {
        for (const type of [0x08, 0x0c, 0x7f, 0xff]) {
          await badCapsule(peer, `type ${type.toString(16)}h`, [[FIELD, 0]], { type });
        }
      },
    ],
    [
      29,
      'PDU types of the other direction -> FES 1, FEI 0',
      async (peer) => {
        for (const [type, hlen] of [
          [0x01, 128],
          [0x03, 24],
          [0x05, 24],
          [0x07, 24],
          [0x09, 24],
        ] as const) {
          const { io } = await peer.association();
          const bytes = Buffer.alloc(hlen);
          bytes.set([type, 0, hlen, 0, hlen]);
          await io.send(bytes);
          await peer.expectFatal(io, [[FIELD, 0]], `type ${type.toString(16)}h`);
        }
      },
    ],
    [
      30,
      'CapsuleCmd with HLEN 71, 73 -> FES 1, FEI 2',
      async (peer) => {
        for (const hlen of [71, 73]) await badCapsule(peer, `HLEN ${hlen}`, [[FIELD, 2]], { hlen });
      },
    ],
    [
      31,
      'CapsuleCmd with PLEN 0, 8, 71 -> FES 1, FEI 4',
      async (peer) => {
        for (const plen of [71, 8, 0]) await badCapsule(peer, `PLEN ${plen}`, [[FIELD, 4]], { plen });
      },
    ],
    [
      32,
      'CapsuleCmd with PLEN 2^32-1 -> fatal at once',
      (peer) =>
        badCapsule(
          peer,
          'PLEN 2^32-1',
          [
            [FIELD, 3],
            [FIELD, 4],
            [5, 0],
          ],
          { plen: 0xffff_ffff },
        ),
    ],
    [
      33,
      'H2CData with HLEN 28 -> FES 1, FEI 2',
      async (peer) => {
        const { io } = await peer.association();
        await io.send(io.h2cData({ cccid: 0, ttag: 0, offset: 0 }, Buffer.alloc(512), { hlen: 28 }));
        await peer.expectFatal(io, [[FIELD, 2]], 'HLEN 28');
      },
    ],
    [
      34,
      'in-capsule data that is not aligned to CPDA -> FES 1, FEI 3',
      async (peer) => {
        const { io } = await peer.association();
        if (io.controllerAlignBytes <= 8) throw new NotApplicable('the target asks for no alignment (CPDA 0 or 1)');
        await io.send(io.capsule(writeSqe(io), Buffer.alloc(io.blockBytes), { alignBytes: 4 }));
        await peer.expectFatal(io, [[FIELD, 3]], 'PDO 72');
      },
      { writes: 'namespace' },
    ],
    [
      35,
      'PDO inside the header, with data -> FES 1, FEI 3',
      async (peer) => {
        for (const pdo of [68, 24, 0]) await badCapsule(peer, `PDO ${pdo}`, [[FIELD, 3]], { pdo }, true);
      },
      { writes: 'namespace' },
    ],
    [
      36,
      'PDO beyond PLEN -> FES 1, FEI 3',
      async (peer) => {
        const { io } = await peer.association();
        await io.send(io.capsule(writeSqe(io), undefined, { pdo: 200, plen: 100 }));
        await peer.expectFatal(io, [[FIELD, 3]], 'PDO 200 of 100');
      },
      { writes: 'namespace' },
    ],
    [
      37,
      'garbage in PAD -> ignored, digests unaffected',
      async (peer) => {
        // a target that echoes HPDA as its CPDA shows padding in both directions
        for (const hpda of [0, 7]) {
          const probe = await peer.connect();
          const taken = await peer.within(probe.icReq({ hpda, dgst: 3 }), 'ICResp').then(
            () => true,
            (error: unknown) => {
              if (!probe.ended) throw error;
              return false; // refuses to pad
            },
          );
          if (!taken) continue;
          const { io } = await peer.association({ icReq: { hpda, dgst: 3 } });
          if (io.controllerAlignBytes <= 8) continue;
          const cid = io.nextCid();
          const data = pattern(io.blockBytes, 3);
          const done = io.completion(cid);
          const sqe = sqeBytes({ opcode: 1, cid, nsid: io.nsid, sgl: { id: 0x01, length: data.length } });
          await io.send(io.capsule(sqe, data, { pad: 0xa5 }));
          checkStatus(await peer.within(done, 'Write'), 0, 'Write with garbage in PAD', 'io');
          return;
        }
        throw new NotApplicable('the target asks for no alignment (CPDA 0 or 1): there is no PAD');
      },
      { writes: 'namespace' },
    ],
    [
      38,
      'reserved FLAGS bits -> ignored',
      async (peer) => {
        const { io } = await peer.association();
        const cid = io.nextCid();
        const done = io.completion(cid);
        const sqe = sqeBytes({ opcode: 2, cid, nsid: io.nsid, sgl: { id: 0x5a, length: io.blockBytes } });
        await io.send(io.capsule(sqe, undefined, { flags: 0xf0 }));
        checkStatus(await peer.within(done, 'Read with reserved FLAGS'), 0, 'Read with reserved FLAGS', 'io');
        await expectInSync(peer, io);
        blocksFor(peer, 1);
      },
    ],
  ],
);
