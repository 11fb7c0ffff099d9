/** What becomes of a command that did not succeed: the rules of failover, retry and replay in one place. */
import { IoOpcode } from '../../spec/opcode.ts';
import { DNR, PathStatus, STATUS_CODE_MASK, Status } from '../../spec/status.ts';

/** A status of the host's own, above the 15 bits of the wire: the command may have been executed or not, and must not be repeated. */
export const OUTCOME_UNKNOWN = 0x1_0370;

/** Executing it a second time, whenever that is, changes nothing. */
export function isHarmless(opcode: number): boolean {
  return HARMLESS.includes(opcode);
}
const HARMLESS: readonly number[] = [IoOpcode.Read, IoOpcode.Compare, IoOpcode.Verify, IoOpcode.Flush];

/** Times a command is sent again after a status that allows it. */
export const RETRIES_MAX = 5;

export const Verdict = {
  /** The caller gets the status. */
  Deliver: 0,
  /** Send it again now, wherever it may go. */
  Again: 1,
  /** Send it again once what was sent can no longer be executed. */
  Hold: 2,
  /** The caller is told that nobody knows. */
  Unknown: 3,
  /** The ANA state of the path is not what was thought: send it again as the log says. */
  Ana: 4,
  /** The path is at fault, not the namespace: prefer another. */
  OtherPath: 5,
  /** Send it again on any path, after the delay that the controller asks for. */
  Retry: 6,
} as const;

/** What the verdict depends on. */
export interface FailedCommand {
  /** 15-bit status. */
  readonly status: number;
  readonly replayable: boolean;
  readonly harmless: boolean;
  readonly retries: number;
  /** The connection was lost before the controller can have seen it. */
  readonly unsent: boolean;
}

const ANA_STATUS: readonly number[] = [
  PathStatus.AnaPersistentLoss,
  PathStatus.AnaInaccessible,
  PathStatus.AnaTransition,
];

/** @returns one of `Verdict` */
export function verdictOf({ status, replayable, harmless, retries, unsent }: FailedCommand): number {
  const code = status & STATUS_CODE_MASK;
  if (code === PathStatus.HostPathingError || code === PathStatus.AbortedByHost) {
    if (unsent) return Verdict.Again;
    if (!replayable) return Verdict.Unknown;
    return harmless ? Verdict.Again : Verdict.Hold;
  }
  if ((status & DNR) !== 0) return Verdict.Deliver;
  // refused before it was executed: even what must not be repeated may go elsewhere
  if (ANA_STATUS.includes(code)) return Verdict.Ana;
  if (!replayable || retries >= RETRIES_MAX || code === Status.CommandAbortRequested) return Verdict.Deliver;
  if (code === PathStatus.InternalPathError || code === PathStatus.ControllerPathingError) return Verdict.OtherPath;
  return Verdict.Retry;
}

const RETRY_DELAY_MS = 10;
const CRD_UNIT_MS = 100;

/**
 * How long to wait before a command is sent again. Base 2.1 section 5.1.13.2.1 (CRDT).
 * @param crdt CRDT1 to CRDT3 in units of 100 ms
 */
export function retryDelayMs(status: number, retries: number, crdt: readonly number[]): number {
  const crd = (status >>> 11) & 3;
  const asked = crd === 0 ? 0 : (crdt[crd - 1] ?? 0) * CRD_UNIT_MS;
  return asked > 0 ? asked : RETRY_DELAY_MS * 2 ** retries;
}

/** Codes of a loss that the controller's side caused, or knows of: it has ended the association. */
const PEER_ENDED: readonly string[] = [
  'NVMEOF_ERR_CONNECTION_LOST',
  'NVMEOF_ERR_PEER_TERMINATED',
  'ECONNRESET',
  'EPIPE',
];
/** Without keep alive a controller learns of a lost connection from TCP alone; this much is given to it. */
const DETECT_WITHOUT_KEEP_ALIVE_MS = 10_000;
/** What is assumed of a controller that reports no Command Quiesce Time. */
const CQT_UNREPORTED_MS = 1000;
const CTRATT_TBKAS = 0x40;

/**
 * From the loss of an association to when no command of it can still be executed: the controller has noticed (keep alive, twice if it counts
 * traffic), and has come to rest (CQT). Base 2.1 sections 3.9 and 9.6.
 * @param lostCode `code` of the error that ended it
 */
export function quiesceDelayMs(
  lostCode: string | undefined,
  controller: { readonly cqt: number; readonly ctratt: number; readonly katoMs: number },
): number {
  const restMs = controller.cqt > 0 ? controller.cqt : CQT_UNREPORTED_MS;
  if (lostCode !== undefined && PEER_ENDED.includes(lostCode)) return restMs;
  if (controller.katoMs === 0) return DETECT_WITHOUT_KEEP_ALIVE_MS + restMs;
  return controller.katoMs * ((controller.ctratt & CTRATT_TBKAS) !== 0 ? 2 : 1) + restMs;
}
