/**
 * The two ends of a move as the engine sees them: a subsystem each, with a controller that manages it. What stands behind is the initiator's
 * (`fabric-end.ts`), or a model's in the simulator. Every call may fail, and may have had its effect when it does.
 */
import type { Difference } from './figure-rules.ts';
import type { Told } from './identify-rules.ts';
import type { DestinationVolume, SourceVolume } from './volume.ts';

/** Who may use a namespace: its hosts (open), or only managers (closed). Kept by the target, and by every newer epoch taken away from older ones. */
export interface FenceState {
  readonly isOpen: boolean;
  /** Of the last change; one with a lower epoch is refused. */
  readonly epoch: bigint;
  /** It outlives the target's process. */
  readonly isDurable: boolean;
}

export interface EndNamespaceIdentity {
  readonly nsid: number;
  readonly blockSize: number;
  readonly blockCount: number;
  /** 32 hex digits; absent where the namespace has none. */
  readonly uuid: string | undefined;
  readonly nguid: string | undefined;
  readonly eui64: string | undefined;
}

/** Of a namespace, as hosts see it; fields of Identify Namespace by their names. */
export interface NamespaceFigures {
  readonly metadataBytes: number;
  /** Type of protection information; 0: none. */
  readonly protection: number;
  readonly nmic: number;
  readonly rescap: number;
  readonly dlfeat: number;
  readonly nsattr: number;
  /** 0's based, in blocks; those of the controller where the namespace has none of its own. */
  readonly nawun: number;
  readonly nawupf: number;
  readonly nacwu: number;
}

/** Of the controllers of an end, as hosts see them; fields of Identify Controller by their names. */
export interface ControllerFigures extends Told {
  readonly serial: string;
  readonly model: string;
  readonly oncs: number;
  readonly fuses: number;
  readonly mdts: number;
  readonly vwc: number;
  readonly cmic: number;
  readonly ctratt: number;
  /** 0's based. */
  readonly awun: number;
  readonly awupf: number;
  readonly acwu: number;
  /** Of the manager itself, and of all of the subsystem. */
  readonly cntlid: number;
  readonly cntlids: readonly number[];
}

/** A namespace at one end. */
export interface EndNamespace {
  readonly identity: EndNamespaceIdentity;
  /** Undefined: not known. */
  readonly figures?: NamespaceFigures | undefined;
  /**
   * Blocks and changes, of the moment when `End.namespaces` was called: once the end has been lost since (its process, or the way to it), they fail, for
   * tracking has ended, and what was written and not flushed may be gone. All other calls go on over a new connection.
   */
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  /** Undefined: this target has no fence (it is not ours). */
  fence(): Promise<FenceState | undefined>;
  /**
   * Hosts may use it from now on, or may not: then nothing of theirs is under way any more when it resolves. Idempotent.
   * @throws NvmeStatusError Command Sequence Error if the target has seen a newer epoch
   */
  setFence(isOpen: boolean, epoch: bigint): Promise<void>;
  /** Registrants and holder: the extended Reservation Status data structure. Undefined: nobody has registered, or it has no reservations. */
  reservations(): Promise<Uint8Array | undefined>;
  /** Replaces all of them; the namespace is closed meanwhile. */
  setReservations(status: Uint8Array | undefined, epoch: bigint): Promise<void>;
  /** Bytes a second that hosts may write; undefined: as many as they like. */
  limitWrites(bytesPerSecond: number | undefined): Promise<void>;
  /** As it is now: `identity` is of when it was looked at. Absent: it does not change. */
  size?(): Promise<{ readonly blockSize: number; readonly blockCount: number }>;
  /** `source` can follow what changes, whoever changes it. Absent: it can. */
  followsChanges?(): Promise<boolean>;
}

/** Guest memory, by guest address. */
export interface MemoryRun {
  readonly address: number;
  readonly lengthBytes: number;
}

/** What a controller itself logs of what it changes: its User Data Migration Queue. What others change is not in it. */
export interface EndChangeQueue {
  /** What stands against following these namespaces by it alone: each the thing and the remedy. */
  obstacles(nsids: readonly number[]): Promise<readonly string[]>;
  /**
   * The same blocks, with their changes from the queue: it is made when the first of them starts to be followed, and gone when the last one stops.
   * @param entries that the queue has room for
   */
  follow(namespaces: readonly EndNamespace[], entries: number): FollowedByQueue;
}

