/**
 * Connection life-cycle fuzzer: several hosts that connect, send parts of an ICReq, connect queues in any order and with any identifiers, enable,
 * reset, shut down, work, fall silent, and leave at any point, while the operator changes the configuration under them. In the end nothing is left,
 * and who fell silent was dropped by time alone.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MemoryBackend } from '../../src/backend/memory.ts';
import {
  CC_ENABLE,
  type ConnectFields,
  connectData,
  connectSqe,
  HOST_NQN,
  icReqPdu,
  pattern,
} from '../support/raw-pdu.ts';
import { SUBSYSTEM_NQN } from '../support/test-target.ts';
import type { FuzzHost } from './support/fuzz-host.ts';
import { FuzzTarget, SLOW_NSID, STAMPED_NSID, WRITABLE_NSID } from './support/fuzz-target.ts';
import { fuzz, type Random } from './support/random.ts';

const OTHER_HOST = 'nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4333-8444-555555555555';
const HOT_NSID = 7;
const KATO_MS = 10_000;
/** Longer than every time-out of a host that says nothing: set-up, TermReq, keep alive twice, not enabled, shut down. */
const SILENCE_MS = 400_000;

interface Link {
  readonly host: FuzzHost;
  readonly hostnqn: string;
  /** What was connected, as far as this side knows. */
  qid: number | undefined;
  cntlid: number;
  katoMs: number;
}

class Crowd {
  readonly #random: Random;
  readonly #target: FuzzTarget;
  readonly #links: Link[] = [];
  readonly #cntlids: number[] = [];

  constructor(random: Random, target: FuzzTarget) {
    this.#random = random;
    this.#target = target;
  }

