/**
 * The life of one Migratable Controller as its subsystem sees it, as a table: Base 2.1 sections 5.1.16, 5.1.17, 8.1.12. Where the specification
 * contradicts itself or is silent, docs/live-migration.md says what was chosen.
 */
import { SpecificStatus, Status } from '../spec/status.ts';

/**
 * - `Running`: not suspended.
 * - `Suspended`: fetches nothing.
 * - `Loading`: suspended, a state is being received, or was received and found wrong.
 * - `Committed`: suspended, with a state that was verified and applied.
 * - `Halted`: half loaded when its manager was reset: stays quiet until it is reset itself.
 */
export const LifecycleState = { Running: 0, Suspended: 1, Loading: 2, Committed: 3, Halted: 4 } as const;

export const LifecycleInput = {
  /** Suspend, STYPE 0. */
  Notify: 0,
  /** Suspend, STYPE 1. */
  Suspend: 1,
  Resume: 2,
  GetState: 3,
  /** Set Controller State with SEQIND 01b, or 11b before its data are judged. */
  SetFirst: 4,
  /** SEQIND 00b, or 10b before its data are judged. */
  SetNext: 5,
  /** SEQIND 10b or 11b: the state was verified and applied. */
  Commit: 6,
  /** SEQIND 10b or 11b: the state is wrong; nothing was applied. */
  Reject: 7,
  /** Any Track Send for it. */
  TrackSend: 8,
  /** Controller Level Reset of the controller itself. */
  Reset: 9,
  /** Controller Level Reset (or loss) of the management controller that suspended it. */
  ManagerReset: 10,
  /** Resume of one that is held: a namespace of its is closed to its host, which would see errors. */
  ResumeHeld: 11,
  /** `ManagerReset` of one that is held. */
  ManagerResetHeld: 12,
} as const;

/** What an input does: the state after it, and the status of the command (0: success). */
export interface Transition {
  readonly next: number;
  readonly status: number;
}

const { Running, Suspended, Loading, Committed, Halted } = LifecycleState;
const SEQUENCE = Status.CommandSequenceError;
const NOT_SUSPENDED = SpecificStatus.ControllerNotSuspended;
const IS_SUSPENDED = SpecificStatus.ControllerSuspended;
const INVALID_CONTROLLER = SpecificStatus.InvalidControllerIdentifier;

/** Row: state. Column: input, in the order of `LifecycleInput`. Entry: `[next, status]`; one that cannot occur is null. */
type Row = readonly (readonly [next: number, status: number] | null)[];
// biome-ignore format: a table
const TABLE: readonly Row[] = [
  //            Notify            Suspend           Resume                    GetState          SetFirst                       SetNext                        Commit            Reject                         TrackSend                  Reset         ManagerReset   ResumeHeld                ManagerResetHeld
  /* Running */ [[Running, 0],    [Suspended, 0],   [Running, NOT_SUSPENDED], [Running, 0],     [Running, INVALID_CONTROLLER], [Running, INVALID_CONTROLLER], null,             null,                          [Running, 0],              [Running, 0], [Running, 0],  [Running, NOT_SUSPENDED], [Running, 0]],
  /* Suspended*/[[Suspended, 0],  [Suspended, 0],   [Running, 0],             [Suspended, 0],   [Loading, 0],                  [Suspended, SEQUENCE],         null,             null,                          [Suspended, IS_SUSPENDED], [Running, 0], [Running, 0],  [Suspended, SEQUENCE],    [Suspended, 0]],
  /* Loading */ [[Loading, 0],    [Loading, 0],     [Loading, SEQUENCE],      [Loading, 0],     [Loading, 0],                  [Loading, 0],                  [Committed, 0],   [Loading, Status.InvalidField], [Loading, IS_SUSPENDED],   [Running, 0], [Halted, 0],  [Loading, SEQUENCE],      [Halted, 0]],
  /* Committed*/[[Committed, 0],  [Committed, 0],   [Running, 0],             [Committed, 0],   [Loading, 0],                  [Committed, SEQUENCE],         null,             null,                          [Committed, IS_SUSPENDED], [Running, 0], [Running, 0],  [Committed, SEQUENCE],    [Committed, 0]],
  /* Halted */  [[Halted, 0],     [Suspended, 0],   [Halted, SEQUENCE],       [Halted, 0],      [Halted, INVALID_CONTROLLER],  [Halted, SEQUENCE],            null,             null,                          [Halted, IS_SUSPENDED],    [Running, 0], [Halted, 0],   [Halted, SEQUENCE],       [Halted, 0]],
];

/** @returns what happens, or undefined if the input cannot occur in that state (a bug of the caller) */
export function lifecycle(state: number, input: number): Transition | undefined {
  const entry = TABLE[state]?.[input];
  return entry === undefined || entry === null ? undefined : { next: entry[0], status: entry[1] };
}

/** The controller fetches and completes commands only while it runs. */
export const isQuiet = (state: number): boolean => state !== Running;
