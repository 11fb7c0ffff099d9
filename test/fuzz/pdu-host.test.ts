/**
 * PDU grammar fuzzer, hostile target: right answers, answers with one thing wrong, and noise, cut and delayed at random, against the initiator's
 * connection and queue pair. What must hold: each command ends exactly once; what ends with success has its own data; nothing is sent from a
 * buffer that was given back; the host's own PDUs are right; nothing stays behind.
 */

import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { HostQueuePair } from '../../src/initiator/queue-pair.ts';
import { HostConnection } from '../../src/transport/tcp/host-connection.ts';
import { TransportError } from '../../src/util/error.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { type HostPdu, pdu, ScriptedConnection } from '../support/scripted-target.ts';
import { type MemoryEnd, memoryConnect } from './support/memory-link.ts';
import { fuzz, type Random } from './support/random.ts';

const BLOCK_BYTES = 512;
const SLOTS = 8;
const GIVEN_BACK = 0xdb;

/** `[offset, bytes]`: type, FLAGS, HLEN, PDO, PLEN, CCCID or DW0, TTAG, DATAO, DATAL or SQHD, CQE's CID and status. */
const FIELDS: readonly (readonly [number, number])[] = [
  [0, 1],
  [1, 1],
  [2, 1],
  [3, 1],
  [4, 4],
  [8, 2],
  [10, 2],
  [12, 4],
  [16, 4],
  [20, 2],
  [22, 2],
];

function ensure(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

/** Every dword of a block is its number and its place in the block. */
const stampAt = (block: number, place: number): number => (block << 7) | (place >>> 2);

function stamped(block: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) {
    bytes.writeUInt32LE(stampAt(block + Math.floor(at / BLOCK_BYTES), at % BLOCK_BYTES), at);
  }
  return bytes;
}

/** A command of the host's, from both sides. */
interface Command {
  readonly kind: 'read' | 'write' | 'flush';
  readonly block: number;
  readonly buffer: Buffer;
  ends: number;
}

/** What the peer has and not answered. */
interface Taken {
  readonly pdu: HostPdu;
  readonly command: Command;
  /** Read: bytes sent. Write: bytes asked for. */
  moved: number;
  /** Write: bytes asked for that have not come. */
  owed: number;
}

class Round {
  readonly random: Random;
  readonly clock: ManualClock = new ManualClock();
  readonly activity: { any: boolean } = { any: false };
  readonly digests: { hdgst: boolean; ddgst: boolean };
  readonly commands: Command[] = [];
  readonly taken: Taken[] = [];
  failure: Error | undefined;
  /** The peer broke a rule: the host may end the connection, and data may be wrong. */
  hostile = false;
  near!: MemoryEnd;
  peer!: ScriptedConnection;
  connection!: HostConnection;
  queuePair!: HostQueuePair;
  lost: Error | undefined;
  #nextBlock = 1;
  readonly #byBlock = new Map<number, Command>();

  constructor(random: Random) {
    this.random = random;
    const dgst = random.pick([0, 0, 1, 2, 3]);
    this.digests = { hdgst: (dgst & 1) !== 0, ddgst: (dgst & 2) !== 0 };
  }

  async connect(): Promise<void> {
    const { random, digests } = this;
    const connecting = HostConnection.connect({
      address: 'memory',
      port: 4420,
      slotCount: SLOTS,
      headerDigest: digests.hdgst,
      dataDigest: digests.ddgst,
      maxR2t: random.below(3),
      clock: this.clock,
      connectSocket: (options) =>
        memoryConnect(options, this.activity, (far) => {
          this.peer = new ScriptedConnection(far as unknown as Socket);
          this.near = far.peer;
          this.peer.handler = (request) => this.#onPdu(request);
        }),
    });
    connecting.catch(() => {});
    await this.quiet();
    const dgst = (digests.hdgst ? 1 : 0) | (digests.ddgst ? 2 : 0);
    this.send(pdu.icResp({ dgst, maxh2cdata: random.pick([4096, 8192, 131_072]), cpda: random.pick([0, 0, 1, 31]) }));
    this.connection = await connecting;
    this.queuePair = new HostQueuePair(1, this.connection, random.pick([0, 4096]), {
      queuePairLost: (_, error) => {
        this.lost = error;
        // as its owner does: every connection closed, then what was in flight is given back
        void this.connection.close();
        this.queuePair.endActive(() => false);
      },
      slotFree: () => {},
      commandTimedOut: () => {},
    });
  }

  async quiet(): Promise<void> {
    for (let still = 0, turn = 0; still < 4; turn++) {
      ensure(turn < 20_000, 'No end of activity');
      this.activity.any = false;
      await nextTurn();
      still = this.activity.any ? 0 : still + 1;
    }
    if (this.failure !== undefined) throw this.failure;
  }

  // ---- the host

