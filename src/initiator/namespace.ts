/** Block I/O on one namespace. The promise calls are a shell over the callbacks of `HostController.io`. */
import { Direction, IoOpcode } from '../spec/opcode.ts';
import { type CommandDone, NO_DATA } from '../transport/tcp/host-command.ts';
import { NvmeofError, type NvmeStatusError, TransportError } from '../util/error.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import { buildSqe, type PassthruCommand, type PassthruResult } from './admin-queue.ts';
import { compareAndWrite } from './compare-and-write.ts';
import { type CopyOptions, type CopySource, copyRanges } from './copy.ts';
import { type LbaStatusOptions, type LbaStatusReport, readLbaStatus } from './lba-status.ts';
import type { NamespaceOwner } from './namespace-owner.ts';
import { NO_LIMITS, type NvmLimits, nvmLimits } from './nvm-limits.ts';
import { type IoOptions, Operation } from './operation.ts';
import * as reservations from './reservation.ts';

const BLOCKS_MAX = 65536;
/** 512 bytes to 1 MiB a block. */
const LBADS_MIN = 9;
const LBADS_MAX = 20;
const RANGES_MAX = 256;
const RANGE_BYTES = 16;
const RANGE_BLOCKS_MAX = 0xffffffff;
const DEALLOCATE = 4;
const FUA = 0x4000_0000;
const DEAC = 0x0200_0000;
const NSZ = 0x0080_0000;

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

  #limitsKnown: NvmLimits = NO_LIMITS;

  /** Those that were read last where no controller can be asked now: the command waits for a connection, as reads and writes do. */
  async #limits(): Promise<NvmLimits> {
    try {
      this.#limitsKnown = await nvmLimits(this.owner.controllerFor(this.nsid), this.blockSize);
    } catch (error) {
      if (!(error instanceof TransportError)) throw error;
    }
    return this.#limitsKnown;
  }

  /** The blocks read as zeroes afterwards. @param deallocate they may lose their space (DEAC) */
  async writeZeroes(
    slba: number,
    blockCount: number,
    options: IoOptions & { readonly deallocate?: boolean; readonly fua?: boolean } = {},
  ): Promise<void> {
    const { writeZeroesBlocksMax } = await this.#limits();
    const flags = (options.deallocate ? DEAC : 0) | (options.fua ? FUA : 0);
    await this.#runRange('Write Zeroes', IoOpcode.WriteZeroes, slba, blockCount, writeZeroesBlocksMax, options, flags);
  }

  /**
   * The whole namespace reads as zeroes afterwards, its space given up: one Write Zeroes with NSZ.
   * @throws NvmeofError NVMEOF_ERR_UNSUPPORTED if the controller does not serve that
   */
  async zeroNamespace(options: IoOptions = {}): Promise<void> {
    const { namespaceZeroes } = await nvmLimits(this.owner.controllerFor(this.nsid), this.blockSize);
    const what = `Write Zeroes of all of namespace ${this.nsid}`;
    if (!namespaceZeroes) {
      throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', `${what} is not supported by the controller; give a range`);
    }
    const sqe = buildSqe({ opcode: IoOpcode.WriteZeroes, nsid: this.nsid, cdw12: NSZ | DEAC });
    await this.#runOne(what, options, sqe, NO_DATA);
  }

  /**
   * Compares blocks with `data`, in several commands if the controller's limit asks for it.
   * @throws NvmeStatusError Compare Failure (2/85h) if they differ
   */
  async compare(slba: number, data: Uint8Array, options: IoOptions & { readonly fua?: boolean } = {}): Promise<void> {
    const { blockSize, maxTransferBlocks, nsid } = this;
    const blockCount = this.#blocksOf('Compare', slba, data);
    const { io } = this.owner;
    await this.#run(`Compare of namespace ${nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      for (let done = 0; done < blockCount; done += maxTransferBlocks) {
        const count = Math.min(maxTransferBlocks, blockCount - done);
        const part = data.subarray(done * blockSize, (done + count) * blockSize);
        const sqe = this.#rangeSqe(IoOpcode.Compare, slba + done, count, options.fua ? FUA : 0);
        operation.pending++;
        io.submitRaw(sqe, Direction.HostToController, part, Operation.done, operation, false, true);
      }
    });
  }

  /**
   * Writes `data` if the blocks hold `expected`, as one operation that no other write comes between (fused Compare and Write).
   * @returns false if they hold something else: nothing is written then
   * @throws TransportError if the connection was lost before the answer: whether it was written is not known then, and it is not sent again
   */
  async compareAndWrite(
    slba: number,
    expected: Uint8Array,
    data: Uint8Array,
    options: IoOptions & { readonly fua?: boolean } = {},
  ): Promise<boolean> {
    const blockCount = this.#blocksOf('Compare and Write', slba, data);
    if (expected.length !== data.length || blockCount > this.maxTransferBlocks) {
      const found = `${expected.length} bytes to compare and ${data.length} to write`;
      const allowed = `as many of both, at most ${this.maxTransferBlocks} blocks`;
      throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `Compare and Write has ${found}, allowed are ${allowed}`);
    }
    return compareAndWrite(
      this.owner.controllerFor(this.nsid),
      `Compare and Write of namespace ${this.nsid}, block ${slba} (${blockCount})`,
      { sqe: this.#rangeSqe(IoOpcode.Compare, slba, blockCount, 0), data: expected },
      { sqe: this.#rangeSqe(IoOpcode.Write, slba, blockCount, options.fua ? FUA : 0), data },
      options.signal,
    );
  }

  /** The controller reads the blocks without sending them. @throws NvmeStatusError if it cannot */
  async verify(slba: number, blockCount: number, options: IoOptions & { readonly fua?: boolean } = {}): Promise<void> {
    const { verifyBlocksMax } = await this.#limits();
    const flags = options.fua ? FUA : 0;
    await this.#runRange('Verify', IoOpcode.Verify, slba, blockCount, verifyBlocksMax, options, flags);
  }

  /** The blocks cannot be read (Unrecovered Read Error) until they are written again. */
  async writeUncorrectable(slba: number, blockCount: number, options: IoOptions = {}): Promise<void> {
    const { writeUncorrectableBlocksMax } = await this.#limits();
    const opcode = IoOpcode.WriteUncorrectable;
    await this.#runRange('Write Uncorrectable', opcode, slba, blockCount, writeUncorrectableBlocksMax, options, 0);
  }

  /**
   * Copies ranges, one behind the other, to `slba` of this namespace, without moving the data to this host; in several commands, one after the
   * other, if the limits ask for it.
   */
  async copy(slba: number, sources: readonly CopySource[], options: CopyOptions = {}): Promise<void> {
    for (const source of sources) this.#checkRange('Copy', source.slba, source.blockCount);
    this.#checkRange('Copy', slba, Math.max(1, sources.length));
    const { nsid, identify } = this;
    const controller = this.owner.controllerFor(nsid);
    await copyRanges({ nsid, identify, controller }, slba, sources, options, (what, sqe, data, path, replayable) =>
      this.#runOne(what, options, sqe, data, replayable, path),
    );
  }

  /** What the controller knows of the state of blocks. */
  getLbaStatus(options: LbaStatusOptions = {}): Promise<LbaStatusReport> {
    return readLbaStatus(this.owner.controllerFor(this.nsid), this.nsid, options);
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
    await this.#runOne(`Deallocate of namespace ${this.nsid}, block ${slba} (${blockCount})`, options, sqe, data);
  }

  // --- reservations: never sent again by themselves, as their effect is not known after a lost connection

  /** Registers, unregisters or replaces this host's reservation key. @throws NvmeStatusError, TransportError */
  reservationRegister(options: reservations.ReservationRegisterOptions): Promise<void> {
    return reservations.reservationRegister(this.owner, this.nsid, options);
  }

  /** Acquires the reservation, or preempts others'. @throws NvmeStatusError, TransportError */
  reservationAcquire(options: reservations.ReservationAcquireOptions): Promise<void> {
    return reservations.reservationAcquire(this.owner, this.nsid, options);
  }

  /** Releases the reservation, or clears it with all registrations. @throws NvmeStatusError, TransportError */
  reservationRelease(options: reservations.ReservationReleaseOptions): Promise<void> {
    return reservations.reservationRelease(this.owner, this.nsid, options);
  }

  /** Who is registered, who holds what. @throws NvmeStatusError, TransportError */
  reservationReport(options: reservations.ReservationReportOptions = {}): Promise<reservations.ReservationReport> {
    return reservations.reservationReport(this.owner, this.nsid, options);
  }

  /** Any I/O command on this namespace; see `HostController.ioPassthru`. */
  passthru(command: Omit<PassthruCommand, 'nsid'>): Promise<PassthruResult> {
    return this.owner.ioPassthru({ ...command, nsid: this.nsid });
  }

  #rangeSqe(opcode: number, slba: number, blockCount: number, flags: number): DataView {
    const cdw12 = (blockCount - 1) | flags;
    return buildSqe({ opcode, nsid: this.nsid, cdw10: slba >>> 0, cdw11: slba / 0x1_0000_0000, cdw12 });
  }

  /** A command without data on a range, in parts of `partMax` blocks. @param flags of CDW12 */
  async #runRange(
    name: string,
    opcode: number,
    slba: number,
    blockCount: number,
    partMax: number,
    options: IoOptions,
    flags: number,
  ): Promise<void> {
    this.#checkRange(name, slba, blockCount);
    await this.#run(`${name} of namespace ${this.nsid}, block ${slba} (${blockCount})`, options, (operation) => {
      for (let done = 0; done < blockCount; done += partMax) {
        const sqe = this.#rangeSqe(opcode, slba + done, Math.min(partMax, blockCount - done), flags);
        operation.pending++;
        this.owner.io.submitRaw(sqe, Direction.None, NO_DATA, Operation.done, operation, false, true);
      }
    });
  }

  /** One command with data for the controller, or none. */
  async #runOne(
    what: string,
    options: IoOptions,
    sqe: DataView,
    data: Uint8Array,
    replayable: boolean = true,
    owner: NamespaceOwner = this.owner,
  ): Promise<void> {
    const direction = data.length === 0 ? Direction.None : Direction.HostToController;
    const submit = (operation: Operation): void => {
      operation.pending++;
      owner.io.submitRaw(sqe, direction, data, Operation.done, operation, false, replayable);
    };
    await this.#run(what, options, submit, owner);
  }

  async #run(
    what: string,
    options: IoOptions,
    submit: (operation: Operation) => void,
    owner: NamespaceOwner = this.owner,
  ): Promise<void> {
    options.signal?.throwIfAborted();
    const operation = new Operation(owner, what, options.signal);
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
