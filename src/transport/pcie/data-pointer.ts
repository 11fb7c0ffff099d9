// @hot
/**
 * The data pointer of a command, resolved into pieces of guest memory: PRPs (Base 2.1 section 4.3.1) and SGLs (4.3.2). One list of pieces serves all
 * commands of a function: a command that is answered later is resolved again then, from what stands in its lists now.
 */
import { DNR, Status } from '../../spec/status.ts';
import { ADDRESS_MAX, type GuestMemory, PAGE_BYTES_MIN } from './guest-memory.ts';

/** The part of a Request that says where its data is. */
export interface PointerOwner {
  readonly sqe: DataView;
  readonly sqeBase: number;
  readonly transferBytes: number;
  /** Direction: 1 host to controller, 2 controller to host. */
  readonly direction: number;
  fail(status: number, byte: number, bit?: number): number;
}

/** SGL descriptors of one command, segment descriptors counted: more are Invalid Number of SGL Descriptors. */
const SGL_DESCRIPTORS_MAX = 4096;
const PIECES_MAX = SGL_DESCRIPTORS_MAX;
const DESCRIPTOR_BYTES = 16;
const PRP_BYTES = 8;
const PSDT_MASK = 0xc0;
const PRP1 = 24;
const PRP2 = 32;
const SGL_LENGTH = 32;
const SGL_TYPE = 39;
/** SGL descriptor types, with subtype 0 (address). */
const SglType = { DataBlock: 0x00, BitBucket: 0x10, Segment: 0x20, LastSegment: 0x30 } as const;
/** What a command reads of a bit bucket goes nowhere. */
export const NOWHERE = -1;

export class DataPointer {
  readonly #memory: GuestMemory;
  /** CC.MPS in bytes. */
  pageBytes: number = PAGE_BYTES_MIN;
  /** `NOWHERE`, or an address. */
  readonly addresses: Float64Array = new Float64Array(PIECES_MAX);
  readonly lengths: Uint32Array = new Uint32Array(PIECES_MAX);
  count = 0;
  #owner: PointerOwner | undefined = undefined;
  #generation = -1;
  readonly #entry = new DataView(new ArrayBuffer(DESCRIPTOR_BYTES));
  #left = 0;
  #descriptors = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** The pieces belong to nobody any more. */
  forget(): void {
    this.#owner = undefined;
  }

  /** As `resolve`, without doing it twice for the same command while nothing was unmapped and no other came between. */
  resolveAgain(owner: PointerOwner): number {
    if (this.#owner === owner && this.#generation === this.#memory.generation) return 0;
    return this.resolve(owner);
  }

  /** Finds the pieces of the data, all of it mapped for what is to be done with it. @returns 0 or a status */
  resolve(owner: PointerOwner): number {
    this.#owner = undefined;
    this.count = 0;
    this.#left = owner.transferBytes;
    const usesSgl = (owner.sqe.getUint8(owner.sqeBase + 1) & PSDT_MASK) !== 0;
    const status = usesSgl ? this.#resolveSgl(owner) : this.#resolvePrps(owner);
    if (status !== 0) return status;
    const forWriting = owner.direction === 2;
    for (let i = 0; i < this.count; i++) {
      const address = this.addresses[i]!;
      if (address !== NOWHERE && !this.#memory.covers(address, this.lengths[i]!, forWriting)) {
        return Status.DataTransferError | DNR;
      }
    }
    this.#owner = owner;
    this.#generation = this.#memory.generation;
    return 0;
  }

  /** @returns false if there are too many pieces */
  #add(address: number, length: number): boolean {
    this.#left -= length;
    const last = this.count - 1;
    if (last >= 0 && address !== NOWHERE && this.addresses[last]! + this.lengths[last]! === address) {
      this.lengths[last] = this.lengths[last]! + length;
      return true;
    }
    if (this.count === PIECES_MAX) return false;
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count++;
    return true;
  }

  // ---- PRPs -----------------------------------------------------------------------------------------------------------------------

  #resolvePrps(owner: PointerOwner): number {
    const { sqe, sqeBase } = owner;
    const page = this.pageBytes;
    const prp1 = address64(sqe, sqeBase + PRP1);
    if ((sqe.getUint32(sqeBase + PRP1, true) & 3) !== 0) return owner.fail(Status.PrpOffsetInvalid, PRP1);
    if (prp1 >= ADDRESS_MAX) return Status.DataTransferError | DNR;
    this.#add(prp1, Math.min(this.#left, page - (prp1 % page)));
    if (this.#left === 0) return 0;
    const prp2 = address64(sqe, sqeBase + PRP2);
    if (prp2 >= ADDRESS_MAX) return Status.DataTransferError | DNR;
    if (this.#left <= page) {
      if (prp2 % page !== 0) return owner.fail(Status.PrpOffsetInvalid, PRP2);
      this.#add(prp2, this.#left);
      return 0;
    }
    if (prp2 % PRP_BYTES !== 0) return owner.fail(Status.PrpOffsetInvalid, PRP2);
    return this.#resolvePrpList(owner, prp2);
  }

