/**
 * One path of a multipath subsystem: a controller through one address, made again when it is lost, what it says of ANA, and which namespaces it was
 * seen to have.
 */
import { AsyncEventType, AsyncNotice } from '../../spec/log-page.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { ConfigError, NvmeofError } from '../../util/error.ts';
import { type AnaLog, AnaState } from '../../wire/cold/log-ana.ts';
import { readAnaLog, reportsAna } from '../ana-log.ts';
import type { Association } from '../association.ts';
import { HostController, type HostControllerState } from '../controller.ts';
import { IoDispatcher, type SlotWaiter } from '../io-dispatcher.ts';
import type { HostOptions } from '../options.ts';
import type { HostQueuePair } from '../queue-pair.ts';
import { CommandList, type MultipathCommand } from './command.ts';
import type { NamespacePaths } from './namespace-paths.ts';
import { quiesceDelayMs } from './outcome.ts';
import { sameNamespace } from './same-namespace.ts';

/** What a path tells its subsystem. */
export interface PathOwner {
  readonly clock: Clock;
  /** Fixed by the user; undefined: as the controller reports. */
  readonly quiesceMs: number | undefined;
  /** Every namespace that is in use. */
  readonly openNamespaces: Iterable<NamespacePaths>;
  /** What I/O may use this path for is another now. */
  pathChanged(path: MultipathPath): void;
  /** Its controller's state is another, or an attempt to connect failed. */
  pathState(path: MultipathPath, error: Error | undefined): void;
  anaChanged(path: MultipathPath): void;
  namespacesChanged(path: MultipathPath, nsids: readonly number[] | undefined): void;
  /** The controller has another namespace under that NSID. */
  identityMismatch(path: MultipathPath, nsid: number): void;
  /** What was held may be sent again. */
  released(commands: CommandList): void;
}

const NO_IO = new IoDispatcher(true);
/** A path that failed commands without a reason of ANA is left alone for this long. */
const SUSPECT_MS = 1000;
const RECONNECT_DELAY_MS_DEFAULT = 10_000;

export class MultipathPath {
  readonly options: HostOptions;
  readonly #owner: PathOwner;
  #io: IoDispatcher = NO_IO;
  #controller: HostController | undefined;
  #error: Error | undefined;
  #dead = false;
  /** Live, ANA log read, namespaces looked at. */
  #ready = false;
  readonly #abort = new AbortController();
  #retryTimer: Timer | undefined;
  #closing: Promise<void> | undefined;
  #ana: AnaLog | undefined;
  readonly #anaStates = new Map<number, number>();
  /** What statuses said of namespaces since the log was last read, and in which round of reading. */
  readonly #heard = new Map<number, { state: number; round: number }>();
  #round = 0;
  #reading: Promise<void> | undefined;
  #readAgain = false;
  /** An ANA event came while the path was being brought up. */
  #heardWhileDown = false;
  #changeTimer: Timer | undefined;
  #changeOverdue = false;
  readonly #seen = new Set<number>();
  readonly #suspects = new Map<number, Timer>();
  /** Commands of the association that was lost last. */
  #holding: CommandList | undefined;
  readonly #holds = new Map<CommandList, Timer>();

  constructor(options: HostOptions, owner: PathOwner) {
    this.options = { ...options, failFast: true };
    this.#owner = owner;
  }

  // ---- for the data path

  pickFree(): HostQueuePair | undefined {
    return this.#io.pickFree();
  }

  get activeCount(): number {
    return this.#io.activeCount;
  }

