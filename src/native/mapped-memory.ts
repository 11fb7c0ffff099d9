/**
 * Memory shared with another process (a VM's), or of its own, as an ArrayBuffer with a defined life: it is unmapped by `unmap`, once nobody uses it.
 */
import { assert } from '../util/assert.ts';
import { MapFlag, type NativeBinding } from './binding.ts';
import { requireNative } from './load.ts';
import { checked, NativeError } from './native-error.ts';
import { threadEngines } from './thread-engine.ts';

export interface MapOptions {
  /** Absent: anonymous memory. It may be closed after the mapping was made. */
  readonly fd?: number | undefined;
  /** A multiple of the page size (of the huge page size for hugetlbfs); default 0. */
  readonly offsetBytes?: number | undefined;
  readonly lengthBytes: number;
  /** Stores stay private: they neither reach the other side nor fail. Later stores of the other side may then not be seen on those pages. */
  readonly readOnly?: boolean | undefined;
  /** Ask for transparent huge pages. */
  readonly hugePages?: boolean | undefined;
  /** Fault all pages in now. */
  readonly populate?: boolean | undefined;
}

/** @public */
export class MappedMemory {
  readonly #binding: NativeBinding;
  readonly #buffer: ArrayBuffer;
  #users = 0;
  #mapped = true;
  #closing: Promise<void> | undefined;
  #onFree: (() => void) | undefined;

  private constructor(binding: NativeBinding, buffer: ArrayBuffer) {
    this.#binding = binding;
    this.#buffer = buffer;
  }

  /**
   * The caller vouches for an `fd` of another process: if that process cuts the file short, touching what is gone kills this one (memfd seals,
   * hugetlbfs, or trust prevent that).
   * @throws NativeError
   */
  static map(options: MapOptions): MappedMemory {
    const binding = requireNative('Mapped memory');
    const flags =
      (options.readOnly === true ? MapFlag.ReadOnly : 0) |
      (options.hugePages === true ? MapFlag.HugePages : 0) |
      (options.populate === true ? MapFlag.Populate : 0);
    const offset = options.offsetBytes ?? 0;
    const made = binding.mapMemory(options.fd ?? -1, offset, options.lengthBytes, flags);
    if (typeof made === 'number') {
      checked(made, 'mmap', `Memory of ${options.lengthBytes} bytes at ${offset} cannot be mapped`);
      throw new NativeError('Memory cannot be mapped');
    }
    return new MappedMemory(binding, made);
  }

  get byteLength(): number {
    return this.#buffer.byteLength;
  }

  get isMapped(): boolean {
    return this.#mapped;
  }

  /** Detached (no bytes) once it is unmapped: views of it are empty then, and reach nothing. */
  get buffer(): ArrayBuffer {
    return this.#buffer;
  }

  /** Somebody outside this thread's JavaScript, such as the kernel, uses the memory until `release`. */
  retain(): void {
    assert(this.#mapped, 'Memory is used after it was unmapped');
    this.#users++;
  }

  release(): void {
    assert(this.#users > 0, 'Memory is released more often than retained');
    this.#users--;
    this.#tryUnmap();
  }

  /** True while I/O, or who retained it uses the memory. */
  get isInUse(): boolean {
    if (!this.#mapped) return false;
    return this.#users > 0 || threadEngines().some((engine) => engine.uses(this.#buffer));
  }

  /** @throws NativeError EBUSY while it is in use */
  unmapNow(): void {
    if (!this.#mapped) return;
    if (this.isInUse)
      throw new NativeError('Memory cannot be unmapped: it is in use', { errno: 16, syscall: 'munmap' });
    this.#mapped = false;
    checked(this.#binding.unmapMemory(this.#buffer), 'munmap', 'Memory cannot be unmapped');
    this.#onFree?.();
  }

  /** Waits until nobody uses it, then unmaps it. Idempotent. */
  unmap(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#onFree = resolve;
      if (this.#mapped) this.#tryUnmap();
      else resolve();
    });
    return this.#closing;
  }

  #tryUnmap(): void {
    if (this.#onFree === undefined || !this.#mapped || this.#users > 0) return;
    if (!this.isInUse) {
      this.unmapNow();
      return;
    }
    // I/O in flight tells nobody when it ends: look again, as long as somebody waits
    setImmediate(() => this.#tryUnmap());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unmap();
  }
}

export interface MemfdOptions {
  readonly name: string;
  readonly lengthBytes: number;
  /** 2 MiB or 1 GiB: from the pool of huge pages. */
  readonly hugePageBytes?: number | undefined;
}

/** A file in memory, sealed against a change of its size. @returns its descriptor, which the caller closes. @throws NativeError @public */
export function createMemfd(options: MemfdOptions): number {
  const binding = requireNative('Shared memory');
  const fd = binding.memfdCreate(options.name, options.lengthBytes, options.hugePageBytes ?? 0);
  return checked(fd, 'memfd_create', `Shared memory ${options.name} of ${options.lengthBytes} bytes cannot be made`);
}
