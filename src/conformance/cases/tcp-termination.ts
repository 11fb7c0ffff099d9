/** Termination and limits: lines 101 to 112 of the NVMe/TCP checklist. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, Inconclusive, NotApplicable } from '../check.ts';
import type { Peer } from '../peer.ts';
import { checkTermReqData, RawHost } from '../raw-host.ts';
import { icReqPdu, pattern, sqeBytes } from '../raw-pdu.ts';
import { readBlocks, writePattern } from './tcp-setup.ts';

const COMMAND_ID_CONFLICT = 0x03;
const TERM_LIMIT_MS = 30_000;

function termReq(plen: number): Buffer {
  const bytes = Buffer.alloc(Math.min(Math.max(plen, 24), 200));
  bytes.set([0x02, 0, 24, 0]);
  bytes.writeUInt32LE(plen, 4);
  bytes.writeUInt16LE(2, 8);
  return bytes;
}

/** An H2CTermReq, upon which the target closes and says nothing. */
async function closedBy(peer: Peer, plen: number): Promise<void> {
  const { io } = await peer.association();
  await io.send(termReq(plen));
  await peer.expectEnd(io, `H2CTermReq of ${plen} bytes`, TERM_LIMIT_MS + peer.options.answerMs);
  check.equal(io.unread, 0, 'PDUs sent after H2CTermReq');
}

/** Reads the C2HTermReq that answers an unassigned PDU type. */
async function terminated(peer: Peer, host: RawHost, bytes: Buffer): Promise<void> {
  try {
    const received = await peer.within(host.next(), 'C2HTermReq');
    check.equal(received.name, 'C2HTermReq', 'answer to an unassigned PDU type');
    checkTermReqData(received, bytes);
  } catch (error) {
    if (!host.ended || error instanceof CheckFailure) throw error;
    throw new CheckFailure('unassigned PDU type: closed without C2HTermReq');
  }
}

