/**
 * One association: the admin connection, the I/O connections and what runs on them, from Connect to the loss of any of them. Never
 * reconnects: that is the controller's business. Base 2.1 sections 3.3.2, 3.5, 3.6; order of commands as the Linux host's.
 */
import PQueue from 'p-queue';
import { Feature } from '../spec/feature.ts';
import { ControllerType } from '../spec/identify.ts';
import { AsyncEventBit } from '../spec/log-page.ts';
import { AdminOpcode, Fctype } from '../spec/opcode.ts';
import { ADMIN_IN_CAPSULE_BYTES } from '../spec/pdu.ts';
import { Cc, Csts, Property } from '../spec/property.ts';
import { FabricsStatus, PathStatus, STATUS_CODE_MASK } from '../spec/status.ts';
import type { HostCommand } from '../transport/tcp/host-command.ts';
import { HostConnection } from '../transport/tcp/host-connection.ts';
import type { Timer } from '../util/clock.ts';
import { NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';
import { Cattr, connectCommandCodec, connectDataCodec } from '../wire/cold/connect.ts';
import { hostBehaviorCodec } from '../wire/cold/host-behavior.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import { AdminQueue } from './admin-queue.ts';
import { type AsyncEvent, AsyncEventRequests } from './async-events.ts';
import { identifyController } from './controller-commands.ts';
import { KeepAlive } from './keep-alive.ts';
import type { ResolvedHostOptions } from './options.ts';
import { HostQueuePair, type QueuePairOwner } from './queue-pair.ts';

/** What an association tells its controller. */
export interface AssociationHooks {
  /** Once: the association is over. All its connections are closed; I/O commands are still in the slots of `ioQueuePairs`. */
  lost(association: Association, error: TransportError): void;
  asyncEvent(event: AsyncEvent): void;
  /** A slot of an I/O queue pair became free while others wait. */
  slotFree(queuePair: HostQueuePair): void;
}

const ADMIN_QUEUE_ENTRIES = 32;
const AER_COUNT_MAX = 4;
const QUEUE_CONNECT_CONCURRENCY = 4;
const TICK_MS_MAX = 1000;
const POLL_MS_MAX = 100;
const SHUTDOWN_TIMEOUT_MS = 5000;
/** ONCS of Identify Controller. */
const ONCS_RESERVATIONS = 0x20;
/** Events to ask for, as far as the controller knows them. */
const EVENTS =
  (AsyncEventBit.NamespaceAttribute |
    AsyncEventBit.FirmwareActivation |
    AsyncEventBit.AnaChange |
    AsyncEventBit.DiscoveryChange) >>>
  0;
const TBKAS = 0x40;

export class Association implements QueuePairOwner {
  readonly options: ResolvedHostOptions;
  readonly #hooks: AssociationHooks;
  readonly #abort = new AbortController();
  #admin!: AdminQueue;
  #identify!: IdentifyController;
  #ioQueuePairs: HostQueuePair[] = [];
  #connections: HostConnection[] = [];
  #lost: TransportError | undefined;
  #closing: Promise<void> | undefined;
  #keepAlive: KeepAlive | undefined;
  #scanTimer: Timer | undefined;
  readonly #abortTimers = new Set<Timer>();
  readonly #tickMs: number;
  cntlid = 0xffff;
  cap = 0n;
  version = 0;
  established = false;

  /**
   * Connects, enables the controller, sets up queues, keep alive and events.
   * @throws TransportError, NvmeStatusError or the signal's reason; nothing is left open then
   */
  static async establish(
    options: ResolvedHostOptions,
    hooks: AssociationHooks,
    signal?: AbortSignal,
  ): Promise<Association> {
    signal?.throwIfAborted();
    const association = new Association(options, hooks);
    const abort = (): void => association.fail(new TransportError('NVMEOF_ERR_ABORTED', 'Connect was aborted'));
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await association.#establish();
      if (association.#lost !== undefined) throw association.#lost;
      association.established = true;
      return association;
    } catch (error) {
      // a connection that was lost in between says more than the command that failed for it
      const cause = association.#lost ?? error;
      await association.close(false);
      signal?.throwIfAborted();
      throw cause;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  private constructor(options: ResolvedHostOptions, hooks: AssociationHooks) {
    this.options = options;
    this.#hooks = hooks;
    const { adminTimeoutMs, ioTimeoutMs } = options;
    this.#tickMs = Math.max(10, Math.min(TICK_MS_MAX, adminTimeoutMs / 4, ioTimeoutMs / 4));
  }

  get admin(): AdminQueue {
    return this.#admin;
  }

  get identify(): IdentifyController {
    return this.#identify;
  }

  get ioQueuePairs(): readonly HostQueuePair[] {
    return this.#ioQueuePairs;
  }

  get lostError(): TransportError | undefined {
    return this.#lost;
  }

  /** Keep Alive commands sent so far. */
  get keepAliveCount(): number {
    return this.#keepAlive?.sentCount ?? 0;
  }

  async #establish(): Promise<void> {
    const { options } = this;
    await this.#connectAdmin();
    await this.#enable();
    this.#identify = await identifyController((what, command) => this.#admin.execute(what, command));
    this.#checkIdentify();
    if (options.katoMs !== 0) this.#startKeepAlive();
    if (options.ioQueues > 0 && this.#identify.cntrltype !== ControllerType.Discovery) await this.#connectIo();
    await this.#acceptRetryDelays();
    await this.#startEvents();
  }

  // --- admin queue

  async #connectAdmin(): Promise<void> {
    const connection = await this.#openConnection(ADMIN_QUEUE_ENTRIES - 1);
    const queuePair = new HostQueuePair(0, connection, ADMIN_IN_CAPSULE_BYTES, this);
    this.#admin = new AdminQueue(queuePair, AER_COUNT_MAX);
    this.#admin.lostError = this.#lost;
    this.#armScan();
    const result = await this.#connectQueue(this.#admin, 0, ADMIN_QUEUE_ENTRIES - 1);
    this.cntlid = result & 0xffff;
    if (result >>> 16 !== 0) {
      const what = `${this.#where()} requires authentication, which is not supported here; allow this host without it`;
      throw new TransportError('NVMEOF_ERR_AUTH_REQUIRED', what);
    }
  }

  async #openConnection(slotCount: number): Promise<HostConnection> {
    const { options } = this;
    const connection = await HostConnection.connect({
      address: options.address,
      port: options.port,
      slotCount,
      headerDigest: options.headerDigest,
      dataDigest: options.dataDigest,
      hpda: options.hpda,
      maxR2t: options.maxR2t,
      connectTimeoutMs: options.connectTimeoutMs,
      icTimeoutMs: options.connectTimeoutMs,
      clock: options.clock,
      signal: this.#abort.signal,
      ...(options.connectSocket === undefined ? {} : { connectSocket: options.connectSocket }),
    });
    this.#connections.push(connection);
    if (this.#lost !== undefined) {
      void connection.close();
      throw this.#lost;
    }
    return connection;
  }

  /** Sends Connect. @returns DW0 of its completion */
  async #connectQueue(queue: AdminQueue, qid: number, sqsize: number): Promise<number> {
    const { options } = this;
    const command = connectCommandCodec.encode({
      qid,
      sqsize,
      cattr: options.disableSqFlow ? Cattr.DisableSqFlowControl : 0,
      kato: qid === 0 ? options.katoMs : 0,
    });
    const data = connectDataCodec.encode({
      hostid: options.hostid,
      cntlid: qid === 0 ? options.cntlid : this.cntlid,
      subnqn: options.subnqn,
      hostnqn: options.hostnqn,
    });
    const fill = (sqe: DataView): void => new Uint8Array(sqe.buffer).set(command, 40);
    try {
      const { result } = await queue.fabrics('Connect', Fctype.Connect, fill, data);
      return result;
    } catch (error) {
      throw error instanceof NvmeStatusError ? this.#explainConnect(error, qid) : error;
    }
  }

  /** A failed Connect in words: who refused whom, for which field, and what to do. */
  #explainConnect(error: NvmeStatusError, qid: number): NvmeStatusError {
    const { options } = this;
    const code = error.status & STATUS_CODE_MASK;
    let what = `Connect of ${qid === 0 ? 'the admin queue' : `I/O queue ${qid}`} to ${this.#where()}`;
    if (code === FabricsStatus.ConnectInvalidHost) {
      what += ` as host ${options.hostnqn} (not on its allow-list?)`;
    } else if (code === FabricsStatus.ConnectInvalidParameters) {
      const inData = (error.result & 0x10000) !== 0;
      const offset = error.result & 0xffff;
      const field = CONNECT_FIELDS[`${inData ? 'data' : 'sqe'}:${offset}`];
      what += ` (${field === undefined ? `${inData ? 'data' : 'SQE'} byte ${offset}` : field} is refused)`;
    }
    return new NvmeStatusError(what, error.status, 'fabrics', error.result);
  }

  #where(): string {
    return `${this.options.subnqn} at ${this.#connections[0]?.peer ?? this.options.address}`;
  }

  // --- enable

  async #enable(): Promise<void> {
    const admin = this.#admin;
    this.cap = await admin.propertyGet64('CAP', Property.CAP);
    this.version = await admin.propertyGet('VS', Property.VS);
    const readyTimeoutMs = Math.max(1, Number((this.cap >> 24n) & 0xffn)) * 500;
    const cc = await admin.propertyGet('CC', Property.CC);
    if ((cc & Cc.EN) !== 0) {
      // a static controller that a former association left enabled
      await admin.propertySet('CC', Property.CC, (cc & ~Cc.EN) >>> 0);
      await this.#waitCsts('disabled', (csts) => (csts & Csts.RDY) === 0, readyTimeoutMs);
    }
    // CC.CSS 110b selects all supported I/O command sets, if there is a choice (CAP.CSS bit 6); else 000b
    const css = (this.cap >> 43n) & 1n ? 6 : 0;
    const value = Cc.EN | (css << Cc.cssShift) | (6 << Cc.iosqesShift) | (4 << Cc.iocqesShift);
    await admin.propertySet('CC', Property.CC, value);
    await this.#waitCsts('ready', (csts) => (csts & Csts.RDY) !== 0, readyTimeoutMs);
  }

  async #waitCsts(what: string, done: (csts: number) => boolean, timeoutMs: number): Promise<void> {
    const { clock } = this.options;
    const deadlineMs = clock.nowMs() + timeoutMs;
    for (let delayMs = 1; ; delayMs = Math.min(delayMs * 2, POLL_MS_MAX)) {
      const csts = await this.#admin.propertyGet('CSTS', Property.CSTS);
      if (done(csts)) return;
      if ((csts & Csts.CFS) !== 0) {
        throw new TransportError('NVMEOF_ERR_CONTROLLER_FATAL', `${this.#where()} reports a fatal error (CSTS.CFS)`);
      }
      if (clock.nowMs() >= deadlineMs) {
        throw new TransportError('NVMEOF_ERR_TIMEOUT', `${this.#where()} was not ${what} within ${timeoutMs} ms`);
      }
      await this.#sleep(delayMs);
    }
  }

  /** Ends early, with an error, if the association ends. */
  #sleep(delayMs: number): Promise<void> {
    const { signal } = this.#abort;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        timer.cancel();
        reject(this.#lost ?? signal.reason);
      };
      const timer = this.options.clock.setTimer(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      }, delayMs);
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  #checkIdentify(): void {
    const id = this.#identify;
    const wrong =
      id.cntlid !== this.cntlid
        ? `CNTLID ${id.cntlid} differs from ${this.cntlid} of Connect`
        : (id.sgls & 3) === 0
          ? 'SGLS says that it takes no SGLs'
          : id.cntrltype === ControllerType.Discovery
            ? ''
            : id.ioccsz < 4
              ? `IOCCSZ is ${id.ioccsz}, at least 4 is needed`
              : id.iorcsz < 1
                ? `IORCSZ is ${id.iorcsz}, at least 1 is needed`
                : id.icdoff !== 0
                  ? `ICDOFF is ${id.icdoff}, only 0 is allowed on TCP`
                  : '';
    if (wrong !== '')
      throw new TransportError('NVMEOF_ERR_PROTOCOL', `${this.#where()} identifies itself wrongly: ${wrong}`);
  }

  #startKeepAlive(): void {
    const { clock, katoMs } = this.options;
    const counted = (this.#identify.ctratt & TBKAS) !== 0 ? (): number => this.#completedCount() : undefined;
    this.#keepAlive = new KeepAlive(
      clock,
      katoMs,
      counted,
      async () => {
        await this.#admin.urgent({ opcode: AdminOpcode.KeepAlive });
      },
      () =>
        this.#lose(
          new TransportError('NVMEOF_ERR_TIMEOUT', `${this.#where()} did not answer Keep Alive within ${katoMs} ms`),
        ),
    );
  }

  #completedCount(): number {
    let count = this.#admin.queuePair.completedCount;
    for (const queuePair of this.#ioQueuePairs) count += queuePair.completedCount;
    return count;
  }

  // --- I/O queues

  async #connectIo(): Promise<void> {
    const { ioQueues, queueSize } = this.options;
    const wanted = ioQueues - 1;
    const { result } = await this.#admin.execute('Set Features Number of Queues', {
      opcode: AdminOpcode.SetFeatures,
      cdw10: Feature.NumberOfQueues,
      cdw11: wanted | (wanted << 16),
    });
    const granted = Math.min(ioQueues, (result & 0xffff) + 1, (result >>> 16) + 1);
    const mqes = Number(this.cap & 0xffffn);
    const maxcmd = this.#identify.maxcmd;
    const entries = Math.min(queueSize, mqes + 1, maxcmd === 0 ? queueSize : maxcmd + 1);
    const inCapsuleBytes = Math.max(0, this.#identify.ioccsz * 16 - 64);
    const queue = new PQueue({ concurrency: QUEUE_CONNECT_CONCURRENCY });
    const connections = await Promise.all(
      Array.from({ length: granted }, () => queue.add(() => this.#openConnection(entries - 1))),
    );
    // one after another, as controllers expect: ascending queue identifiers
    for (const [i, connection] of connections.entries()) {
      const queuePair = new HostQueuePair(i + 1, connection, inCapsuleBytes, this);
      this.#ioQueuePairs.push(queuePair);
      const connecting = new AdminQueue(queuePair, 0);
      connecting.lostError = this.#lost;
      await this.#connectQueue(connecting, i + 1, entries - 1);
    }
  }

  /** ACRE: a controller that has retry delays (CRDT) reports them only to hosts that say so. Base 2.1 section 5.1.25.1.14. */
  async #acceptRetryDelays(): Promise<void> {
    const { crdt1, crdt2, crdt3 } = this.#identify;
    if (crdt1 + crdt2 + crdt3 === 0) return;
    // a refusal only means that the delays are not told
    await this.#admin.passthru({
      opcode: AdminOpcode.SetFeatures,
      cdw10: Feature.HostBehaviorSupport,
      data: hostBehaviorCodec.encode({ acre: 1 }),
    });
  }

  async #startEvents(): Promise<void> {
    const { oaes, oncs, cntrltype, aerl } = this.#identify;
    const events = (oaes & EVENTS) >>> 0;
    // a Discovery controller without keep alive is not a persistent connection: it reports nothing
    const persistent = cntrltype !== ControllerType.Discovery || this.options.katoMs !== 0;
    // reservation notices have a mask of their own: nothing has to be switched on for them
    if ((events === 0 && (oncs & ONCS_RESERVATIONS) === 0) || !persistent) return;
    if (events !== 0) {
      await this.#admin.execute('Set Features Asynchronous Event Configuration', {
        opcode: AdminOpcode.SetFeatures,
        cdw10: Feature.AsyncEventConfiguration,
        cdw11: events,
      });
    }
    const count = Math.min(aerl + 1, AER_COUNT_MAX);
    new AsyncEventRequests(this.#admin.queuePair, count, (event) => this.#hooks.asyncEvent(event));
  }

  // --- while it lives

  slotFree(queuePair: HostQueuePair): void {
    this.#hooks.slotFree(queuePair);
  }

  queuePairLost(queuePair: HostQueuePair, error: TransportError): void {
    void queuePair;
    this.#lose(error);
  }

  commandTimedOut(queuePair: HostQueuePair, command: HostCommand): void {
    const { adminTimeoutMs, ioTimeoutMs } = this.options;
    if (queuePair.qid === 0 || !this.established) {
      const what = `${this.#where()} did not answer a command on queue ${queuePair.qid} within ${adminTimeoutMs} ms`;
      this.#lose(new TransportError('NVMEOF_ERR_TIMEOUT', what));
      return;
    }
    this.abortCommand(queuePair, command, `did not complete an I/O command within ${ioTimeoutMs} ms`);
  }

  /** Sends an Abort; if the command is still there after `abortTimeoutMs`, the association is given up. */
  abortCommand(queuePair: HostQueuePair, command: HostCommand, why?: string): void {
    const { cid } = command;
    const { abortTimeoutMs, clock } = this.options;
    this.#admin.abort(queuePair.qid, cid).catch(() => {}); // lost, or no slot free: the timer below decides
    if (why === undefined) return;
    const timer = clock.setTimer(() => {
      this.#abortTimers.delete(timer);
      if (this.#lost !== undefined || command.cid !== cid || command.state === 0) return;
      const what = `${this.#where()} ${why}, nor abort it within ${abortTimeoutMs} ms`;
      this.#lose(new TransportError('NVMEOF_ERR_TIMEOUT', what));
    }, abortTimeoutMs);
    this.#abortTimers.add(timer);
  }

  #armScan(): void {
    if (this.#lost !== undefined) return;
    this.#scanTimer = this.options.clock.setTimer(() => {
      const { adminTimeoutMs, ioTimeoutMs } = this.options;
      this.#admin.queuePair.scan(Math.ceil(adminTimeoutMs / this.#tickMs));
      const ioMs = this.established ? ioTimeoutMs : adminTimeoutMs;
      for (const queuePair of this.#ioQueuePairs) queuePair.scan(Math.ceil(ioMs / this.#tickMs));
      this.#armScan();
    }, this.#tickMs);
  }

  // --- the end

  /** Ends the association without a word to the controller, as after an error. */
  fail(error: TransportError): void {
    this.#lose(error);
  }

  #lose(error: TransportError): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    this.#stop();
    // first all connections: nothing may move data for a command that is given back
    for (const connection of this.#connections) void connection.close();
    if (this.#admin !== undefined) {
      this.#admin.lostError = error;
      this.#admin.queuePair.endActive(() => false);
    }
    if (this.established) this.#hooks.lost(this, error);
    else for (const queuePair of this.#ioQueuePairs) queuePair.endActive(() => false);
  }

  #stop(): void {
    this.#keepAlive?.stop();
    this.#scanTimer?.cancel();
    this.#scanTimer = undefined;
    for (const timer of this.#abortTimers) timer.cancel();
    this.#abortTimers.clear();
    this.#abort.abort();
  }

  /**
   * Ends the association; idempotent.
   * @param shutdown close the I/O queues, then let the controller shut down (CC.SHN) and wait until it has
   */
  close(shutdown: boolean): Promise<void> {
    this.#closing ??= this.#close(shutdown);
    return this.#closing;
  }

  async #close(shutdown: boolean): Promise<void> {
    if (this.#lost === undefined && shutdown && this.established) {
      this.#keepAlive?.stop();
      this.established = false; // a loss from here on is no news
      await Promise.all(this.#ioQueuePairs.map((queuePair) => queuePair.close()));
      for (const queuePair of this.#ioQueuePairs) queuePair.endActive(() => false, PathStatus.AbortedByHost);
      await this.#shutdown();
    }
    const closed = new TransportError('NVMEOF_ERR_CLOSED', `The association with ${this.#where()} was closed`);
    this.established = false;
    this.#lose(closed);
    await Promise.all(this.#connections.map((connection) => connection.close()));
  }

  async #shutdown(): Promise<void> {
    const timeoutMs = Math.max(SHUTDOWN_TIMEOUT_MS, this.#identify.rtd3e / 1000);
    const timer = this.options.clock.setTimer(
      () =>
        this.#lose(
          new TransportError('NVMEOF_ERR_TIMEOUT', `${this.#where()} did not shut down within ${timeoutMs} ms`),
        ),
      timeoutMs,
    );
    try {
      const cc = await this.#admin.propertyGet('CC', Property.CC);
      await this.#admin.propertySet(
        'CC',
        Property.CC,
        ((cc & ~(Cc.shnMask << Cc.shnShift)) | (1 << Cc.shnShift)) >>> 0,
      );
      await this.#waitCsts('shut down', (csts) => (csts & Csts.shstMask) === Csts.shstComplete, timeoutMs);
    } catch (error) {
      // it is closed either way
      if (!(error instanceof NvmeofError)) throw error;
    } finally {
      timer.cancel();
    }
  }
}

/** Connect's fields by the offset that a refusal names. */
const CONNECT_FIELDS: Readonly<Record<string, string>> = {
  'sqe:42': 'the queue identifier',
  'sqe:44': 'the queue size',
  'sqe:48': 'the keep alive time-out',
  'data:0': 'the host identifier',
  'data:16': 'the controller identifier',
  'data:256': 'the subsystem NQN (no such subsystem?)',
  'data:512': 'the host NQN',
};
