import type { Clock } from '../util/clock.ts';
import type { DeviceFront, End, GuestMemoryMover } from './end.ts';
import type { MoveJournal } from './journal.ts';
import type { RoundReport } from './move-report.ts';
import type { MovePlan, MoveSpec, MoveTuning } from './move-spec.ts';
import type { Stuck, StuckAnswer } from './pre-copy.ts';

/** What goes on, for a terminal or a log. */
export type MoveEvent =
  | { readonly event: 'plan'; readonly plan: MovePlan }
  | { readonly event: 'step'; readonly step: string; readonly state: 'begun' | 'done' | 'undone' }
  | {
      readonly event: 'round';
      readonly round: RoundReport;
      readonly copyRate: number | undefined;
      readonly dirtyRate: number;
      /** Until the budget can be kept; undefined if it never can as things are. */
      readonly remainingMs: number | undefined;
    }
  | { readonly event: 'retry'; readonly step: string; readonly message: string }
  | { readonly event: 'warning'; readonly message: string };

/** Ends, front and journal stay the caller's to close. */
export interface MoveOptions {
  readonly source: End;
  readonly destination: End;
  /** Absent where nobody holds the device: hosts over fabrics. */
  readonly front?: DeviceFront | undefined;
  /** Absent where the VM stays on its memory. */
  readonly memory?: GuestMemoryMover | undefined;
  readonly journal: MoveJournal;
  readonly clock: Clock;
  /** For a move that begins; a journal that has one knows its own. */
  readonly spec?: MoveSpec | undefined;
  readonly tuning?: MoveTuning | undefined;
  /**
   * A random number below 2^15: two moves of the same namespaces that know nothing of each other (on two machines) get different epochs by it, and the
   * fences let only the newer one go on.
   */
  readonly salt?: number | undefined;
  /** Into the journal's first entry: how another process finds the ends again. JSON. */
  readonly context?: unknown;
  /** Before the commit it rolls back; afterwards it has no meaning. */
  readonly signal?: AbortSignal | undefined;
  readonly onEvent?: ((event: MoveEvent) => void) | undefined;
  /** Asked in place of `tuning.whenStuck`. */
  readonly onStuck?: ((stuck: Stuck) => Promise<StuckAnswer | 'throttle'>) | undefined;
}
