/** The host's side of one controller: one association at a time, made again when it is lost. */
import { EventEmitter } from 'node:events';
import { AsyncEventType, AsyncNotice, IoCommandSetEvent, LogPage } from '../spec/log-page.ts';
import { AdminOpcode, Direction } from '../spec/opcode.ts';
import { DNR, PathStatus } from '../spec/status.ts';
import { NO_DATA } from '../transport/tcp/host-command.ts';
import type { Timer } from '../util/clock.ts';
import { ConfigError, NvmeofError, NvmeStatusError, OutcomeUnknownError, TransportError } from '../util/error.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import type { NamespaceIdentifiers } from '../wire/cold/lists.ts';
import { CHANGED_NAMESPACES_BYTES, decodeChangedNamespaces } from '../wire/cold/log-changed-ns.ts';
import { buildSqe, commandError, type PassthruCommand, type PassthruResult } from './admin-queue.ts';
import { Association, type AssociationHooks } from './association.ts';
import type { AsyncEvent } from './async-events.ts';
import * as commands from './controller-commands.ts';
import { IoDispatcher } from './io-dispatcher.ts';
import { OUTCOME_UNKNOWN, quiesceDelayMs } from './multipath/outcome.ts';
import type { HostNamespace } from './namespace.ts';
import { NamespaceManagement } from './namespace-management.ts';
import type { Cancellable, NamespaceOwner } from './namespace-owner.ts';
import { NamespaceSet } from './namespace-set.ts';
import { type HostOptions, type ResolvedHostOptions, resolveOptions } from './options.ts';
import { type ReservationNotice, ReservationNoticeReader } from './reservation.ts';

/** As the Linux host names them in /sys/class/nvme/nvmeN/state. @public */
export type HostControllerState = 'connecting' | 'live' | 'resetting' | 'deleting' | 'dead';

/** @public */
export interface HostControllerEvents {
  state: [state: HostControllerState];
  /** The association was lost; it will be made again, or `dead` follows. */
  lost: [error: TransportError];
  /** An attempt to connect again failed. */
  reconnectFailed: [error: Error, attempt: number];
  asyncEvent: [event: AsyncEvent];
  /** Namespaces came, went or changed; undefined: any may have. Their `HostNamespace` objects are up to date. */
  namespacesChanged: [nsids: readonly number[] | undefined];
  /** Another host did something to what this one registered or held. */
  reservationNotice: [notice: ReservationNotice];
}

/** Get Features and Set Features. @public */
export interface FeatureOptions {
  readonly nsid?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
  readonly cdw13?: number;
  readonly cdw14?: number;
  readonly cdw15?: number;
}

/** Reading the beginning of a log page clears its event. */
const EVENT_LOG_BYTES = 16;

/** @public */
export class HostController extends EventEmitter<HostControllerEvents> implements NamespaceOwner {
  readonly options: ResolvedHostOptions;
  /** The callback data path: I/O commands on whatever association there is. */
  readonly io: IoDispatcher;
  readonly #namespaces: NamespaceSet;
  readonly #hooks: AssociationHooks;
  readonly #reservationNotices: ReservationNoticeReader;
  #association: Association | undefined;
  #identify: IdentifyController | undefined;
  #state: HostControllerState = 'connecting';
  #lostError: TransportError | undefined;
  #retryTimer: Timer | undefined;
  #fastFailTimer: Timer | undefined;
  #lossTimer: Timer | undefined;
  /** Holds the process while there is no socket that would: the clock's timers do not, and someone may wait for I/O. */
  #stayAlive: Timer | undefined;
  #liveSinceMs = 0;
  /** Events about namespaces since the last reading of what changed began. */
  #changesSeen = 0;
  #attempt = 0;
  #connectAbort = new AbortController();
  #closing: Promise<void> | undefined;
  /** Associations that were lost and made again. */
  reconnectCount = 0;

  /**
   * Connects and returns once the controller is live. A first connection that fails is not tried again.
   * @throws ConfigError, TransportError (its code the errno, or NVMEOF_ERR_...), NvmeStatusError, or the signal's reason
   */
  static async connect(options: HostOptions): Promise<HostController> {
    const controller = new HostController(resolveOptions(options));
    try {
      await controller.#connect(options.signal);
    } catch (error) {
      controller.#setState('dead');
      controller.io.failWaiting();
      throw error;
    }
    return controller;
  }