  /** The last entry of a page of the list names the next page of it, if entries are left for that. */
  #resolvePrpList(owner: PointerOwner, list: number): number {
    const page = this.pageBytes;
    const entry = this.#entry;
    let at = list;
    while (this.#left > 0) {
      if (!this.#memory.readDwords(at, 2, entry, 0)) return Status.DataTransferError | DNR;
      const address = address64(entry, 0);
      if (address >= ADDRESS_MAX) return Status.DataTransferError | DNR;
      if (address % page !== 0) return owner.fail(Status.PrpOffsetInvalid, PRP2);
      if (this.#left > page && (at + PRP_BYTES) % page === 0) {
        at = address;
        continue;
      }
      this.#add(address, Math.min(this.#left, page));
      at += PRP_BYTES;
    }
    return 0;
  }

  // ---- SGLs -----------------------------------------------------------------------------------------------------------------------

  #resolveSgl(owner: PointerOwner): number {
    const { sqe, sqeBase } = owner;
    this.#descriptors = 0;
    const type = sqe.getUint8(sqeBase + SGL_TYPE);
    const length = sqe.getUint32(sqeBase + SGL_LENGTH, true);
    const address = address64(sqe, sqeBase + PRP1);
    if (type === SglType.Segment || type === SglType.LastSegment) {
      const status = this.#resolveSegments(owner, address, length, type === SglType.LastSegment);
      if (status !== 0) return status;
    } else {
      const status = this.#addDescriptor(owner, type, address, length);
      if (status !== 0) return status;
    }
    return this.#left > 0 ? owner.fail(Status.DataSglLengthInvalid, SGL_LENGTH) : 0;
  }

  /** A chain of segments: the last descriptor of each names the next, but in the last one. */
  #resolveSegments(owner: PointerOwner, first: number, firstLength: number, firstIsLast: boolean): number {
    const entry = this.#entry;
    let address = first;
    let length = firstLength;
    let isLast = firstIsLast;
    for (;;) {
      if (length === 0 || length % DESCRIPTOR_BYTES !== 0) return owner.fail(Status.InvalidSglSegment, SGL_LENGTH);
      if (address >= ADDRESS_MAX) return Status.DataTransferError | DNR;
      const end = address + length;
      let hasNext = false;
      for (let at = address; at < end; at += DESCRIPTOR_BYTES) {
        if (++this.#descriptors > SGL_DESCRIPTORS_MAX) return owner.fail(Status.InvalidSglCount, PRP1);
        if (!this.#memory.readDwords(at, DESCRIPTOR_BYTES / 4, entry, 0)) return Status.DataTransferError | DNR;
        const type = entry.getUint8(15);
        const isSegment = type === SglType.Segment || type === SglType.LastSegment;
        if (isSegment !== (!isLast && at + DESCRIPTOR_BYTES === end)) {
          return owner.fail(Status.InvalidSglSegment, PRP1);
        }
        if (isSegment) {
          hasNext = true;
          break;
        }
        const status = this.#addDescriptor(owner, type, address64(entry, 0), entry.getUint32(8, true));
        if (status !== 0) return status;
        // what is longer than the data is not looked at
        if (this.#left === 0) return 0;
      }
      if (!hasNext) return 0;
      address = address64(entry, 0);
      length = entry.getUint32(8, true);
      isLast = entry.getUint8(15) === SglType.LastSegment;
    }
  }

  #addDescriptor(owner: PointerOwner, type: number, address: number, length: number): number {
    if (type === SglType.BitBucket) {
      // of a write it counts for nothing
      if (owner.direction !== 2 || length === 0) return 0;
      return this.#add(NOWHERE, Math.min(length, this.#left)) ? 0 : owner.fail(Status.InvalidSglCount, PRP1);
    }
    if (type !== SglType.DataBlock) return owner.fail(Status.SglDescriptorTypeInvalid, SGL_TYPE);
    if (length === 0) return 0;
    if (address >= ADDRESS_MAX) return Status.DataTransferError | DNR;
    return this.#add(address, Math.min(length, this.#left)) ? 0 : owner.fail(Status.InvalidSglCount, PRP1);
  }
}

/** Exact below 2^53, and never below 2^53 when the field is not. */
function address64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 0x1_0000_0000;
}