  readonly #onDone = (status: number, _result: number, context: unknown): void => {
    const command = context as Command;
    try {
      command.ends++;
      ensure(command.ends === 1, `A ${command.kind} of block ${command.block} ended twice`);
      if (!this.hostile && this.lost === undefined)
        ensure(status === 0, `Status 0x${status.toString(16)} came of nothing`);
      if (status === 0 && command.kind === 'read' && !this.hostile) {
        ensure(
          command.buffer.equals(stamped(command.block, command.buffer.length)),
          `Wrong data of block ${command.block}`,
        );
      }
    } catch (error) {
      this.failure ??= error as Error;
    }
    command.buffer.fill(GIVEN_BACK);
  };

  submit(): void {
    const { random, queuePair } = this;
    const kind = random.pick(['read', 'read', 'write', 'write', 'flush'] as const);
    const blocks = kind === 'flush' ? 0 : random.pick([1, 2, 8, 32, 64]);
    const block = this.#nextBlock;
    const buffer = kind === 'write' ? stamped(block, blocks * BLOCK_BYTES) : Buffer.alloc(blocks * BLOCK_BYTES, 0xaa);
    const command: Command = { kind, block, buffer, ends: 0 };
    const sent =
      kind === 'read'
        ? queuePair.submitRead(1, block, blocks, buffer, this.#onDone, command)
        : kind === 'write'
          ? queuePair.submitWrite(1, block, blocks, buffer, this.#onDone, command)
          : queuePair.submitFlush(1, this.#onDone, command);
    if (!sent) return;
    this.#nextBlock += Math.max(1, blocks);
    this.#byBlock.set(block, command);
    if (kind === 'flush') this.#flushes.push(command);
    this.commands.push(command);
  }
  readonly #flushes: Command[] = [];

  // ---- what the host sends

  #onPdu(request: HostPdu): boolean {
    try {
      if (request.type === 4) this.#onCapsule(request);
      else if (request.type === 6) this.#onData(request);
      else if (request.type === 2)
        ensure(this.hostile, `The host sent H2CTermReq FES ${request.fes} FEI ${request.fei}`);
      else ensure(request.type === 0, `The host sent type ${request.type}`);
    } catch (error) {
      this.failure ??= error as Error;
    }
    return true;
  }

  #onCapsule(request: HostPdu): void {
    ensure(
      !this.taken.some(({ pdu: other }) => other.cid === request.cid),
      `CID ${request.cid} is sent again while it is outstanding`,
    );
    const command = request.opcode === 0 ? this.#flushes.shift() : this.#byBlock.get(request.cdw(10));
    ensure(command !== undefined, `A command of block ${request.cdw(10)}, which was not submitted`);
    if (request.data.length > 0) this.#checkSent(command, 0, request.data);
    this.taken.push({ pdu: request, command, moved: request.data.length, owed: 0 });
  }

  #onData(request: HostPdu): void {
    const taken = this.taken.find(({ pdu: other }) => other.cid === request.cid);
    if (taken === undefined) {
      ensure(this.hostile, `Data for CID ${request.cid}, which is not outstanding`);
      return;
    }
    ensure(request.dataLength === request.data.length, `DATAL ${request.dataLength}`);
    this.#checkSent(taken.command, request.dataOffset, request.data);
    taken.owed -= request.data.length;
    ensure(taken.owed >= 0 || this.hostile, 'More data than was asked for');
  }

  /** What leaves is the command's own data, whatever the peer did: a buffer that was given back belongs to someone else. */
  #checkSent(command: Command, offset: number, data: Buffer): void {
    const expected = stamped(command.block, offset + data.length).subarray(offset);
    ensure(
      data.equals(expected),
      `Data of block ${command.block} from ${offset} on was sent wrong, ends ${command.ends}`,
    );
  }

  // ---- the peer

  send(...parts: Buffer[]): void {
    this.peer.send(...parts);
  }

  /** One step of an honest answer to something; several of them answer it. */
  answer(): void {
    const { random, taken, digests } = this;
    if (taken.length === 0) return;
    const index = random.below(taken.length);
    const one = taken[index]!;
    const { cid } = one.pdu;
    const total = one.pdu.sglLength;
    const left = total - one.moved;
    const finish = (status = 0): void => {
      taken.splice(index, 1);
      this.#out(pdu.capsuleResp(cid, { ...digests, status }));
    };
    if (one.command.kind === 'read' && left > 0) {
      const length = random.chance(2) ? left : Math.min(left, 4 * random.between(1, left >>> 2));
      const last = length === left;
      const success = last && random.chance(2);
      const data = stamped(one.command.block, one.moved + length).subarray(one.moved);
      const pdo = digests.hdgst ? 28 : 24;
      const fields = { ...digests, offset: one.moved, last, success, pdo };
      one.moved += length;
      if (success) taken.splice(index, 1);
      this.#out(pdu.c2hData(cid, data, fields));
    } else if (one.command.kind === 'write' && left > 0) {
      if (one.owed > 0) return;
      const length = random.chance(2) ? left : Math.min(left, 4 * random.between(1, left >>> 2));
      const r2t = pdu.r2t(cid, { ...digests, ttag: random.below(0x10000), offset: one.moved, length });
      one.moved += length;
      one.owed += length;
      this.#out(r2t);
    } else if (one.owed === 0) {
      finish();
    }
  }

  /** Sends it, seldom with a field wrong. */
  #out(bytes: Buffer): void {
    const { random } = this;
    if (!random.chance(40)) {
      this.send(bytes);
      return;
    }
    this.hostile = true;
    const changed = Buffer.from(bytes);
    for (let i = random.between(1, 2); i > 0; i--) {
      const [offset, width] = random.pick(FIELDS);
      changed.writeUIntLE(random.field(width * 8, changed.readUIntLE(offset, width)), offset, width);
    }
    this.send(changed);
  }

  /** Against the rules. */
  misbehave(): void {
    const { random, taken, digests } = this;
    this.hostile = true;
    const one = taken.length > 0 ? random.pick(taken) : undefined;
    const cid = one?.pdu.cid ?? random.below(256);
    switch (random.below(8)) {
      case 0:
        this.send(random.bytes(random.between(1, 300)));
        break;
      case 1:
        this.send(
          pdu.c2hTermReq(random.below(8), random.u32(), random.chance(3) ? { plen: random.field(32, 24) } : {}),
        );
        break;
      case 2:
        this.send(pdu.icResp());
        break;
      case 3: // ends early: success without the data, or while data is on its way
        if (one !== undefined) taken.splice(taken.indexOf(one), 1);
        this.send(pdu.capsuleResp(cid, { ...digests, status: random.pick([0, 0, 0x4002, 0x281]) }));
        break;
      case 4: // asks for what is its own, and ends it at once
        if (one === undefined) break;
        taken.splice(taken.indexOf(one), 1);
        this.send(
          pdu.r2t(cid, { ...digests, length: Math.max(4, one.pdu.sglLength) }),
          pdu.capsuleResp(cid, { ...digests, status: random.pick([0, 0x4002]) }),
        );
        break;
      case 5: // answers twice
        this.send(pdu.capsuleResp(cid, digests), pdu.capsuleResp(cid, digests));
        break;
      case 6: {
        const data = Buffer.alloc(4 * random.below(1000));
        const fields = {
          ...digests,
          offset: random.pick([0, 4, random.field(32)]),
          last: random.chance(2),
          badDigest: true,
        };
        this.send(pdu.c2hData(cid, data, fields));
        break;
      }
      default:
        this.send(pdu.r2t(cid, { ...digests, offset: random.field(32), length: random.field(32, 4096) }));
        break;
    }
  }

  async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await nextTurn();
  }
}