  #any(): Link | undefined {
    const open = this.#links.filter(({ host }) => !host.end.destroyed);
    return open.length === 0 ? undefined : this.#random.pick(open);
  }

  async act(): Promise<void> {
    const random = this.#random;
    const link = this.#any();
    const with_ = (step: (link: Link) => unknown): (() => unknown) =>
      link === undefined ? () => {} : () => step(link);
    await random.weighted<() => unknown>([
      [6, () => this.#connect()],
      [60, with_((one) => this.#nextStep(one))],
      [1, with_((one) => one.host.send(this.#icReq()))],
      [1, with_((one) => this.#connectQueue(one))],
      [2, with_((one) => this.#property(one))],
      [10, with_((one) => this.#work(one))],
      [3, with_((one) => this.#answerR2ts(one))],
      [1, with_(({ host }) => host.send(random.bytes(random.between(1, 30))))],
      [1, with_(({ host }) => host.send(termReq()))],
      [2, with_((one) => this.#leave(one))],
      [2, with_(({ host }) => host.end.pause())],
      [2, with_(({ host }) => host.end.resume())],
      [2, () => this.#target.test.clock.advance(random.pick([1, 10, 100, 1000, 3000, KATO_MS, 31_000]))],
      [1, () => this.#operate()],
      [3, () => this.#holdOrRelease()],
      [6, () => this.#turns()],
      [4, () => this.#settle()],
    ])();
  }

  async #turns(): Promise<void> {
    for (let i = this.#random.below(4); i > 0; i--) await nextTurn();
  }

  async #settle(): Promise<void> {
    await this.#target.quiet();
    this.#learn();
  }

  /** What a well-behaved host would do next. */
  async #nextStep(link: Link): Promise<void> {
    const random = this.#random;
    if (!random.chance(4)) await this.#settle();
    const { host, qid } = link;
    if (!host.icResp) {
      if (!host.stream.inMiddle) host.send(this.#icReq());
    } else if (qid === undefined) {
      this.#connectQueue(link);
    } else if (qid === 0 && random.chance(2)) {
      host.send(host.commandBytes({ opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: CC_ENABLE }));
    } else {
      this.#work(link);
    }
    if (!random.chance(4)) await this.#settle();
  }

  #connect(): void {
    if (this.#links.length > 12) return;
    const hostnqn = this.#random.chance(4) ? OTHER_HOST : HOST_NQN;
    const host = this.#target.connect();
    this.#links.push({ host, hostnqn, qid: undefined, cntlid: 0, katoMs: 0 });
    if (this.#random.chance(3)) host.send(this.#icReq());
  }

  /** Whole, or in part: the rest may come with the next one, or never. */
  #icReq(): Buffer {
    const whole = icReqPdu({ dgst: this.#random.below(4) });
    return this.#random.chance(12) ? whole.subarray(0, this.#random.between(1, 127)) : whole;
  }

  #connectQueue(link: Link): void {
    const random = this.#random;
    const { host, hostnqn } = link;
    if (!host.icResp) return;
    const isAdmin = this.#cntlids.length === 0 || random.chance(4);
    const katoMs = random.pick([KATO_MS, KATO_MS, 0]);
    const known =
      this.#cntlids.length > 0 && !random.chance(8)
        ? this.#cntlids.at(-1 - random.below(Math.min(2, this.#cntlids.length)))!
        : random.below(20);
    const fields: ConnectFields = isAdmin
      ? { qid: 0, hostnqn, katoMs, sqsize: random.pick([31, 31, 31, 1, 0, 4095, 4096]) }
      : {
          qid: random.pick([1, 1, 1, 2, 3, 128, 129, 65_535]),
          cntlid: known,
          hostnqn,
          sqsize: random.pick([1, 15, 1023]),
        };
    const full = { subnqn: random.chance(15) ? 'nqn.2024-01.org.example:none' : SUBSYSTEM_NQN, ...fields };
    const by = random.chance(4) ? ('r2t' as const) : ('capsule' as const);
    const data = connectData(full);
    const bytes = host.capsule(connectSqe(full, host.nextCid(), by), by === 'capsule' ? data : undefined);
    link.katoMs = isAdmin ? katoMs : link.katoMs;
    host.send(random.chance(20) ? bytes.subarray(0, random.between(1, bytes.length - 1)) : bytes);
  }

  /** What the Connects brought. */
  #learn(): void {
    for (const link of this.#links) {
      const { queuePair } = this.#target.connections[this.#target.hosts.indexOf(link.host)]!;
      link.qid = queuePair.controller === undefined ? undefined : queuePair.qid;
      if (queuePair.controller !== undefined) link.cntlid = queuePair.controller.cntlid;
      if (link.qid === 0 && !this.#cntlids.includes(link.cntlid)) this.#cntlids.push(link.cntlid);
    }
  }

  #property({ host }: Link): void {
    const random = this.#random;
    if (!host.icResp) return;
    const shutdown = random.pick([1, 2]) << 14;
    const cc = random.weighted([
      [6, CC_ENABLE],
      [2, CC_ENABLE & ~1],
      [1, CC_ENABLE | shutdown],
      [1, random.u32()],
    ]);
    host.send(host.commandBytes({ opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: cc }));
  }

  #work({ host, qid }: Link): void {
    const random = this.#random;
    if (!host.icResp) return;
    if (qid === 0 || qid === undefined) {
      const opcode = random.pick([0x0c, 0x0c, 0x18, 0x06, 0x08]);
      const cdw10 = opcode === 0x06 ? 1 : opcode === 0x08 ? random.between(0, 3) | (random.below(30) << 16) : 0;
      host.send(host.commandBytes({ opcode, cdw10 }, { length: opcode === 0x06 ? 4096 : 0 }));
      return;
    }
    const place = { cdw10: random.below(1000), cdw12: 7 };
    const nsid = random.pick([STAMPED_NSID, WRITABLE_NSID, SLOW_NSID, SLOW_NSID, HOT_NSID]);
    const opcode = random.pick([1, 2]);
    const inCapsule = opcode === 1 && random.chance(2);
    const data = inCapsule ? { capsuleData: pattern(4096, 1) } : { length: 4096 };
    host.send(host.commandBytes({ opcode, nsid, ...place }, data));
  }

  #answerR2ts({ host, hostnqn }: Link): void {
    for (const { cid, ttag, offset, length } of host.r2ts.splice(0)) {
      const isConnect = length === 1024;
      const data = isConnect ? connectData({ subnqn: SUBSYSTEM_NQN, hostnqn }) : pattern(length, 2);
      host.send(host.h2cData({ cid, ttag, offset, last: true }, data.subarray(0, Math.min(length, host.maxH2cData))));
    }
  }

  #leave({ host }: Link): void {
    const { end } = host;
    this.#random.weighted<() => void>([
      [2, () => end.destroy()],
      [2, () => end.resetAndDestroy()],
      [1, () => end.end()],
    ])();
  }

  #holdOrRelease(): void {
    const { slow } = this.#target;
    slow.hold = this.#random.chance(2);
    slow.release(this.#random.below(slow.held.length + 1));
  }

  /** What an operator may do at any time. */
  async #operate(): Promise<void> {
    const random = this.#random;
    const { target, subsystem } = this.#target.test;
    switch (random.below(4)) {
      case 0:
        if (subsystem.namespaces[HOT_NSID] === undefined) {
          target.addNamespace(subsystem, {
            nsid: HOT_NSID,
            backend: new MemoryBackend({ blockSize: 512, blockCount: 4096 }),
          });
        } else {
          await target.removeNamespace(subsystem, HOT_NSID);
        }
        break;
      case 1:
        target.setHosts(subsystem, false, [HOST_NQN]);
        break;
      case 2:
        target.setHosts(subsystem, true, []);
        break;
      default:
        for (const controller of subsystem.controllers) if (random.chance(4)) controller.close('the operator says so');
    }
  }

  /** Nobody says anything any more: who may not stay is gone after a while. */
  async fallSilent(): Promise<void> {
    const target = this.#target;
    await target.drain();
    for (let done = 0; done < SILENCE_MS; done += 5000) {
      target.test.clock.advance(5000);
      await target.quiet();
    }
    await target.drain();
    for (const { host } of this.#links) {
      if (!target.isOpen(host)) continue;
      const { queuePair } = target.connections[target.hosts.indexOf(host)]!;
      const controller = queuePair.controller;
      if (controller === undefined) throw new Error('A connection without a Connect stays for ever');
      if (!controller.ready) throw new Error('A controller that is not ready stays for ever');
      if (controller.katoMs !== 0) throw new Error('A controller whose keep alive ran out stays');
      if (host.term !== undefined) throw new Error('A connection stays after its TermReq');
    }
  }
}

function termReq(): Buffer {
  const pdu = Buffer.alloc(24);
  pdu.writeUInt8(2, 0);
  pdu.writeUInt8(24, 2);
  pdu.writeUInt32LE(24, 4);
  return pdu;
}

/** One connection per queue: two of the same identifier would answer each other's commands. */
function checkQueues(target: FuzzTarget): void {
  const seen = new Set<string>();
  for (const { queuePair } of target.test.port.connections) {
    if (queuePair.controller === undefined || queuePair.closed) continue;
    const { controller, qid } = queuePair;
    if (controller.queue(qid) !== queuePair) continue; // being closed
    const key = `${controller.cntlid}/${qid}`;
    if (seen.has(key)) throw new Error(`Queue ${key} is connected twice`);
    seen.add(key);
  }
}

async function round(random: Random): Promise<void> {
  const target = await FuzzTarget.start({
    subsystem: {
      controllersMax: random.pick([1, 2, 100]),
      controllerModel: random.pick(['dynamic', 'dynamic', 'static']),
    },
    tcp: { bufferBytesMax: 16_384 },
  });
  try {
    const crowd = new Crowd(random, target);
    for (let i = random.between(30, 200); i > 0; i--) await crowd.act();
    await target.drain();
    checkQueues(target);
    target.expectProgress();
    if (random.chance(2)) await crowd.fallSilent();
    await target.expectBase(random);
  } finally {
    await target.close();
  }
}

describe('fuzz: life cycle of connections', () => {
  fuzz('life cycle of connections', 60, round);
});
