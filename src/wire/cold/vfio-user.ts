/** Bodies of vfio-user messages: what follows the header. QEMU, docs/interop/vfio-user.rst. */
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

const DMA_MAP = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'offset', 'u64'], // in the file whose descriptor comes along
  [16, 'address', 'u64'],
  [24, 'size', 'u64'],
] as const;
export type DmaMap = Decoded<typeof DMA_MAP>;
export const dmaMapCodec: Codec<DmaMap> = structure('DmaMap', 32, DMA_MAP);

const DMA_UNMAP = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'address', 'u64'],
  [16, 'size', 'u64'],
] as const;
export type DmaUnmap = Decoded<typeof DMA_UNMAP>;
export const dmaUnmapCodec: Codec<DmaUnmap> = structure('DmaUnmap', 24, DMA_UNMAP);

const DEVICE_INFO = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'numRegions', 'u32'],
  [12, 'numIrqs', 'u32'],
] as const;
export type DeviceInfo = Decoded<typeof DEVICE_INFO>;
export const deviceInfoCodec: Codec<DeviceInfo> = structure('DeviceInfo', 16, DEVICE_INFO);

const REGION_INFO = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'index', 'u32'],
  [12, 'capOffset', 'u32'],
  [16, 'size', 'u64'],
  [24, 'offset', 'u64'],
] as const;
export type RegionInfo = Decoded<typeof REGION_INFO>;
export const regionInfoCodec: Codec<RegionInfo> = structure('RegionInfo', 32, REGION_INFO);

const IRQ_INFO = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'index', 'u32'],
  [12, 'count', 'u32'],
] as const;
export type IrqInfo = Decoded<typeof IRQ_INFO>;
export const irqInfoCodec: Codec<IrqInfo> = structure('IrqInfo', 16, IRQ_INFO);

/** A byte per interrupt may follow. */
const SET_IRQS = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
  [8, 'index', 'u32'],
  [12, 'start', 'u32'],
  [16, 'count', 'u32'],
] as const;
export type SetIrqs = Decoded<typeof SET_IRQS>;
export const setIrqsCodec: Codec<SetIrqs> = structure('SetIrqs', 20, SET_IRQS);

/** DMA_READ and DMA_WRITE; the data follow. */
const DMA_ACCESS = [
  [0, 'address', 'u64'],
  [8, 'count', 'u64'],
] as const;
export type DmaAccess = Decoded<typeof DMA_ACCESS>;
export const dmaAccessCodec: Codec<DmaAccess> = structure('DmaAccess', 16, DMA_ACCESS);

/** DEVICE_FEATURE; what belongs to the feature follows. */
const FEATURE = [
  [0, 'argsz', 'u32'],
  [4, 'flags', 'u32'],
] as const;
export type Feature = Decoded<typeof FEATURE>;
export const featureCodec: Codec<Feature> = structure('DeviceFeature', 8, FEATURE);

const MIG_STATE = [
  [0, 'state', 'u32'],
  [4, 'dataFd', 'u32'], // of the kernel's interface; unused here
] as const;
export type MigDeviceState = Decoded<typeof MIG_STATE>;
export const migStateCodec: Codec<MigDeviceState> = structure('MigDeviceState', 8, MIG_STATE);

const MIGRATION = [[0, 'flags', 'u64']] as const;
export const migrationCodec: Codec<Decoded<typeof MIGRATION>> = structure('Migration', 8, MIGRATION);

/** DMA logging, start; the ranges follow. */
const LOGGING_CONTROL = [
  [0, 'pageSize', 'u64'],
  [8, 'numRanges', 'u32'],
  [12, 'reserved', 4],
] as const;
export type LoggingControl = Decoded<typeof LOGGING_CONTROL>;
export const loggingControlCodec: Codec<LoggingControl> = structure('DmaLoggingControl', 16, LOGGING_CONTROL);

const LOGGING_RANGE = [
  [0, 'iova', 'u64'],
  [8, 'length', 'u64'],
] as const;
export type LoggingRange = Decoded<typeof LOGGING_RANGE>;
export const loggingRangeCodec: Codec<LoggingRange> = structure('DmaLoggingRange', 16, LOGGING_RANGE);

/** DMA logging, report; the bitmap follows. */
const LOGGING_REPORT = [
  [0, 'iova', 'u64'],
  [8, 'length', 'u64'],
  [16, 'pageSize', 'u64'],
] as const;
export type LoggingReport = Decoded<typeof LOGGING_REPORT>;
export const loggingReportCodec: Codec<LoggingReport> = structure('DmaLoggingReport', 24, LOGGING_REPORT);

/** MIG_DATA_READ and MIG_DATA_WRITE; the data follow. */
const MIG_DATA = [
  [0, 'argsz', 'u32'],
  [4, 'size', 'u32'],
] as const;
export type MigData = Decoded<typeof MIG_DATA>;
export const migDataCodec: Codec<MigData> = structure('MigData', 8, MIG_DATA);

// ---- VERSION -----------------------------------------------------------------------------------------------------------------------------

const VERSION = [
  [0, 'major', 'u16'],
  [2, 'minor', 'u16'],
] as const;
const versionCodec: Codec<Decoded<typeof VERSION>> = structure('Version', 4, VERSION);

/** What both ends say of themselves; other keys are ignored. */
export interface VersionCapabilities {
  /** Descriptors that the sender receives in one message. */
  readonly max_msg_fds?: number;
  /** Largest count of an access that the sender takes. */
  readonly max_data_xfer_size?: number;
  readonly write_multiple?: boolean;
}

export interface Version {
  readonly major: number;
  readonly minor: number;
  readonly capabilities: VersionCapabilities;
}

const LIMITS = ['max_msg_fds', 'max_data_xfer_size'] as const;

/** @throws WireError for what is no such message: no terminator, no JSON object, limits that are none */
export function decodeVersion(body: Uint8Array): Version {
  const { major, minor } = versionCodec.decode(body);
  if (body.length === versionCodec.size) return { major, minor, capabilities: {} };
  const wrong = (detail: string): WireError => new WireError('invalid', 'Version', 'capabilities', 4, detail);
  if (body[body.length - 1] !== 0)
    throw new WireError('unterminated', 'Version', 'capabilities', 4, 'does not end with a NUL');
  let parsed: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body.subarray(versionCodec.size, body.length - 1));
    parsed = text.trim() === '' ? {} : JSON.parse(text);
  } catch {
    throw wrong('is no JSON');
  }
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject(parsed)) throw wrong('is no JSON object');
  const found = parsed.capabilities ?? {};
  if (!isObject(found)) throw wrong('has capabilities that are no object');
  const capabilities: { -readonly [K in keyof VersionCapabilities]: VersionCapabilities[K] } = {};
  for (const key of LIMITS) {
    const value = found[key];
    if (value === undefined) continue;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
      throw wrong(`has ${key} ${JSON.stringify(value)}, a whole number is needed`);
    capabilities[key] = value;
  }
  if (found.write_multiple === true) capabilities.write_multiple = true;
  return { major, minor, capabilities };
}

/**
 * A reply may not be longer than its request: what does not fit is left out, which means the default.
 * @param bytesMax of the body
 */
export function encodeVersion({ major, minor, capabilities }: Version, bytesMax: number): Uint8Array {
  const head = versionCodec.encode({ major, minor });
  for (const said of [{ capabilities }, {}]) {
    const text = new TextEncoder().encode(`${JSON.stringify(said)}\0`);
    if (head.length + text.length > bytesMax) continue;
    const body = new Uint8Array(head.length + text.length);
    body.set(head);
    body.set(text, head.length);
    return body;
  }
  return head;
}
