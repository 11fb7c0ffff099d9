/** The target under test: connections to it as a case needs them, each closed when the case ends. */
import { CheckFailure, checkStatus, Inconclusive, NotApplicable, showStatus } from './check.ts';
import { PeerFacts, type RawFacts } from './facts.ts';
import { type Completion, type ConnectFields, type IcReqFields, RawHost, type ReceivedPdu } from './raw-host.ts';
import { CC_ENABLE } from './raw-pdu.ts';

export const DISCOVERY_NQN = 'nqn.2014-08.org.nvmexpress.discovery';

/** What only an operator can do at a target; the command that does it gets this word. */
export type OperatorAction =
  | 'add-namespace'
  | 'remove-namespace'
  | 'add-subsystem'
  | 'remove-subsystem'
  | 'ana-inaccessible'
  | 'ana-optimized';

export interface HostIdentity {
  readonly hostnqn: string;
  readonly hostid: Uint8Array;
}

export interface PeerOptions {
  readonly address: string;
  readonly port: number;
  readonly subnqn: string;
  /** Who connects; the second one is another host, for reservations. */
  readonly hosts: readonly [HostIdentity, HostIdentity];
  /** Namespace under test; default the first active one. */
  readonly nsid: number | undefined;
  /** A host NQN that the target does not allow. */
  readonly deniedHostnqn: string | undefined;
  /** How long a single answer may take. */
  readonly answerMs: number;
  /** Lets time pass. */
  readonly elapse: (ms: number) => Promise<void>;
  readonly operator: ((action: OperatorAction) => Promise<void>) | undefined;
}

export interface Association {
  readonly admin: RawHost;
  readonly io: RawHost;
}

type AdminFields = ConnectFields & { enable?: boolean; icReq?: IcReqFields };

export class Peer {
  readonly options: PeerOptions;
  readonly notes: string[] = [];
  readonly #facts: PeerFacts | undefined;
  readonly #hosts: RawHost[] = [];

  constructor(options: PeerOptions, facts?: PeerFacts) {
    this.options = options;
    this.#facts = facts;
  }

