// @hot
/** Pages that a function has written, for a front end: one bitmap per range, reported by parts and forgotten by parts. */
import type { WriteObserver } from './guest-memory.ts';
import { type PciDirtyRange, PciError } from './pci-function.ts';

const EINVAL = 22;
/** Pages of all ranges: 128 MiB of bitmap. */
const PAGES_MAX = 2 ** 30;

interface Log {
  readonly iova: number;
  readonly end: number;
  readonly bits: Uint8Array;
}

export class DirtyLog implements WriteObserver {
  readonly pageBytes: number;
  /** What is mapped later is followed as well. */
  readonly followsAll: boolean;
  readonly #logs: Log[] = [];
  #pages = 0;

  constructor(pageBytes: number, ranges: readonly PciDirtyRange[], followsAll: boolean) {
    if (!Number.isInteger(Math.log2(pageBytes)) || pageBytes < 4096) {
      throw new PciError(EINVAL, `A page of ${pageBytes} bytes is no power of two from 4096 on`);
    }
    this.pageBytes = pageBytes;
    this.followsAll = followsAll;
    for (const range of ranges) this.add(range);
  }

  add({ iova, lengthBytes }: PciDirtyRange): void {
    const { pageBytes } = this;
    const start = Math.floor(iova / pageBytes) * pageBytes;
    const count = Math.ceil((iova + lengthBytes - start) / pageBytes);
    if (this.#logs.some((log) => log.iova === start && log.end === start + count * pageBytes)) return;
    if (!Number.isSafeInteger(iova + lengthBytes) || iova < 0 || lengthBytes < 1 || this.#pages + count > PAGES_MAX) {
      throw new PciError(EINVAL, `Memory at ${iova} of ${lengthBytes} bytes is too much to follow`);
    }
    this.#pages += count;
    this.#logs.push({ iova: start, end: start + count * pageBytes, bits: new Uint8Array(Math.ceil(count / 8)) });
  }

  mark(address: number, lengthBytes: number): void {
    const end = address + lengthBytes;
    for (let i = 0; i < this.#logs.length; i++) {
      const log = this.#logs[i]!;
      if (address >= log.end || end <= log.iova) continue;
      const first = Math.floor((Math.max(address, log.iova) - log.iova) / this.pageBytes);
      const last = Math.floor((Math.min(end, log.end) - 1 - log.iova) / this.pageBytes);
      for (let page = first; page <= last; page++) log.bits[page >>> 3] = log.bits[page >>> 3]! | (1 << (page & 7));
    }
  }

  /** @returns a bit per page from `iova` on, in whole 64-bit words; those bits are forgotten */
  report(iova: number, lengthBytes: number): Uint8Array {
    const { pageBytes } = this;
    if (iova % pageBytes !== 0 || lengthBytes % pageBytes !== 0 || lengthBytes < pageBytes) {
      throw new PciError(EINVAL, `Memory at ${iova} of ${lengthBytes} bytes is not whole pages of ${pageBytes}`);
    }
    const pages = lengthBytes / pageBytes;
    if (pages > PAGES_MAX) throw new PciError(EINVAL, `${lengthBytes} bytes are too much for one report`);
    const report = new Uint8Array(Math.ceil(pages / 64) * 8);
    for (const log of this.#logs) {
      const start = Math.max(iova, log.iova);
      const end = Math.min(iova + lengthBytes, log.end);
      for (let at = start; at < end; at += pageBytes) {
        const page = (at - log.iova) / pageBytes;
        const bit = 1 << (page & 7);
        if ((log.bits[page >>> 3]! & bit) === 0) continue;
        log.bits[page >>> 3] = log.bits[page >>> 3]! & ~bit;
        const out = (at - iova) / pageBytes;
        report[out >>> 3] = report[out >>> 3]! | (1 << (out & 7));
      }
    }
    return report;
  }
}
