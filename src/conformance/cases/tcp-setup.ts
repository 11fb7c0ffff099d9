/** NVMe/TCP connection set-up: lines 1 to 17 of the checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, Inconclusive } from '../check.ts';
import type { Peer } from '../peer.ts';
import type { RawHost } from '../raw-host.ts';
import { connectData, connectSqe, type IcReqFields, icReqPdu, pattern, sqeBytes } from '../raw-pdu.ts';

/** Nobody waits longer for a peer that says nothing. */
const SETUP_MS_MAX = 125_000;
const Fes = { HeaderField: 1, Sequence: 2, Unsupported: 6 } as const;

async function refused(
  peer: Peer,
  what: string,
  fields: IcReqFields,
  allowed: readonly (readonly [number, number])[],
): Promise<void> {
  const host = await peer.connect();
  await host.send(icReqPdu(fields));
  await peer.expectFatal(host, allowed, what);
}

/** The connection serves a controller. */
async function worksAfter(peer: Peer, host: RawHost): Promise<void> {
  checkStatus(await peer.connectQueue(host), 0, 'Connect', 'fabrics');
  await peer.enable(host);
  checkStatus(await peer.within(host.identify(1), 'Identify'), 0, 'Identify CNS 01h');
}

export const tcpSetupCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.1', tags: ['tcp', 'setup'] },
  [
    [
      1,
      'ICReq -> ICResp of 128 bytes, PFV 0, CPDA <= 31, MAXH2CDATA >= 4096 and a multiple of 4',
      async (peer) => {
        const host = await peer.connect();
        const response = await peer.within(host.icReq(), 'ICResp');
        check.equal(response.plen, 128, 'PLEN');
        check.equal(response.header.readUInt16LE(8), 0, 'PFV');
        check.that(response.header.readUInt8(10) <= 31, `CPDA is ${response.header.readUInt8(10)}, needed <= 31`);
        check.that(host.maxH2cData >= 4096, `MAXH2CDATA is ${host.maxH2cData}, needed >= 4096`);
        check.equal(host.maxH2cData % 4, 0, 'MAXH2CDATA modulo 4');
        check.zeroes(response.header.subarray(16), 'reserved bytes of ICResp');
      },
    ],
    [
      2,
      'ICReq DGST 0 -> ICResp DGST 0',
      async (peer) => {
        const host = await peer.initialized({ dgst: 0 });
        check.equal([host.headerDigest, host.dataDigest], [false, false], 'digests enabled');
      },
    ],
    [
      3,
      'ICReq DGST 1, 2, 3 -> ICResp DGST is a subset',
      async (peer) => {
        for (const dgst of [1, 2, 3]) {
          const host = await peer.connect();
          const response = await peer.within(host.icReq({ dgst }), 'ICResp');
          const granted = response.header.readUInt8(11);
          check.equal(granted & ~dgst, 0, `digests enabled that DGST ${dgst} did not ask for`);
          if (granted !== dgst) peer.note(`DGST ${dgst} was answered by ${granted}`);
        }
      },
    ],
    [
      4,
      'ICReq with PFV 1 -> fatal, FEI 8',
      (peer) =>
        refused(peer, 'PFV 1', { pfv: 1 }, [
          [Fes.Unsupported, 8],
          [Fes.HeaderField, 8],
        ]),
    ],
    [5, 'ICReq with HLEN 64 -> FES 1, FEI 2', (peer) => refused(peer, 'HLEN 64', { hlen: 64 }, [[Fes.HeaderField, 2]])],
    [
      6,
      'ICReq with PLEN 132 -> FES 1, FEI 4',
      (peer) => refused(peer, 'PLEN 132', { plen: 132 }, [[Fes.HeaderField, 4]]),
    ],
    [
      7,
      'ICReq with HPDA 32 -> FES 1, FEI 10',
      (peer) => refused(peer, 'HPDA 32', { hpda: 32 }, [[Fes.HeaderField, 10]]),
    ],
    [
      8,
      'ICReq HPDA 31 -> C2H data at byte 128, or FES 6, FEI 10',
      async (peer) => {
        const host = await peer.connect();
        host.hostAlignBytes = 128;
        await host.send(icReqPdu({ hpda: 31 }));
        try {
          await peer.within(host.acceptIcResp(), 'ICResp');
        } catch (error) {
          if (!(error instanceof CheckFailure))
            throw new CheckFailure('HPDA 31: closed without C2HTermReq, needed FES 6 FEI 10');
          throw error;
        }
        await worksAfter(peer, host); // the host checks PDO of every C2HData
      },
    ],
    [
      9,
      'ICReq MAXR2T FFFFFFFFh -> accepted',
      async (peer) => worksAfter(peer, await peer.initialized({ maxr2t: 0xffff_ffff })),
    ],
    [
      10,
      'reserved bytes of ICReq -> ignored',
      async (peer) => {
        const host = await peer.connect();
        const request = icReqPdu();
        request.fill(0xff, 16);
        request[3] = 0xff;
        await host.send(request);
        await peer.within(host.acceptIcResp(), 'ICResp');
        await worksAfter(peer, host);
      },
    ],
    [
      11,
      'CapsuleCmd before ICReq -> FES 2',
      async (peer) => {
        const host = await peer.connect();
        await host.send(host.capsule(sqeBytes({ opcode: 6 })));
        await peer.expectFatal(host, [[Fes.Sequence, 0]], 'CapsuleCmd before ICReq');
      },
    ],
    [
      12,
      'H2CData before ICReq -> FES 2',
      async (peer) => {
        const host = await peer.connect();
        await host.send(host.h2cData({ cccid: 0, ttag: 0, offset: 0 }, Buffer.alloc(4)));
        await peer.expectFatal(host, [[Fes.Sequence, 0]], 'H2CData before ICReq');
      },
    ],
    [
      13,
      'second ICReq -> FES 2',
      async (peer) => {
        const host = await peer.initialized();
        await host.send(icReqPdu());
        await peer.expectFatal(host, [[Fes.Sequence, 0]], 'second ICReq');
        const { admin } = await peer.association();
        await admin.send(icReqPdu());
        await peer.expectFatal(admin, [[Fes.Sequence, 0]], 'second ICReq on a live admin queue');
      },
    ],
    [
      14,
      'one byte per segment, from ICReq on -> accepted',
      async (peer) => {
        const host = await peer.connect();
        host.segmentBytes = () => 1;
        await peer.within(host.icReq(), 'ICResp');
        checkStatus(await peer.connectQueue(host), 0, 'Connect', 'fabrics');
        host.segmentBytes = undefined;
        await peer.enable(host);
      },
      { timeoutMs: 60_000 },
    ],
    [
      15,
      'ICReq and Connect in one segment -> both processed',
      async (peer) => {
        // the alignment of a target is known from an earlier connection; only so is the data valid
        const { controllerAlignBytes: alignBytes } = await peer.initialized();
        const host = await peer.connect();
        const [identity] = peer.options.hosts;
        const data = connectData({ subnqn: peer.options.subnqn, ...identity });
        const done = host.completion(5);
        await host.send(icReqPdu(), host.capsule(connectSqe({}, 5, 'capsule'), data, { alignBytes }));
        await peer.within(host.acceptIcResp(), 'ICResp');
        checkStatus(await peer.within(done, 'Connect'), 0, 'Connect', 'fabrics');
      },
    ],
    [
      16,
      'a connection on which nothing is sent -> closed after the set-up time of the implementation',
      async (peer) => {
        const host = await peer.connect();
        for (let ms = 0; ms < SETUP_MS_MAX && !host.ended; ms += 1000) await peer.elapse(1000);
        if (!host.ended)
          throw new Inconclusive(`still open after ${SETUP_MS_MAX / 1000} s; the specification names no limit`);
      },
      { slow: true, timeoutMs: SETUP_MS_MAX + 30_000 },
    ],
    [
      17,
      '4 bytes of ICReq, then FIN -> closed, the next host is served',
      async (peer) => {
        const host = await peer.connect();
        await host.send(icReqPdu().subarray(0, 4));
        host.socket.end();
        await peer.expectEnd(host, '4 bytes and FIN');
        const reset = await peer.connect();
        await reset.send(icReqPdu().subarray(0, 9));
        reset.socket.resetAndDestroy();
        await peer.admin();
      },
    ],
  ],
);