export const tcpTerminationCases: ConformanceCase[] = casesOf(
  'tcp',
  { requirement: 'TCP 1.0 section 3.5', tags: ['tcp', 'termination'] },
  [
    [101, 'H2CTermReq of 24 bytes -> closed, no TermReq back', (peer) => closedBy(peer, 24), { timeoutMs: 60_000 }],
    [102, 'H2CTermReq with PLEN 153 -> closed', (peer) => closedBy(peer, 153), { timeoutMs: 60_000 }],
    [103, 'H2CTermReq with PLEN 23 -> closed', (peer) => closedBy(peer, 23), { timeoutMs: 60_000 }],
    [
      104,
      'after C2HTermReq further input is ignored, and the connection ends within 30 s though the host stays',
      async (peer) => {
        const { io } = await peer.association();
        const old = await writePattern(peer, io, 0, 1, 21);
        const bad = io.capsule(sqeBytes({ opcode: 0, nsid: io.nsid }), undefined, { type: 0x08 });
        await io.send(bad);
        await terminated(peer, io, bad);
        const sgl = { id: 1, length: io.blockBytes };
        await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: io.nsid, cid: 9, sgl }), pattern(io.blockBytes, 22)));
        for (let ms = 0; ms <= TERM_LIMIT_MS && !io.ended; ms += 1000) await peer.elapse(1000);
        await peer.expectEnd(io, '30 s after C2HTermReq');
        const { io: again } = await peer.association();
        check.bytes(await readBlocks(peer, again, 0, 1), old, 'block after a write behind C2HTermReq');
      },
      { writes: 'namespace', slow: true, timeoutMs: 60_000 },
    ],
    [
      105,
      'C2HTermReq holds exactly the offending header, and PLEN fits',
      async (peer) => {
        const { io } = await peer.association();
        const sqe = sqeBytes({ opcode: 2, nsid: io.nsid, cid: 1, sgl: { id: 0x5a, length: io.blockBytes } });
        const bad = io.capsule(sqe, undefined, { type: 0x08 });
        await io.send(bad, bad);
        await terminated(peer, io, bad.subarray(0, 72));
      },
    ],
    [
      107,
      'more commands outstanding than the queue holds -> CSTS.CFS and close, or all served',
      async (peer) => {
        const { io } = await peer.association();
        const { admin } = await peer.association();
        const small = await peer.io(admin, { qid: 2, sqsize: 1 });
        const count = 64;
        const bytes: Buffer[] = [];
        const ends: Promise<unknown>[] = [];
        for (let cid = 0; cid < count; cid++) {
          const blocks = 1;
          ends.push(small.completion(cid).catch(() => undefined));
          const sgl = { id: 0x5a, length: small.blockBytes * blocks };
          bytes.push(small.capsule(sqeBytes({ opcode: 2, nsid: small.nsid, cid, sgl })));
        }
        await small.send(...bytes);
        await peer.within(Promise.all(ends), '64 commands on a queue of 2');
        peer.note(small.ended ? 'the connection was closed' : 'all commands were served');
        // whatever it did to this one, others are served
        checkStatus(
          await peer.within(io.command({ opcode: 0, nsid: io.nsid }), 'Flush'),
          0,
          'Flush of another host',
          'io',
        );
      },
      { requirement: 'Base 2.1 section 3.3.3' },
    ],
    [
      108,
      'two commands with one CID -> Command ID Conflict if detected, no crash',
      async (peer) => {
        const { io } = await peer.association();
        const first = io.completion(5, { manual: true });
        // more than a capsule holds
        const blocks = Math.ceil((peer.facts.inCapsuleBytes + 1) / io.blockBytes);
        const length = blocks * io.blockBytes;
        const write = { opcode: 1, nsid: io.nsid, cid: 5, cdw12: blocks - 1, sgl: { id: 0x5a, length } };
        await io.send(io.capsule(sqeBytes(write)));
        const r2t = await peer.within(io.next(), 'R2T');
        check.equal(r2t.name, 'R2T', 'PDU');
        void first;
        const second = io.command({ opcode: 0, nsid: io.nsid, cid: 5 });
        const done = await peer.within(second, 'second command with the CID').catch((error: unknown) => {
          if (!io.ended) throw error;
          return undefined;
        });
        if (done === undefined) peer.note('the connection was closed');
        else {
          checkStatus(done, [0, COMMAND_ID_CONFLICT], 'second command with the CID', 'io');
          if (done.code === 0) peer.note('not detected');
        }
        await peer.admin();
      },
      { requirement: 'Base 2.1 section 4.2.3', writes: 'namespace' },
    ],
    [
      109,
      'the admin connection is lost -> every I/O connection of the controller is closed',
      async (peer) => {
        const admin = await peer.admin();
        const queues = [await peer.io(admin, { qid: 1 }), await peer.io(admin, { qid: 2 })];
        admin.socket.end();
        for (const queue of queues) await peer.expectEnd(queue, 'admin connection lost');
      },
      { requirement: 'Base 2.1 section 3.3.2.4' },
    ],
    [
      110,
      'an I/O connection is lost, without individual deletion -> the association ends',
      async (peer) => {
        const { admin, io } = await peer.association();
        const individual = (peer.facts.raw.controller.readUInt16LE(1804) & 1) !== 0;
        if (individual) throw new NotApplicable('the target deletes I/O queues one by one (OFCS bit 0)');
        io.destroy();
        const ended = await peer.poll(async () => {
          if (admin.ended) return true;
          const csts = await admin.csts().catch(() => 2);
          return (csts & 2) !== 0;
        }, 3000);
        if (!ended) throw new CheckFailure('an I/O connection was lost: the association goes on');
      },
      { requirement: 'Base 2.1 section 3.3.2.4' },
    ],
    [
      111,
      'a host that does not read -> keep alive expires, resources are freed, others are served',
      async (peer) => {
        const kas = Math.max(1, peer.facts.kas) * 100;
        const katoMs = Math.max(1000, kas);
        const admin = await peer.admin({ katoMs });
        const slow = await peer.io(admin);
        slow.socket.pause();
        const blocks = Math.max(1, Math.floor(Math.min(peer.facts.mdtsBytes ?? 1 << 17, 1 << 17) / slow.blockBytes));
        for (let cid = 0; cid < 64; cid++) {
          slow.completion(cid).catch(() => {});
          const sgl = { id: 0x5a, length: blocks * slow.blockBytes };
          await slow.send(slow.capsule(sqeBytes({ opcode: 2, nsid: slow.nsid, cid, cdw12: blocks - 1, sgl })));
        }
        await readBlocks(peer, (await peer.association()).io, 0, 1);
        for (let ms = 0; ms < 4 * katoMs + 10_000 && !admin.ended; ms += 500) await peer.elapse(500);
        slow.socket.resume();
        await peer.expectEnd(admin, 'keep alive expiry of a host that does not read');
      },
      { slow: true, timeoutMs: 120_000 },
    ],
    [
      112,
      '1,000 connections aborted around ICReq -> the next host is served',
      async (peer) => {
        const { address, port } = peer.options;
        for (let done = 0; done < 1000; done += 50) {
          const hosts = await peer.within(
            Promise.all(Array.from({ length: 50 }, () => RawHost.connect(port, address))),
            '50 connections',
          );
          hosts.forEach((host, i) => {
            if (i % 3 === 0) host.socket.resetAndDestroy();
            else {
              host.socket.write(i % 3 === 1 ? icReqPdu().subarray(0, 4) : icReqPdu());
              host.destroy();
            }
          });
        }
        const host = await peer.admin().catch((error: unknown) => {
          if (error instanceof Inconclusive) throw new CheckFailure(error.message);
          throw error;
        });
        check.equal((await peer.within(host.csts(), 'Property Get CSTS')) & 1, 1, 'CSTS.RDY');
      },
      { timeoutMs: 120_000 },
    ],
  ],
);
