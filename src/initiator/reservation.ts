/** Reservations from the host's side. Base 2.1 sections 7.3 to 7.6 and 8.1.22. */
import { NSID_ALL } from '../spec/identify.ts';
import { LogPage } from '../spec/log-page.ts';
import { IoOpcode } from '../spec/opcode.ts';
import { ReservationField } from '../spec/reservation.ts';
import { STATUS_CODE_MASK, Status } from '../spec/status.ts';
import { NvmeStatusError } from '../util/error.ts';
import { type ReservationLog, reservationLogCodec } from '../wire/cold/log-reservation.ts';
import {
  decodeReservationStatus,
  type ReservationStatus,
  reservationAcquireCodec,
  reservationRegisterCodec,
  reservationReleaseCodec,
  reservationStatusBytes,
} from '../wire/cold/reservation.ts';
import type { HostController } from './controller.ts';
import type { NamespaceOwner } from './namespace-owner.ts';

/** @public */
export interface ReservationRegisterOptions {
  /** `RegisterAction`; default Register. */
  readonly action?: number;
  /** CRKEY: for Unregister and Replace. */
  readonly currentKey?: bigint;
  /** NRKEY: for Register and Replace. */
  readonly newKey?: bigint;
  /** IEKEY: CRKEY is not looked at. */
  readonly ignoreExistingKey?: boolean;
  /** `ChangePersistence`; default None. */
  readonly persistence?: number;
  /** DISNSRS: this host knows reservations of dispersed namespaces. */
  readonly dispersed?: boolean;
}

/** @public */
export interface ReservationAcquireOptions {
  /** `ReservationType`. */
  readonly type: number;
  /** `AcquireAction`; default Acquire. */
  readonly action?: number;
  /** CRKEY: the key that this host registered. */
  readonly currentKey: bigint;
  /** PRKEY: for Preempt, and Preempt and Abort. */
  readonly preemptKey?: bigint;
  /** IEKEY, which controllers of revision 1.3 and later refuse. */
  readonly ignoreExistingKey?: boolean;
}

/** @public */
export interface ReservationReleaseOptions {
  /** `ReservationType` of what is held; not looked at by Clear. */
  readonly type?: number;
  /** `ReleaseAction`; default Release. */
  readonly action?: number;
  /** CRKEY: the key that this host registered. */
  readonly currentKey: bigint;
  /** IEKEY, which controllers of revision 1.3 and later refuse. */
  readonly ignoreExistingKey?: boolean;
}

/** @public */
export interface ReservationReportOptions {
  /** EDS: host identifiers of 16 bytes. Default: what the controller takes. */
  readonly extended?: boolean;
  /** Read this many bytes (a multiple of 4) and no more. Default: all there is. */
  readonly bytes?: number;
}

/** @public */
export interface ReservationReport extends ReservationStatus {
  readonly extended: boolean;
  /** As it came. */
  readonly bytes: Uint8Array;
}

const SET = (on: boolean | undefined, bits: number): number => (on ? bits : 0);
const DISPERSED = 0x10;
const EXTENDED = 0x1;

/** Never sent again by itself: after a lost connection nobody knows whether it had its effect. */
async function execute(
  owner: NamespaceOwner,
  what: string,
  command: { opcode: number; nsid: number; cdw10: number; cdw11?: number; data?: Uint8Array; readBytes?: number },
): Promise<Uint8Array> {
  const { status, result, data } = await owner.ioPassthru({ ...command, cdw10: command.cdw10 >>> 0 });
  if (status !== Status.Success)
    throw new NvmeStatusError(`${what} of namespace ${command.nsid}`, status, 'io', result);
  return data;
}

export async function reservationRegister(
  owner: NamespaceOwner,
  nsid: number,
  options: ReservationRegisterOptions,
): Promise<void> {
  await execute(owner, 'Reservation Register', {
    opcode: IoOpcode.ReservationRegister,
    nsid,
    cdw10:
      (options.action ?? 0) |
      SET(options.ignoreExistingKey, ReservationField.ignoreExistingKey) |
      SET(options.dispersed, DISPERSED) |
      ((options.persistence ?? 0) << ReservationField.persistenceShift),
    data: reservationRegisterCodec.encode({ crkey: options.currentKey, nrkey: options.newKey }),
  });
}

