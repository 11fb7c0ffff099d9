/**
 * Hostile controller: a target whose PDUs are right and whose answers are not, from Connect on: errors, silence, structures with noise in them,
 * connections that end, events without end. What must hold: every call of the initiator settles, with an error of its own kind if it fails, and after
 * `close` nothing is left.
 */
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { HostController } from '../../src/initiator/controller.ts';
import { NvmeofError } from '../../src/util/error.ts';
import { ManualClock } from '../support/manual-clock.ts';
import {
  type HostPdu,
  pdu,
  ScriptedConnection,
  ScriptedController,
  type ScriptedTarget,
} from '../support/scripted-target.ts';
import { memoryConnect } from './support/memory-link.ts';
import { fuzz, type Random } from './support/random.ts';

/** Every time-out and retry of the initiator is shorter than this in all. */
const PATIENCE_MS = 3_600_000;
const STEP_MS = 1000;
/** Statuses that mean something to the initiator, and others. */
const STATUSES: readonly number[] = [0x001, 0x002, 0x00b, 0x00c, 0x4002, 0x4180, 0x182, 0x4182, 0x371, 0x006, 0x7fff];

/** Places in Identify Controller, Identify Namespace and lists that the initiator looks at. */
const STRUCTURE_FIELDS: readonly (readonly [number, number])[] = [
  [0, 4],
  [4, 4],
  [8, 4],
  [25, 1],
  [26, 1],
  [77, 1],
  [78, 2],
  [92, 4],
  [96, 4],
  [100, 4],
  [111, 1],
  [128, 4],
  [130, 1],
  [259, 1],
  [320, 2],
  [514, 2],
  [516, 4],
  [536, 4],
  [1792, 4],
  [1796, 4],
  [1800, 2],
];

class HostileController {
  readonly random: Random;
  readonly activity: { any: boolean } = { any: false };
  readonly connections: ScriptedConnection[] = [];
  readonly controller: ScriptedController;
  readonly #target: { onConnection: ((connection: ScriptedConnection) => void) | undefined } = {
    onConnection: undefined,
  };
  /** One in so many answers is wrong; 0: none any more. */
  oneIn: number;

  constructor(random: Random) {
    this.random = random;
    this.oneIn = random.pick([4, 10, 30, 100]);
    this.controller = new ScriptedController(this.#target as unknown as ScriptedTarget, {
      oaes: random.pick([0, 0x100, 0xffff_ffff]),
      ctratt: random.pick([0, 0x40]),
      mdts: random.pick([0, 1, 5]),
      ioQueues: random.pick([1, 2, 128]),
      maxcmd: random.pick([0, 1, 16, 1024]),
    });
    this.controller.override = (command, connection) => this.#override(command, connection);
    const identify = this.controller.identify.bind(this.controller);
    this.controller.identify = (cns, nsid) => this.#noise(identify(cns, nsid));
  }

  get connectSocket(): (options: object) => Socket {
    return (options) =>
      memoryConnect(options as Parameters<typeof memoryConnect>[0], this.activity, (far) => {
        const connection = new ScriptedConnection(far as unknown as Socket);
        this.connections.push(connection);
        if (this.#wrong() && this.random.chance(4)) connection.destroy();
        else this.#target.onConnection?.(connection);
      });
  }

  #wrong(): boolean {
    return this.oneIn !== 0 && this.random.chance(this.oneIn);
  }

  #noise(bytes: Buffer): Buffer {
    const { random } = this;
    if (!this.#wrong()) return bytes;
    if (random.chance(8)) return random.bytes(bytes.length);
    for (let i = random.between(1, 3); i > 0; i--) {
      const [offset, width] = random.pick(STRUCTURE_FIELDS);
      bytes.writeUIntLE(random.field(width * 8, bytes.readUIntLE(offset, width)), offset, width);
    }
    return bytes;
  }

  #override(command: HostPdu, connection: ScriptedConnection): boolean {
    const { random } = this;
    if (!this.#wrong()) return false;
    const { cid } = command;
    random.weighted<() => void>([
      [6, () => connection.send(pdu.capsuleResp(cid, { status: random.pick(STATUSES), dw0: random.u32() }))],
      [2, () => connection.send(pdu.capsuleResp(cid, { dw0: random.u32(), dw1: random.u32() }))],
      [1, () => connection.send(pdu.c2hData(cid, random.bytes(4 * random.below(64)), { success: random.chance(2) }))],
      [1, () => connection.send(pdu.c2hTermReq(random.between(1, 6), 0))],
      [2, () => connection.destroy()],
      [2, () => {}], // no answer
      [1, () => connection.send(random.bytes(random.between(1, 40)))],
      [1, () => this.#events()],
    ])();
    return true;
  }

  /** Notices, and answers to AERs that are none. */
  #events(): void {
    const { random } = this;
    for (let i = random.below(10); i > 0; i--)
      this.controller.event(random.pick([0x0004_0002, 0x0070_f002, random.u32()]), random.u32());
  }
}

