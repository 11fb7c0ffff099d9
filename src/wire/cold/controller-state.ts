/** The Controller State that Migration Send and Migration Receive move. Base 2.1 figures 329 and 358 to 361. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

export const CONTROLLER_STATE_HEADER_BYTES = 48;
/** Of the NVMe Controller State before its queues. */
const NVME_STATE_HEADER_BYTES = 8;
const QUEUE_BYTES = 24;
const DWORD_BYTES = 4;

const HEADER = [
  [0, 'ver', 'u16'],
  [2, 'csattr', 'u8', 0x01], // bit 0: suspended during all of the command
  [3, 'reserved', 13],
  [16, 'nvmecss', 'u128'], // dwords
  [32, 'vss', 'u128'], // dwords
] as const;
/** @public */
export type ControllerStateHeader = Decoded<typeof HEADER>;
/** @public */
export const controllerStateHeaderCodec: Codec<ControllerStateHeader> = structure(
  'ControllerState',
  CONTROLLER_STATE_HEADER_BYTES,
  HEADER,
);

const NVME_STATE = [
  [0, 'ver', 'u16'],
  [2, 'niosq', 'u16'],
  [4, 'niocq', 'u16'],
  [6, 'reserved', 2],
] as const;
const nvmeStateCodec: Codec<Decoded<typeof NVME_STATE>> = structure(
  'NvmeControllerState',
  NVME_STATE_HEADER_BYTES,
  NVME_STATE,
);

const SUBMISSION_QUEUE = [
  [0, 'prp1', 'u64'],
  [8, 'qsize', 'u16'], // 0's based
  [10, 'qid', 'u16'],
  [12, 'cqid', 'u16'],
  [14, 'attributes', 'u16', 0x0007], // bit 0 PC, 2:1 QPRIO
  [16, 'head', 'u16'], // next to fetch
  [18, 'tail', 'u16'], // last doorbell
  [20, 'reserved', 4],
] as const;
/** @public */
export type SubmissionQueueState = Decoded<typeof SUBMISSION_QUEUE>;
const submissionQueueCodec: Codec<SubmissionQueueState> = structure('IoSqState', QUEUE_BYTES, SUBMISSION_QUEUE);

const COMPLETION_QUEUE = [
  [0, 'prp1', 'u64'],
  [8, 'qsize', 'u16'], // 0's based
  [10, 'qid', 'u16'],
  [12, 'head', 'u16'], // last doorbell
  [14, 'tail', 'u16'], // next slot to post
  [16, 'attributes', 'u16', 0x0007], // bit 0 PC, 1 IEN, 2 S0PT: the phase tag that stands in slot 0
  [18, 'vector', 'u16'],
  [20, 'reserved', 4],
] as const;
/** @public */
export type CompletionQueueState = Decoded<typeof COMPLETION_QUEUE>;
const completionQueueCodec: Codec<CompletionQueueState> = structure('IoCqState', QUEUE_BYTES, COMPLETION_QUEUE);

/** Version 0. @public */
export interface NvmeControllerState {
  /** Ascending by `qid`. */
  readonly submissionQueues: readonly SubmissionQueueState[];
  /** Ascending by `qid`. */
  readonly completionQueues: readonly CompletionQueueState[];
}

/** The whole structure. An absent part has size 0. @public */
export interface ControllerState {
  readonly suspended: boolean;
  readonly nvme?: NvmeControllerState | undefined;
  /** A multiple of 4 bytes. */
  readonly vendor?: Uint8Array | undefined;
}

/** @throws WireError if a value does not fit @public */
export function encodeControllerState(state: ControllerState): Uint8Array {
  const nvme = state.nvme === undefined ? new Uint8Array(0) : encodeNvmeState(state.nvme);
  const vendor = state.vendor ?? new Uint8Array(0);
  if (vendor.length % DWORD_BYTES !== 0) {
    throw new WireError('range', 'ControllerState', 'vss', 32, `is ${vendor.length} bytes, allowed are whole dwords`);
  }
  const bytes = new Uint8Array(CONTROLLER_STATE_HEADER_BYTES + nvme.length + vendor.length);
  controllerStateHeaderCodec.encodeInto(bytes, 0, {
    csattr: state.suspended ? 1 : 0,
    nvmecss: BigInt(nvme.length / DWORD_BYTES),
    vss: BigInt(vendor.length / DWORD_BYTES),
  });
  bytes.set(nvme, CONTROLLER_STATE_HEADER_BYTES);
  bytes.set(vendor, CONTROLLER_STATE_HEADER_BYTES + nvme.length);
  return bytes;
}

function encodeNvmeState({ submissionQueues, completionQueues }: NvmeControllerState): Uint8Array {
  const queues = submissionQueues.length + completionQueues.length;
  const bytes = new Uint8Array(NVME_STATE_HEADER_BYTES + queues * QUEUE_BYTES);
  nvmeStateCodec.encodeInto(bytes, 0, { niosq: submissionQueues.length, niocq: completionQueues.length });
  let offset = NVME_STATE_HEADER_BYTES;
  for (const queue of submissionQueues) {
    submissionQueueCodec.encodeInto(bytes, offset, queue);
    offset += QUEUE_BYTES;
  }
  for (const queue of completionQueues) {
    completionQueueCodec.encodeInto(bytes, offset, queue);
    offset += QUEUE_BYTES;
  }
  return bytes;
}