export async function reservationAcquire(
  owner: NamespaceOwner,
  nsid: number,
  options: ReservationAcquireOptions,
): Promise<void> {
  await execute(owner, 'Reservation Acquire', {
    opcode: IoOpcode.ReservationAcquire,
    nsid,
    cdw10:
      (options.action ?? 0) |
      SET(options.ignoreExistingKey, ReservationField.ignoreExistingKey) |
      (options.type << ReservationField.typeShift),
    data: reservationAcquireCodec.encode({ crkey: options.currentKey, prkey: options.preemptKey }),
  });
}

export async function reservationRelease(
  owner: NamespaceOwner,
  nsid: number,
  options: ReservationReleaseOptions,
): Promise<void> {
  await execute(owner, 'Reservation Release', {
    opcode: IoOpcode.ReservationRelease,
    nsid,
    cdw10:
      (options.action ?? 0) |
      SET(options.ignoreExistingKey, ReservationField.ignoreExistingKey) |
      ((options.type ?? 0) << ReservationField.typeShift),
    data: reservationReleaseCodec.encode({ crkey: options.currentKey }),
  });
}

/** Registrants that are asked for at first. */
const REGISTRANTS_EXPECTED = 16;

export async function reservationReport(
  owner: NamespaceOwner,
  nsid: number,
  options: ReservationReportOptions,
): Promise<ReservationReport> {
  const read = async (extended: boolean): Promise<ReservationReport> => {
    let length = options.bytes ?? reservationStatusBytes(REGISTRANTS_EXPECTED, extended);
    for (;;) {
      const bytes = await execute(owner, 'Reservation Report', {
        opcode: IoOpcode.ReservationReport,
        nsid,
        cdw10: length / 4 - 1,
        cdw11: extended ? EXTENDED : 0,
        readBytes: length,
      });
      const report = { ...decodeReservationStatus(bytes, extended), extended, bytes };
      // registrants that came meanwhile are read, too
      const needed = Math.min(reservationStatusBytes(report.regctl, extended), owner.maxTransferBytes);
      if (options.bytes !== undefined || needed <= length) return report;
      length = needed;
    }
  };
  if (options.extended !== undefined) return read(options.extended);
  try {
    return await read(true);
  } catch (error) {
    if (!(error instanceof NvmeStatusError)) throw error;
    if ((error.status & STATUS_CODE_MASK) !== Status.HostIdInconsistentFormat) throw error;
    return read(false); // a controller that knows host identifiers of 8 bytes
  }
}

/** What happened to a reservation or registration of this host. @public */
export interface ReservationNotice {
  readonly nsid: number;
  /** `ReservationNotification`. */
  readonly type: number;
  /** Counts the notices of this controller: a gap tells that some were lost. */
  readonly count: bigint;
}

/** Takes the oldest notice from the controller. @returns an empty page (type 0) if there is none */
export async function reservationNotificationLog(controller: HostController): Promise<ReservationLog> {
  const bytes = reservationLogCodec.size;
  return reservationLogCodec.decode(
    await controller.getLogPage({ lid: LogPage.ReservationNotification, bytes, nsid: NSID_ALL }),
  );
}

/** Pages that are read for one event: NALP counts to 255. */
const PAGES_MAX = 256;

/** Takes the notices out of a controller, one reader at a time, whenever it says that there are some. */
export class ReservationNoticeReader {
  readonly #controller: HostController;
  readonly #onNotice: (notice: ReservationNotice) => void;
  #reading: Promise<void> | undefined;
  #more = false;

  constructor(controller: HostController, onNotice: (notice: ReservationNotice) => void) {
    this.#controller = controller;
    this.#onNotice = onNotice;
  }

  /** The event came. @throws NvmeofError if the log cannot be read; what it holds stays there for the next time */
  async available(): Promise<void> {
    this.#more = true;
    this.#reading ??= this.#readAll().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
  }

  async #readAll(): Promise<void> {
    while (this.#more) {
      this.#more = false;
      for (let pages = 0; pages < PAGES_MAX; pages++) {
        const { lpc, rnlpt, nalp, nsid } = await reservationNotificationLog(this.#controller);
        if (rnlpt !== 0) this.#onNotice({ nsid, type: rnlpt, count: lpc });
        if (rnlpt === 0 || nalp === 0) break;
      }
    }
  }
}
