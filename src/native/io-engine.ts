// @hot
/**
 * Asynchronous I/O of one thread through the addon. What is asked for in one turn of the event loop goes to the kernel in one call, and what has
 * completed comes back as one packed array: per operation there is one reused object, no promise, no closure, and no call into the addon.
 */
import type { NativeBinding, NativeEngine } from './binding.ts';
import { errnoName, NativeError, systemError } from './native-error.ts';
import {
  COMPLETION_WORDS,
  CompletionWord,
  ENTRY_WORDS,
  EngineState,
  EntryFlag,
  EntryWord,
  Operation,
} from './operation-layout.ts';

/**
 * @param error null if it succeeded
 * @param result bytes moved, or the NVMe status (which is no error here)
 * @param result0 DW0 of an NVMe completion, `result1` DW1
 */
export type IoDone = (error: NodeJS.ErrnoException | null, result: number, result0: number, result1: number) => void;

export type EngineMode = 'auto' | 'io_uring' | 'thread-pool';

export interface IoEngineOptions {
  /** Operations that the kernel has at once; the others wait here, in order. Default 512. */
  readonly depth?: number | undefined;
  /** Threads for what goes past the ring, and for everything if there is none. Default 4. */
  readonly threads?: number | undefined;
  /** `auto` (default): io_uring where the kernel allows it, else threads. */
  readonly mode?: EngineMode | undefined;
}

/** An NVMe command: what differs from command to command. Reused by its owner. */
export class NvmeCall {
  opcode = 0;
  /** FUSE, PSDT: bits 15:8 of DW0. */
  flags = 0;
  nsid = 0;
  cdw2 = 0;
  cdw3 = 0;
  readonly cdw10To15: Int32Array = new Int32Array(6);
  timeoutMs = 0;
  metadata: Uint8Array | undefined = undefined;
}

/** One operation from when it is asked for until it is done. */
class Call {
  op = 0;
  fd = -1;
  flags = 0;
  fileIndex = 0;
  position = 0;
  length = 0;
  mode = 0;
  data: Uint8Array | readonly Uint8Array[] | undefined = undefined;
  count = 0;
  skip = 0;
  bufferIndex = 0;
  nvme: NvmeCall | undefined = undefined;
  done: IoDone | undefined = undefined;
  next: Call | undefined = undefined;
}

const DEPTH = 512;
const THREADS = 4;
const CALLS_KEPT_MAX = 4096;
const HIGH = 0x1_0000_0000;
/** As many as the addon makes room for. */
const REGISTERED_FILES_MAX = 256;
const REGISTERED_BUFFERS_MAX = 256;
/** Descriptors beyond are not registered. */
const REGISTERED_FD_MAX = 4095;

const SYSCALLS = ['nop', 'read', 'write', 'fsync', 'fdatasync', 'fallocate', 'discard', 'zeroout', 'nvme', 'nvme'];

/** @public */
export class IoEngine {
  readonly mode: 'io_uring' | 'thread-pool';
  /** Why it is `thread-pool` though `auto` was asked for; for logs. */
  readonly refusal: string | undefined;
  readonly depth: number;
  readonly #native: NativeEngine;
  readonly #entries: Int32Array;
  readonly #completions: Int32Array;
  readonly #state: Int32Array;
  readonly #pins: unknown[];
  /** By slot. */
  readonly #calls: (Call | undefined)[];
  readonly #freeSlots: Int32Array;
  #freeSlotCount: number;
  readonly #freeCalls: Call[] = [];
  #first: Call | undefined = undefined;
  #last: Call | undefined = undefined;
  #waiting = 0;
  #scheduled = false;
  #closed = false;
  /** By descriptor: its place among the registered files plus 1, or 0. */
  readonly #fileIndex: Int16Array = new Int16Array(REGISTERED_FD_MAX + 1);
  /** By descriptor: flags that its reads and writes have. */
  readonly #fileFlags: Uint8Array = new Uint8Array(REGISTERED_FD_MAX + 1);
  readonly #files: number[] = [];
  readonly #buffers: (ArrayBuffer | undefined)[] = [];
  readonly #flush: () => void;
  /** Operations finished since it was opened. */
  completedCount = 0;

