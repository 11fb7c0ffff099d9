/** What happens to commands that did not succeed, and to those that find no path: `outcome.ts` has the rules, this does it. */
import { PathStatus, STATUS_CODE_MASK } from '../../spec/status.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { AnaState } from '../../wire/cold/log-ana.ts';
import type { Cancellable } from '../namespace-owner.ts';
import type { CommandList, MultipathCommand } from './command.ts';
import type { MultipathIo } from './multipath-io.ts';
import type { NamespacePaths } from './namespace-paths.ts';
import { OUTCOME_UNKNOWN, retryDelayMs, Verdict, verdictOf } from './outcome.ts';
import type { MultipathPath } from './path.ts';

const ANA_STATE_OF: Readonly<Record<number, number>> = {
  [PathStatus.AnaPersistentLoss]: AnaState.PersistentLoss,
  [PathStatus.AnaInaccessible]: AnaState.Inaccessible,
  [PathStatus.AnaTransition]: AnaState.Change,
};
const ANA_STATUS_OF: Readonly<Record<number, number>> = {
  [AnaState.Change]: PathStatus.AnaTransition,
  [AnaState.Inaccessible]: PathStatus.AnaInaccessible,
  [AnaState.PersistentLoss]: PathStatus.AnaPersistentLoss,
};
const ANATT_SECONDS_DEFAULT = 10;
/** Refusals by ANA state may go on for as many ANATT as a change may take, and its failure. */
const ANA_PATIENCE = 2;

export interface RecoveryOptions {
  readonly clock: Clock;
  /** How long I/O waits while no path may be used, although none is being connected; undefined: ANATT. */
  readonly noPathTimeoutMs: number | undefined;
}

export class MultipathRecovery {
  readonly #options: RecoveryOptions;
  readonly #io: () => MultipathIo;
  readonly #paths: () => readonly MultipathPath[];
  readonly #delays = new Map<MultipathCommand, Timer>();
  readonly #stuck = new Map<NamespacePaths, Timer>();
  #closed = false;

  constructor(options: RecoveryOptions, io: () => MultipathIo, paths: () => readonly MultipathPath[]) {
    this.#options = options;
    this.#io = io;
    this.#paths = paths;
  }

  failed(command: MultipathCommand, status: number, result: number): void {
    const io = this.#io();
    const path = command.path!;
    const nsid = command.namespace!.nsid;
    const { replayable, harmless, retries } = command;
    const unsent = command.queuePair!.endedUnsent;
    const verdict = verdictOf({ status, replayable, harmless, retries, unsent });
    const lost = verdict === Verdict.Hold || verdict === Verdict.Unknown;
    if (lost) command.outcomeUnknown = true;
    if (this.#closed) {
      io.finish(command, lost ? OUTCOME_UNKNOWN : status, result);
      return;
    }
    // one that the caller gave up ends here, but not before it can no longer be executed
    if (isCancelled(command) && verdict !== Verdict.Hold) {
      io.finish(command, status, result);
      return;
    }
    switch (verdict) {
      case Verdict.Deliver:
        io.finish(command, status, result);
        return;
      case Verdict.Unknown:
        io.finish(command, OUTCOME_UNKNOWN, 0);
        return;
      case Verdict.Again:
        io.again(command);
        return;
      case Verdict.Hold:
        path.hold(command);
        return;
      case Verdict.Ana: {
        const now = this.#options.clock.nowMs();
        if (Number.isNaN(command.anaDeadlineMs)) command.anaDeadlineMs = now + ANA_PATIENCE * this.#anattMs();
        if (now > command.anaDeadlineMs) {
          io.finish(command, status, result);
          return;
        }
        path.refused(nsid, ANA_STATE_OF[status & STATUS_CODE_MASK]!);
        io.again(command);
        return;
      }
      default: {
        command.retries++;
        if (verdict === Verdict.OtherPath) path.suspect(nsid);
        const { crdt1, crdt2, crdt3 } = path.controller!.identify;
        this.#later(command, retryDelayMs(status, retries, [crdt1, crdt2, crdt3]));
      }
    }
  }

  #later(command: MultipathCommand, delayMs: number): void {
    this.#delays.set(
      command,
      this.#options.clock.setTimer(() => {
        this.#delays.delete(command);
        this.#again(command);
      }, delayMs),
    );
  }

  #again(command: MultipathCommand): void {
    if (this.#closed)
      this.#io().finish(command, command.outcomeUnknown ? OUTCOME_UNKNOWN : PathStatus.AbortedByHost, 0);
    else if (isCancelled(command)) this.#io().finish(command, PathStatus.AbortedByHost, 0);
    else this.#io().again(command);
  }

  /** What a lost association left can no longer be executed there. */
  released(commands: CommandList): void {
    for (let command = commands.shift(); command !== undefined; command = commands.shift()) this.#again(command);
  }

  // ---- no path

  /** The longest transition of the controllers that are there. */
  #anattMs(): number {
    let seconds = 0;
    for (const path of this.#paths()) {
      if (path.ready) seconds = Math.max(seconds, path.controller!.identify.anatt);
    }
    return (seconds === 0 ? ANATT_SECONDS_DEFAULT : seconds) * 1000;
  }

  /** Which paths the namespace has changed, or something began to wait for one. */
  reconsider(namespace: NamespacePaths): void {
    if (namespace.usable.length > 0 || namespace.waiting.first === undefined) {
      this.#stuck.get(namespace)?.cancel();
      this.#stuck.delete(namespace);
      return;
    }
    const paths = this.#paths();
    if (paths.every((path) => path.state === 'dead')) {
      // not from within the call that submits it
      this.#arm(namespace, 0);
    } else if (paths.some((path) => path.state !== 'dead' && !path.ready)) {
      // one may come back: how long that is waited for is the path's own ctrlLossTimeoutMs
      this.#stuck.get(namespace)?.cancel();
      this.#stuck.delete(namespace);
    } else {
      this.#arm(namespace, this.#options.noPathTimeoutMs ?? this.#anattMs());
    }
  }

  #arm(namespace: NamespacePaths, delayMs: number): void {
    if (this.#stuck.has(namespace) && delayMs > 0) return;
    this.#stuck.get(namespace)?.cancel();
    this.#stuck.set(
      namespace,
      this.#options.clock.setTimer(() => {
        this.#stuck.delete(namespace);
        if (namespace.usable.length === 0) this.#io().failWaiting(namespace, this.#reason(namespace));
      }, delayMs),
    );
  }

  /** The status that says best why there is no path: the most hopeful ANA state, else that no controller can be reached. */
  #reason({ nsid }: NamespacePaths): number {
    const states = this.#paths().map((path) => (path.has(nsid) ? path.anaState(nsid) : 0));
    for (const state of [AnaState.Change, AnaState.Inaccessible, AnaState.PersistentLoss]) {
      if (states.includes(state)) return ANA_STATUS_OF[state]!;
    }
    return PathStatus.HostPathingError;
  }

  /** Ends the waits; what waited for its time is given up. */
  close(): void {
    this.#closed = true;
    for (const timer of this.#stuck.values()) timer.cancel();
    this.#stuck.clear();
    const delayed = [...this.#delays];
    this.#delays.clear();
    for (const [command, timer] of delayed) {
      timer.cancel();
      this.#again(command);
    }
  }
}

function isCancelled(command: MultipathCommand): boolean {
  return (command.context as Partial<Cancellable> | undefined)?.cancelled === true;
}
