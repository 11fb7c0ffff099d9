/** What a move was, in numbers: for the operator at its end, and for programs. Times in ms, sizes in bytes, rates a second. */
import type { Round } from './convergence.ts';
import type { MoveRecord, Verification } from './move-spec.ts';

export interface StepTime {
  readonly step: string;
  /** Since the beginning of the move. */
  readonly startMs: number;
  durationMs: number;
}

export interface RoundReport extends Round {
  /** Of its end, since the beginning of the move. */
  readonly atMs: number;
  /** Forecast of the pause by then. */
  readonly blackoutMs: number;
}

export interface NamespaceReport {
  readonly nsid: number;
  readonly blockSize: number;
  readonly blockCount: number;
  allocatedBytes: number;
  dirtiedBytes: number;
  readBytes: number;
  writtenBytes: number;
  clearedBytes: number;
  verifiedBytes: number;
  /** A row for each look, a column for each part of the namespace: blocks changed. */
  heat: readonly (readonly number[])[];
}

/** What ended a move, or keeps it from its end. */
export interface MoveFailure {
  /** In which it happened. */
  readonly step: string;
  /** Stable, for programs. */
  readonly code: string;
  readonly message: string;
  /** What it came from, the nearest first. */
  readonly causes: readonly string[];
}

/** A step of a rollback, at its end. */
export interface UndoneStep {
  readonly step: string;
  /** The end that it needs. */
  readonly end: 'source' | 'destination' | undefined;
  /** `left`: it has to be tried again, by `--abort`. */
  state: 'undone' | 'left';
  /** Why attempts failed, each once. */
  readonly said: string[];
}

export interface MoveReport {
  /** `under-way`: also if something is left to do. */
  outcome: 'moved' | 'as-before' | 'under-way';
  readonly source: string;
  readonly destination: string;
  record: MoveRecord | undefined;
  /** Of a move that did not come to its end; undefined if it did. */
  failure: MoveFailure | undefined;
  /** In the order in which it was done. */
  readonly undone: UndoneStep[];
  readonly steps: StepTime[];
  readonly rounds: RoundReport[];
  namespaces: NamespaceReport[];
  memory: { allocatedBytes: number; dirtiedBytes: number; copiedBytes: number } | undefined;
  /** Times that the queue of changes was full, so that all that is allocated was copied again. */
  queueOverflows: number;
  /** Times that copying began again because an end was lost. */
  restarts: number;
  /** Bytes a second that hosts were held to, if they were. */
  throttledTo: number | undefined;
  verification: Verification;
  readonly blackoutBudgetMs: number;
  /** Forecast when the cut began, and as it was. */
  blackoutForecastMs: number | undefined;
  blackoutMs: number | undefined;
  totalMs: number;
  readonly warnings: string[];
}

/** Least that could have been moved: what was allocated and what was changed meanwhile. And what was. */
export function bytesOf(report: MoveReport): { readonly minimum: number; readonly moved: number } {
  const { namespaces, memory } = report;
  const of = (pick: (item: NamespaceReport) => number): number => namespaces.reduce((sum, item) => sum + pick(item), 0);
  return {
    minimum: of((n) => n.allocatedBytes + n.dirtiedBytes) + (memory?.allocatedBytes ?? 0) + (memory?.dirtiedBytes ?? 0),
    moved: of((n) => n.readBytes) + (memory?.copiedBytes ?? 0),
  };
}
