/**
 * The memory of a VM as it was mapped, kept to map it again elsewhere. Owns the descriptors: one for each file, however many maps are of it.
 */
import fs from 'node:fs';
import { DmaFlag, DmaUnmapFlag, Errno } from '../../../spec/vfio-user.ts';
import { dmaMapCodec, dmaUnmapCodec } from '../../../wire/cold/vfio-user.ts';
import { DMA_MAPS_MAX } from '../dma-table.ts';
import { invalid, VfioUserError } from '../vfio-user-error.ts';

/** A descriptor, as long as somebody holds it. */
export interface HeldFile {
  readonly fd: number;
  readonly key: string;
  users: number;
}

export interface LedgerEntry {
  /** Body of its DMA_MAP. */
  readonly body: Uint8Array;
  readonly lengthBytes: bigint;
  readonly file: HeldFile | undefined;
}

export class DmaLedger {
  readonly #entries = new Map<bigint, LedgerEntry>();
  readonly #files = new Map<string, HeldFile>();
  #mappedBytes = 0n;

  get size(): number {
    return this.#entries.size;
  }

  get mappedBytes(): number {
    return Number(this.#mappedBytes);
  }

  get fileCount(): number {
    return this.#files.size;
  }

  entries(): Iterable<LedgerEntry> {
    return this.#entries.values();
  }

  /** The descriptors that came with a DMA_MAP; owned from now on. @returns the caller's hold on it. @throws VfioUserError, system errors: all closed */
  hold(body: Uint8Array, fds: readonly number[]): HeldFile | undefined {
    const [fd] = fds;
    if (fd === undefined) return undefined;
    try {
      if (fds.length > 1) throw invalid(`DMA map with ${fds.length} descriptors`);
      const writable = (dmaMapCodec.decode(body).flags & DmaFlag.Writable) !== 0;
      const { dev, ino } = fs.fstatSync(fd, { bigint: true });
      // a descriptor may be good for reading alone
      const key = `${dev}:${ino}:${writable}`;
      const known = this.#files.get(key);
      if (known !== undefined) {
        known.users++;
        fs.closeSync(fd);
        return known;
      }
      const file: HeldFile = { fd, key, users: 1 };
      this.#files.set(key, file);
      return file;
    } catch (error) {
      for (const one of fds) fs.closeSync(one);
      throw error;
    }
  }

  release(file: HeldFile | undefined): void {
    if (file === undefined || --file.users > 0) return;
    this.#files.delete(file.key);
    fs.closeSync(file.fd);
  }

  /** A map is there. @param file the ledger's from now on, also if this throws. @throws VfioUserError, WireError */
  add(body: Uint8Array, file: HeldFile | undefined): void {
    try {
      const { address, size } = dmaMapCodec.decode(body);
      if (size === 0n) throw invalid('DMA map of nothing');
      if (this.#entries.has(address)) throw new VfioUserError(Errno.Exists, `DMA map at ${address} is there already`);
      if (this.#entries.size >= DMA_MAPS_MAX)
        throw new VfioUserError(Errno.NoSpace, `More than ${DMA_MAPS_MAX} DMA maps`);
      this.#entries.set(address, { body: body.slice(0, dmaMapCodec.size), lengthBytes: size, file });
      this.#mappedBytes += size;
    } catch (error) {
      this.release(file);
      throw error;
    }
  }

  /** A map is gone, or all of them. @param body of DMA_UNMAP. @throws VfioUserError, WireError */
  remove(body: Uint8Array): void {
    const { flags, address, size } = dmaUnmapCodec.decode(body);
    if ((flags & DmaUnmapFlag.All) !== 0) {
      this.clear();
      return;
    }
    const entry = this.#entries.get(address);
    if (entry === undefined || entry.lengthBytes !== size)
      throw new VfioUserError(Errno.NoEntry, `DMA unmap of ${size} bytes at ${address}: no such map`);
    this.#forget(address, entry);
  }

  /** A map that the device does not take. */
  drop({ body }: LedgerEntry): void {
    const { address } = dmaMapCodec.decode(body);
    const entry = this.#entries.get(address);
    if (entry !== undefined) this.#forget(address, entry);
  }

  #forget(address: bigint, entry: LedgerEntry): void {
    this.#entries.delete(address);
    this.#mappedBytes -= entry.lengthBytes;
    this.release(entry.file);
  }

  clear(): void {
    for (const [address, entry] of this.#entries) this.#forget(address, entry);
  }
}
