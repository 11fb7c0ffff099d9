// @hot
/** What every command on a namespace asks first: may it have the namespace, and is its range inside. */
import { DNR, Status } from '../../spec/status.ts';
import { sqeBlockCount, sqeNsid, sqeSlba } from '../../wire/sqe.ts';
import { refusalOf } from '../access.ts';
import type { Controller } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';

/**
 * The namespace of the command, if the command may have it now; undefined after `request.status` was set to why not.
 * @param need `Access` bits
 */
export function admitted(request: Request, need: number): Namespace | undefined {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  const controller = request.queuePair.controller!;
  const access = nsid < controller.access.length ? controller.access[nsid]! : 0;
  if ((access & need) !== need) {
    request.status = refused(request, controller, nsid, need);
    return undefined;
  }
  const namespace = controller.subsystem.namespaces[nsid]!;
  request.namespace = namespace;
  return namespace;
}

function refused(request: Request, controller: Controller, nsid: number, need: number): number {
  const status = refusalOf(controller, controller.subsystem.namespaces[nsid], need);
  if (status !== undefined) return status;
  const valid = nsid !== 0 && nsid <= controller.subsystem.nsidMax;
  return request.fail(valid ? Status.InvalidField : Status.InvalidNamespaceOrFormat, 4);
}

/** SLBA and NLB against the namespace; sets the request's range. */
export function blockRange(request: Request, namespace: Namespace): number {
  const slba = sqeSlba(request.sqe, request.sqeBase);
  const blocks = sqeBlockCount(request.sqe, request.sqeBase);
  if (slba + blocks > namespace.blockCount) return Status.LbaOutOfRange | DNR;
  request.offsetBytes = slba * namespace.blockSize;
  request.lengthBytes = blocks * namespace.blockSize;
  return 0;
}
