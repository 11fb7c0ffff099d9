/** Features of reservations, each with a value per namespace. Base 2.1 sections 5.1.25.1.28 and 5.1.25.1.29. */
import { Feature } from '../../spec/feature.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { DNR } from '../../spec/status.ts';
import { sqeCdw11, sqeNsid } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { NOTICE_MASK_BITS } from '../reservation-notices.ts';
import type { FeatureEntry } from './feature.ts';

const PTPL = 0x1;

/** The namespace of the command, or all that are attached. */
function namespacesOf(controller: Controller, request: Request): Namespace[] {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  return nsid === NSID_ALL ? controller.activeNamespaces() : [controller.namespace(nsid)!];
}

/** What this controller does not want to hear of. */
const notificationMask: FeatureEntry = {
  fid: Feature.ReservationNotificationMask,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  scope: 'namespace-set-all',
  get: (controller, request) => controller.reservationNotices.mask(namespacesOf(controller, request)[0]!),
  set(controller, request): number {
    const mask = sqeCdw11(request.sqe, request.sqeBase);
    if ((mask & ~NOTICE_MASK_BITS) !== 0) return request.invalidField(44);
    for (const namespace of namespacesOf(controller, request)) controller.reservationNotices.setMask(namespace, mask);
    return 0;
  },
};

/** PTPL. Answered when the reservations are durable, or their file is gone. */
const persistence: FeatureEntry = {
  fid: Feature.ReservationPersistence,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  scope: 'namespace-set-all',
  get: (controller, request) => (namespacesOf(controller, request)[0]!.reservations.state.persistent ? PTPL : 0),
  set(controller, request): number | undefined {
    const value = sqeCdw11(request.sqe, request.sqeBase);
    const namespaces = namespacesOf(controller, request);
    const persistent = (value & PTPL) !== 0;
    if ((value & ~PTPL) !== 0) return request.invalidField(44);
    if (persistent && namespaces.some(({ reservations }) => !reservations.canPersist)) return request.invalidField(44);
    let left = namespaces.length;
    if (left === 0) return 0;
    let failed = 0;
    for (const { reservations } of namespaces) {
      reservations.setPersistent(persistent, (status) => {
        failed ||= status;
        if (--left === 0) request.finish(failed === 0 ? 0 : failed | DNR);
      });
    }
    return undefined;
  },
};

export const reservationFeatures: readonly FeatureEntry[] = [notificationMask, persistence];
