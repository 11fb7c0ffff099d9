/**
 * A subsystem through several controllers: I/O goes to the best paths and on to others when one fails, without an error to the caller. Base 2.1
 * sections 2.4.1 and 8.1.1.
 *
 * What is repeated when a path is lost: a read or Flush at once; a write, Write Zeroes or Deallocate once the lost association can no longer
 * execute it (see `quiesceMs`), so that an old copy never overtakes a later write; anything else never, unless the controller cannot have seen
 * it: it ends with `OutcomeUnknownError`. What cannot be known: a controller that takes longer than its CQT, or reports none and takes longer than
 * a second; and one that keeps a connection alive that this side lost, without keep alive.
 */
import { EventEmitter } from 'node:events';
import { NSID_ALL } from '../../spec/identify.ts';
import { Direction } from '../../spec/opcode.ts';
import { PathStatus } from '../../spec/status.ts';
import { NO_DATA } from '../../transport/tcp/host-command.ts';
import type { Clock } from '../../util/clock.ts';
import { ConfigError, NvmeofError, OutcomeUnknownError, TransportError } from '../../util/error.ts';
import type { IdentifyNamespace } from '../../wire/cold/identify-namespace.ts';
import { AnaState } from '../../wire/cold/log-ana.ts';
import { buildSqe, commandError, type PassthruCommand, type PassthruResult } from '../admin-queue.ts';
import type { HostController } from '../controller.ts';
import { HostNamespace } from '../namespace.ts';
import type { Cancellable, NamespaceOwner } from '../namespace-owner.ts';
import { type HostOptions, resolveOptions } from '../options.ts';
import type { CommandList } from './command.ts';
import { MultipathIo } from './multipath-io.ts';
import { NamespacePaths, type PathPolicy } from './namespace-paths.ts';
import { OUTCOME_UNKNOWN } from './outcome.ts';
import { MultipathPath, type PathOwner } from './path.ts';
import { MultipathRecovery } from './recovery.ts';
import { describeNamespace } from './same-namespace.ts';

/** @public */
export interface MultipathOptions {
  /** How to reach each controller; all of one subsystem and host. */
  readonly paths: readonly HostOptions[];
  /** Default 'round-robin'. */
  readonly policy?: PathPolicy | undefined;
  /**
   * From the loss of a path to repeating writes that were under way on it. Default: what the specification has a host wait for, which is CQT (a
   * second if the controller reports none) when the controller ended the connection, and keep alive time-out and CQT when it may not know.
   * 0 repeats at once, as the Linux host does: an old copy of a write may then come after a newer one.
   */
  readonly quiesceMs?: number | undefined;
  /** How long I/O waits while every path is connected and none may be used. Default: ANATT of the controllers. */
  readonly noPathTimeoutMs?: number | undefined;
}

/** @public */
export interface MultipathEvents {
  /** The state of a path's controller is another, or an attempt to connect it failed (`error`). */
  path: [path: MultipathPath, error: Error | undefined];
  /** The ANA log of a path was read again. */
  ana: [path: MultipathPath];
  /** A path has another namespace under that NSID: it is not used for it. */
  identityMismatch: [path: MultipathPath, nsid: number];
  /** Namespaces came, went or changed; undefined: any may have. */
  namespacesChanged: [nsids: readonly number[] | undefined];
}

const DRAIN_POLL_MS = 10;

/** @public */
export class MultipathSubsystem extends EventEmitter<MultipathEvents> implements NamespaceOwner {
  readonly subnqn: string;
  /** The callback data path. */
  readonly io: MultipathIo;
  readonly #clock: Clock;
  readonly #options: MultipathOptions;
  readonly #hostnqn: string;
  readonly #recovery: MultipathRecovery;
  readonly #pathOwner: PathOwner;
  #paths: MultipathPath[] = [];
  readonly #known = new Map<number, HostNamespace>();
  #closing: Promise<void> | undefined;

  /**
   * Connects every path; returns once each was tried and one is there at least. The others go on trying.
   * @throws ConfigError; the error of the first path if none could be connected
   */
  static async connect(options: MultipathOptions): Promise<MultipathSubsystem> {
    const subsystem = new MultipathSubsystem(options);
    const errors = await Promise.all(options.paths.map((path) => subsystem.addPath(path)));
    if (!subsystem.#paths.some((path) => path.ready)) {
      await subsystem.close();
      throw (
        errors.find((error) => error !== undefined) ?? new TransportError('NVMEOF_ERR_PATH', 'No path was connected')
      );
    }
    return subsystem;
  }

