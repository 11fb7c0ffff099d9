/**
 * PDU grammar fuzzer, hostile host: right PDUs, PDUs with one thing wrong, and noise, cut and delayed at random, against the target. What must
 * hold: see `FuzzTarget.check`, `expectProgress` and `expectBase`; every answer belongs to a command; other hosts notice nothing.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { connectData, connectSqe, icReqPdu, pattern, sqeBytes } from '../support/raw-pdu.ts';
import { SUBSYSTEM_NQN } from '../support/test-target.ts';
import type { FuzzHost, SolicitedData } from './support/fuzz-host.ts';
import { FuzzTarget, NS_BLOCKS, SLOW_NSID, STAMPED_NSID, WRITABLE_NSID } from './support/fuzz-target.ts';
import { fuzz, type Random } from './support/random.ts';

const HOSTILE_ACTIONS_MAX = 60;

/** Fields of a PDU's header, `[offset, bytes]`: type, FLAGS, HLEN, PDO, PLEN, then what H2CData has. */
const HEADER_FIELDS: readonly (readonly [number, number])[] = [
  [0, 1],
  [1, 1],
  [2, 1],
  [3, 1],
  [4, 4],
  [8, 2],
  [10, 2],
  [12, 4],
  [16, 4],
];
/** Fields of a CapsuleCmd's SQE: opcode, FLAGS, CID, NSID, SGL address, length and identifier, CDW10 to 15. */
const SQE_FIELDS: readonly (readonly [number, number])[] = [
  [8, 1],
  [9, 1],
  [10, 2],
  [12, 4],
  [32, 4],
  [36, 4],
  [40, 4],
  [47, 1],
  [48, 4],
  [52, 4],
  [56, 4],
  [60, 4],
  [64, 4],
  [68, 4],
];

function mutate(random: Random, bytes: Buffer, fields: readonly (readonly [number, number])[]): Buffer {
  const changed = Buffer.from(bytes);
  const [offset, width] = random.pick(fields);
  if (offset + width > changed.length) return changed;
  changed.writeUIntLE(random.field(width * 8, changed.readUIntLE(offset, width)), offset, width);
  return changed;
}

class HostileHost {
  readonly #random: Random;
  readonly #target: FuzzTarget;
  readonly #host: FuzzHost;
  readonly #isAdmin: boolean;
  /** R2Ts that were seen, answered or not: for answers that come twice. */
  readonly #known: SolicitedData[] = [];
  readonly #owed: SolicitedData[] = [];

  constructor(random: Random, target: FuzzTarget, host: FuzzHost, isAdmin: boolean) {
    this.#random = random;
    this.#target = target;
    this.#host = host;
    this.#isAdmin = isAdmin;
  }