export interface FollowedByQueue {
  /** In the order of the namespaces. */
  readonly sources: readonly SourceVolume[];
  /** Times that the queue was full, and all that is allocated counted as changed. */
  readonly overflows: number;
}

/** A migratable controller at one end. */
export interface EndController {
  readonly cntlid: number;
  /** Absent: it has none. */
  readonly changes?: EndChangeQueue;
  /** Returns when everything that it had fetched is complete. Idempotent. */
  suspend(): Promise<void>;
  /** Idempotent: a controller that runs goes on. */
  resume(): Promise<void>;
  isSuspended(): Promise<boolean>;
  /** Its state; call it while suspended. */
  getState(): Promise<Uint8Array>;
  /** Verified whole and applied, or refused whole; call it while suspended. */
  setState(state: Uint8Array): Promise<void>;
  /** Controller Level Reset, as the manager's act: a loaded state is dropped, a suspension ends. */
  reset(): Promise<void>;
  trackMemory(ranges: readonly MemoryRun[]): Promise<void>;
  /** What the controller has written since the last call; forgets it. `isFinal`: the controller is suspended, and there is nothing more. */
  memoryChanges(): Promise<{ readonly runs: readonly MemoryRun[]; readonly isFinal: boolean }>;
  stopTrackingMemory(): Promise<void>;
  /** Why it cannot tell what it writes to memory, and the remedy; undefined: it can. */
  untracked?(): Promise<string | undefined>;
  /** What keeps it from going on as that controller of that end, or would be noticed, as far as both tell without trying: each the thing and the remedy. */
  differences?(destination: End, cntlid: number): Promise<readonly Difference[]>;
}

/** One end: open until `close`. */
export interface End {
  /** For messages: what the operator called it. */
  readonly name: string;
  /** NQN of the subsystem. */
  readonly subnqn: string;
  /** What its controllers say of themselves; undefined: not known. */
  figures?(): Promise<ControllerFigures | undefined>;
  /** Those that the manager sees. */
  namespaces(): Promise<readonly EndNamespace[]>;
  /** Ids of controllers that can be moved, ascending. */
  migratable(): Promise<readonly number[]>;
  controller(cntlid: number): EndController;
  /** Discovery of this end names `peer` (its address for hosts) as one more way to the subsystem, or no longer. Idempotent. */
  announce(peer: { readonly address: string; readonly service: number }, isThere: boolean): Promise<void>;
  /**
   * Nothing is waited for beyond that moment of its clock, in milliseconds: what is under way fails then, and later calls fail at once. Undefined: each call ends as
   * late as it does. Absent: they all end soon.
   */
  waitUntil?(atMs: number | undefined): void;
  close(): Promise<void>;
}

/**
 * Holds a guest's device while the controller behind it changes: a front process between QEMU and two `nvmeferry dpu`, or the in-process VM.
 * Accesses of the guest wait between `pause` and `resume`; its memory and its interrupts belong to one end at a time.
 */
export interface DeviceFront {
  /** No access of the guest reaches a controller any more, and those that did are done. Idempotent. */
  pause(): Promise<void>;
  /** Memory and interrupts go to that end; the controller there need not run yet. Only while paused. Idempotent. */
  attach(end: 'source' | 'destination'): Promise<void>;
  /** Accesses go on, those that waited first; at that end, where the guest itself moves. Idempotent. */
  resume(end: 'source' | 'destination'): Promise<void>;
  close(): Promise<void>;
}

/** Copies a VM's memory to where it will run; absent where the VM stays on its memory. */
export interface GuestMemoryMover {
  /** All of the VM's memory. */
  readonly ranges: readonly MemoryRun[];
  /** @returns bytes copied */
  copy(runs: readonly MemoryRun[]): Promise<number>;
  /**
   * Pages that the VM itself has changed since the last call (its own CPUs; the controller's writes are not among them); those of the whole memory
   * the first time.
   */
  changes(): Promise<readonly MemoryRun[]>;
  /** What is not zero at both sides already, as far as that is known without reading. Absent: all of the memory. */
  used?(): Promise<readonly MemoryRun[]>;
}
