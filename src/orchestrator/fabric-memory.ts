/** The memory of a guest as a manager of its controller follows it: Track Memory Changes. Base 2.1 section 5.1.26. */
import type { LiveMigration } from '../initiator/live-migration.ts';
import { SpecificStatus } from '../spec/status.ts';
import { NvmeofError, NvmeStatusError } from '../util/error.ts';
import type { TrackedUnits } from '../wire/cold/track-memory.ts';
import type { FabricEnd, Link } from './fabric-end.ts';
import { heldByOther, pastOtherSession } from './other-session.ts';

const STATUS_MASK = 0x7ff;

/** Said of a controller that is not there, of one that reaches no memory, and of one whose memory is followed already. */
const isUnknown = (error: unknown): error is NvmeStatusError =>
  error instanceof NvmeStatusError && (error.status & STATUS_MASK) === SpecificStatus.InvalidControllerIdentifier;

/**
 * Follows it from now on, with nothing changed yet: what an earlier try of ours has found is forgotten. Waits for the end of another manager's session
 * that is gone.
 * @param exponent granularity 2^n x 4 KiB
 * @throws NvmeStatusError Not Enough Resources: coarser takes less; NvmeofError NVMEOF_ERR_HELD, NVMEOF_ERR_TRACKING_LOST, NVMEOF_ERR_UNSUPPORTED
 */
export function startMemoryTracking(
  end: FabricEnd,
  link: Link,
  cntlid: number,
  exponent: number,
  units: readonly TrackedUnits[],
): Promise<void> {
  const start = (): Promise<void> => link.migration.trackMemory(cntlid, exponent, units);
  const act = async (): Promise<void> => {
    try {
      await start();
      return;
    } catch (error) {
      if (!isUnknown(error)) throw error;
    }
    try {
      await link.migration.stopTrackingMemory(cntlid);
    } catch (error) {
      // another manager's; or it is gone, and nothing is waited for
      if (isUnknown(error)) await mustBeThere(end, link, cntlid, error);
      throw error;
    }
    try {
      await start();
    } catch (cause) {
      if (!isUnknown(cause)) throw cause;
      const remedy = 'copy its memory while it is suspended';
      const message = `${end.name} does not track memory of controller ${cntlid}: ${remedy}`;
      throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', message, { cause });
    }
  };
  const what = `memory of controller ${cntlid} is followed`;
  return pastOtherSession(end, link, act, isUnknown, (cause) => heldByOther(end.name, what, cause));
}

async function mustBeThere(
  { name }: FabricEnd,
  { controller }: Link,
  cntlid: number,
  cause: NvmeStatusError,
): Promise<void> {
  if ((await controller.management.controllers()).includes(cntlid)) return;
  const message = `${name}: controller ${cntlid} is not there any more, and its memory cannot be followed`;
  throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', message, { cause });
}

/** Idempotent: what another manager follows, or has ended with its controller, is none of ours. */
export async function stopMemoryTracking(migration: LiveMigration, cntlid: number): Promise<void> {
  try {
    await migration.stopTrackingMemory(cntlid);
  } catch (error) {
    if (!isUnknown(error)) throw error;
  }
}