  /** One thing that a host may do, or may not. */
  async act(): Promise<void> {
    const random = this.#random;
    const host = this.#host;
    this.#takeR2ts();
    const action = random.weighted<() => void | Promise<void>>([
      [12, () => host.send(this.#command())],
      [6, () => host.send(Buffer.concat(Array.from({ length: random.between(2, 6) }, () => this.#command())))],
      [12, () => this.#answerR2t()],
      [4, () => host.send(this.#mutated())],
      [1, () => host.send(this.#wildH2cData())],
      [1, () => this.#ambush()],
      [1, () => this.#reuseCid()],
      [1, () => host.send(this.#oddity())],
      [4, () => host.end.pause()],
      [6, () => host.end.resume()],
      [3, () => this.#limitTarget()],
      [4, () => this.#holdOrRelease()],
      [1, () => this.#target.test.clock.advance(random.pick([1, 100, 5000, 31_000]))],
      [8, async () => this.#turns(random.below(5))],
      [4, async () => this.#target.quiet()],
    ]);
    await action();
  }

  async #turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await nextTurn();
  }

  #takeR2ts(): void {
    for (const r2t of this.#host.r2ts.splice(0)) {
      this.#owed.push(r2t);
      this.#known.push(r2t);
    }
  }

  // ---- right

  #command(): Buffer {
    const random = this.#random;
    const host = this.#host;
    if (this.#isAdmin) return this.#adminCommand();
    const blocks = random.pick([1, 1, 2, 8, 16, 64]);
    const block = random.below(NS_BLOCKS - blocks);
    const place = { cdw10: block, cdw12: blocks - 1 };
    const data = (): Buffer => pattern(blocks * 512, random.u32() & 0xffff);
    switch (random.below(10)) {
      case 0:
      case 1:
        return host.commandBytes({ opcode: 2, nsid: STAMPED_NSID, ...place }, { length: blocks * 512 });
      case 2:
        return host.commandBytes({ opcode: 2, nsid: SLOW_NSID, ...place }, { length: blocks * 512 });
      case 3:
        return host.commandBytes({ opcode: 1, nsid: WRITABLE_NSID, ...place }, { capsuleData: data() });
      case 4:
      case 5:
        return host.commandBytes({ opcode: 1, nsid: random.pick([2, 3]), ...place }, { length: blocks * 512 });
      case 6: {
        // Compare and Write, fused, whole or in halves, in the capsule or not
        const half = (opcode: number, fuse: number): Buffer => {
          const fields = { opcode, flags: 0x40 | fuse, nsid: WRITABLE_NSID, ...place };
          const inCapsule = random.chance(2) && blocks <= 8;
          return host.commandBytes(fields, inCapsule ? { capsuleData: data() } : { length: blocks * 512 });
        };
        if (random.chance(6)) return half(random.pick([1, 5]), random.pick([1, 2, 3]));
        return Buffer.concat([half(5, 1), half(1, 2)]);
      }
      case 7:
        return host.commandBytes({ opcode: 5, nsid: random.pick([2, 3]), ...place }, { length: blocks * 512 });
      case 8:
        return host.commandBytes({ opcode: random.pick([0, 8]), nsid: random.pick([2, 3]), ...place });
      default: {
        const ranges = Buffer.alloc(16);
        ranges.writeUInt32LE(blocks, 4);
        ranges.writeUInt32LE(block, 8);
        return host.commandBytes({ opcode: 9, nsid: WRITABLE_NSID, cdw11: 4 }, { capsuleData: ranges });
      }
    }
  }

  #adminCommand(): Buffer {
    const random = this.#random;
    const host = this.#host;
    switch (random.below(6)) {
      case 0:
        return host.commandBytes({ opcode: 6, nsid: random.below(4), cdw10: random.below(8) }, { length: 4096 });
      case 1:
        return host.commandBytes({ opcode: 2, cdw10: random.below(6) | (0x3f << 16) }, { length: 256 });
      case 2:
        return host.commandBytes({ opcode: 0x0c });
      case 3:
        return host.commandBytes({ opcode: 8, cdw10: random.pick([0, 1]) | (random.below(64) << 16) });
      case 4:
        return host.commandBytes({ opcode: 0x7f, fctype: 4, cdw11: random.pick([0x08, 0x14, 0x1c]) });
      default: {
        const time = Buffer.alloc(8);
        const fields = { opcode: 9, cdw10: 0x0e };
        if (random.chance(2)) return host.commandBytes(fields, { capsuleData: time });
        return host.commandBytes(fields, { length: 8 });
      }
    }
  }

  /** Data that the target asked for, as it should be sent, in pieces; sometimes only a part of it. */
  #answerR2t(): void {
    const random = this.#random;
    const host = this.#host;
    if (this.#owed.length === 0) return;
    const r2t = this.#owed.splice(random.below(this.#owed.length), 1)[0]!;
    const data = pattern(r2t.length, r2t.cid);
    const piece = Math.min(host.maxH2cData, 4 * random.between(1, Math.max(1, r2t.length >>> 2)));
    for (let at = 0; at < data.length; at += piece) {
      const end = Math.min(at + piece, data.length);
      const fields = { cid: r2t.cid, ttag: r2t.ttag, offset: r2t.offset + at, last: end === data.length };
      const bytes = host.h2cData(fields, data.subarray(at, end), {
        dataDigestError: random.chance(20) ? 1 : 0,
      });
      if (random.chance(60)) {
        host.send(mutate(random, bytes, HEADER_FIELDS));
        return;
      }
      host.send(bytes);
      if (random.chance(100)) return; // the rest never comes
    }
  }

  // ---- wrong

  #mutated(): Buffer {
    const random = this.#random;
    let bytes = this.#command();
    const fields = random.chance(4) ? HEADER_FIELDS : SQE_FIELDS;
    for (let i = random.between(1, 2); i > 0; i--) bytes = mutate(random, bytes, fields);
    // a header digest that is right for what was changed, so that the fields are looked at
    if (this.#host.headerDigest && !random.chance(4)) {
      const again = this.#host.capsule(bytes.subarray(8, 72));
      bytes.set(again.subarray(72, 76), 72);
      if (fields === SQE_FIELDS && bytes.length > 76) {
        const header = this.#host.capsule(
          bytes.subarray(8, 72),
          bytes.subarray(bytes[3]!, bytes.length - (this.#host.dataDigest ? 4 : 0)),
        );
        return header;
      }
    }
    return bytes;
  }

  /** H2CData that nobody asked for, or asked for before, or of which only the tag is right. */
  #wildH2cData(): Buffer {
    const random = this.#random;
    const host = this.#host;
    const known = this.#known.length > 0 ? random.pick(this.#known) : undefined;
    const cids = [...host.outstanding.keys()];
    const cid = random.chance(2) && cids.length > 0 ? random.pick(cids) : (known?.cid ?? random.below(40));
    const ttag = random.chance(2) ? random.below(18) : (known?.ttag ?? random.field(16));
    const length = random.pick([4, 512, 1024, 4096, known?.length ?? 8192, random.field(16)]) & 0xfffc;
    const last = random.chance(2);
    return host.h2cData({ cid, ttag, offset: random.pick([0, 0, 0, 512, 4]), last }, Buffer.alloc(length, 0xee));
  }

  /** Data on a guessed tag, in one read with its command, while the target cannot send. */
  #ambush(): void {
    const random = this.#random;
    const host = this.#host;
    host.end.peer.capacity = random.pick([0, 100, 5000]);
    const big = { opcode: 2, nsid: random.pick([STAMPED_NSID, SLOW_NSID]), cdw12: 2047 };
    const parts = Array.from({ length: random.below(4) }, () => host.commandBytes(big, { length: 1 << 20 }));
    const cid = host.nextCid();
    parts.push(host.commandBytes({ opcode: 1, nsid: WRITABLE_NSID, cid, cdw12: 7 }, { length: 4096 }));
    const ttag = random.below(8);
    parts.push(host.h2cData({ cid, ttag, offset: 0, last: true }, Buffer.alloc(4096, 0xdd)));
    host.send(Buffer.concat(parts));
  }

  #reuseCid(): void {
    const host = this.#host;
    const cids = [...host.outstanding.keys()];
    if (cids.length === 0) return;
    host.send(host.commandBytes({ opcode: 2, nsid: STAMPED_NSID, cid: this.#random.pick(cids) }, { length: 512 }));
  }

  #oddity(): Buffer {
    const random = this.#random;
    switch (random.below(5)) {
      case 0:
        return random.bytes(random.between(1, 200));
      case 1: {
        const term = Buffer.alloc(24 + random.pick([0, 24, 72, 128, 129]));
        term.writeUInt8(2, 0);
        term.writeUInt8(24, 2);
        term.writeUInt32LE(random.chance(2) ? term.length : random.field(32, term.length), 4);
        return term;
      }
      case 2:
        return icReqPdu();
      case 3: {
        const sqe = sqeBytes({ opcode: random.below(256), cid: this.#host.nextCid(), flags: random.field(8, 0x40) });
        return this.#host.capsule(sqe, random.bytes(4 * random.between(1, 100)));
      }
      default: {
        const fields = { subnqn: SUBSYSTEM_NQN, qid: random.below(3) };
        return this.#host.capsule(connectSqe(fields, this.#host.nextCid(), 'capsule'), connectData(fields));
      }
    }
  }

  // ---- what surrounds it

  #limitTarget(): void {
    // what the target may have on its way before its writes block
    this.#host.end.peer.capacity = this.#random.pick([512, 4096, 65536, Number.POSITIVE_INFINITY]);
  }

  #holdOrRelease(): void {
    const { slow } = this.#target;
    slow.hold = this.#random.chance(2);
    if (!slow.hold || this.#random.chance(2)) slow.release(this.#random.below(slow.held.length + 1));
  }
}

async function round(random: Random): Promise<void> {
  const dgst = random.pick([0, 0, 1, 2, 3]);
  const icReq = { dgst, hpda: random.pick([0, 0, 0, 1, 31]), maxr2t: random.below(3) };
  const cattr = random.pick([0, 4]);
  const target = await FuzzTarget.start({
    tcp: {
      cpda: random.pick([0, 0, 0, 1, 31]),
      inCapsuleBytes: random.pick([4096, 8192]),
      maxH2cDataBytes: random.pick([4096, 16384, 131_072]),
      bufferBytesMax: random.pick([4096, 32_768, 262_144]),
    },
  });
  try {
    const healthyAdmin = await target.admin();
    const healthy = await target.io(healthyAdmin.cntlid);
    const kind = random.weighted([
      [1, 'new'],
      [2, 'admin'],
      [5, 'io'],
    ] as const);
    let host: FuzzHost;
    if (kind === 'io') {
      const { cntlid } = await target.admin({ icReq });
      host = await target.io(cntlid, { icReq, cattr, sqsize: random.pick([1, 3, 15]) });
    } else if (kind === 'admin') {
      ({ host } = await target.admin({ icReq, cattr }));
    } else {
      host = target.connect();
      let first = icReqPdu(icReq);
      if (random.chance(2)) first = mutate(random, first, [...HEADER_FIELDS, [8, 2], [10, 1], [11, 1], [12, 4]]);
      host.hostAlignBytes = (first[10]! + 1) * 4;
      host.send(first);
      if (random.chance(2)) await target.quiet();
    }
    const largest = random.pick([1, 7, 100, 5000, 65_536, 65_536]);
    const far = host.end.peer;
    far.cut = () => random.between(1, Math.max(largest, far.inboundBytes >>> 6));
    const hostile = new HostileHost(random, target, host, kind !== 'io');
    for (let i = random.between(5, HOSTILE_ACTIONS_MAX); i > 0; i--) await hostile.act();
    if (random.chance(4)) await target.expectRead(healthy, random.below(NS_BLOCKS - 8));
    await target.drain();
    target.expectProgress();
    await target.expectRead(healthy, random.below(NS_BLOCKS - 8));
    await target.expectBase(random);
  } finally {
    await target.close();
  }
}

describe('fuzz: PDUs of a hostile host', () => {
  fuzz('PDUs of a hostile host', 60, round);
});