  get facts(): PeerFacts {
    if (this.#facts === undefined) throw new Error('the target was not asked yet');
    return this.#facts;
  }

  note(text: string): void {
    this.notes.push(text);
  }

  elapse(ms: number): Promise<void> {
    return this.options.elapse(ms);
  }

  /** @throws NotApplicable if nobody can do this */
  async operator(action: OperatorAction): Promise<void> {
    if (this.options.operator === undefined) {
      throw new NotApplicable(`needs a change at the target, and no --operator command was given to do '${action}'`);
    }
    await this.options.operator(action);
  }

  // ---- time

  /** @throws CheckFailure naming `what` if it takes longer than one answer may */
  async within<T>(promise: Promise<T>, what: string, ms: number = this.options.answerMs): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new CheckFailure(`${what}: nothing within ${ms} ms`)), ms);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Asks until `condition` holds, every few milliseconds, as long as one answer may take. @returns whether it came to hold */
  async poll(condition: () => Promise<boolean>, ms: number = this.options.answerMs): Promise<boolean> {
    for (const endMs = performance.now() + ms; performance.now() < endMs; ) {
      if (await condition()) return true;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return false;
  }

  /** Whether `promise` is still pending after the target answered other commands of `host`. */
  async staysPending(promise: Promise<unknown>, host: RawHost): Promise<boolean> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    for (let i = 0; i < 3; i++) await this.within(host.propertyGet(8), 'Property Get');
    return !settled;
  }

  // ---- connections

  /** A TCP connection, nothing sent. */
  async connect(): Promise<RawHost> {
    const { address, port } = this.options;
    const host = await this.within(RawHost.connect(port, address), 'TCP connection');
    this.#hosts.push(host);
    return host;
  }

  /** With ICReq and ICResp done. */
  async initialized(icReq: IcReqFields = {}): Promise<RawHost> {
    const host = await this.connect();
    await this.within(host.icReq(icReq), 'ICResp');
    return host;
  }

  /** Sends Connect for the subsystem under test; the status is for the caller to judge. */
  connectQueue(host: RawHost, fields: ConnectFields & { subnqn?: string } = {}): Promise<Completion> {
    const [identity] = this.options.hosts;
    return this.within(host.connectQueue({ subnqn: this.options.subnqn, ...identity, ...fields }), 'Connect');
  }

  /** An admin queue of a controller that is enabled, unless `enable` is false. */
  async admin(fields: AdminFields = {}): Promise<RawHost> {
    const { enable = true, icReq = {}, ...connect } = fields;
    const host = await this.initialized(icReq);
    const completion = await this.connectQueue(host, connect);
    if (completion.status !== 0) {
      throw new Inconclusive(`admin Connect was refused: ${showStatus(completion.code, 'fabrics')}`);
    }
    if (enable) await this.enable(host);
    return host;
  }

  /** An I/O queue of `admin`'s controller, for the namespace under test. */
  async io(admin: RawHost, fields: ConnectFields & { icReq?: IcReqFields } = {}): Promise<RawHost> {
    const { icReq = {}, ...connect } = fields;
    const host = await this.initialized(icReq);
    const sqsize = Math.min(127, this.facts.mqes);
    const completion = await this.connectQueue(host, { cntlid: admin.cntlid, qid: 1, sqsize, ...connect });
    if (completion.status !== 0) {
      throw new Inconclusive(`I/O Connect was refused: ${showStatus(completion.code, 'fabrics')}`);
    }
    host.cntlid = admin.cntlid;
    if (this.facts.raw.nsid !== undefined) {
      host.nsid = this.facts.nsid;
      host.blockBytes = this.facts.blockBytes;
    }
    return host;
  }

  /** Admin queue and one I/O queue. */
  async association(fields: ConnectFields & { icReq?: IcReqFields } = {}): Promise<Association> {
    const { icReq = {}, cattr, hostnqn, hostid } = fields;
    const identity = {
      ...(cattr === undefined ? {} : { cattr }),
      ...(hostnqn === undefined ? {} : { hostnqn }),
      ...(hostid === undefined ? {} : { hostid }),
    };
    const admin = await this.admin({ icReq, ...identity });
    return { admin, io: await this.io(admin, fields) };
  }

  /** CC.EN = 1, and RDY awaited. */
  async enable(host: RawHost): Promise<void> {
    checkStatus(await this.within(host.propertySet(0x14, CC_ENABLE), 'Property Set CC'), 0, 'CC.EN = 1', 'fabrics');
    const ready = await this.poll(async () => ((await this.within(host.csts(), 'Property Get CSTS')) & 1) === 1);
    if (!ready) throw new CheckFailure(`CSTS.RDY is not 1 within ${this.options.answerMs} ms of CC.EN = 1`);
  }

  /** A discovery controller at the same address. @throws NotApplicable if none answers there */
  async discovery(fields: AdminFields = {}): Promise<RawHost> {
    const { enable = true, icReq = {}, ...connect } = fields;
    const host = await this.initialized(icReq);
    const completion = await this.connectQueue(host, { subnqn: DISCOVERY_NQN, ...connect });
    if (completion.status !== 0) {
      throw new NotApplicable(
        `no discovery controller at this address: ${showStatus(completion.code, 'fabrics')} (name one with -a and -s)`,
      );
    }
    if (enable) await this.enable(host);
    return host;
  }

  /** What follows must end the connection: C2HTermReq with one of these FES and FEI. `offending` was sent as the last PDU. */
  async expectFatal(
    host: RawHost,
    allowed: readonly (readonly [fes: number, fei: number])[],
    what: string,
  ): Promise<void> {
    const needed = allowed.map(([fes, fei]) => `FES ${fes} FEI ${fei}`).join(' or ');
    let received: ReceivedPdu;
    try {
      received = await this.within(host.next(), `${what}: C2HTermReq ${needed} or a close`);
    } catch (error) {
      if (!host.ended || error instanceof CheckFailure) throw error;
      throw new CheckFailure(`${what}: closed without C2HTermReq, needed ${needed}`);
    }
    if (received.type !== 0x03) {
      const status = received.type === 0x05 ? ` with ${showStatus(received.status, 'io')}` : '';
      throw new CheckFailure(`${what}: answered by ${received.name}${status}, needed C2HTermReq ${needed}`);
    }
    if (!allowed.some(([fes, fei]) => fes === received.fes && fei === received.fei)) {
      throw new CheckFailure(`${what}: found C2HTermReq FES ${received.fes} FEI ${received.fei}, needed ${needed}`);
    }
  }

  /** The target ends the connection, with whatever PDUs before. */
  async expectEnd(host: RawHost, what: string, ms?: number): Promise<void> {
    await this.within(host.untilEnded(), `${what}: close`, ms);
  }

  /** Ends every connection of the case. */
  async close(): Promise<void> {
    for (const host of this.#hosts) host.destroy();
    await Promise.all(this.#hosts.map((host) => host.untilEnded()));
  }

  // ---- the first questions

  /** Asks the target what it is. @throws what `connect` and `admin` throw */
  async ask(): Promise<PeerFacts> {
    const host = await this.initialized();
    const completion = await this.connectQueue(host);
    checkStatus(completion, 0, `Connect to ${this.options.subnqn}`, 'fabrics');
    await this.enable(host);
    const data = async (answer: Promise<Completion>, what: string): Promise<Buffer> => {
      const got = await this.within(answer, what);
      checkStatus(got, 0, what);
      return got.data;
    };
    const optional = async (answer: Promise<Completion>, what: string): Promise<Buffer | undefined> => {
      const got = await this.within(answer, what);
      return got.status === 0 ? got.data : undefined;
    };
    const cap = await this.within(host.propertyGet(0, 8), 'Property Get CAP');
    const nsids = listOf(await data(host.identify(2), 'Identify CNS 02h'));
    const nsid = this.options.nsid ?? nsids[0];
    const raw: RawFacts = {
      cap: BigInt(cap.result0) | (BigInt(cap.result1) << 32n),
      vs: (await this.within(host.propertyGet(8), 'Property Get VS')).result0,
      controller: await data(host.identify(1), 'Identify CNS 01h'),
      nsids,
      nsid,
      namespace: nsid === undefined ? undefined : await data(host.identify(0, { nsid }), 'Identify CNS 00h'),
      nvmController: await optional(host.identify(6), 'Identify CNS 06h'),
      effects: await optional(host.logPage(5, 4096), 'Get Log Page 05h'),
      logs: await optional(host.logPage(0, 1024), 'Get Log Page 00h'),
      authreq: completion.result0 >>> 16,
    };
    return new PeerFacts(raw);
  }
}

/** A list of NSIDs, up to its first 0. */
export function listOf(data: Buffer): number[] {
  const list: number[] = [];
  for (let at = 0; at + 4 <= data.length && data.readUInt32LE(at) !== 0; at += 4) list.push(data.readUInt32LE(at));
  return list;
}
