/** Block I/O on one namespace. The promise calls are a shell over the callbacks of `HostController.io`. */
import { Direction, IoOpcode } from '../spec/opcode.ts';
import type { CommandDone } from '../transport/tcp/host-command.ts';
import { NvmeofError, type NvmeStatusError, TransportError } from '../util/error.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import { buildSqe, type PassthruCommand, type PassthruResult } from './admin-queue.ts';
import type { Cancellable, NamespaceOwner } from './namespace-owner.ts';

/** @public */
export interface IoOptions {
  /** The call rejects with the signal's reason once no command of it is in flight any more; an Abort is sent for those that are. */
  readonly signal?: AbortSignal;
}

const BLOCKS_MAX = 65536;
/** 512 bytes to 1 MiB a block. */
const LBADS_MIN = 9;
const LBADS_MAX = 20;
const RANGES_MAX = 256;
const RANGE_BYTES = 16;
const RANGE_BLOCKS_MAX = 0xffffffff;
const DEALLOCATE = 4;

/** One promise call: it may have become several commands. */
class Operation implements Cancellable {
  readonly owner: NamespaceOwner;
  readonly what: string;
  pending = 0;
  #sealed = false;
  #status = 0;
  #result = 0;
  #aborted: unknown;
  cancelled = false;
  readonly promise: Promise<void>;
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #unlisten: () => void = () => {};

  constructor(owner: NamespaceOwner, what: string, signal: AbortSignal | undefined) {
    this.owner = owner;
    this.what = what;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    if (signal === undefined) return;
    const onAbort = (): void => this.#abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    this.#unlisten = () => signal.removeEventListener('abort', onAbort);
  }

  static readonly done: CommandDone = (status, result, context) => (context as Operation).#oneDone(status, result);

  /** All commands are submitted. */
  seal(): Promise<void> {
    this.#sealed = true;
    this.#settleIfDone();
    return this.promise;
  }

  #oneDone(status: number, result: number): void {
    this.pending--;
    if (status !== 0 && this.#status === 0) {
      this.#status = status;
      this.#result = result;
    }
    this.#settleIfDone();
  }

  #settleIfDone(): void {
    if (!this.#sealed || this.pending !== 0) return;
    this.#unlisten();
    if (this.cancelled) {
      this.#reject(this.#aborted);
      return;
    }
    const error = this.owner.ioError(this.what, this.#status, this.#result);
    if (error === undefined) this.#resolve();
    else this.#reject(error);
  }

  #abort(reason: unknown): void {
    this.#aborted = reason;
    this.cancelled = true;
    this.pending -= this.owner.cancelIo(this);
    this.#settleIfDone();
  }
}

/** @public */
export class HostNamespace {
  /** What its commands go through. */
  readonly owner: NamespaceOwner;
  readonly nsid: number;
  #identify: IdentifyNamespace | undefined;
  /** Bytes of a logical block. */
  blockSize = 0;
  /** Logical blocks of the namespace. */
  blockCount = 0;
  /** Most blocks of one command. */
  maxTransferBlocks = 0;
  /** False once the namespace is gone. */
  active = false;

  constructor(owner: NamespaceOwner, nsid: number) {
    this.owner = owner;
    this.nsid = nsid;
  }