  set slotWaiter(waiter: SlotWaiter | undefined) {
    if (this.#io !== NO_IO) this.#io.slotWaiter = waiter;
  }

  // ---- for views

  /** Undefined before the first connection. */
  get controller(): HostController | undefined {
    return this.#controller;
  }

  get state(): HostControllerState {
    if (this.#dead) return 'dead';
    return this.#controller?.state ?? 'connecting';
  }

  /** I/O may use it, as far as ANA allows. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Why it is not live. */
  get error(): Error | undefined {
    return this.state === 'live' ? undefined : this.#error;
  }

  /** The ANA log as last read; undefined if the controller reports no ANA. */
  get ana(): AnaLog | undefined {
    return this.#ana;
  }

  get name(): string {
    return `${this.options.address}:${this.options.port ?? 4420}`;
  }

  /** One of `AnaState`; 0 if it is not known (now). Without ANA everything is optimized. */
  anaState(nsid: number): number {
    const heard = this.#heard.get(nsid);
    if (heard !== undefined) return heard.state;
    if (this.#ana === undefined) return this.#ready ? AnaState.Optimized : 0;
    return this.#anaStates.get(nsid) ?? 0;
  }

  /** Live, and the namespace is there and the one that is meant; whatever its ANA state. */
  has(nsid: number): boolean {
    return this.#ready && this.#seen.has(nsid);
  }

  /** It failed commands of that namespace a moment ago. */
  isSuspect(nsid: number): boolean {
    return this.#suspects.has(nsid);
  }

  // ---- connecting

  /** Connects, and goes on trying if that fails. Resolves after the first attempt: with its error, or undefined. */
  async open(): Promise<Error | undefined> {
    try {
      const controller = await HostController.connect({ ...this.options, signal: this.#abort.signal });
      if (this.#closing !== undefined) {
        await controller.close();
        return undefined;
      }
      this.#adopt(controller);
      await this.#bringUp();
      return undefined;
    } catch (error) {
      if (this.#abort.signal.aborted) return undefined;
      this.#error = error as Error;
      if (error instanceof ConfigError || !(error instanceof NvmeofError)) this.#dead = true;
      else this.#retryLater();
      this.#owner.pathState(this, this.#error);
      this.#owner.pathChanged(this);
      return this.#error;
    }
  }

  #retryLater(): void {
    this.#retryTimer = this.#owner.clock.setTimer(
      () => void this.open(),
      this.options.reconnectDelayMs ?? RECONNECT_DELAY_MS_DEFAULT,
    );
  }

  #adopt(controller: HostController): void {
    this.#controller = controller;
    this.#io = controller.io;
    controller.on('state', (state) => this.#onState(state));
    controller.on('lost', (error) => {
      this.#error = error;
    });
    controller.on('reconnectFailed', (error) => {
      this.#error = error;
      this.#owner.pathState(this, error);
    });
    controller.on('asyncEvent', ({ type, info }) => {
      if (type === AsyncEventType.Notice && info === AsyncNotice.AnaChange) void this.refreshAna();
    });
    controller.on('namespacesChanged', (nsids) => void this.#onNamespaces(nsids));
  }

  #onState(state: HostControllerState): void {
    if (state === 'live') void this.#bringUp();
    else if (this.#ready) {
      this.#ready = false;
      this.#forget();
      this.#owner.pathChanged(this);
    } else if (state === 'dead') this.#owner.pathChanged(this);
    this.#owner.pathState(this, undefined);
  }

  /** What only holds for one association. */
  #forget(): void {
    this.#seen.clear();
    this.#heard.clear();
    this.#anaStates.clear();
    this.#ana = undefined;
    this.#changeTimer?.cancel();
    this.#changeTimer = undefined;
    for (const timer of this.#suspects.values()) timer.cancel();
    this.#suspects.clear();
  }

  /** The controller is live: what is it good for? */
  async #bringUp(): Promise<void> {
    const controller = this.#controller!;
    const { association } = controller;
    this.#holding = undefined;
    this.#heardWhileDown = false;
    this.#forget();
    try {
      if (reportsAna(controller.identify)) this.#takeLog(await readAnaLog(controller));
      for (const namespace of this.#owner.openNamespaces) await this.#look(namespace, association);
    } catch (error) {
      this.#failed(error, association);
      return;
    }
    if (controller.association !== association || association === undefined) return; // lost meanwhile
    this.#ready = true;
    this.#error = undefined;
    this.#owner.pathChanged(this);
    this.#owner.pathState(this, undefined);
    if (this.#heardWhileDown) void this.refreshAna();
  }

  /** A controller that is live but cannot be asked is of no use: another association may do better. */
  #failed(error: unknown, association: Association | undefined): void {
    if (!(error instanceof NvmeofError)) throw error;
    const controller = this.#controller;
    if (controller?.association === undefined || controller.association !== association) return;
    this.#error = error;
    this.#owner.pathState(this, error);
    controller.reset();
  }

  // ---- namespaces

  /** Looks whether the namespace is the one that is meant here, too. */
  async look(namespace: NamespacePaths): Promise<void> {
    if (!this.#ready) return; // it is looked at when the path is brought up
    const { association } = this.#controller!;
    try {
      await this.#look(namespace, association);
    } catch (error) {
      this.#failed(error, association);
    }
    this.#owner.pathChanged(this);
  }

  async #look(namespace: NamespacePaths, association: Association | undefined): Promise<void> {
    const { nsid } = namespace;
    const found = await sameNamespace(this.#controller!, namespace);
    if (this.#controller!.association !== association) return;
    if (found === 'same') this.#seen.add(nsid);
    else this.#seen.delete(nsid);
    if (found === 'other') this.#owner.identityMismatch(this, nsid);
    if (found === 'same' && this.#ana !== undefined && !this.#anaStates.has(nsid)) void this.refreshAna();
  }

  async #onNamespaces(nsids: readonly number[] | undefined): Promise<void> {
    this.#owner.namespacesChanged(this, nsids);
    for (const namespace of this.#owner.openNamespaces) {
      if (nsids === undefined || nsids.includes(namespace.nsid)) await this.look(namespace);
    }
  }

  // ---- ANA

  /** A command was refused for the ANA state: that holds until the log says otherwise. */
  refused(nsid: number, state: number): void {
    this.#heard.set(nsid, { state, round: this.#round });
    this.#owner.pathChanged(this);
    void this.refreshAna();
  }

  /** Reads the log again; a change during that has it read once more. */
  refreshAna(): Promise<void> {
    this.#heardWhileDown = !this.#ready;
    if (this.#reading !== undefined) {
      this.#readAgain = true;
      return this.#reading;
    }
    this.#reading = this.#readLog().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readLog(): Promise<void> {
    do {
      this.#readAgain = false;
      const controller = this.#controller;
      const association = controller?.association;
      if (controller === undefined || association === undefined || !this.#ready) return;
      const round = ++this.#round;
      try {
        const log = await readAnaLog(controller);
        if (controller.association !== association) return;
        for (const [nsid, heard] of this.#heard) if (heard.round < round) this.#heard.delete(nsid);
        this.#takeLog(log);
      } catch (error) {
        this.#failed(error, association);
        return;
      }
      this.#owner.pathChanged(this);
      this.#owner.anaChanged(this);
    } while (this.#readAgain);
  }

  #takeLog(log: AnaLog): void {
    this.#ana = log;
    this.#anaStates.clear();
    for (const { state, nsids } of log.groups) for (const nsid of nsids) this.#anaStates.set(nsid, state);
    this.#watchChange(log.groups.some(({ state, nsids }) => state === AnaState.Change && nsids.length > 0));
  }

  /** No transition takes longer than ANATT: then it is asked again, and after as long again the controller is taken for broken. */
  #watchChange(changing: boolean): void {
    if (!changing) {
      this.#changeTimer?.cancel();
      this.#changeTimer = undefined;
      this.#changeOverdue = false;
      return;
    }
    if (this.#changeTimer !== undefined) return;
    const anattMs = Math.max(1, this.#controller!.identify.anatt) * 1000;
    this.#changeTimer = this.#owner.clock.setTimer(() => {
      this.#changeTimer = undefined;
      if (this.#changeOverdue && this.#controller?.association !== undefined) {
        this.#changeOverdue = false;
        this.#controller.reset();
        return;
      }
      this.#changeOverdue = true;
      void this.refreshAna();
    }, anattMs);
  }

  /** It failed a command for a reason of the path: others are preferred for a while. */
  suspect(nsid: number): void {
    if (this.#suspects.has(nsid)) return;
    const timer = this.#owner.clock.setTimer(() => {
      this.#suspects.delete(nsid);
      this.#owner.pathChanged(this);
    }, SUSPECT_MS);
    this.#suspects.set(nsid, timer);
    this.#owner.pathChanged(this);
  }

  // ---- what was under way when it was lost

  /** Keeps a command until the lost association can no longer execute it. */
  hold(command: MultipathCommand): void {
    if (this.#holding === undefined) {
      const list = new CommandList();
      this.#holding = list;
      this.#holds.set(
        list,
        this.#owner.clock.setTimer(() => {
          this.#holds.delete(list);
          if (this.#holding === list) this.#holding = undefined;
          this.#owner.released(list);
        }, this.#quiesceMs()),
      );
    }
    this.#holding.push(command);
  }

  #quiesceMs(): number {
    const controller = this.#controller!;
    const { cqt, ctratt } = controller.identify;
    return (
      this.#owner.quiesceMs ??
      quiesceDelayMs(controller.lostError?.code, { cqt, ctratt, katoMs: controller.options.katoMs })
    );
  }

  /** Commands that are held. */
  get heldCount(): number {
    let count = 0;
    for (const list of this.#holds.keys()) count += list.length;
    return count;
  }

  /** Disconnects. Idempotent. @param giveUp what is held is released now; otherwise when its time has come */
  close(giveUp: boolean): Promise<void> {
    this.#closing ??= this.#close(giveUp);
    return this.#closing;
  }

  async #close(giveUp: boolean): Promise<void> {
    this.#ready = false;
    this.#abort.abort();
    this.#retryTimer?.cancel();
    this.#forget();
    this.#owner.pathChanged(this);
    await this.#controller?.close();
    if (!giveUp) return;
    for (const [list, timer] of this.#holds) {
      timer.cancel();
      this.#owner.released(list);
    }
    this.#holds.clear();
  }
}
