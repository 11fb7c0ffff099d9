/** RAM of a guest, and who in it has which pages. */
import { assert } from '../util/assert.ts';

export const GUEST_PAGE_BYTES = 4096;

export class GuestRam {
  /** Guest address of its first byte. */
  readonly base: number;
  bytes: Uint8Array;
  view: DataView;
  #next: number;
  readonly #free = new Map<number, number[]>();
  /** What `allocate` aligns to: the page of the controller (CC.MPS). */
  pageBytes: number = GUEST_PAGE_BYTES;

  constructor(base: number, lengthBytes: number) {
    this.base = base;
    this.bytes = new Uint8Array(new SharedArrayBuffer(lengthBytes));
    this.view = new DataView(this.bytes.buffer);
    this.#next = base;
  }

  get lengthBytes(): number {
    return this.bytes.length;
  }

  /** The same RAM on another machine: its content was copied there. */
  moveTo(bytes: Uint8Array): void {
    assert(bytes.length === this.bytes.length, 'RAM moved into memory of another size');
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Whole pages, contiguous. @returns their guest address */
  allocate(lengthBytes: number): number {
    const bytes = this.#whole(lengthBytes);
    const free = this.#free.get(bytes)?.pop();
    if (free !== undefined) return free;
    const address = Math.ceil(this.#next / this.pageBytes) * this.pageBytes;
    this.#next = address + bytes;
    assert(this.#next <= this.base + this.lengthBytes, 'The guest has no memory left');
    return address;
  }

  release(address: number, lengthBytes: number): void {
    const bytes = this.#whole(lengthBytes);
    const list = this.#free.get(bytes) ?? [];
    list.push(address);
    this.#free.set(bytes, list);
  }

  #whole(lengthBytes: number): number {
    return Math.max(1, Math.ceil(lengthBytes / this.pageBytes)) * this.pageBytes;
  }

  /** Offset of a guest address in `bytes`. */
  at(address: number): number {
    return address - this.base;
  }

  slice(address: number, lengthBytes: number): Uint8Array {
    return this.bytes.slice(this.at(address), this.at(address) + lengthBytes);
  }

  write(address: number, data: Uint8Array): void {
    this.bytes.set(data, this.at(address));
  }

  writeU64(address: number, value: number): void {
    this.view.setUint32(this.at(address), value >>> 0, true);
    this.view.setUint32(this.at(address) + 4, Math.floor(value / 2 ** 32), true);
  }

  fill(address: number, lengthBytes: number, value: number): void {
    this.bytes.fill(value, this.at(address), this.at(address) + lengthBytes);
  }
}