  /** Identify Namespace as last read. */
  get identify(): IdentifyNamespace {
    if (this.#identify === undefined)
      throw new NvmeofError('NVMEOF_ERR_STATE', `Namespace ${this.nsid} was never read`);
    return this.#identify;
  }

  get sizeBytes(): number {
    return this.blockCount * this.blockSize;
  }

  /** Reads the geometry again. Controllers keep it up to date by themselves when the target reports changes. */
  async refresh(): Promise<void> {
    const identify = await this.#readIdentify();
    this.active = identify !== undefined && identify.ncap !== 0n;
    if (identify === undefined || !this.active) return;
    this.#identify = identify;
    const index = (identify.flbas & 0xf) | ((identify.flbas >> 1) & 0x30);
    const format = identify.lbaf[index]!;
    if (format.lbads < LBADS_MIN || format.lbads > LBADS_MAX) {
      throw this.#broken(`LBADS ${format.lbads}, supported are ${LBADS_MIN} to ${LBADS_MAX}`);
    }
    const extendedBytes = (identify.flbas & 0x10) !== 0 ? format.ms : 0;
    this.blockSize = 2 ** format.lbads + extendedBytes;
    this.blockCount = Number(identify.nsze);
    this.maxTransferBlocks = Math.min(BLOCKS_MAX, Math.floor(this.owner.maxTransferBytes / this.blockSize));
    if (this.maxTransferBlocks === 0) {
      throw this.#broken(`blocks of ${this.blockSize} bytes, more than MDTS allows (${this.owner.maxTransferBytes})`);
    }
  }

  /** What Identify says cannot be: no I/O until it is read again and right. */
  #broken(what: string): TransportError {
    this.active = false;
    return new TransportError('NVMEOF_ERR_PROTOCOL', `Namespace ${this.nsid} identifies itself wrongly: ${what}`);
  }

