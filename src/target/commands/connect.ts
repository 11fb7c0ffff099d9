/** Connect: a queue finds its controller. Base 2.1 section 6.3, failure table in the sheet of Connect statuses. */

import { NQN_BYTES_MAX } from '../../spec/nqn.ts';
import { Direction, FABRICS_OPCODE, Fctype } from '../../spec/opcode.ts';
import { DNR, FabricsStatus, Status } from '../../spec/status.ts';
import { sqeFctype, sqeSglLength } from '../../wire/sqe.ts';
import { type Controller, KATO_MS_MAX } from '../controller.ts';
import type { Request } from '../request.ts';
import type { Subsystem } from '../subsystem.ts';
import { adminCommandSet } from './admin.ts';
import { type CommandSet, commandSet } from './command-set.ts';
import { ioCommandSet } from './io.ts';

const CONNECT_DATA_BYTES = 1024;
/** Smallest and largest admin queue. */
const ADMIN_ENTRIES_MAX = 4096;
const CATTR_DISABLE_SQ_FLOW_CONTROL = 0x04;

// Connect: byte offsets in the SQE and in the data
const Sqe = { RECFMT: 40, QID: 42, SQSIZE: 44, CATTR: 46, KATO: 48 } as const;
const Data = { HOSTID: 0, CNTLID: 16, SUBNQN: 256, HOSTNQN: 512 } as const;
const NQN_FIELD_BYTES = 256;

/** What a Connect may reach: the subsystems of the port it came in by. */
export interface ConnectScope {
  readonly portId: number;
  /** Entries of an I/O queue (CAP.MQES + 1). */
  readonly queueEntriesMax: number;
  readonly inCapsuleBytes: number;
  subsystem(nqn: string): Subsystem | undefined;
}

/** Connect Invalid Parameters, pointing at a byte of the SQE or of the data (IATTR bit 0 = 1). */
function invalidParameter(request: Request, offset: number, inData: boolean): number {
  request.result0 = offset | (inData ? 0x10000 : 0);
  return FabricsStatus.ConnectInvalidParameters | DNR;
}

/** The NUL-terminated text of an NQN field, or undefined if it is not terminated, too long or no UTF-8. */
function nqnField(data: Uint8Array, offset: number): string | undefined {
  const field = data.subarray(offset, offset + NQN_FIELD_BYTES);
  const end = field.indexOf(0);
  if (end < 0 || end > NQN_BYTES_MAX) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(field.subarray(0, end));
  } catch {
    return undefined;
  }
}

/** The queue is unconnected: only Connect. */
export function connectCommandSet(scope: ConnectScope): CommandSet {
  return commandSet({
    [FABRICS_OPCODE]: {
      prepare(request): number {
        if (sqeFctype(request.sqe, request.sqeBase) !== Fctype.Connect) return Status.CommandSequenceError | DNR;
        if (sqeSglLength(request.sqe, request.sqeBase) !== CONNECT_DATA_BYTES) return Status.DataSglLengthInvalid | DNR;
        request.direction = Direction.HostToController;
        request.transferBytes = CONNECT_DATA_BYTES;
        return 0;
      },
      execute(request): void {
        const status = connect(request, scope);
        request.finish(status);
      },
    },
  });
}

function connect(request: Request, scope: ConnectScope): number {
  const { sqe, sqeBase } = request;
  // two Connects were under way, and the other was first
  if (request.queuePair.controller !== undefined) return Status.CommandSequenceError | DNR;
  const data = request.data();
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (sqe.getUint16(sqeBase + Sqe.RECFMT, true) !== 0) return FabricsStatus.ConnectIncompatibleFormat | DNR;
  const subnqn = nqnField(data, Data.SUBNQN);
  // SPDK's tools send an empty HOSTNQN unless told one: it matches no allow-list, only "any host"
  const hostnqn = nqnField(data, Data.HOSTNQN);
  if (hostnqn === undefined) return invalidParameter(request, Data.HOSTNQN, true);
  const subsystem = subnqn === undefined ? undefined : scope.subsystem(subnqn);
  if (subsystem === undefined) return invalidParameter(request, Data.SUBNQN, true);
  if (!subsystem.allows(hostnqn)) {
    request.result0 = Data.HOSTNQN | 0x10000;
    return FabricsStatus.ConnectInvalidHost | DNR;
  }
  const qid = sqe.getUint16(sqeBase + Sqe.QID, true);
  const entries = sqe.getUint16(sqeBase + Sqe.SQSIZE, true) + 1;
  const cntlid = view.getUint16(Data.CNTLID, true);
  const hostid = data.slice(Data.HOSTID, Data.HOSTID + 16);
  if (entries < 2 || entries > (qid === 0 ? ADMIN_ENTRIES_MAX : scope.queueEntriesMax)) {
    return invalidParameter(request, Sqe.SQSIZE, false);
  }
  let controller: Controller;
  if (qid === 0) {
    const katoMs = sqe.getUint32(sqeBase + Sqe.KATO, true);
    if (katoMs > KATO_MS_MAX) return Status.KeepAliveTimeoutInvalid | DNR;
    const admission = subsystem.admit(cntlid, {
      hostnqn,
      hostid,
      katoMs,
      queueEntriesMax: scope.queueEntriesMax,
      inCapsuleBytes: scope.inCapsuleBytes,
      portId: scope.portId,
      localAddress: request.queuePair.transport.localAddress,
    });
    if ('refused' in admission) {
      if (admission.refused === 'duplicate') {
        request.result0 = Data.HOSTNQN | 0x10000;
        return FabricsStatus.ConnectInvalidHost | DNR;
      }
      return admission.refused === 'busy'
        ? FabricsStatus.ConnectControllerBusy
        : invalidParameter(request, Data.CNTLID, true);
    }
    controller = admission.controller;
  } else {
    const found = subsystem.controller(cntlid);
    // ANA states are those of a port: all queues of a controller come in by the same
    if (found === undefined || found.hostnqn !== hostnqn || found.portId !== scope.portId) {
      return invalidParameter(request, Data.CNTLID, true);
    }
    if (hostid.some((byte) => byte !== 0) && !hostid.every((byte, i) => byte === found.hostid[i])) {
      return invalidParameter(request, Data.HOSTID, true);
    }
    if (qid > found.ioQueuesMax) return invalidParameter(request, Sqe.QID, false);
    if (!found.ready) return Status.CommandSequenceError | DNR;
    if (found.hasQueue(qid)) return Status.CommandSequenceError | DNR;
    controller = found;
  }
  const flowControl = (sqe.getUint8(sqeBase + Sqe.CATTR) & CATTR_DISABLE_SQ_FLOW_CONTROL) === 0;
  const pair = request.queuePair;
  pair.attach(controller, qid > 0 ? ioCommandSet : adminCommandSet, qid, entries, flowControl);
  if (qid === 0) {
    controller.attachAdmin(pair);
    subsystem.events.connected(controller);
  } else {
    controller.attachIo(pair, qid);
  }
  pair.transport.connected();
  request.sqhdWithoutFlowControl = 0xffff;
  request.result0 = controller.cntlid; // AUTHREQ 0
  return 0;
}