  private constructor(options: ResolvedHostOptions) {
    super();
    this.options = options;
    this.io = new IoDispatcher(options.failFast, options.clock);
    this.#namespaces = new NamespaceSet(this);
    this.#reservationNotices = new ReservationNoticeReader(this, (notice) => this.emit('reservationNotice', notice));
    this.#hooks = {
      lost: (association, error) => this.#onLost(association, error),
      asyncEvent: (event) => this.#onAsyncEvent(event),
      slotFree: () => this.io.slotFree(),
    };
  }

  get state(): HostControllerState {
    return this.#state;
  }

  /** Identify Controller as of the last connection. */
  get identify(): IdentifyController {
    if (this.#identify === undefined) throw new NvmeofError('NVMEOF_ERR_STATE', 'Controller was never connected');
    return this.#identify;
  }

  /** The association of the moment; undefined while not live. */
  get association(): Association | undefined {
    return this.#association;
  }

  /** Why there is no association now; undefined if it was never lost, or lives. */
  get lostError(): TransportError | undefined {
    return this.#lostError;
  }

  get cntlid(): number {
    return this.identify.cntlid;
  }

  /** Most bytes of one command's data; `Infinity` if the controller names no limit. */
  get maxTransferBytes(): number {
    const { mdts } = this.identify;
    const mpsmin = Number(((this.#association?.cap ?? 0n) >> 48n) & 0xfn);
    return mdts === 0 ? Number.POSITIVE_INFINITY : 2 ** (mdts + 12 + mpsmin);
  }

  // --- connecting and losing

  async #connect(signal?: AbortSignal): Promise<void> {
    const association = await Association.establish(this.options, this.#hooks, signal);
    this.#association = association;
    this.#identify = association.identify;
    this.#lostError = undefined;
    this.#liveSinceMs = this.options.clock.nowMs();
    this.#attempt = 0;
    this.#cancelTimers();
    this.io.attach(association.ioQueuePairs);
    this.#setState('live');
  }

  #setState(state: HostControllerState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.emit('state', state);
  }

  #cancelTimers(): void {
    this.#stayAlive?.cancel();
    this.#stayAlive = undefined;
    this.#retryTimer?.cancel();
    this.#fastFailTimer?.cancel();
    this.#lossTimer?.cancel();
    this.#retryTimer = undefined;
    this.#fastFailTimer = undefined;
    this.#lossTimer = undefined;
  }

  #onLost(association: Association, error: TransportError): void {
    if (association !== this.#association) return;
    const { clock, ctrlLossTimeoutMs, fastIoFailTimeoutMs, reconnectDelayMs } = this.options;
    this.#association = undefined;
    this.#lostError = error;
    if (this.#closing !== undefined) {
      this.io.detach(association.ioQueuePairs);
      return;
    }
    this.#stayAlive = clock.hold?.();
    this.#setState('resetting');
    this.io.detach(association.ioQueuePairs, this.#quiesceMs(association, error));
    this.emit('lost', error);
    if (Number.isFinite(fastIoFailTimeoutMs)) {
      this.#fastFailTimer = clock.setTimer(() => this.io.failWaiting(), fastIoFailTimeoutMs);
    }
    if (Number.isFinite(ctrlLossTimeoutMs)) this.#lossTimer = clock.setTimer(() => this.#giveUp(), ctrlLossTimeoutMs);
    this.#setState('connecting');
    // at once the first time, but not if the connection does not hold
    const held = clock.nowMs() - this.#liveSinceMs >= reconnectDelayMs;
    this.#retryTimer = clock.setTimer(() => this.#retry(), held ? 0 : reconnectDelayMs);
  }

  /** How long the controller may still execute what was sent on that association. */
  #quiesceMs({ identify: { cqt, ctratt } }: Association, { code }: TransportError): number {
    const { quiesceMs, katoMs } = this.options;
    return quiesceMs ?? quiesceDelayMs(code, { cqt, ctratt, katoMs });
  }

  #retry(): void {
    if (this.#closing !== undefined || this.#state !== 'connecting') return;
    const attempt = ++this.#attempt;
    this.#connectAbort = new AbortController();
    this.#connect(this.#connectAbort.signal).then(
      () => {
        this.reconnectCount++;
        void this.#namespaces.refresh(undefined);
      },
      (error: Error) => {
        if (this.#state !== 'connecting' || this.#closing !== undefined) return;
        this.emit('reconnectFailed', error, attempt);
        const refused = error instanceof NvmeStatusError && (error.status & DNR) !== 0;
        if (error instanceof ConfigError || (refused && this.options.stopOnDnr)) {
          this.#giveUp();
          return;
        }
        this.#retryTimer = this.options.clock.setTimer(() => this.#retry(), this.options.reconnectDelayMs);
      },
    );
  }

  /** Ends without a connection: time-out, or the controller says that trying again is useless. */
  #giveUp(): void {
    this.#cancelTimers();
    this.#connectAbort.abort();
    this.#setState('deleting');
    this.io.failWaiting();
    this.#setState('dead');
  }

  /**
   * Ends the association and makes it again; I/O waits meanwhile.
   * @throws TransportError if the controller is not live
   */
  reset(): void {
    const association = this.#association;
    if (association === undefined) throw this.#notConnected('Reset');
    association.fail(new TransportError('NVMEOF_ERR_RESET', 'Controller was reset by the host'));
  }

  /**
   * Disconnects: I/O in flight fails, the controller is shut down (CC.SHN), everything is closed. Idempotent; the events end.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const association = this.#association;
    this.#cancelTimers();
    this.#connectAbort.abort();
    if (this.#state !== 'dead') this.#setState('deleting');
    // new I/O finds no queue pair and fails
    this.io.detach([]);
    this.io.failWaiting(PathStatus.AbortedByHost);
    await association?.close(true);
    this.#association = undefined;
    this.#setState('dead');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #notConnected(what: string): TransportError {
    const why = this.#lostError === undefined ? 'it is disconnected' : this.#lostError.message;
    return new TransportError('NVMEOF_ERR_PATH', `${what} failed, the controller is ${this.#state}: ${why}`, {
      cause: this.#lostError,
    });
  }

  // --- events

  #onAsyncEvent(event: AsyncEvent): void {
    this.emit('asyncEvent', event);
    if (event.type === AsyncEventType.Notice && event.info === AsyncNotice.NamespaceAttribute) {
      this.#changesSeen++;
      if (this.#changesSeen === 1) void this.#followChanges();
    }
    if (event.type === AsyncEventType.IoCommandSet && event.info === IoCommandSetEvent.ReservationLogAvailable) {
      void this.#readReservationNotices();
    }
    if (this.#isUnfollowed(event)) void this.#clearEvent(event.lid);
  }

  /** Nobody here acts on it: ANA states are for those who have several paths. */
  #isUnfollowed({ type, info }: AsyncEvent): boolean {
    if (type === AsyncEventType.IoCommandSet) return info === IoCommandSetEvent.SanitizeCompleted;
    if (type !== AsyncEventType.Notice) return false;
    return info === AsyncNotice.FirmwareActivation || (info === AsyncNotice.AnaChange && !this.options.failFast);
  }

  /** Until its log page is read, the controller reports no other event of the type. */
  async #clearEvent(lid: number): Promise<void> {
    try {
      await this.getLogPage({ lid, bytes: EVENT_LOG_BYTES });
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error; // lost, or not readable: nothing more can be done
    }
  }

  /** Takes the notices out of the log, which lets the controller report the next ones. */
  async #readReservationNotices(): Promise<void> {
    try {
      await this.#reservationNotices.available();
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error; // lost: a new association starts without notices
    }
  }

  /** One reading at a time, and one more for all that was reported meanwhile: a controller may report faster than it answers. */
  async #followChanges(): Promise<void> {
    for (let handled = 0; handled !== this.#changesSeen; ) {
      handled = this.#changesSeen;
      await this.#namespacesChanged();
    }
    this.#changesSeen = 0;
  }

  /** Reads the list of changed namespaces, which lets the controller report the next change. */
  async #namespacesChanged(): Promise<void> {
    let nsids: number[] | undefined;
    try {
      const page = await this.getLogPage({ lid: LogPage.ChangedNamespaces, bytes: CHANGED_NAMESPACES_BYTES });
      nsids = decodeChangedNamespaces(page);
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error; // not readable: any may have changed
    }
    await this.#namespaces.refresh(nsids);
    this.emit('namespacesChanged', nsids);
  }

  /** The asynchronous events from now on; ends when the controller is closed or the signal is given. */
  async *events(options: { readonly signal?: AbortSignal } = {}): AsyncGenerator<AsyncEvent, void, undefined> {
    const pending: AsyncEvent[] = [];
    let wake: () => void = () => {};
    const onEvent = (event: AsyncEvent): void => {
      pending.push(event);
      wake();
    };
    const onChange = (): void => wake();
    this.on('asyncEvent', onEvent);
    this.on('state', onChange);
    options.signal?.addEventListener('abort', onChange);
    try {
      while (this.#state !== 'dead' && options.signal?.aborted !== true) {
        const event = pending.shift();
        if (event !== undefined) {
          yield event;
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      this.off('asyncEvent', onEvent);
      this.off('state', onChange);
      options.signal?.removeEventListener('abort', onChange);
    }
  }

  // --- commands

  /** Any Admin command; the status is in the result. Never sent again. @throws TransportError if not live, or lost meanwhile */
  async adminPassthru(command: PassthruCommand): Promise<PassthruResult> {
    const association = this.#association;
    if (association === undefined) throw this.#notConnected('Admin command');
    return association.admin.passthru(command);
  }

  /** As `adminPassthru`; throws NvmeStatusError for any status but success. @param what names the command in the message */
  async executeAdmin(what: string, command: PassthruCommand): Promise<PassthruResult> {
    const association = this.#association;
    if (association === undefined) throw this.#notConnected(what);
    return association.admin.execute(what, command);
  }

  readonly #execute: commands.ExecuteAdmin = (what, command) => this.executeAdmin(what, command);

  /** Creating, attaching, formatting and erasing namespaces. */
  readonly management: NamespaceManagement = new NamespaceManagement(this.#execute);

  /** Any I/O command; the status is in the result. Never sent again. @throws TransportError if not live, or lost meanwhile */
  async ioPassthru(command: PassthruCommand): Promise<PassthruResult> {
    if (!this.io.connected) throw this.#notConnected('I/O command');
    const direction = command.opcode & 3;
    const reads = direction === Direction.ControllerToHost;
    const buffer = reads ? new Uint8Array(command.readBytes ?? 0) : (command.data ?? NO_DATA);
    const [status, result] = await new Promise<[number, number]>((resolve) => {
      const done = (doneStatus: number, dw0: number): void => resolve([doneStatus, dw0]);
      this.io.submitRaw(buildSqe(command), direction, buffer, done, undefined, true, false);
    });
    if (status === OUTCOME_UNKNOWN || status === PathStatus.HostPathingError || status === PathStatus.AbortedByHost) {
      throw this.ioError('I/O command', status, result) ?? this.#notConnected('I/O command');
    }
    return { status, result, resultHigh: 0, data: reads ? buffer : NO_DATA };
  }

  /** What a failed I/O command means: for the promise calls of namespaces. */
  ioError(what: string, status: number, result: number): NvmeofError | undefined {
    if (status === OUTCOME_UNKNOWN) return new OutcomeUnknownError(what, { cause: this.#lostError });
    return commandError(what, 'io', status, result, this.#lostError);
  }

  cancelIo(context: Cancellable): number {
    const association = this.#association;
    for (const queuePair of association?.ioQueuePairs ?? []) {
      for (const command of queuePair.findAll(context)) association?.abortCommand(queuePair, command);
    }
    return this.io.cancelWaiting(context);
  }

  controllerFor(_nsid: number): HostController {
    return this;
  }

  identifyController(): Promise<IdentifyController> {
    return commands.identifyController(this.#execute);
  }

  identifyNamespace(nsid: number): Promise<IdentifyNamespace> {
    return commands.identifyNamespace(this.#execute, nsid);
  }

  namespaceDescriptors(nsid: number): Promise<NamespaceIdentifiers> {
    return commands.namespaceDescriptors(this.#execute, nsid);
  }

  /** NSIDs of all active namespaces, ascending. */
  activeNamespaces(): Promise<number[]> {
    return commands.activeNamespaces(this.#execute);
  }

  getLogPage(options: commands.GetLogPageOptions): Promise<Uint8Array> {
    return commands.getLogPage(this.#execute, options);
  }

  /** @param readBytes length of the feature's data structure, if it has one */
  getFeature(
    fid: number,
    options: FeatureOptions & { readonly select?: number; readonly readBytes?: number } = {},
  ): Promise<PassthruResult> {
    const { select, ...rest } = options;
    return this.executeAdmin(`Get Features ${fid.toString(16).padStart(2, '0')}h`, {
      ...rest,
      opcode: AdminOpcode.GetFeatures,
      cdw10: fid | ((select ?? 0) << 8),
    });
  }

  /** @param data the feature's data structure, if it has one */
  setFeature(
    fid: number,
    options: FeatureOptions & { readonly save?: boolean; readonly data?: Uint8Array } = {},
  ): Promise<PassthruResult> {
    const { save, ...rest } = options;
    return this.executeAdmin(`Set Features ${fid.toString(16).padStart(2, '0')}h`, {
      ...rest,
      opcode: AdminOpcode.SetFeatures,
      cdw10: (fid | (save ? 0x8000_0000 : 0)) >>> 0,
    });
  }

  // --- namespaces

  /** A namespace with its geometry. The same object for the same NSID. @throws NvmeofError NVMEOF_ERR_NO_NAMESPACE if it is not active */
  namespace(nsid: number): Promise<HostNamespace> {
    return this.#namespaces.get(nsid);
  }

  /** All active namespaces. */
  async namespaces(): Promise<HostNamespace[]> {
    return this.#namespaces.getAll(await this.activeNamespaces());
  }
}
