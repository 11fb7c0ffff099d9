/** Firmware Slot Information log page (LID 03h). Base 2.1 section 5.1.12.1.4. */
import { type Codec, type Decoded, structure } from './table.ts';

export const FIRMWARE_LOG_BYTES = 512;

const SLOT = [[0, 'fr', 'ascii', 8]] as const; // all zero: the slot holds no image
/** @public */
export type FirmwareSlot = Decoded<typeof SLOT>;
const slotCodec: Codec<FirmwareSlot> = structure('FirmwareSlot', 8, SLOT);

const FIRMWARE = [
  [0, 'afi', 'u8', 0x77], // 2:0 active slot, 6:4 slot after the next reset
  [1, 'reserved', 7],
  [8, 'frs', 'array', 8, 7],
  [64, 'reserved', 448],
] as const;
/** @public */
export type FirmwareLog = Decoded<typeof FIRMWARE, { frs: FirmwareSlot }>;
/** @public */
export const firmwareLogCodec: Codec<FirmwareLog> = structure('FirmwareLog', FIRMWARE_LOG_BYTES, FIRMWARE, {
  frs: slotCodec,
});