  async #readIdentify(): Promise<IdentifyNamespace | undefined> {
    try {
      return await this.owner.identifyNamespace(this.nsid);
    } catch (error) {
      // Invalid Namespace or Format, Invalid Field, or a path status of the namespace's group: not there now
      if (error instanceof NvmeofError && error.code === 'NVMEOF_ERR_STATUS') {
        const code = (error as NvmeStatusError).status & 0x7ff;
        if (code === 0x00b || code === 0x002) return undefined;
      }
      throw error;
    }
  }

  // --- callbacks: the data path

  /**
   * One Read command of at most `maxTransferBlocks`; allocates nothing.
   * @param buffer `blockCount * blockSize` bytes, the controller's until `onDone`
   */
  submitRead(slba: number, blockCount: number, buffer: Uint8Array, onDone: CommandDone, context: unknown): void {
    this.owner.io.submitRead(this.nsid, slba, blockCount, buffer, onDone, context);
  }

  /** One Write command; as `submitRead`. */
  submitWrite(
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    fua: boolean = false,
  ): void {
    this.owner.io.submitWrite(this.nsid, slba, blockCount, buffer, onDone, context, fua);
  }

  // --- promises

  /** Reads whole blocks; in several commands if the controller's limit asks for it. @returns a new buffer */
  async read(slba: number, blockCount: number, options: IoOptions = {}): Promise<Uint8Array> {
    const buffer = new Uint8Array(new ArrayBuffer(this.#checkRange('Read', slba, blockCount)));
    await this.readInto(slba, buffer, options);
    return buffer;
  }

  /** Reads `buffer.length` bytes, whole blocks, into `buffer`, which must not be used until this settles. */
  async readInto(slba: number, buffer: Uint8Array, options: IoOptions = {}): Promise<void> {
    const { blockSize, maxTransferBlocks, nsid } = this;
    const blockCount = this.#blocksOf('Read', slba, buffer);
    const { io } = this.owner;
    await this.#run(`Read of namespace ${nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      for (let done = 0; done < blockCount; done += maxTransferBlocks) {
        const count = Math.min(maxTransferBlocks, blockCount - done);
        const part = count === blockCount ? buffer : buffer.subarray(done * blockSize, (done + count) * blockSize);
        operation.pending++;
        io.submitRead(nsid, slba + done, count, part, Operation.done, operation);
      }
    });
  }

  /**
   * Writes whole blocks; in several commands if the controller's limit asks for it (then not atomic).
   * @param data must not change until this settles
   */
  async write(slba: number, data: Uint8Array, options: IoOptions & { readonly fua?: boolean } = {}): Promise<void> {
    const { blockSize, maxTransferBlocks, nsid } = this;
    const blockCount = this.#blocksOf('Write', slba, data);
    const { io } = this.owner;
    await this.#run(`Write of namespace ${nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      for (let done = 0; done < blockCount; done += maxTransferBlocks) {
        const count = Math.min(maxTransferBlocks, blockCount - done);
        const part = count === blockCount ? data : data.subarray(done * blockSize, (done + count) * blockSize);
        operation.pending++;
        io.submitWrite(nsid, slba + done, count, part, Operation.done, operation, options.fua ?? false);
      }
    });
  }

  /** Everything written and completed before is on stable media when this resolves. */
  async flush(options: IoOptions = {}): Promise<void> {
    await this.#run(`Flush of namespace ${this.nsid}`, options, (operation) => {
      operation.pending++;
      this.owner.io.submitFlush(this.nsid, Operation.done, operation);
    });
  }

  /** The blocks read as zeroes afterwards. @param deallocate they may lose their space (DEAC) */
  async writeZeroes(
    slba: number,
    blockCount: number,
    options: IoOptions & { readonly deallocate?: boolean } = {},
  ): Promise<void> {
    this.#checkRange('Write Zeroes', slba, blockCount);
    await this.#run(`Write Zeroes of namespace ${this.nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      for (let done = 0; done < blockCount; done += BLOCKS_MAX) {
        const count = Math.min(BLOCKS_MAX, blockCount - done);
        operation.pending++;
        this.owner.io.submitWriteZeroes(
          this.nsid,
          slba + done,
          count,
          options.deallocate ?? false,
          Operation.done,
          operation,
        );
      }
    });
  }

  /** The controller may give up the blocks' space; what they read afterwards is the namespace's DLFEAT. */
  async deallocate(slba: number, blockCount: number, options: IoOptions = {}): Promise<void> {
    this.#checkRange('Deallocate', slba, blockCount);
    const ranges = Math.ceil(blockCount / RANGE_BLOCKS_MAX);
    if (ranges > RANGES_MAX)
      throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `Deallocate of ${blockCount} blocks is too long`);
    const list = new DataView(new ArrayBuffer(ranges * RANGE_BYTES));
    for (let i = 0; i < ranges; i++) {
      const start = slba + i * RANGE_BLOCKS_MAX;
      list.setUint32(i * RANGE_BYTES + 4, Math.min(RANGE_BLOCKS_MAX, blockCount - i * RANGE_BLOCKS_MAX), true);
      list.setUint32(i * RANGE_BYTES + 8, start >>> 0, true);
      list.setUint32(i * RANGE_BYTES + 12, start / 0x1_0000_0000, true);
    }
    const sqe = buildSqe({ opcode: IoOpcode.DatasetManagement, nsid: this.nsid, cdw10: ranges - 1, cdw11: DEALLOCATE });
    const data = new Uint8Array(list.buffer);
    await this.#run(`Deallocate of namespace ${this.nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      operation.pending++;
      this.owner.io.submitRaw(sqe, Direction.HostToController, data, Operation.done, operation, false, true);
    });
  }

  /** Any I/O command on this namespace; see `HostController.ioPassthru`. */
  passthru(command: Omit<PassthruCommand, 'nsid'>): Promise<PassthruResult> {
    return this.owner.ioPassthru({ ...command, nsid: this.nsid });
  }

  async #run(what: string, options: IoOptions, submit: (operation: Operation) => void): Promise<void> {
    options.signal?.throwIfAborted();
    const operation = new Operation(this.owner, what, options.signal);
    submit(operation);
    await operation.seal();
  }

  #blocksOf(what: string, slba: number, data: Uint8Array): number {
    if (data.length === 0 || data.length % this.blockSize !== 0) {
      const allowed = `allowed are multiples of the block size ${this.blockSize}`;
      throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `${what} is ${data.length} bytes long, ${allowed}`);
    }
    const blockCount = data.length / this.blockSize;
    this.#checkRange(what, slba, blockCount);
    return blockCount;
  }

  /** @returns the length in bytes. The end is the controller's to check: the namespace may have grown. */
  #checkRange(what: string, slba: number, blockCount: number): number {
    if (!Number.isSafeInteger(slba) || slba < 0 || !Number.isSafeInteger(blockCount) || blockCount < 1) {
      throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `${what} of block ${slba}, count ${blockCount} is out of range`);
    }
    return blockCount * this.blockSize;
  }
}
