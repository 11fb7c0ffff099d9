/** Where a Controller Data Queue stands that its host has made in its memory: PRP1 of the command. Base 2.1 section 5.1.4.1. */
import { Status } from '../../spec/status.ts';
import type { MemoryTransport } from '../../transport/pcie/memory-transport.ts';
import { sqeCdw11 } from '../../wire/sqe.ts';
import type { Request } from '../request.ts';

const CONTIGUOUS = 0x1;
const PRP1 = 24;
const PRP_BYTES = 8;

export interface QueuePlace {
  readonly pages: readonly number[];
  /** Of each of them. */
  readonly pageBytes: number;
}

/** @returns the place, or a status */
export function placeOf(
  request: Request,
  { memory, pageBytes }: MemoryTransport,
  lengthBytes: number,
): QueuePlace | number {
  const { sqe, sqeBase } = request;
  const prp1 = sqe.getUint32(sqeBase + PRP1, true) + sqe.getUint32(sqeBase + PRP1 + 4, true) * 2 ** 32;
  if (prp1 % pageBytes !== 0) return request.fail(Status.PrpOffsetInvalid, PRP1);
  if ((sqeCdw11(sqe, sqeBase) & CONTIGUOUS) !== 0) {
    return memory.covers(prp1, lengthBytes, true)
      ? { pages: [prp1], pageBytes: Math.max(pageBytes, lengthBytes) }
      : request.invalidField(PRP1);
  }
  const pages: number[] = [];
  let at = prp1;
  while (pages.length * pageBytes < lengthBytes) {
    const low = memory.loadDword(at);
    const high = memory.loadDword(at + 4);
    if (low < 0 || high < 0) return request.invalidField(PRP1);
    const page = low + high * 2 ** 32;
    if (page % pageBytes !== 0) return request.fail(Status.PrpOffsetInvalid, PRP1);
    // the last entry of a page of the list names the next page of it, if entries are left for that
    const isLink = (at + PRP_BYTES) % pageBytes === 0 && (pages.length + 1) * pageBytes < lengthBytes;
    if (isLink) {
      at = page;
      continue;
    }
    if (!memory.covers(page, Math.min(pageBytes, lengthBytes - pages.length * pageBytes), true)) {
      return request.invalidField(PRP1);
    }
    pages.push(page);
    at += PRP_BYTES;
  }
  return { pages, pageBytes };
}