/** A write that is stored, to prove that a queue still reads PDUs where they start. */
export async function expectInSync(peer: Peer, io: RawHost): Promise<void> {
  const flush = await peer.within(io.command({ opcode: 0, nsid: io.nsid }), 'Flush on the same queue');
  checkStatus(flush, 0, 'Flush on the same queue', 'io');
}

/** Blocks of the namespace under test that hold at least `bytes`. */
export function blocksFor(peer: Peer, bytes: number): number {
  return Math.max(1, Math.ceil(bytes / peer.facts.blockBytes));
}

/** Writes a pattern to the first blocks of the namespace under test. @returns what was written */
export async function writePattern(
  peer: Peer,
  io: RawHost,
  block: number,
  blocks: number,
  seed: number,
): Promise<Buffer> {
  const data = pattern(blocks * io.blockBytes, seed);
  const most = Math.max(1, Math.floor((peer.facts.mdtsBytes ?? 1 << 20) / io.blockBytes));
  for (let at = 0; at < blocks; at += most) {
    const part = data.subarray(at * io.blockBytes, Math.min(blocks, at + most) * io.blockBytes);
    const by = part.length <= peer.facts.inCapsuleBytes ? 'capsule' : 'r2t';
    checkStatus(await peer.within(io.write(block + at, part, { by }), 'Write'), 0, 'Write', 'io');
  }
  return data;
}

/** Reads blocks, in commands that MDTS allows. */
export async function readBlocks(peer: Peer, io: RawHost, block: number, blocks: number): Promise<Buffer> {
  const most = Math.max(1, Math.floor((peer.facts.mdtsBytes ?? 1 << 20) / io.blockBytes));
  const parts: Buffer[] = [];
  for (let at = 0; at < blocks; at += most) {
    const read = await peer.within(io.read(block + at, Math.min(most, blocks - at)), 'Read');
    checkStatus(read, 0, 'Read', 'io');
    parts.push(read.data);
  }
  return Buffer.concat(parts);
}
