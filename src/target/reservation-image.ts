/** Reservations of one namespace as plain JSON: what is kept through power loss, and what moves with a namespace to another target. */
import { NvmeofError } from '../util/error.ts';
import type { ReservationStatus } from '../wire/cold/reservation.ts';
import { type HostKey, isHeldByAll, REGISTRANTS_MAX, type ReservationState } from './reservation-state.ts';

/** Raised whenever the meaning of a field changes. */
export const RESERVATION_IMAGE_VERSION = 1;

/** @public */
export interface ReservationImage {
  readonly version: typeof RESERVATION_IMAGE_VERSION;
  readonly generation: number;
  /** `ReservationType`, 0 if nothing is held. */
  readonly type: number;
  /** Host identifier (32 hex digits) of the holder; null if nothing is held, or all registrants hold it. */
  readonly holder: string | null;
  readonly persistThroughPowerLoss: boolean;
  /** In the order of registration; keys as `0x` and up to 16 hex digits. */
  readonly registrants: readonly { readonly hostid: string; readonly key: string }[];
}

export function reservationImage(state: ReservationState): ReservationImage {
  return {
    version: RESERVATION_IMAGE_VERSION,
    generation: state.generation,
    type: state.type,
    holder: state.holder ?? null,
    persistThroughPowerLoss: state.persistent,
    registrants: [...state.registrants].map(([hostid, key]) => ({ hostid, key: `0x${key.toString(16)}` })),
  };
}

const HOST = /^[0-9a-f]{32}$/;
const KEY = /^0x[0-9a-f]{1,16}$/;

/**
 * Takes nothing for granted: the file may have been edited, the other target may be of another version.
 * @param where names the image in messages
 * @throws NvmeofError NVMEOF_ERR_RESERVATION_IMAGE
 */
export function reservationState(image: unknown, where: string): ReservationState {
  const fail = (what: string): NvmeofError => new NvmeofError('NVMEOF_ERR_RESERVATION_IMAGE', `${where}: ${what}`);
  if (typeof image !== 'object' || image === null) throw fail('reservations must be an object');
  const { version, generation, type, holder, persistThroughPowerLoss, registrants } = image as Record<string, unknown>;
  if (version !== RESERVATION_IMAGE_VERSION) {
    throw fail(`version is ${String(version)}, this program reads ${RESERVATION_IMAGE_VERSION}`);
  }
  if (!isInteger(generation, 0xffff_ffff)) throw fail('generation must be 0 to 4294967295');
  if (!isInteger(type, 6)) throw fail('type must be 0 to 6');
  if (typeof persistThroughPowerLoss !== 'boolean') throw fail('persistThroughPowerLoss must be true or false');
  if (!Array.isArray(registrants) || registrants.length > REGISTRANTS_MAX) {
    throw fail(`registrants must be a list of at most ${REGISTRANTS_MAX}`);
  }
  const keys = new Map<HostKey, bigint>();
  for (const entry of registrants as readonly unknown[]) {
    const { hostid, key } = (entry ?? {}) as { hostid?: unknown; key?: unknown };
    if (typeof hostid !== 'string' || !HOST.test(hostid) || keys.has(hostid)) {
      throw fail(`hostid ${JSON.stringify(hostid)} must be 32 hex digits, each host once`);
    }
    if (typeof key !== 'string' || !KEY.test(key))
      throw fail(`key ${JSON.stringify(key)} must be 0x and 1 to 16 hex digits`);
    keys.set(hostid, BigInt(key));
  }
  const single = type !== 0 && !isHeldByAll(type);
  if (single ? typeof holder !== 'string' || !keys.has(holder) : holder !== null) {
    throw fail(`holder ${JSON.stringify(holder)} does not fit type ${type} and the registrants`);
  }
  if (isHeldByAll(type) && keys.size === 0) throw fail(`type ${type} needs a registrant`);
  return {
    generation,
    type,
    holder: single ? (holder as string) : undefined,
    registrants: keys,
    persistent: persistThroughPowerLoss,
  };
}

/**
 * What an extended Reservation Status says, which names each controller of a registrant; as little checked as any image.
 * @param status undefined: nobody has registered
 * @throws NvmeofError NVMEOF_ERR_RESERVATION_IMAGE if it was cut short
 */
export function imageOfStatus(status: ReservationStatus | undefined): ReservationImage {
  const { gen, rtype, ptpls, regctl, registrants }: ReservationStatus = status ?? NO_STATUS;
  if (registrants.length !== regctl) {
    throw new NvmeofError(
      'NVMEOF_ERR_RESERVATION_IMAGE',
      `Reservation Status tells of ${registrants.length} registered controllers, there are ${regctl}`,
    );
  }
  const keys = new Map<string, string>();
  let holder: string | null = null;
  for (const { hostid, rkey, rcsts } of registrants) {
    const host = Buffer.from(hostid).toString('hex');
    const key = `0x${rkey.toString(16)}`;
    if ((keys.get(host) ?? key) !== key) {
      throw new NvmeofError('NVMEOF_ERR_RESERVATION_IMAGE', `Reservation Status has two keys of host ${host}`);
    }
    keys.set(host, key);
    if ((rcsts & HOLDS) !== 0 && !isHeldByAll(rtype)) holder = host;
  }
  return {
    version: RESERVATION_IMAGE_VERSION,
    generation: gen,
    type: rtype,
    holder,
    persistThroughPowerLoss: (ptpls & 1) !== 0,
    registrants: [...keys].map(([hostid, key]) => ({ hostid, key })),
  };
}

const NO_STATUS: ReservationStatus = { gen: 0, rtype: 0, regctl: 0, ptpls: 0, registrants: [] };
/** RCSTS bit 0. */
const HOLDS = 0x01;

function isInteger(value: unknown, max: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max;
}
