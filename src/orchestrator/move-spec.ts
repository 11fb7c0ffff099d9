/** What is to be moved, and how: given by the operator, kept in the journal. */

export type NamespaceMode =
  /** Its blocks are copied to the destination's. */
  | 'copied'
  /** Both ends reach the same blocks; only who may use them changes. */
  | 'shared';

export interface MoveSpec {
  /** Hosts of namespaces, or a controller with its namespaces. */
  readonly kind: 'namespaces' | 'controller';
  /** Default: all that both ends' managers see at the source. */
  readonly nsids?: readonly number[] | undefined;
  /** NSIDs of those that both ends reach. */
  readonly shared?: readonly number[] | undefined;
  /** CNTLIDs; for kind `controller`. */
  readonly controller?: { readonly source: number; readonly destination: number } | undefined;
  /** Where hosts find the destination: announced by the source's discovery. */
  readonly peer?: { readonly address: string; readonly service: number } | undefined;
  /** What is at the destination may be overwritten. */
  readonly overwrite?: boolean | undefined;
  /** The destination may lack what hosts could use at the source. */
  readonly acceptLess?: boolean | undefined;
  /** The source may forget, when it is restarted after the move, that it is closed; who moves sees to it that it is not. */
  readonly acceptForgetful?: boolean | undefined;
}

export type Verification = 'none' | 'sampled' | 'full';
/** When copying does not catch up with writing. */
export type WhenStuck = 'refuse' | 'cut' | 'throttle';

/** Where a move learns what was changed: of the target's log of changed blocks, or of the queue of the controller that moves. */
export type ChangesBy = 'bitmap' | 'queue';

/** How; none of it is needed to undo or to finish. Times in ms, sizes in bytes. */
export interface MoveTuning {
  /** The longest pause that is planned for. Default 300. */
  readonly blackoutBudgetMs?: number | undefined;
  /** The pause ends the move when it gets that long, whatever the plan was. Default the longer of 15 s and ten budgets. */
  readonly blackoutLimitMs?: number | undefined;
  /** What the switch itself takes. Default: what the ends' answers suggest. */
  readonly switchMs?: number | undefined;
  /** Copied a second, at most, while hosts go on; the last copy, in the pause, is as fast as it goes. */
  readonly bytesPerSecond?: number | undefined;
  readonly chunkBytes?: number | undefined;
  /** Of all namespaces together. Default 32 MiB. */
  readonly inFlightBytes?: number | undefined;
  readonly verification?: Verification | undefined;
  /** Default `auto`: the bitmap where it is offered for all namespaces, else the queue. */
  readonly changes?: ChangesBy | 'auto' | undefined;
  /** That a queue has room for, `QUEUE_ENTRIES_MIN` and more. Default 32,767. */
  readonly queueEntries?: number | undefined;
  readonly whenStuck?: WhenStuck | undefined;
  /** Rounds until it counts as stuck, progress or not. Default 100. */
  readonly roundsMax?: number | undefined;
  /** Copying begins again that often when an end is lost meanwhile. Default 2. */
  readonly restartsMax?: number | undefined;
  /** How long the plan watches what is changed, and how fast the source reads, for a forecast. Default 0: no forecast. */
  readonly observeMs?: number | undefined;
  /** Between attempts at an end that does not answer. Default 500. */
  readonly retryMs?: number | undefined;
  /** How long an end is waited for that is needed to undo, or to finish. Default 60 s; `Infinity` for as long as it takes. */
  readonly patienceMs?: number | undefined;
}

/** A namespace of a move, as its plan found it. */
export interface PlannedNamespace {
  readonly nsid: number;
  readonly mode: NamespaceMode;
  readonly blockSize: number;
  readonly blockCount: number;
  /** Hosts could use it at the destination. */
  readonly destinationWasOpen: boolean;
  /** The source's fence outlives its process. */
  readonly sourceIsDurable: boolean;
  /** Epochs of the fences then, decimal. */
  readonly found: { readonly source: string; readonly destination: string };
  /** Base64 of what reservations it had at the destination. */
  readonly destinationReservations?: string | undefined;
}

/** First entry of the journal: all that is needed to undo, or to finish, in another process. */
export interface MoveRecord {
  readonly spec: MoveSpec;
  readonly subnqn: string;
  /** Decimal. */
  readonly epoch: string;
  readonly namespaces: readonly PlannedNamespace[];
  /** Absent: nothing is copied. */
  readonly changes?: ChangesBy;
  /** Of who started it: how to find the ends again. */
  readonly context?: unknown;
}

/** What stands against a move, or should be known: the thing and what to do. */
export interface Finding {
  /** Stable, for programs. */
  readonly what: string;
  readonly message: string;
}

export interface MovePlan {
  readonly record: MoveRecord;
  /** Empty: it may begin. */
  readonly refusals: readonly Finding[];
  readonly warnings: readonly Finding[];
  /** To be copied at least. */
  readonly allocatedBytes: number;
  /** Of them, the memory of a VM. */
  readonly memoryBytes: number;
  /** Of them, what is not zero at both ends, as far as that is known without reading; in `allocatedBytes`. */
  readonly memoryUsedBytes: number;
  /** Of the pause, of what is known before anything was copied: without what is changed meanwhile. */
  readonly switchMs: number;
  /** Where it was measured (`tuning.observeMs`). */
  readonly forecast?: MoveForecast | undefined;
}

/** What would be if rates stayed as they were while the plan looked. */
export interface MoveForecast {
  readonly copyBytesPerSecond: number;
  readonly dirtyBytesPerSecond: number;
  /** Undefined: copying would not catch up. */
  readonly totalMs: number | undefined;
  readonly blackoutMs: number | undefined;
}