  private constructor(options: MultipathOptions) {
    super();
    const [first] = options.paths;
    if (first === undefined) throw new ConfigError('Option paths is empty, one path at least is needed');
    const { subnqn, hostnqn, clock } = resolveOptions(first);
    this.subnqn = subnqn;
    this.#hostnqn = hostnqn;
    this.#clock = clock;
    this.#options = options;
    const { noPathTimeoutMs, quiesceMs } = options;
    this.#recovery = new MultipathRecovery(
      { clock, noPathTimeoutMs },
      () => this.io,
      () => this.#paths,
    );
    this.io = new MultipathIo({
      failed: (command, status, result) => this.#recovery.failed(command, status, result),
      stuck: (namespace) => this.#recovery.reconsider(namespace),
    });
    // for commands of no single namespace
    this.io.add(new NamespacePaths(NSID_ALL, {}, 0, 'round-robin'));
    this.#pathOwner = {
      clock,
      quiesceMs,
      openNamespaces: { [Symbol.iterator]: () => this.#openNamespaces() },
      pathChanged: () => this.#evaluate(),
      pathState: (path, error) => this.emit('path', path, error),
      anaChanged: (path) => this.emit('ana', path),
      namespacesChanged: (_path, nsids) => void this.#namespacesChanged(nsids),
      identityMismatch: (path, nsid) => this.emit('identityMismatch', path, nsid),
      released: (commands: CommandList) => this.#recovery.released(commands),
    };
  }

  *#openNamespaces(): Generator<NamespacePaths> {
    for (const namespace of this.io.namespaces) if (namespace.nsid !== NSID_ALL) yield namespace;
  }

  // ---- paths

  get paths(): readonly MultipathPath[] {
    return this.#paths;
  }

  /**
   * Adds a path while I/O runs. Resolves after the first attempt to connect, with its error if it failed; it goes on trying then.
   * @throws ConfigError if it leads to another subsystem, or as another host
   */
  async addPath(options: HostOptions): Promise<Error | undefined> {
    const resolved = resolveOptions(options);
    if (resolved.subnqn !== this.subnqn) {
      throw new ConfigError(`Path ${options.address} is of ${resolved.subnqn}, the others are of ${this.subnqn}`);
    }
    if (resolved.hostnqn !== this.#hostnqn) {
      throw new ConfigError(
        `Path ${options.address} is as host ${resolved.hostnqn}, the others are as ${this.#hostnqn}`,
      );
    }
    const path = new MultipathPath(options, this.#pathOwner);
    this.#paths = [...this.#paths, path];
    this.io.paths = this.#paths;
    return path.open();
  }

  /** Takes a path out: no new I/O goes there, what is under way ends first (but no longer than a command may take), then it is disconnected. */
  async removePath(path: MultipathPath): Promise<void> {
    if (!this.#paths.includes(path)) return;
    path.slotWaiter = undefined;
    this.#paths = this.#paths.filter((other) => other !== path);
    this.io.paths = this.#paths;
    this.#evaluate();
    const until = this.#clock.nowMs() + resolveOptions(path.options).ioTimeoutMs;
    while (path.activeCount > 0 && this.#clock.nowMs() < until) {
      await new Promise<void>((resolve) => this.#clock.setTimer(resolve, DRAIN_POLL_MS));
    }
    await path.close(false);
  }

  /** Which paths each namespace may use, after a change of any. */
  #evaluate(): void {
    for (const namespace of this.io.namespaces) this.#evaluateOne(namespace);
  }

  #evaluateOne(namespace: NamespacePaths): void {
    const { nsid } = namespace;
    if (nsid === NSID_ALL) {
      namespace.usable = this.#paths.filter((path) => path.ready);
    } else {
      const there = this.#paths.filter((path) => path.has(nsid));
      const sound = there.filter((path) => !path.isSuspect(nsid));
      const inState = (paths: readonly MultipathPath[], state: number): MultipathPath[] =>
        paths.filter((path) => path.anaState(nsid) === state);
      namespace.usable =
        [
          inState(sound, AnaState.Optimized),
          inState(sound, AnaState.NonOptimized),
          inState(there, AnaState.Optimized),
          inState(there, AnaState.NonOptimized),
        ].find((paths) => paths.length > 0) ?? [];
    }
    this.io.drain(namespace);
    this.#recovery.reconsider(namespace);
  }

  /** A controller that is there now, for Admin commands. @throws TransportError if there is none */
  get controller(): HostController {
    const path = this.#paths.find((candidate) => candidate.ready);
    if (path?.controller === undefined)
      throw new TransportError('NVMEOF_ERR_PATH', `No path to ${this.subnqn} is connected`);
    return path.controller;
  }

  /** Of the paths that I/O of the namespace goes to now. */
  controllerFor(nsid: number): HostController {
    return this.io.namespace(nsid)?.usable[0]?.controller ?? this.controller;
  }

  // ---- namespaces

  get maxTransferBytes(): number {
    const limits = this.#paths.flatMap(({ ready, controller }) => (ready ? [controller!.maxTransferBytes] : []));
    return Math.min(...limits);
  }

  /** A namespace with its geometry. The same object for the same NSID. @throws NvmeofError NVMEOF_ERR_NO_NAMESPACE if no path has it */
  async namespace(nsid: number): Promise<HostNamespace> {
    const known = this.#known.get(nsid);
    if (known?.active) return known;
    await this.#open(nsid);
    const namespace = this.#known.get(nsid) ?? new HostNamespace(this, nsid);
    this.#known.set(nsid, namespace);
    await namespace.refresh();
    if (!namespace.active) throw new NvmeofError('NVMEOF_ERR_NO_NAMESPACE', `Namespace ${nsid} is not active`);
    return namespace;
  }

  /** The first path that has it says what it is; the others are compared. */
  async #open(nsid: number): Promise<void> {
    if (this.io.namespace(nsid) !== undefined) return;
    let found: Awaited<ReturnType<typeof describeNamespace>>;
    for (const { ready, controller } of this.#paths) {
      if (ready) found ??= await describeNamespace(controller!, nsid);
    }
    if (found === undefined) throw new NvmeofError('NVMEOF_ERR_NO_NAMESPACE', `Namespace ${nsid} is not active`);
    if (this.io.namespace(nsid) !== undefined) return; // another call was faster
    const paths = new NamespacePaths(nsid, found.identifiers, found.blockSize, this.#options.policy ?? 'round-robin');
    this.io.add(paths);
    await Promise.all(this.#paths.map((path) => path.look(paths)));
  }

  /** NSIDs of the active namespaces of all paths, ascending. */
  async activeNamespaces(): Promise<number[]> {
    const lists = await Promise.all(
      this.#paths.flatMap(({ ready, controller }) => (ready ? [controller!.activeNamespaces()] : [])),
    );
    return [...new Set(lists.flat())].sort((a, b) => a - b);
  }

  /** All active namespaces. */
  async namespaces(): Promise<HostNamespace[]> {
    const all: HostNamespace[] = [];
    for (const nsid of await this.activeNamespaces()) all.push(await this.namespace(nsid));
    return all;
  }

  async #namespacesChanged(nsids: readonly number[] | undefined): Promise<void> {
    for (const [nsid, namespace] of this.#known) {
      if (nsids !== undefined && !nsids.includes(nsid)) continue;
      try {
        await namespace.refresh();
      } catch (error) {
        if (!(error instanceof NvmeofError)) throw error; // lost meanwhile: another path tells as well
      }
    }
    this.emit('namespacesChanged', nsids);
  }

  async identifyNamespace(nsid: number): Promise<IdentifyNamespace> {
    const path = this.#paths.find((candidate) => candidate.has(nsid));
    return (path?.controller ?? this.controller).identifyNamespace(nsid);
  }

  /** Any I/O command; the status is in the result. Sent again only if it cannot have been executed. @throws OutcomeUnknownError, TransportError */
  async ioPassthru(command: PassthruCommand): Promise<PassthruResult> {
    const direction = command.opcode & 3;
    const reads = direction === Direction.ControllerToHost;
    const buffer = reads ? new Uint8Array(command.readBytes ?? 0) : (command.data ?? NO_DATA);
    const nsid = command.nsid ?? 0;
    if (nsid !== 0 && nsid !== NSID_ALL && this.io.namespace(nsid) === undefined) await this.#open(nsid);
    const [status, result] = await new Promise<[number, number]>((resolve) => {
      const done = (doneStatus: number, dw0: number): void => resolve([doneStatus, dw0]);
      this.io.submitRaw(buildSqe(command), direction, buffer, done, undefined, true, false);
    });
    if (status > 0x7fff || status === PathStatus.HostPathingError || status === PathStatus.AbortedByHost) {
      throw this.ioError('I/O command', status, result)!;
    }
    return { status, result, resultHigh: 0, data: reads ? buffer : NO_DATA };
  }

  ioError(what: string, status: number, result: number): NvmeofError | undefined {
    const cause = this.#paths.find((path) => path.error !== undefined)?.error;
    if (status === OUTCOME_UNKNOWN) return new OutcomeUnknownError(what, { cause });
    return commandError(what, 'io', status, result, cause);
  }

  cancelIo(context: Cancellable): number {
    for (const { controller } of this.#paths) {
      const association = controller?.association;
      for (const queuePair of association?.ioQueuePairs ?? []) {
        for (const command of queuePair.connection.commands) {
          const sent = command.context as { context?: unknown } | undefined;
          if (sent?.context === context) association!.abortCommand(queuePair, command);
        }
      }
    }
    return this.io.cancelWaiting(context);
  }

  /** Ends: I/O under way fails, every controller is shut down. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.io.close(PathStatus.AbortedByHost);
    this.#recovery.close();
    await Promise.all(this.#paths.map((path) => path.close(true)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
