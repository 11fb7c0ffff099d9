/**
 * The memory of the VM as the client maps it: a descriptor becomes a mapping of ours, which the function reaches; what came without one is known,
 * but not reachable. Owns the mappings; descriptors are closed once they are mapped.
 */
import fs from 'node:fs';
import { MappedMemory } from '../../native/mapped-memory.ts';
import { DmaFlag, DmaUnmapFlag, Errno } from '../../spec/vfio-user.ts';
import { type DmaMap, type DmaUnmap, dmaMapCodec, dmaUnmapCodec } from '../../wire/cold/vfio-user.ts';
import type { DmaWriter, GuestRegion, PciFunction } from '../pcie/pci-function.ts';
import { invalid, VfioUserError } from './vfio-user-error.ts';

/** Also what the kernel lets a process map. */
export const DMA_MAPS_MAX = 65_000;
/** An ArrayBuffer holds 4 GiB at most; a multiple of every size of huge pages. */
const PIECE_BYTES = 2 ** 30;
const ADDRESS_END = BigInt(Number.MAX_SAFE_INTEGER) + 1n;

interface Piece {
  readonly iova: number;
  readonly lengthBytes: number;
  readonly memory: MappedMemory | undefined;
}

/** One map of the client. */
interface Mapped {
  readonly lengthBytes: number;
  readonly pieces: readonly Piece[];
}

export class DmaTable {
  readonly #function: PciFunction;
  readonly #maps = new Map<number, Mapped>();
  /** Unmapped for the guest, still held by somebody of this process. */
  readonly #leaving = new Set<Promise<void>>();
  #pieceCount = 0;
  #unreachableBytes = 0;
  /** Writes into mapped memory go through it. */
  readonly #writer: DmaWriter | undefined;

  constructor(pciFunction: PciFunction, writer: DmaWriter | undefined) {
    this.#function = pciFunction;
    this.#writer = writer;
  }

  get size(): number {
    return this.#maps.size;
  }

  /** Bytes that the device cannot reach: they came without a descriptor. */
  get unreachableBytes(): number {
    return this.#unreachableBytes;
  }

  /** DMA_MAP. @param fds what came along; all are closed. @throws VfioUserError, PciError, NativeError */
  map(body: Uint8Array, fds: readonly number[]): void {
    try {
      this.#map(dmaMapCodec.decode(body), fds);
    } finally {
      for (const fd of fds) fs.closeSync(fd);
    }
  }

  #map({ flags, address, size, offset }: DmaMap, fds: readonly number[]): void {
    if (size === 0n || address + size > ADDRESS_END || offset + size > ADDRESS_END)
      throw invalid(`DMA map of ${size} bytes at ${address}, offset ${offset}`);
    if (fds.length > 1) throw invalid(`DMA map with ${fds.length} descriptors`);
    if ((flags & ~(DmaFlag.Readable | DmaFlag.Writable)) !== 0) throw invalid(`DMA map with flags ${flags}`);
    const iova = Number(address);
    const lengthBytes = Number(size);
    const writable = (flags & DmaFlag.Writable) !== 0;
    const [fd] = fds;
    const count = fd === undefined ? 1 : Math.ceil(lengthBytes / PIECE_BYTES);
    if (this.#pieceCount + count > DMA_MAPS_MAX)
      throw new VfioUserError(Errno.NoSpace, `More than ${DMA_MAPS_MAX} DMA maps`);
    const pieces: Piece[] = [];
    try {
      if (fd === undefined) {
        this.#function.map({ iova, lengthBytes, writable });
        pieces.push({ iova, lengthBytes, memory: undefined });
        this.#unreachableBytes += lengthBytes;
      }
      for (let at = 0; fd !== undefined && at < lengthBytes; at += PIECE_BYTES)
        pieces.push(
          this.#mapPiece(fd, Number(offset) + at, iova + at, Math.min(PIECE_BYTES, lengthBytes - at), writable),
        );
    } catch (error) {
      for (const piece of pieces) this.#unmapPiece(piece);
      throw error;
    }
    this.#pieceCount += pieces.length;
    this.#maps.set(iova, { lengthBytes, pieces });
  }

  #mapPiece(fd: number, offsetBytes: number, iova: number, lengthBytes: number, writable: boolean): Piece {
    const memory = MappedMemory.map({ fd, offsetBytes, lengthBytes, readOnly: !writable });
    try {
      const region: GuestRegion = { iova, lengthBytes, buffer: memory.buffer, writable };
      this.#function.map(this.#writer === undefined ? region : { ...region, writer: this.#writer });
    } catch (error) {
      memory.unmapNow();
      throw error;
    }
    return { iova, lengthBytes, memory };
  }

  #unmapPiece(piece: Piece): void {
    this.#function.unmap(piece.iova, piece.lengthBytes);
    this.#release(piece);
  }

  /** DMA_UNMAP. The function uses nothing of it any more when this returns. @throws VfioUserError, PciError */
  unmap(body: Uint8Array): DmaUnmap {
    const request = dmaUnmapCodec.decode(body);
    const { flags, address, size } = request;
    if ((flags & DmaUnmapFlag.DirtyBitmap) !== 0)
      throw new VfioUserError(Errno.NotSupported, 'DMA unmap with a dirty bitmap: DEVICE_FEATURE has it');
    if ((flags & ~DmaUnmapFlag.All) !== 0) throw invalid(`DMA unmap with flags ${flags}`);
    if ((flags & DmaUnmapFlag.All) !== 0) {
      if (address !== 0n || size !== 0n) throw invalid('DMA unmap of everything with a range');
      this.unmapAll();
      return request;
    }
    const found = address < ADDRESS_END ? this.#maps.get(Number(address)) : undefined;
    if (found === undefined || BigInt(found.lengthBytes) !== size)
      throw new VfioUserError(Errno.NoEntry, `DMA unmap of ${size} bytes at ${address}: no such map`);
    for (const piece of found.pieces) this.#unmapPiece(piece);
    this.#pieceCount -= found.pieces.length;
    this.#maps.delete(Number(address));
    return request;
  }

  unmapAll(): void {
    this.#function.unmapAll();
    for (const { pieces } of this.#maps.values()) for (const piece of pieces) this.#release(piece);
    this.#pieceCount = 0;
    this.#maps.clear();
  }

  #release({ memory, lengthBytes }: Piece): void {
    if (memory === undefined) {
      this.#unreachableBytes -= lengthBytes;
      return;
    }
    const leaving = memory.unmap().finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
  }

  /** Unmaps everything; resolves when nobody holds any of it. */
  async close(): Promise<void> {
    this.unmapAll();
    await Promise.all(this.#leaving);
  }
}
