/** Reservations of two hosts: lines 53 to 61 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { applies, CheckFailure, check, checkStatus, Inconclusive, NotApplicable } from '../check.ts';
import { Onc } from '../facts.ts';
import type { Association, Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { pattern } from '../raw-pdu.ts';

const INVALID_FIELD = 0x02;
const HOST_ID_FORMAT = 0x18;
const CONFLICT = 0x83;
const PREEMPT_ABORTED = 0x1b;
const Type = { WriteExclusive: 1, ExclusiveAccess: 2, WriteExclusiveRegistrants: 3 } as const;
const KEY_A = 0xa1n;
const KEY_B = 0xb2n;
const NOTICE = 0x0080_0006;

function keys(...values: bigint[]): Buffer {
  const bytes = Buffer.alloc(values.length * 8);
  for (const [i, value] of values.entries()) bytes.writeBigUInt64LE(value, i * 8);
  return bytes;
}

/** One host's reservation commands. */
class Registrant {
  readonly admin: RawHost;
  readonly io: RawHost;
  readonly #peer: Peer;
  readonly key: bigint;

  constructor(peer: Peer, { admin, io }: Association, key: bigint) {
    this.#peer = peer;
    this.admin = admin;
    this.io = io;
    this.key = key;
  }

  #run(opcode: number, cdw10: number, data: Uint8Array): Promise<Completion> {
    const command = this.io.command({ opcode, nsid: this.io.nsid, cdw10 }, { data });
    return this.#peer.within(command, `reservation command ${opcode.toString(16)}h`);
  }
  register(): Promise<Completion> {
    return this.#run(0x0d, 0, keys(0n, this.key));
  }
  unregister(): Promise<Completion> {
    return this.#run(0x0d, 1, keys(this.key, 0n));
  }
  acquire(type: number): Promise<Completion> {
    return this.#run(0x11, type << 8, keys(this.key, 0n));
  }
  preempt(type: number, victim: bigint, abort = false): Promise<Completion> {
    return this.#run(0x11, (abort ? 2 : 1) | (type << 8), keys(this.key, victim));
  }
  release(type: number): Promise<Completion> {
    return this.#run(0x15, type << 8, keys(this.key));
  }
  /** Whatever was registered or held is gone. */
  async clearAll(): Promise<void> {
    checkStatus(await this.#run(0x0d, 2 | 8, keys(0n, this.key)), 0, 'Register, replace with IEKEY', 'io');
    checkStatus(await this.#run(0x15, 1, keys(this.key)), 0, 'Release, clear', 'io');
  }
  report(eds: 0 | 1 = 1): Promise<Completion> {
    const fields = { opcode: 0x0e, nsid: this.io.nsid, cdw10: 1023, cdw11: eds };
    return this.#peer.within(this.io.command(fields, { readBytes: 4096 }), 'Reservation Report');
  }
  write(): Promise<Completion> {
    return this.#peer.within(this.io.write(0, pattern(this.io.blockBytes, 53)), 'Write');
  }
  /** A write of one block that the target has taken; its data goes out with `send`. */
  async startWrite(): Promise<{ done: Promise<Completion>; send(): Promise<void> }> {
    const { io } = this;
    const data = pattern(io.blockBytes, 57);
    const cid = io.nextCid();
    const done = io.completion(cid, { data, by: 'r2t', manual: true });
    await io.send(io.commandBytes({ opcode: 0x01, nsid: io.nsid, cid }, { data, by: 'r2t' }));
    const { name, ttag } = await this.#peer.within(io.next(), 'R2T of the write');
    check.equal(name, 'R2T', 'PDU after a write without data');
    return { done, send: () => io.send(io.h2cData({ cccid: cid, ttag, offset: 0, last: true }, data)) };
  }
  read(): Promise<Completion> {
    return this.#peer.within(this.io.read(0, 1), 'Read');
  }
}

/** Runs a case with two hosts and a namespace without reservations, and leaves it without. */
async function withHosts(peer: Peer, body: (a: Registrant, b: Registrant) => Promise<void>): Promise<void> {
  applies(peer.facts.oncs(Onc.Reservations), 'no reservations (ONCS bit 5)');
  applies((peer.facts.rescap & 0x7e) !== 0, 'the namespace takes no reservations (RESCAP)');
  const [first, second] = peer.options.hosts;
  const a = new Registrant(peer, await peer.association(first), KEY_A);
  let association: Association;
  try {
    association = await peer.association(second);
  } catch (error) {
    if (!(error instanceof Inconclusive)) throw error;
    throw new NotApplicable(
      `a second host may not connect (${error.message}); allow ${second.hostnqn}, or name one with --second-hostnqn`,
    );
  }
  const b = new Registrant(peer, association, KEY_B);
  await a.clearAll();
  try {
    await body(a, b);
  } finally {
    await a.clearAll().catch((error: unknown) => {
      if (!(error instanceof CheckFailure) && !a.io.ended) throw error; // the verdict of the case counts
    });
  }
}

function needs(peer: Peer, type: number): void {
  applies((peer.facts.rescap & (1 << type)) !== 0, `the namespace takes no reservations of type ${type} (RESCAP)`);
}

/** RTYPE and the number of registrants: hosts, each of which has an entry for every controller that it is connected to. */
async function state(one: Registrant): Promise<[rtype: number, registrants: number]> {
  const report = await one.report();
  checkStatus(report, 0, 'Reservation Report', 'io');
  const hosts = new Set<string>();
  for (let i = 0; i < report.data.readUInt16LE(5); i++)
    hosts.add(report.data.toString('hex', 80 + i * 64, 96 + i * 64));
  return [report.data[4]!, hosts.size];
}

export const reservationCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 8.1.22', tags: ['nvme', 'io', 'reservations'], writes: 'namespace' },
  [
    [
      53,
      'Acquire by a host that is not registered -> Reservation Conflict',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          checkStatus(await b.acquire(Type.WriteExclusive), CONFLICT, 'Acquire of a non-registrant', 'io');
          check.equal(await state(a), [0, 0], 'RTYPE and registrants');
        }),
    ],
    [
      54,
      'Write Exclusive: another host writes -> Reservation Conflict, reads -> success; Exclusive Access: reads -> conflict',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await a.acquire(Type.WriteExclusive), 0, 'Acquire Write Exclusive', 'io');
          checkStatus(await b.write(), CONFLICT, 'Write of another host', 'io');
          checkStatus(await b.read(), 0, 'Read of another host', 'io');
          checkStatus(await a.write(), 0, 'Write of the holder', 'io');
          checkStatus(await a.release(Type.WriteExclusive), 0, 'Release', 'io');
          needs(peer, Type.ExclusiveAccess);
          checkStatus(await a.acquire(Type.ExclusiveAccess), 0, 'Acquire Exclusive Access', 'io');
          checkStatus(await b.read(), CONFLICT, 'Read of another host', 'io');
          checkStatus(await a.read(), 0, 'Read of the holder', 'io');
        }),
    ],
    [
      55,
      'Write Exclusive - Registrants Only: a registrant writes -> success, another host -> Reservation Conflict',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusiveRegistrants);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await a.acquire(Type.WriteExclusiveRegistrants), 0, 'Acquire', 'io');
          checkStatus(await b.write(), CONFLICT, 'Write of a non-registrant', 'io');
          checkStatus(await b.register(), 0, 'Register', 'io');
          checkStatus(await b.write(), 0, 'Write of a registrant', 'io');
        }),
    ],
    [
      56,
      'Preempt with PRKEY 0 and type 1 -> Invalid Field',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await b.register(), 0, 'Register', 'io');
          checkStatus(await b.acquire(Type.WriteExclusive), 0, 'Acquire', 'io');
          checkStatus(await a.preempt(Type.WriteExclusive, 0n), INVALID_FIELD, 'Preempt with PRKEY 0', 'io');
        }),
    ],
    [
      57,
      'Preempt and Abort -> commands of the victim end with 1Bh, it is out, gets a notice, and LID 80h says why',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await b.register(), 0, 'Register', 'io');
          checkStatus(await b.acquire(Type.WriteExclusive), 0, 'Acquire', 'io');
          const event = b.admin.command({ opcode: 0x0c });
          event.catch(() => {});
          const underWay = await b.startWrite();
          const preempting = a.preempt(Type.WriteExclusive, KEY_B, true);
          preempting.catch(() => {}); // if what follows fails first
          // behind it on the same queue: once this is answered, the target has seen it
          checkStatus(await a.read(), 0, 'Read of the host that preempts', 'io');
          await underWay.send();
          const ended = await peer.within(underWay.done, 'Write of the victim that was under way');
          checkStatus(ended, PREEMPT_ABORTED, 'Write of the victim that was under way', 'io');
          checkStatus(await preempting, 0, 'Preempt and Abort', 'io');
          checkStatus(await b.write(), CONFLICT, 'Write of the victim', 'io');
          check.equal(await state(a), [Type.WriteExclusive, 1], 'RTYPE and registrants');
          check.equal(
            (await peer.within(event, 'AER of the victim')).result0.toString(16),
            NOTICE.toString(16),
            'DW0 (hex)',
          );
          const log = await peer.within(b.admin.logPage(0x80, 64), 'Get Log Page 80h');
          checkStatus(log, 0, 'Get Log Page 80h');
          check.oneOf(log.data[8], [1, 2], 'type of the notification');
          check.equal(log.data.readUInt32LE(12), b.io.nsid, 'NSID of the notification');
        }),
      { timeoutMs: 30_000 },
    ],
    [
      58,
      'Release with the wrong RTYPE -> Invalid Field; by a registrant that is not the holder -> success, no effect',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await b.register(), 0, 'Register', 'io');
          checkStatus(await a.acquire(Type.WriteExclusive), 0, 'Acquire', 'io');
          checkStatus(await a.release(Type.ExclusiveAccess), INVALID_FIELD, 'Release with the wrong RTYPE', 'io');
          checkStatus(await b.release(Type.WriteExclusive), 0, 'Release by another registrant', 'io');
          check.equal(await state(a), [Type.WriteExclusive, 2], 'RTYPE and registrants');
        }),
    ],
    [
      59,
      'Report with EDS 0 -> Host Identifier Inconsistent Format',
      (peer) =>
        withHosts(peer, async (a) => {
          checkStatus(await a.report(0), HOST_ID_FORMAT, 'Reservation Report with EDS 0', 'io');
          checkStatus(await a.report(1), 0, 'Reservation Report with EDS 1', 'io');
        }),
    ],
    [
      60,
      'a reservation survives a reset of its holder',
      (peer) =>
        withHosts(peer, async (a, b) => {
          needs(peer, Type.WriteExclusive);
          const holder = new Registrant(peer, await peer.association(peer.options.hosts[1]), KEY_B);
          checkStatus(await holder.register(), 0, 'Register', 'io');
          checkStatus(await holder.acquire(Type.WriteExclusive), 0, 'Acquire', 'io');
          await peer.within(holder.admin.propertySet(0x14, 0), 'Property Set CC');
          holder.admin.destroy();
          holder.io.destroy();
          check.equal(await state(a), [Type.WriteExclusive, 1], 'RTYPE and registrants');
          checkStatus(await a.write(), CONFLICT, 'Write of another host', 'io');
          checkStatus(await b.write(), 0, 'Write of the holder through another controller', 'io');
        }),
      { timeoutMs: 30_000 },
    ],
    [
      61,
      'one HOSTID through two controllers -> one registration',
      (peer) =>
        withHosts(peer, async (a) => {
          needs(peer, Type.WriteExclusive);
          const again = new Registrant(peer, await peer.association(peer.options.hosts[0]), KEY_A);
          checkStatus(await a.register(), 0, 'Register', 'io');
          checkStatus(await again.acquire(Type.WriteExclusive), 0, 'Acquire through the second controller', 'io');
          checkStatus(await a.write(), 0, 'Write through the first controller', 'io');
          check.that(again.admin.cntlid !== a.admin.cntlid, 'both associations have one CNTLID');
          checkStatus(await again.release(Type.WriteExclusive), 0, 'Release', 'io');
          checkStatus(await again.unregister(), 0, 'Unregister through the second controller', 'io');
          checkStatus(await a.acquire(Type.WriteExclusive), CONFLICT, 'Acquire through the first controller', 'io');
        }),
    ],
  ],
);