  /** @throws NativeError if `mode` is io_uring and the kernel has none to give, or no descriptor is left */
  constructor(binding: NativeBinding, options: IoEngineOptions = {}) {
    const depth = options.depth ?? DEPTH;
    this.depth = depth;
    this.#pins = new Array<unknown>(2 * depth).fill(undefined);
    this.#calls = new Array<Call | undefined>(depth).fill(undefined);
    this.#freeSlots = new Int32Array(depth);
    for (let slot = 0; slot < depth; slot++) this.#freeSlots[slot] = depth - 1 - slot;
    this.#freeSlotCount = depth;
    this.#flush = () => this.#flushNow();
    const mode = options.mode ?? 'auto';
    try {
      this.#native = new binding.Engine(
        { depth, threads: options.threads ?? THREADS, ring: mode !== 'thread-pool' },
        this.#pins,
        (count) => this.#completed(count),
      );
    } catch (cause) {
      const { errno } = cause as { errno?: number };
      const why = errno === undefined ? (cause as Error).message : errnoName(errno);
      throw new NativeError(
        `The I/O engine cannot be opened: ${why}`,
        errno === undefined ? { cause } : { errno, cause },
      );
    }
    this.mode = this.#native.mode;
    this.refusal = mode !== 'thread-pool' && this.mode === 'thread-pool' ? refusalOf(this.#native.refusal) : undefined;
    if (mode === 'io_uring' && this.mode !== 'io_uring') {
      const errno = this.#native.refusal;
      this.#native.close();
      throw new NativeError(`There is no io_uring: ${this.refusal}; use the engine thread-pool or auto`, { errno });
    }
    this.#entries = new Int32Array(this.#native.submissions);
    this.#completions = new Int32Array(this.#native.completions);
    this.#state = new Int32Array(this.#native.state);
  }

  /** How NVMe commands go to the kernel. */
  get passthrough(): 'io_uring' | 'ioctl' {
    return this.#native.passthrough;
  }

  /** Operations taken and not finished. */
  get pendingCount(): number {
    return this.#waiting + (this.depth - this.#freeSlotCount);
  }

  /** Calls into the kernel that submitted something. */
  get enterCount(): number {
    return this.#state[EngineState.Enters]!;
  }

  /** Callbacks of the event loop that brought completions (or found them already taken). */
  get wakeUpCount(): number {
    return this.#state[EngineState.WakeUps]!;
  }

  /** Operations that a thread performed. */
  get threadJobCount(): number {
    return this.#state[EngineState.PoolJobs]!;
  }

  /** Operations that the event loop's thread performed: reads and writes of files in memory. */
  get inlineJobCount(): number {
    return this.#state[EngineState.InlineJobs]!;
  }

  // ---- operations ----------------------------------------------------------------------------------------------------------------------

