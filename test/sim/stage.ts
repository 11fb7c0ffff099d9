/** What the engine works on in a run: the two targets, and the hosts or the guest that use them. */
import type { DeviceFront, End, GuestMemoryMover } from '../../src/orchestrator/end.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party, Peer } from './scenario.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';

/** What an orchestrator works with, beside its journal. */
export interface Ends {
  readonly source: End;
  readonly destination: End;
  readonly front: DeviceFront | undefined;
  readonly memory: GuestMemoryMover | undefined;
}

/** What a stage tells of what happens on it. */
export interface StageEvents {
  /** A command of a host or a guest takes effect. @param id the same for the same command, where that is known */
  executes(party: Party, what: string, id: number | undefined): void;
  /** The guest resets its controller. */
  resets(): void;
  /** A rule was broken. */
  failed(error: unknown): void;
}

export interface Stage {
  /** How long a run may take in virtual time. */
  readonly limitMs: number;
  /** After that long nothing is left of connections that nobody uses. */
  readonly settleMs: number;
  /** Hosts, or the guest, can submit when it resolves. */
  start(): Promise<void>;
  submit(command: HostCommand): Promise<HostAnswer>;
  connect(process: Orchestrator): Ends;
  /** The orchestrator is about to see what a step gave. @returns call it when all that happens first has: throws if the answer is lost by that */
  answers(step: string): () => void;
  /** The manager's connections to a target break. @param isSoon: a step is about to begin, which may be under way by then */
  /** @returns false: there is no such connection */
  cut(peer: Peer, ms: number, isSoon: boolean): boolean;
  /** Those of hosts. @returns false: there are none */
  cutHosts(party: Party, ms: number): boolean;
  /** Nothing arrives for a while. */
  stall(party: Party, ms: number): void;
  badBlock(block: number, ms: number): void;
  /** @returns false: it is down already */
  crash(party: Party, downMs: number): boolean;
  /** The process that holds the VM's device is gone, and the VM with it. @returns false: there is none, or no longer */
  crashFront(): boolean;
  /** Where it is gone: another one, and the VM from its start, with the controller of the end where the move has left it. */
  restartFront(isMoved: boolean): void;
  /** A namespace that is copied becomes larger at that end. @returns false: there is none, or nobody who could */
  resize(party: Party): boolean;
  /** A namespace that is copied has another size at the destination. */
  readonly sizesDiffer: boolean;
  /** Nothing is cut or stalled any more. */
  heal(): void;
  /** What must hold at the end. */
  check(isMoved: boolean, must: Must): Promise<void>;
  /** What a namespace holds now where it is served. */
  values(nsid: number, isMoved: boolean): readonly number[];
  /** Of what passed between the parties: the same for the same run. */
  readonly digest: number;
}

export type Must = (holds: boolean, what: string) => void;
