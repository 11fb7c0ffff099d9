/** Which features a namespace that cannot be reached still has. Base 2.1 section 8.1.1, the tables of Get Features and Set Features. */
import { Feature } from '../../spec/feature.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { PathStatus } from '../../spec/status.ts';
import { sqeNsid } from '../../wire/sqe.ts';
import { anaStatusOf, anaStatusOfAll } from '../ana-access.ts';
import type { Request } from '../request.ts';

/** Features whose value belongs to the namespace and lies where it lies. */
const UNAVAILABLE: readonly number[] = [
  Feature.ErrorRecovery,
  Feature.ReservationNotificationMask,
  Feature.ReservationPersistence,
];

/** 0, or the path status of the attached namespace that the command names. */
function named(request: Request): number {
  const controller = request.queuePair.controller!;
  const namespace = controller.namespace(sqeNsid(request.sqe, request.sqeBase));
  return namespace === undefined ? 0 : anaStatusOf(controller, namespace);
}

/** @returns 0, or the status to fail with */
export function getFeaturesAna(request: Request, fid: number): number {
  return UNAVAILABLE.includes(fid) ? named(request) : 0;
}

/** Nothing can be set in persistent loss; for all namespaces only if each can be reached. @returns 0, or the status to fail with */
export function setFeaturesAna(request: Request, fid: number): number {
  const status = named(request);
  if (status === PathStatus.AnaPersistentLoss) return status;
  if (!UNAVAILABLE.includes(fid)) return 0;
  return sqeNsid(request.sqe, request.sqeBase) === NSID_ALL ? anaStatusOfAll(request.queuePair.controller!) : status;
}