/** Waits for it, with time passing. @returns its error; @throws if it does not settle, or fails on a bug */
async function settled(
  what: string,
  promise: Promise<unknown>,
  clock: ManualClock,
  peer: HostileController,
): Promise<Error | undefined> {
  let done = false;
  let failure: unknown;
  promise.then(
    () => {
      done = true;
    },
    (error: unknown) => {
      done = true;
      failure = error;
    },
  );
  for (let passedMs = 0; !done; ) {
    for (let still = 0; still < 4 && !done; ) {
      peer.activity.any = false;
      await nextTurn();
      still = peer.activity.any ? 0 : still + 1;
    }
    if (done) break;
    if (passedMs > PATIENCE_MS) throw new Error(`${what} does not settle`);
    clock.advance(STEP_MS);
    passedMs += STEP_MS;
  }
  if (failure !== undefined && !(failure instanceof NvmeofError)) {
    throw new Error(`${what} failed on a bug: ${failure instanceof Error ? failure.stack : String(failure)}`);
  }
  return failure as Error | undefined;
}

async function round(random: Random): Promise<void> {
  const clock = new ManualClock();
  const peer = new HostileController(random);
  const connecting = HostController.connect({
    address: 'memory',
    subnqn: 'nqn.2024-01.test:hostile',
    hostnqn: 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff',
    clock,
    katoMs: random.pick([0, 5000]),
    ioQueues: random.between(1, 3),
    queueSize: random.pick([2, 4, 128]),
    reconnectDelayMs: random.pick([0, 2000]),
    ctrlLossTimeoutMs: random.pick([0, 30_000, 600_000]),
    ...(random.chance(2) ? { fastIoFailTimeoutMs: random.pick([0, 5000]) } : {}),
    connectSocket: peer.connectSocket,
  });
  const failed = await settled('connect', connecting, clock, peer);
  if (failed === undefined) {
    const controller = await connecting;
    for (let i = random.between(1, 20); i > 0; i--) await settled(...call(random, controller), clock, peer);
    if (random.chance(2)) peer.oneIn = 0;
    await settled('close', controller.close(), clock, peer);
    if (controller.io.waitingCount > 0) throw new Error(`${controller.io.waitingCount} commands wait for ever`);
  }
  for (let i = 0; i < 20; i++) await nextTurn();
  const open = peer.connections.filter((connection) => !connection.ended);
  if (open.length > 0) throw new Error(`${open.length} connections stay open`);
  if (clock.timerCount > 0) throw new Error(`${clock.timerCount} timers stay`);
}

/** Something that a program asks of its controller. */
function call(random: Random, controller: HostController): [string, Promise<unknown>] {
  const onNamespace = async (
    use: (namespace: Awaited<ReturnType<HostController['namespace']>>) => Promise<unknown>,
  ): Promise<unknown> => use(await controller.namespace(1));
  switch (random.below(9)) {
    case 0:
      return ['namespaces', controller.namespaces()];
    case 1:
      return ['identify', controller.identifyController()];
    case 2:
      return ['log page', controller.getLogPage({ lid: random.below(256), bytes: 4 * random.between(1, 3000) })];
    case 3:
      return ['feature', controller.getFeature(random.below(256))];
    case 4:
      return ['read', onNamespace((namespace) => namespace.read(random.below(1000), random.between(1, 40)))];
    case 5:
      return [
        'write',
        onNamespace((namespace) => namespace.write(0, new Uint8Array(namespace.blockSize * random.between(1, 40)))),
      ];
    case 6:
      return ['flush', onNamespace((namespace) => namespace.flush())];
    case 7:
      return ['descriptors', controller.namespaceDescriptors(1)];
    default:
      return ['reset', (async () => controller.reset())()];
  }
}

describe('fuzz: answers of a hostile controller', () => {
  fuzz('answers of a hostile controller', 60, round);
});
