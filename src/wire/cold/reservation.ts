/** Data structures of the reservation commands. Base 2.1 sections 7.3 to 7.6. */
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

const REGISTER = [
  [0, 'crkey', 'u64'],
  [8, 'nrkey', 'u64'],
] as const;
/** @public */
export type ReservationRegisterData = Decoded<typeof REGISTER>;
/** @public */
export const reservationRegisterCodec: Codec<ReservationRegisterData> = structure('ReservationRegister', 16, REGISTER);

const ACQUIRE = [
  [0, 'crkey', 'u64'],
  [8, 'prkey', 'u64'],
] as const;
/** @public */
export type ReservationAcquireData = Decoded<typeof ACQUIRE>;
/** @public */
export const reservationAcquireCodec: Codec<ReservationAcquireData> = structure('ReservationAcquire', 16, ACQUIRE);

const RELEASE = [[0, 'crkey', 'u64']] as const;
/** @public */
export type ReservationReleaseData = Decoded<typeof RELEASE>;
/** @public */
export const reservationReleaseCodec: Codec<ReservationReleaseData> = structure('ReservationRelease', 8, RELEASE);

/** Bytes before the first registrant, and of each: 64-bit host identifiers, and 128-bit ones (EDS). */
const NARROW = { header: 24, entry: 24, hostid: 8 } as const;
const EXTENDED = { header: 64, entry: 64, hostid: 16 } as const;

const HEADER = [
  [0, 'gen', 'u32'],
  [4, 'rtype', 'u8'],
  [5, 'regctl', 'u16'],
  [7, 'reserved', 2],
  [9, 'ptpls', 'u8', 0x01],
  [10, 'reserved', 14],
] as const;
const headerCodec: Codec<Decoded<typeof HEADER>> = structure('ReservationStatus', NARROW.header, HEADER);

const REGISTRANT = [
  [0, 'cntlid', 'u16'],
  [2, 'rcsts', 'u8', 0x01],
  [3, 'reserved', 5],
  [8, 'hostid', 'bytes', 8],
  [16, 'rkey', 'u64'],
] as const;
const REGISTRANT_EXTENDED = [
  [0, 'cntlid', 'u16'],
  [2, 'rcsts', 'u8', 0x01],
  [3, 'reserved', 5],
  [8, 'rkey', 'u64'],
  [16, 'hostid', 'bytes', 16],
  [32, 'reserved', 32],
] as const;
/** One registered controller of a Reservation Status. @public */
export type ReservationRegistrant = Decoded<typeof REGISTRANT_EXTENDED>;
const registrantCodec: Codec<ReservationRegistrant> = structure('RegisteredController', NARROW.entry, REGISTRANT);
const extendedCodec: Codec<ReservationRegistrant> = structure(
  'RegisteredControllerExtended',
  EXTENDED.entry,
  REGISTRANT_EXTENDED,
);

/** What Reservation Report tells. @public */
export interface ReservationStatus {
  readonly gen: number;
  /** 0 if nothing is held. */
  readonly rtype: number;
  /** Registered controllers that there are; `registrants` has fewer if the report was cut short. */
  readonly regctl: number;
  readonly ptpls: number;
  readonly registrants: readonly ReservationRegistrant[];
}

/**
 * @param extended EDS: host identifiers of 16 bytes, else of 8
 * @throws WireError if a value does not fit
 * @public
 */
export function encodeReservationStatus(status: Omit<ReservationStatus, 'regctl'>, extended: boolean): Uint8Array {
  const { header, entry } = extended ? EXTENDED : NARROW;
  const codec = extended ? extendedCodec : registrantCodec;
  const { gen, rtype, ptpls, registrants } = status;
  const bytes = new Uint8Array(header + registrants.length * entry);
  headerCodec.encodeInto(bytes, 0, { gen, rtype, ptpls, regctl: registrants.length });
  registrants.forEach((registrant, i) => {
    codec.encodeInto(bytes, header + i * entry, registrant);
  });
  return bytes;
}

/**
 * @param bytes the report, perhaps cut short: registrants that are not wholly in it are left out
 * @throws WireError `short` if not even the header is there
 * @public
 */
export function decodeReservationStatus(bytes: Uint8Array, extended: boolean): ReservationStatus {
  const { header, entry } = extended ? EXTENDED : NARROW;
  const codec = extended ? extendedCodec : registrantCodec;
  if (bytes.length < NARROW.header) {
    throw new WireError(
      'short',
      'ReservationStatus',
      'gen',
      0,
      `has ${bytes.length} bytes, needed are ${NARROW.header}`,
    );
  }
  const { gen, rtype, regctl, ptpls } = headerCodec.decode(bytes);
  const registrants: ReservationRegistrant[] = [];
  for (let at = header; registrants.length < regctl && at + entry <= bytes.length; at += entry) {
    registrants.push(codec.decode(bytes, at));
  }
  return { gen, rtype, regctl, ptpls, registrants };
}

/** Bytes of a report of that many registered controllers. @public */
export function reservationStatusBytes(registrants: number, extended: boolean): number {
  const { header, entry } = extended ? EXTENDED : NARROW;
  return header + registrants * entry;
}
