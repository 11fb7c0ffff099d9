/**
 * The typed face of the addon: what `native/` exports, and nothing more. Functions that stand for a system call return its result, or a negative
 * errno; `native-error.ts` makes an error of it. A fake with the same face is in `fake-binding.ts`.
 */

/** Packed operations in, packed completions out; layout in `operation-layout.ts`. Belongs to the thread that made it. */
export interface NativeEngine {
  readonly mode: 'io_uring' | 'thread-pool';
  /** How NVMe commands go; reading it makes the ring for them. */
  readonly passthrough: 'io_uring' | 'ioctl';
  /** Why there is no ring: errno, or 0. */
  readonly refusal: number;
  /** `depth` entries; the first `count` are taken by `submit`. */
  readonly submissions: ArrayBuffer;
  /** `depth` completions; valid until the next call or callback. */
  readonly completions: ArrayBuffer;
  /** Eight words: see `EngineState`. */
  readonly state: ArrayBuffer;
  /** @returns completions that came at once */
  submit(count: number): number;
  /** @param fd -1 to forget the one that is there */
  registerFile(index: number, fd: number): number;
  registerBuffer(index: number, buffer: ArrayBuffer | undefined): number;
  /** Idempotent. What is in flight is cancelled or waited for, and not reported. */
  close(): void;
}

export interface NativeEngineOptions {
  readonly depth: number;
  readonly threads: number;
  readonly ring: boolean;
}

/** Watches a descriptor that it does not own; unref'd until `ref`. */
export interface NativeWatcher {
  /** @param events `WatchEvent` bits. @returns 0 or -errno */
  start(events: number): number;
  stop(): void;
  ref(): void;
  unref(): void;
  /** Idempotent; no callback comes after it. Close the descriptor only then. */
  close(): void;
}

export interface NativeBlockDevice {
  readonly sizeBytes: number;
  readonly logicalBlockSize: number;
  readonly physicalBlockSize: number;
  readonly readOnly: boolean;
  readonly major: number;
  readonly minor: number;
}

export interface NativeBinding {
  /** Grows with every change of this face: `NATIVE_REVISION`. */
  readonly revision: number;
  readonly entryBytes: number;
  readonly completionBytes: number;
  readonly Engine: new (
    options: NativeEngineOptions,
    /** `2 * depth` long: data of slot n at n, its metadata at `depth + n`. What is here stays in memory. */
    pins: unknown[],
    onComplete: (count: number) => void,
  ) => NativeEngine;
  readonly Watcher: new (fd: number, callback: (events: number) => void) => NativeWatcher;

  /** @param fd -1 for memory of its own. @param flags `MapFlag` bits */
  mapMemory(fd: number, offsetBytes: number, lengthBytes: number, flags: number): ArrayBuffer | number;
  unmapMemory(memory: ArrayBuffer): number;
  /** Mappings of this thread, for tests and leak checks. */
  mappingCount(): number;
  memfdCreate(name: string, lengthBytes: number, hugePageBytes: number): number;
  eventfdCreate(count: number): number;
  eventfdRead(fd: number): number;
  eventfdWrite(fd: number, increment: number): number;
  /** Absent in addons built before it was needed. */
  setNonBlocking?(fd: number): number;

  /** Zeroed memory, and the number by which the next functions know it; at most 4 GiB - 1. It ends with its ArrayBuffer. */
  arenaMap(lengthBytes: number): [ArrayBuffer, number] | number;
  /** Gives whole pages back to the system; they read zero. */
  arenaDiscard(arena: number, offsetBytes: number, lengthBytes: number): number;
  /** Moves what whole huge pages hold into one each, in the thread pool. @param memory of that arena */
  arenaCollapse(
    memory: ArrayBuffer,
    arena: number,
    offsetBytes: number,
    lengthBytes: number,
    done: (result: number) => void,
  ): number;
  /**
   * @param table per piece its arena, offset and length; arena 0: the view at the same index in `views`, whole
   * @returns bytes that the socket took
   */
  streamWrite(fd: number, table: Uint32Array, pieces: number, views: readonly (Uint8Array | undefined)[]): number;

  /** An epoll instance; closed as any descriptor. */
  epollCreate(): number;
  /** Watched for bytes, the end of the stream and errors, as long as they are there. @param token 32 bits, told by `epollWait` */
  epollAdd(epoll: number, fd: number, token: number): number;
  epollRemove(epoll: number, fd: number): number;
  /** Never waits. @returns tokens written to `out`, at most 256 */
  epollWait(epoll: number, out: Uint32Array): number;
  /**
   * Receives into `viewLength` bytes of `view` at `viewOffset`, and what is more into the arena. Never waits.
   * @returns bytes received; 0: the end of the stream
   */
  streamRead(
    fd: number,
    arena: number,
    offsetBytes: number,
    lengthBytes: number,
    view: Uint8Array | undefined,
    viewOffset: number,
    viewLength: number,
  ): number;

  unixListen(path: string, backlog: number): number;
  unixConnect(path: string): number;
  unixPair(): [number, number] | number;
  unixAccept(fd: number): number;
  sendMessage(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array | undefined): number;
  /** `fds[0]` becomes the count of descriptors, which follow it. */
  receiveMessage(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array): number;
  shutdownSocket(fd: number, how: number): number;

  lockFile(fd: number, shared: boolean): number;
  /** The next data at or after `offsetBytes`, or with `hole` the next hole. */
  seek(fd: number, offsetBytes: number, hole: boolean): number;
  blockDevice(fd: number): NativeBlockDevice | number;
  setDirect(fd: number, on: boolean): number;
  /** The address of its first byte modulo 4096. */
  alignmentOf(bytes: Uint8Array): number;
  nvmeNsid(fd: number): number;
  nvmeRescan(fd: number): number;

  /** Absent where the processor has no instruction for it. */
  crc32c?(bytes: Uint8Array, crc: number): number;
  /** Of a piece of an arena; as `crc32c`. */
  crc32cAt?(arena: number, offsetBytes: number, lengthBytes: number, crc: number): number;
  /**
   * The CRC32C of runs of pieces, each to its place in the arena.
   * @param table as for `streamWrite`
   * @param runs per digest its first piece, how many they are, and its offset in the arena
   * @returns 0 or -errno
   */
  sealDigests?(
    table: Uint32Array,
    views: readonly (Uint8Array | undefined)[],
    runs: Int32Array,
    digests: number,
    arena: number,
  ): number;
}

/** `NativeBinding.revision` that this code goes with. */
export const NATIVE_REVISION = 3;

/** Flags of `mapMemory`. A read-only mapping is a private copy: stores neither reach the other side nor kill the process. */
export const MapFlag = { ReadOnly: 1, HugePages: 2, Populate: 4 } as const;

/** Events of a watcher, as libuv numbers them. A negative number in the callback is an errno. */
export const WatchEvent = { Readable: 1, Writable: 2, Disconnect: 4 } as const;