  /** Reads `length` bytes at `position` into `buffer` from `offset` on. Fewer may come. */
  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number, done: IoDone): void {
    this.#transfer(Operation.Read, fd, buffer, 1, offset, length, position, 0, done);
  }

  /** @param mode RWF_ flags */
  write(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    mode: number,
    done: IoDone,
  ): void {
    this.#transfer(Operation.Write, fd, buffer, 1, offset, length, position, mode, done);
  }

  /** `views` from `skip` bytes on; it stays as it is until `done`. */
  readv(fd: number, views: readonly Uint8Array[], skip: number, length: number, position: number, done: IoDone): void {
    this.#vector(Operation.Read, fd, views, skip, length, position, 0, done);
  }

  writev(
    fd: number,
    views: readonly Uint8Array[],
    skip: number,
    length: number,
    position: number,
    mode: number,
    done: IoDone,
  ): void {
    this.#vector(Operation.Write, fd, views, skip, length, position, mode, done);
  }

  /** From or to a registered buffer. */
  transferFixed(
    writes: boolean,
    fd: number,
    bufferIndex: number,
    offset: number,
    length: number,
    position: number,
    mode: number,
    done: IoDone,
  ): void {
    const op = writes ? Operation.Write : Operation.Read;
    const call = this.#transfer(op, fd, undefined, 0, offset, length, position, mode, done);
    call.flags |= EntryFlag.FixedBuffer;
    call.bufferIndex = bufferIndex;
  }

  fdatasync(fd: number, done: IoDone): void {
    this.#transfer(Operation.Fdatasync, fd, undefined, 0, 0, 0, 0, 0, done);
  }

  fsync(fd: number, done: IoDone): void {
    this.#transfer(Operation.Fsync, fd, undefined, 0, 0, 0, 0, 0, done);
  }

  /** @param mode `FallocateMode` bits */
  fallocate(fd: number, mode: number, position: number, length: number, done: IoDone): void {
    this.#transfer(Operation.Fallocate, fd, undefined, 0, 0, length, position, mode, done);
  }

  /** Block devices: BLKDISCARD, or with `zero` BLKZEROOUT. */
  discard(fd: number, zero: boolean, position: number, length: number, done: IoDone): void {
    this.#transfer(zero ? Operation.ZeroOut : Operation.Discard, fd, undefined, 0, 0, length, position, 0, done);
  }

  nop(done: IoDone): void {
    this.#transfer(Operation.Nop, -1, undefined, 0, 0, 0, 0, 0, done);
  }

  /**
   * An NVMe command on a device node. `call` and its `metadata` stay as they are until `done`.
   * @param admin on the admin queue
   * @param data one view, or `count` of them, of `length` bytes in all
   * @param ioctl go by ioctl on a thread though there is a ring for it
   */
  nvme(
    fd: number,
    admin: boolean,
    call: NvmeCall,
    data: Uint8Array | readonly Uint8Array[] | undefined,
    count: number,
    length: number,
    ioctl: boolean,
    done: IoDone,
  ): void {
    const op = admin ? Operation.NvmeAdmin : Operation.NvmeIo;
    const made = this.#transfer(op, fd, data, count, 0, length, 0, 0, done);
    made.nvme = call;
    if (ioctl) made.flags |= EntryFlag.Pool;
  }

  #vector(
    op: number,
    fd: number,
    views: readonly Uint8Array[],
    skip: number,
    length: number,
    position: number,
    mode: number,
    done: IoDone,
  ): void {
    const one = views.length === 1;
    this.#transfer(op, fd, one ? views[0] : views, one ? 1 : views.length, skip, length, position, mode, done);
  }

  #transfer(
    op: number,
    fd: number,
    data: Uint8Array | readonly Uint8Array[] | undefined,
    count: number,
    skip: number,
    length: number,
    position: number,
    mode: number,
    done: IoDone,
  ): Call {
    if (this.#closed) throw new NativeError('The I/O engine is closed');
    const call = this.#freeCalls.pop() ?? new Call();
    call.op = op;
    call.fd = fd;
    call.flags = 0;
    call.data = data;
    call.count = count;
    call.skip = skip;
    call.length = length;
    call.position = position;
    call.mode = mode;
    call.done = done;
    if (this.#last === undefined) this.#first = call;
    else this.#last.next = call;
    this.#last = call;
    this.#waiting++;
    this.#schedule();
    return call;
  }

  // ---- batches -------------------------------------------------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#flush);
  }

  #flushNow(): void {
    this.#scheduled = false;
    if (this.#closed) return;
    let count = 0;
    while (this.#first !== undefined && this.#freeSlotCount > 0) {
      const call = this.#first;
      this.#first = call.next;
      call.next = undefined;
      this.#pack(call, count++);
    }
    if (this.#first === undefined) this.#last = undefined;
    this.#waiting -= count;
    const completed = this.#native.submit(count);
    if (completed > 0) this.#completed(completed);
    // the kernel was short of something: what it left is offered again
    if (this.#state[EngineState.Unsubmitted] !== 0) this.#schedule();
  }

  #pack(call: Call, index: number): void {
    const entries = this.#entries;
    const at = index * ENTRY_WORDS;
    const slot = this.#freeSlots[--this.#freeSlotCount]!;
    this.#calls[slot] = call;
    this.#pins[slot] = call.data;
    const { fd, op } = call;
    let fileIndex = -1;
    let { flags } = call;
    if (fd >= 0 && fd <= REGISTERED_FD_MAX) {
      fileIndex = this.#fileIndex[fd]! - 1;
      if (fileIndex >= 0) flags |= EntryFlag.FixedFile;
      if (op === Operation.Read || op === Operation.Write) flags |= this.#fileFlags[fd]!;
    }
    entries[at + EntryWord.Op] = op;
    entries[at + EntryWord.Fd] = fd;
    entries[at + EntryWord.Flags] = flags;
    entries[at + EntryWord.FileIndex] = fileIndex;
    entries[at + EntryWord.Slot] = slot;
    entries[at + EntryWord.OffsetLow] = call.position | 0; // its low 32 bits, also beyond them
    entries[at + EntryWord.OffsetHigh] = (call.position / HIGH) | 0;
    entries[at + EntryWord.LengthLow] = call.length | 0;
    entries[at + EntryWord.LengthHigh] = (call.length / HIGH) | 0;
    entries[at + EntryWord.Mode] = call.mode;
    entries[at + EntryWord.BufferCount] = call.count;
    entries[at + EntryWord.BufferSkip] = call.skip;
    entries[at + EntryWord.BufferIndex] = call.bufferIndex;
    entries[at + EntryWord.MetadataLength] = 0;
    if (call.nvme !== undefined) this.#packNvme(call.nvme, slot, at);
  }

  #packNvme(nvme: NvmeCall, slot: number, at: number): void {
    const entries = this.#entries;
    if (nvme.metadata !== undefined) {
      this.#pins[this.depth + slot] = nvme.metadata;
      entries[at + EntryWord.MetadataLength] = nvme.metadata.length;
    }
    entries[at + EntryWord.OpcodeFlags] = nvme.opcode | (nvme.flags << 8);
    entries[at + EntryWord.Nsid] = nvme.nsid | 0;
    entries[at + EntryWord.Cdw2] = nvme.cdw2;
    entries[at + EntryWord.Cdw3] = nvme.cdw3;
    for (let i = 0; i < 6; i++) entries[at + EntryWord.Cdw10 + i] = nvme.cdw10To15[i]!;
    entries[at + EntryWord.TimeoutMs] = nvme.timeoutMs;
  }

  #completed(count: number): void {
    const completions = this.#completions;
    for (let i = 0, at = 0; i < count; i++, at += COMPLETION_WORDS) {
      const slot = completions[at + CompletionWord.Slot]!;
      const result = completions[at + CompletionWord.Result]!;
      const result0 = completions[at + CompletionWord.Result0]!;
      const result1 = completions[at + CompletionWord.Result1]!;
      const call = this.#calls[slot]!;
      this.#calls[slot] = undefined;
      this.#pins[slot] = undefined;
      if (call.nvme !== undefined) this.#pins[this.depth + slot] = undefined;
      this.#freeSlots[this.#freeSlotCount++] = slot;
      const done = call.done!;
      call.done = undefined;
      call.data = undefined;
      call.nvme = undefined;
      if (this.#freeCalls.length < CALLS_KEPT_MAX) this.#freeCalls.push(call);
      this.completedCount++;
      if (result < 0) done(systemError(result, SYSCALLS[call.op] ?? 'io'), result, 0, 0);
      else done(null, result, result0, result1);
    }
    if (this.#first !== undefined) this.#schedule();
  }

  // ---- registration, end ---------------------------------------------------------------------------------------------------------------

  /** Operations on `fd` are quicker afterwards; where the kernel has no room for it, they work as before. */
  registerFile(fd: number): void {
    if (fd > REGISTERED_FD_MAX || this.#fileIndex[fd] !== 0) return;
    let index = this.#files.indexOf(-1);
    if (index < 0) index = this.#files.length;
    if (index >= REGISTERED_FILES_MAX || this.#native.registerFile(index, fd) !== 0) return;
    this.#files[index] = fd;
    this.#fileIndex[fd] = index + 1;
  }

  /**
   * Reads and writes of `fd` copy memory and nothing else: this thread does them itself, when the others are given to the kernel. For tmpfs, whose files
   * know no other way than a blocking call: io_uring passes each to a kernel thread, which takes twice the time of the call.
   */
  performInline(fd: number): void {
    if (fd <= REGISTERED_FD_MAX) this.#fileFlags[fd] = EntryFlag.Inline;
  }

  /** Before the descriptor is closed: the kernel keeps the file open until then, and the number may come again. */
  unregisterFile(fd: number): void {
    if (fd > REGISTERED_FD_MAX) return;
    this.#fileFlags[fd] = 0;
    const index = this.#fileIndex[fd]! - 1;
    if (index < 0) return;
    this.#fileIndex[fd] = 0;
    this.#files[index] = -1;
    if (!this.#closed) this.#native.registerFile(index, -1);
  }

  /** Makes `buffer` known to the kernel for `transferFixed`. @returns its index, or -1 if there is no room: use the other calls then */
  registerBuffer(buffer: ArrayBuffer): number {
    let index = this.#buffers.indexOf(undefined);
    if (index < 0) index = this.#buffers.length;
    if (index >= REGISTERED_BUFFERS_MAX || this.#native.registerBuffer(index, buffer) !== 0) return -1;
    this.#buffers[index] = buffer;
    return index;
  }

  /** When no operation on it is in flight. */
  unregisterBuffer(index: number): void {
    if (this.#buffers[index] === undefined) return;
    this.#buffers[index] = undefined;
    if (!this.#closed) this.#native.registerBuffer(index, undefined);
  }

  /** True if an operation in flight, or one that waits, uses memory of `buffer`. */
  uses(buffer: ArrayBufferLike): boolean {
    for (const call of this.#calls) if (call !== undefined && usesBuffer(call, buffer)) return true;
    for (let call = this.#first; call !== undefined; call = call.next) if (usesBuffer(call, buffer)) return true;
    return false;
  }

  /** Call when nothing is pending: what is, is cancelled or waited for without an answer. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close();
    this.#first = undefined;
    this.#last = undefined;
    this.#calls.fill(undefined);
    this.#pins.fill(undefined);
  }
}

function usesBuffer(call: Call, buffer: ArrayBufferLike): boolean {
  const { data } = call;
  if (call.nvme?.metadata?.buffer === buffer) return true;
  if (data === undefined) return false;
  if (data instanceof Uint8Array) return data.buffer === buffer;
  return data.some((view) => view.buffer === buffer);
}

function refusalOf(errno: number): string {
  switch (errnoName(errno)) {
    case 'ENOSYS':
      return 'this kernel has none, or one before 5.6';
    case 'EPERM':
    case 'EACCES':
      return 'it is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp profile)';
    case 'ENOMEM':
      return 'not enough memory may be locked (ulimit -l)';
    default:
      return `io_uring_setup failed with ${errnoName(errno)}`;
  }
}
