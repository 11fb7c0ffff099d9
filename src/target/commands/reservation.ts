/** Reservation Register, Acquire, Release and Report. Base 2.1 sections 7.3 to 7.6. */
import { Direction, IoOpcode } from '../../spec/opcode.ts';
import {
  AcquireAction,
  ChangePersistence,
  CNTLID_NOT_CONNECTED,
  RegisterAction,
  ReleaseAction,
  ReservationField,
  ReservationType,
} from '../../spec/reservation.ts';
import { DNR, Status } from '../../spec/status.ts';
import {
  encodeReservationStatus,
  type ReservationRegistrant,
  reservationAcquireCodec,
  reservationRegisterCodec,
  reservationReleaseCodec,
} from '../../wire/cold/reservation.ts';
import { sqeCdw10, sqeCdw11 } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import { NO_HOST } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { holds, type ReservationCommand } from '../reservation-state.ts';
import { admitted } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';

const RESERVE = Access.Attached | Access.Reserve;
const CDW11_EXTENDED = 0x1;

/** The namespace, and a host that can be told from others (RHII); undefined after `request.status` was set to why not. */
function reservable(request: Request): Namespace | undefined {
  const namespace = admitted(request, RESERVE);
  if (namespace === undefined) return undefined;
  if (request.queuePair.controller!.host === NO_HOST) {
    request.status = Status.HostIdNotInitialized | DNR;
    return undefined;
  }
  return namespace;
}

const actionOf = (request: Request): number => sqeCdw10(request.sqe, request.sqeBase) & ReservationField.actionMask;
const typeOf = (request: Request): number =>
  (sqeCdw10(request.sqe, request.sqeBase) >>> ReservationField.typeShift) & 0xff;
const persistenceOf = (request: Request): number =>
  sqeCdw10(request.sqe, request.sqeBase) >>> ReservationField.persistenceShift;
const ignoresExistingKey = (request: Request): boolean =>
  (sqeCdw10(request.sqe, request.sqeBase) & ReservationField.ignoreExistingKey) !== 0;

/** A command whose keys the host sends along. @param check of its dword 10; a status */
function changing(
  dataBytes: number,
  check: (request: Request, namespace: Namespace) => number,
  decode: (request: Request, data: Uint8Array) => ReservationCommand,
): CommandHandler {
  return {
    prepare(request): number {
      const namespace = reservable(request);
      if (namespace === undefined) return request.status;
      const status = check(request, namespace);
      if (status !== 0) return status;
      request.direction = Direction.HostToController;
      request.transferBytes = dataBytes;
      return 0;
    },
    execute(request): void {
      const command = decode(request, request.data());
      request.retain(); // the answer may have to wait for the state to be durable
      request.namespace!.reservations.execute(request.queuePair.controller!.host, command, (status) => {
        if (status === Status.InvalidField) request.finish(invalidCommand(request, command));
        else request.finish(status === 0 ? 0 : status | DNR);
      });
    },
  };
}

/** A release names another type than what is held: that field is in dword 10. The key of a preempt is in the data. */
function invalidCommand(request: Request, command: ReservationCommand): number {
  return command.kind === 'release' ? request.invalidField(41) : Status.InvalidField | DNR;
}

const register: CommandHandler = changing(
  reservationRegisterCodec.size,
  (request, namespace) => {
    if (actionOf(request) > RegisterAction.Replace) return request.invalidField(40);
    const persistence = persistenceOf(request);
    const isKnown = persistence !== 1 && (persistence !== ChangePersistence.Set || namespace.reservations.canPersist);
    return isKnown ? 0 : request.invalidField(43, 6);
  },
  (request, data) => {
    const { crkey, nrkey } = reservationRegisterCodec.decode(data);
    return {
      kind: 'register',
      action: actionOf(request),
      ignoreExistingKey: ignoresExistingKey(request),
      persistence: persistenceOf(request),
      currentKey: crkey,
      newKey: nrkey,
    };
  },
);

const acquire: CommandHandler = changing(
  reservationAcquireCodec.size,
  (request) => {
    if (actionOf(request) > AcquireAction.PreemptAndAbort) return request.invalidField(40);
    if (ignoresExistingKey(request)) return request.invalidField(40, 3);
    const type = typeOf(request);
    const isType = type >= ReservationType.WriteExclusive && type <= ReservationType.ExclusiveAccessAllRegistrants;
    return isType ? 0 : request.invalidField(41);
  },
  (request, data) => {
    const { crkey, prkey } = reservationAcquireCodec.decode(data);
    return { kind: 'acquire', action: actionOf(request), type: typeOf(request), currentKey: crkey, preemptKey: prkey };
  },
);

const release: CommandHandler = changing(
  reservationReleaseCodec.size,
  (request) => {
    if (actionOf(request) > ReleaseAction.Clear) return request.invalidField(40);
    return ignoresExistingKey(request) ? request.invalidField(40, 3) : 0;
  },
  (request, data) => {
    const { crkey } = reservationReleaseCodec.decode(data);
    return { kind: 'release', action: actionOf(request), type: typeOf(request), currentKey: crkey };
  },
);

/** Host identifiers on fabrics have 128 bits: only the extended structure can tell them. */
const report: CommandHandler = {
  prepare(request): number {
    if (reservable(request) === undefined) return request.status;
    if ((sqeCdw11(request.sqe, request.sqeBase) & CDW11_EXTENDED) === 0) {
      return request.fail(Status.HostIdInconsistentFormat, 44);
    }
    const bytes = (sqeCdw10(request.sqe, request.sqeBase) + 1) * 4;
    if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(40);
    request.direction = Direction.ControllerToHost;
    request.transferBytes = bytes;
    return 0;
  },
  execute(request): void {
    const { generation, type, persistent } = request.namespace!.reservations.state;
    const whole = encodeReservationStatus(
      { gen: generation, rtype: type, ptpls: persistent ? 1 : 0, registrants: registrantsOf(request) },
      true,
    );
    const answer = new Uint8Array(request.transferBytes);
    answer.set(whole.subarray(0, answer.length));
    request.answer(answer);
    request.finish(0);
  },
};

/** One entry for every controller of a registrant, one without a controller for a registrant that is not connected. */
function registrantsOf(request: Request): ReservationRegistrant[] {
  const namespace = request.namespace!;
  const { state } = namespace.reservations;
  const controllers = [...request.queuePair.controller!.subsystem.controllers];
  return [...state.registrants].flatMap(([host, rkey]) => {
    const cntlids = controllers
      .filter((controller) => controller.host === host && namespace.isAttachedTo(controller))
      .map(({ cntlid }) => cntlid);
    if (cntlids.length === 0) cntlids.push(CNTLID_NOT_CONNECTED);
    const hostid = Uint8Array.from(Buffer.from(host, 'hex'));
    return cntlids.map((cntlid) => ({ cntlid, rcsts: holds(state, host) ? 1 : 0, rkey, hostid }));
  });
}

/** What an I/O queue serves of reservations. */
export const reservationCommands: Readonly<Record<number, CommandHandler>> = {
  [IoOpcode.ReservationRegister]: register,
  [IoOpcode.ReservationReport]: report,
  [IoOpcode.ReservationAcquire]: acquire,
  [IoOpcode.ReservationRelease]: release,
};

/** A reservation command has its effect as soon as it runs, and is not taken back. */
export const isReservationCommand = (request: Request): boolean => request.opcode in reservationCommands;
