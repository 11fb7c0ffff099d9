/** Reservation Notification log page (LID 80h). Base 2.1 section 5.1.12.1.32. */
import { type Codec, type Decoded, structure } from './table.ts';

const RESERVATION_LOG = [
  [0, 'lpc', 'u64'], // count of pages so far: tells this one from every other
  [8, 'rnlpt', 'u8'], // `ReservationNotification`; 0: no notification waits
  [9, 'nalp', 'u8'], // pages that wait behind this one, at most 255
  [10, 'reserved', 2],
  [12, 'nsid', 'u32'],
  [16, 'reserved', 48],
] as const;
/** @public */
export type ReservationLog = Decoded<typeof RESERVATION_LOG>;
/** @public */
export const reservationLogCodec: Codec<ReservationLog> = structure('ReservationNotificationLog', 64, RESERVATION_LOG);