async function round(random: Random): Promise<void> {
  const r = new Round(random);
  await r.connect();
  const largest = random.pick([40, 700, 5000, 65_536]);
  r.near.cut = () => random.between(1, Math.max(largest, r.near.inboundBytes >>> 6));
  for (let i = random.between(10, 120); i > 0 && r.failure === undefined; i--) {
    await random.weighted<() => unknown>([
      [12, () => r.submit()],
      [20, () => r.answer()],
      [1, () => r.misbehave()],
      [
        3,
        () => {
          r.near.capacity = random.pick([100, 4096, 65_536, Number.POSITIVE_INFINITY]);
        },
      ],
      [2, () => r.near.peer.pause()],
      [4, () => r.near.peer.resume()],
      [8, () => r.turns(random.below(4))],
      [4, () => r.quiet()],
      [1, () => r.queuePair.scan(1000)],
    ])();
  }
  r.near.peer.resume();
  r.near.capacity = Number.POSITIVE_INFINITY;
  await r.quiet();
  if (!r.hostile) {
    ensure(r.lost === undefined, `The connection was lost: ${r.lost?.message}`);
    // an honest peer answers everything in the end
    for (let steps = 0; r.taken.length > 0; steps++) {
      ensure(steps < 100_000, 'The peer cannot answer: the host owes data that does not come');
      r.answer();
      await r.turns(1);
      if (r.hostile) break;
    }
    await r.quiet();
  }
  if (!r.hostile) {
    const open = r.commands.filter(({ ends }) => ends === 0);
    ensure(open.length === 0, `${open.length} commands were answered and did not end`);
    ensure(r.queuePair.activeCount === 0, `${r.queuePair.activeCount} slots are in use`);
  }
  await r.turns(1);
  if (random.chance(2)) r.peer.destroy();
  await r.quiet();
  const closing = r.connection.close();
  r.queuePair.endActive(() => false);
  await closing;
  await r.quiet();
  for (const { ends, kind, block } of r.commands) ensure(ends === 1, `A ${kind} of block ${block} ended ${ends} times`);
  ensure(r.queuePair.activeCount === 0, `${r.queuePair.activeCount} slots stay in use`);
  ensure(r.clock.timerCount === 0, `${r.clock.timerCount} timers stay`);
  ensure(r.lost === undefined || r.lost instanceof TransportError, 'Lost for an unknown reason');
}

describe('fuzz: PDUs of a hostile target', () => {
  fuzz('PDUs of a hostile target', 60, round);
});
