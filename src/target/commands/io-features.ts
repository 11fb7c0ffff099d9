/** Features of the NVM command set and of namespaces: error recovery, LBA status interval, host behavior, write protection. */
import { Feature } from '../../spec/feature.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { SpecificStatus, Status } from '../../spec/status.ts';
import { HOST_BEHAVIOR_BYTES, hostBehaviorCodec } from '../../wire/cold/host-behavior.ts';
import { sqeCdw11, sqeNsid } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import type { Controller } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { Protection, setProtection } from '../write-protection.ts';
import { COPY_FORMATS } from './copy.ts';
import type { FeatureEntry } from './feature.ts';

const DULBE = 0x1_0000;
const TLER_MASK = 0xffff;

/** NSID 0 or FFFFFFFFh: all that are attached. */
function namespacesOf(controller: Controller, request: Request): Namespace[] {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  if (nsid === 0 || nsid === NSID_ALL) return controller.activeNamespaces();
  return [controller.namespace(nsid)!];
}

/** TLER of the controller; DULBE of each namespace that knows which of its blocks are deallocated. */
const errorRecovery: FeatureEntry = {
  fid: Feature.ErrorRecovery,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  scope: 'namespace-or-all',
  get(controller, request): number {
    const dulbe = controller.deallocatedErrorNsids.has(sqeNsid(request.sqe, request.sqeBase)) ? DULBE : 0;
    return (controller.features.get(Feature.ErrorRecovery) ?? 0) | dulbe;
  },
  set(controller, request): number {
    const value = sqeCdw11(request.sqe, request.sqeBase);
    if ((value & ~(TLER_MASK | DULBE)) !== 0) return request.invalidField(46);
    const wanted = (value & DULBE) !== 0;
    const served = namespacesOf(controller, request).filter((namespace) => namespace.knowsAllocation);
    if (wanted && served.length === 0) return request.invalidField(46);
    for (const { nsid } of served) {
      if (wanted) controller.deallocatedErrorNsids.add(nsid);
      else controller.deallocatedErrorNsids.delete(nsid);
    }
    controller.subsystem.deallocatedErrorsChanged();
    controller.features.set(Feature.ErrorRecovery, value & TLER_MASK);
    return 0;
  },
};

/** LSIRI paces the notice of log page 0Eh; there is no poll (LSIPI 0), because what is reported is known at once. */
const lbaStatusInterval: FeatureEntry = {
  fid: Feature.LbaStatusInformationInterval,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  get: (controller) => controller.features.get(Feature.LbaStatusInformationInterval) ?? 0,
  set(controller, request): number {
    const interval = sqeCdw11(request.sqe, request.sqeBase) & 0xffff;
    controller.features.set(Feature.LbaStatusInformationInterval, interval);
    request.result0 = interval;
    return 0;
  },
};

const hostBehavior: FeatureEntry = {
  fid: Feature.HostBehaviorSupport,
  onDiscovery: false,
  dataBytes: HOST_BEHAVIOR_BYTES,
  initial: 0,
  initialData: () => hostBehaviorCodec.encode({}),
  get(controller): Uint8Array {
    const { acre, etdas, copyFormatsEnabled } = controller.hostBehavior;
    return hostBehaviorCodec.encode({ acre, etdas, cdfe: copyFormatsEnabled });
  },
  set(controller, request): number {
    const { acre, etdas, lbafee, hdisns, cdfe } = hostBehaviorCodec.decode(request.data());
    // no formats beyond 16, no dispersed namespaces; formats 0 and 1 need no enabling
    const formats = COPY_FORMATS & ~0x3;
    if (acre > 1 || etdas > 1 || lbafee !== 0 || hdisns !== 0 || (cdfe & ~formats) !== 0) return Status.InvalidField;
    controller.hostBehavior = { acre, etdas, copyFormatsEnabled: cdfe };
    return 0;
  },
};

const namespaceWriteProtection: FeatureEntry = {
  fid: Feature.NamespaceWriteProtection,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  scope: 'namespace',
  isServed: (controller) => controller.subsystem.protectionsServed !== 0,
  get: (controller, request) => controller.namespace(sqeNsid(request.sqe, request.sqeBase))!.writeProtection,
  set(controller, request): number | undefined {
    const { subsystem } = controller;
    const namespace = controller.namespace(sqeNsid(request.sqe, request.sqeBase))!;
    const state = sqeCdw11(request.sqe, request.sqeBase);
    if (state > Protection.Permanent || (subsystem.protectionsServed & (1 << state)) === 0) {
      return request.invalidField(44);
    }
    if (state === namespace.writeProtection) return 0;
    if (namespace.writeProtection >= Protection.UntilPowerCycle) {
      return request.fail(SpecificStatus.FeatureNotChangeable, 44);
    }
    // what was written before is on the media when the answer says that it is protected
    request.namespace = namespace;
    request.continuation = (_, flushed) => {
      setProtection(subsystem, namespace, state).then(
        () => request.finish(flushed),
        () => request.finish(Status.InternalError),
      );
    };
    if ((controller.access[namespace.nsid]! & Access.Flush) !== 0) namespace.flush(request);
    else request.complete(0);
    return undefined;
  },
};

export const IO_FEATURES: readonly FeatureEntry[] = [
  errorRecovery,
  lbaStatusInterval,
  hostBehavior,
  namespaceWriteProtection,
];
