/** A PCI function that does nothing but remember: for tests of the front end. */
import {
  type GuestRegion,
  InterruptMode,
  type InterruptSink,
  type PciBar,
  type PciDirtyRange,
  PciError,
  type PciFunction,
} from '../../src/transport/pcie/pci-function.ts';

export class StubFunction implements PciFunction {
  readonly configBytes = 256;
  readonly config: Buffer = Buffer.alloc(256);
  readonly bar: Buffer = Buffer.alloc(0x4000);
  readonly bars: readonly PciBar[] = [{ index: 0, lengthBytes: 0x4000, is64Bit: true }];
  readonly vectorCount = 8;
  readonly msiCount = 4;
  interruptMode: number = InterruptMode.MsiX;
  pinAsserted = false;
  sink: InterruptSink | undefined;
  ownsMsixTable: boolean | undefined;
  readonly regions: GuestRegion[] = [];
  /** What was called, in order; BAR writes as `bar 1000=5`. */
  readonly calls: string[] = [];
  onWork: () => void = () => {};
  runCount = 0;
  isStopped = false;
  /** `stop` becomes quiet only by `quiet()`. */
  holdQuiet = false;
  #onQuiet: (() => void) | undefined;
  state: Uint8Array = Buffer.from('controller state');
  loaded: Uint8Array | undefined;
  dirtyLog: { pageBytes: number; ranges: readonly PciDirtyRange[] } | undefined;

  constructor() {
    this.config.writeUInt32LE(0x1234_1b36, 0);
    this.config[0x3d] = 1;
  }

  readConfig(offset: number, into: Uint8Array): void {
    this.config.copy(into, 0, offset, offset + into.length);
  }
  writeConfig(offset: number, bytes: Uint8Array): void {
    this.calls.push(`config ${offset.toString(16)}=${Buffer.from(bytes).toString('hex')}`);
    this.config.set(bytes, offset);
  }
  readBar(_index: number, offset: number, into: Uint8Array): void {
    this.bar.copy(into, 0, offset, offset + into.length);
  }
  writeBar(_index: number, offset: number, bytes: Uint8Array): void {
    this.calls.push(`bar ${offset.toString(16)}=${Buffer.from(bytes).toString('hex')}`);
    this.bar.set(bytes, offset);
    this.onWork();
  }

  setInterruptSink(sink: InterruptSink | undefined, ownsMsixTable?: boolean): void {
    this.sink = sink;
    this.ownsMsixTable = ownsMsixTable;
  }

  map(region: GuestRegion): void {
    const end = region.iova + region.lengthBytes;
    if (this.regions.some(({ iova, lengthBytes }) => region.iova < iova + lengthBytes && iova < end))
      throw new PciError(17, `Region at ${region.iova} overlaps another`);
    this.regions.push(region);
  }
  unmap(iova: number, lengthBytes: number): void {
    const index = this.regions.findIndex((region) => region.iova === iova && region.lengthBytes === lengthBytes);
    if (index < 0) throw new PciError(2, `No region at ${iova}`);
    this.regions.splice(index, 1);
  }
  unmapAll(): void {
    this.regions.length = 0;
  }

  startDirtyLog(pageBytes: number, ranges: readonly PciDirtyRange[]): void {
    if (pageBytes < 4096 || (pageBytes & (pageBytes - 1)) !== 0) throw new PciError(22, `Pages of ${pageBytes} bytes`);
    this.dirtyLog = { pageBytes, ranges };
  }
  stopDirtyLog(): void {
    this.dirtyLog = undefined;
  }
  reportDirty(_iova: number, lengthBytes: number, pageBytes: number): Uint8Array {
    if (this.dirtyLog === undefined) throw new PciError(22, 'There is no dirty log');
    return new Uint8Array(Math.ceil(lengthBytes / pageBytes / 64) * 8).fill(0xa5);
  }

  run(): boolean {
    this.runCount++;
    return false;
  }
  reset(): void {
    this.calls.push('reset');
    this.isStopped = false;
    this.#onQuiet = undefined;
  }
  stop(onQuiet: () => void): void {
    this.calls.push('stop');
    this.isStopped = true;
    this.#onQuiet = onQuiet;
    if (!this.holdQuiet) this.quiet();
  }
  /** What was under way has ended. */
  quiet(): void {
    const onQuiet = this.#onQuiet;
    this.#onQuiet = undefined;
    onQuiet?.();
  }
  resume(): void {
    this.calls.push('resume');
    this.isStopped = false;
    this.#onQuiet = undefined;
  }
  saveState(): Uint8Array {
    return this.state;
  }
  loadState(state: Uint8Array): void {
    if (state[0] === 0xff) throw new PciError(22, 'The state is none');
    this.loaded = Uint8Array.from(state);
  }
  close(): void {}
}
