/** What a front is told, and what it says of itself. */
import type { Clock } from '../../../util/clock.ts';

/** QEMU waits 5 s for an answer, unless x-msg-timeout says otherwise. */
export const PATIENCE_MS_DEFAULT = 4000;

/** @public */
export interface VfioUserFrontOptions {
  /** Socket that the VM connects to. */
  readonly path: string;
  /** Socket of the controller (`nvmeferry dpu`). */
  readonly controller: string;
  /** How long an access of the guest waits for a controller before it fails; less than the VM's emulator waits. Default 4 s. */
  readonly patienceMs?: number | undefined;
  readonly clock?: Clock | undefined;
  /** What happened, for a log. */
  readonly onEvent?: ((event: FrontEvent) => void) | undefined;
}

/** @public */
export interface FrontEvent {
  readonly event:
    | 'vm-connected'
    | 'vm-disconnected'
    | 'controller-joined'
    | 'controller-left'
    | 'controller-waited-for'
    | 'paused'
    | 'resumed'
    | 'warning';
  readonly message: string;
  readonly error?: unknown;
}

/** @public */
export interface FrontStatus {
  readonly vm: 'connected' | 'none';
  readonly controller: { readonly socket: string; readonly state: 'joined' | 'away' };
  readonly paused: boolean;
  /** Accesses of the guest that wait. */
  readonly waiting: { readonly messages: number; readonly bytes: number };
  readonly memory: { readonly maps: number; readonly bytes: number; readonly descriptors: number };
  /** Vectors that have an eventfd. */
  readonly interrupts: number;
  /** The controller came back without the guest's state, and the guest has not reset it yet. */
  readonly stateLost: boolean;
}