/** Bytes of the whole structure, from its header. @throws WireError for a version or a size that cannot be @public */
export function controllerStateBytes(bytes: Uint8Array): number {
  const { ver, nvmecss, vss } = controllerStateHeaderCodec.decode(bytes);
  if (ver !== 0) throw new WireError('invalid', 'ControllerState', 'ver', 0, `is ${ver}, known is 0`);
  const dwords = nvmecss + vss;
  if (dwords > BigInt(Number.MAX_SAFE_INTEGER) / 8n) {
    throw new WireError('range', 'ControllerState', 'nvmecss', 16, `and vss are ${dwords} dwords`);
  }
  return CONTROLLER_STATE_HEADER_BYTES + Number(dwords) * DWORD_BYTES;
}

/**
 * Checks sizes, counts and the order of the queues; what the values mean is the controller's to judge.
 * @param bytes exactly the structure
 * @throws WireError what is wrong
 * @public
 */
export function decodeControllerState(bytes: Uint8Array): ControllerState {
  const size = controllerStateBytes(bytes);
  if (size !== bytes.length) {
    throw new WireError('short', 'ControllerState', undefined, 0, `says ${size} bytes, there are ${bytes.length}`);
  }
  const { csattr, nvmecss, vss } = controllerStateHeaderCodec.decode(bytes);
  const nvmeEnd = CONTROLLER_STATE_HEADER_BYTES + Number(nvmecss) * DWORD_BYTES;
  return {
    suspended: (csattr & 1) !== 0,
    nvme: nvmecss === 0n ? undefined : decodeNvmeState(bytes.subarray(CONTROLLER_STATE_HEADER_BYTES, nvmeEnd)),
    vendor: vss === 0n ? undefined : bytes.slice(nvmeEnd),
  };
}

function decodeNvmeState(bytes: Uint8Array): NvmeControllerState {
  const { ver, niosq, niocq } = nvmeStateCodec.decode(bytes);
  if (ver !== 0) throw new WireError('invalid', 'NvmeControllerState', 'ver', 0, `is ${ver}, known is 0`);
  const size = NVME_STATE_HEADER_BYTES + (niosq + niocq) * QUEUE_BYTES;
  if (size !== bytes.length) {
    throw new WireError('invalid', 'NvmeControllerState', undefined, 0, `needs ${size} bytes, has ${bytes.length}`);
  }
  const read = <T extends { readonly qid: number }>(codec: Codec<T>, from: number, count: number): T[] => {
    const queues = Array.from({ length: count }, (_, i) => codec.decode(bytes, from + i * QUEUE_BYTES));
    queues.forEach((queue, i) => {
      if (queue.qid <= (i === 0 ? 0 : queues[i - 1]!.qid)) {
        throw new WireError('invalid', codec.name, 'qid', 10, `is ${queue.qid}, which does not ascend`);
      }
    });
    return queues;
  };
  return {
    submissionQueues: read(submissionQueueCodec, NVME_STATE_HEADER_BYTES, niosq),
    completionQueues: read(completionQueueCodec, NVME_STATE_HEADER_BYTES + niosq * QUEUE_BYTES, niocq),
  };
}

/** What a management controller supports: versions and vendor formats, both by 1-based index. @public */
export interface ControllerStateFormats {
  readonly versions: readonly number[];
  /** 16 bytes each. */
  readonly uuids: readonly Uint8Array[];
}

const UUID_BYTES = 16;

/** Identify CNS 20h. @throws WireError if there are more than its counts hold @public */
export function encodeControllerStateFormats({ versions, uuids }: ControllerStateFormats): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_BYTES);
  const uuidsAt = (versions.length + 1) * 2;
  if (versions.length > 255 || uuids.length > 255 || uuidsAt + uuids.length * UUID_BYTES > bytes.length) {
    throw new WireError(
      'range',
      'ControllerStateFormats',
      'nv',
      0,
      `and nuuid are ${versions.length}, ${uuids.length}`,
    );
  }
  const view = new DataView(bytes.buffer);
  bytes[0] = versions.length;
  bytes[1] = uuids.length;
  versions.forEach((version, i) => {
    view.setUint16((i + 1) * 2, version, true);
  });
  uuids.forEach((uuid, i) => {
    bytes.set(uuid, uuidsAt + i * UUID_BYTES);
  });
  return bytes;
}

/** @throws WireError if the lists are not wholly in `bytes` @public */
export function decodeControllerStateFormats(bytes: Uint8Array): ControllerStateFormats {
  const versionCount = bytes[0] ?? 0;
  const uuidCount = bytes[1] ?? 0;
  const uuidsAt = (versionCount + 1) * 2;
  if (uuidsAt + uuidCount * UUID_BYTES > bytes.length) {
    const detail = `needs ${uuidsAt + uuidCount * UUID_BYTES} bytes, has ${bytes.length}`;
    throw new WireError('short', 'ControllerStateFormats', undefined, 0, detail);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    versions: Array.from({ length: versionCount }, (_, i) => view.getUint16((i + 1) * 2, true)),
    uuids: Array.from({ length: uuidCount }, (_, j) =>
      bytes.slice(uuidsAt + j * UUID_BYTES, uuidsAt + (j + 1) * UUID_BYTES),
    ),
  };
}
