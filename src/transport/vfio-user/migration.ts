/**
 * Migration of the device as vfio-user's version 2 has it (DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE), on top of what NVMe has: stop is Suspend, the
 * data are the Controller State, resume is Resume. Before the device is stopped there are no data: PRE_COPY is there for clients that pass through it.
 */
import { DeviceFeature, Errno, FeatureFlag, MigrationFlag, MigState } from '../../spec/vfio-user.ts';
import {
  featureCodec,
  loggingControlCodec,
  loggingRangeCodec,
  loggingReportCodec,
  migDataCodec,
  migrationCodec,
  migStateCodec,
} from '../../wire/cold/vfio-user.ts';
import type { PciFunction } from '../pcie/pci-function.ts';
import type { RunState } from './run-state.ts';
import { invalid, VfioUserError } from './vfio-user-error.ts';

const { Error: Failed, Stop, Running, StopCopy, Resuming, PreCopy } = MigState;

/** The steps there are; longer ways are made of them. */
const ARCS: readonly (readonly [from: number, to: number])[] = [
  [Running, Stop],
  [Stop, Running],
  [Stop, StopCopy],
  [StopCopy, Stop],
  [Stop, Resuming],
  [Resuming, Stop],
  [Running, PreCopy],
  [PreCopy, Running],
  [PreCopy, StopCopy],
];
/** A way through these would begin or end a transfer of data on the side. */
const NOT_ON_THE_WAY: readonly number[] = [StopCopy, PreCopy, Resuming];
/** Data written would be overtaken by what is read next. */
const REFUSED: readonly (readonly [from: number, to: number])[] = [[StopCopy, PreCopy]];

/** Far more than any controller's state. */
const STATE_BYTES_MAX = 64 << 20;
const LOG_RANGES_MAX = 4096;

/** The states from one (not included) to the other, by the shortest way; undefined if there is none. */
export function migrationPath(from: number, to: number): readonly number[] | undefined {
  if (REFUSED.some(([a, b]) => a === from && b === to)) return undefined;
  let ways: number[][] = [[from]];
  for (let hops = 0; hops < ARCS.length; hops++) {
    const found = ways.find((way) => way.at(-1) === to);
    if (found !== undefined) return found.slice(1);
    ways = ways.flatMap((way) =>
      ARCS.filter(([a, b]) => a === way.at(-1) && (b === to || !NOT_ON_THE_WAY.includes(b)) && !way.includes(b)).map(
        ([, b]) => [...way, b],
      ),
    );
  }
  return undefined;
}

export class Migration {
  readonly #function: PciFunction;
  readonly #run: RunState;
  readonly #bytesMax: number;
  #state: number = Running;
  /** What is read, and how far; or what was written so far. */
  #data: Uint8Array[] = [];
  #position = 0;
  #writtenBytes = 0;
  #logging = false;

  /** @param bytesMax of one answer */
  constructor(pciFunction: PciFunction, run: RunState, bytesMax: number) {
    this.#function = pciFunction;
    this.#run = run;
    this.#bytesMax = bytesMax;
  }

  /** One of `MigState`. */
  get state(): number {
    return this.#state;
  }

  /** DEVICE_RESET, the only way out of ERROR; or another client. */
  reset(): void {
    this.#state = Running;
    this.#forget();
  }

  /** The client is gone, and with it what it logged and transferred. */
  clientGone(): void {
    if (this.#logging) this.#function.stopDirtyLog();
    this.#logging = false;
    this.reset();
  }

  #forget(): void {
    this.#data = [];
    this.#position = 0;
    this.#writtenBytes = 0;
  }

  // ---- DEVICE_FEATURE

  /** @returns the body of the reply, or a promise of it. @throws VfioUserError, PciError */
  feature(body: Uint8Array): Uint8Array | Promise<Uint8Array> {
    const { flags } = featureCodec.decode(body);
    const number = flags & FeatureFlag.NumberMask;
    const isGet = (flags & FeatureFlag.Get) !== 0;
    const isSet = (flags & FeatureFlag.Set) !== 0;
    const ways = WAYS[number];
    if (ways === undefined || (isGet && !ways.get) || (isSet && !ways.set))
      throw new VfioUserError(Errno.NotSupported, `Device feature ${number} with flags ${flags}`);
    if ((flags & FeatureFlag.Probe) !== 0) return Uint8Array.from(body);
    if (isGet === isSet) throw invalid(`Device feature ${number} with flags ${flags}`);
    const data = body.subarray(featureCodec.size);
    if (isGet) return this.#answer(flags, this.#get(number, data));
    const echo = Uint8Array.from(body);
    const done = this.#set(number, data);
    return done === undefined ? echo : done.then(() => echo);
  }

  #answer(flags: number, data: Uint8Array): Uint8Array {
    const answer = new Uint8Array(featureCodec.size + data.length);
    featureCodec.encodeInto(answer, 0, { argsz: answer.length, flags });
    answer.set(data, featureCodec.size);
    return answer;
  }

  #get(number: number, data: Uint8Array): Uint8Array {
    if (number === DeviceFeature.Migration)
      return migrationCodec.encode({ flags: BigInt(MigrationFlag.StopCopy | MigrationFlag.PreCopy) });
    if (number === DeviceFeature.MigDeviceState) return migStateCodec.encode({ state: this.#state });
    return this.#report(data);
  }

  #set(number: number, data: Uint8Array): Promise<void> | undefined {
    if (number === DeviceFeature.MigDeviceState) return this.#go(migStateCodec.decode(data).state);
    if (number === DeviceFeature.DmaLoggingStop) {
      this.#function.stopDirtyLog();
      this.#logging = false;
      return undefined;
    }
    this.#startLog(data);
    return undefined;
  }

  // ---- what the function wrote

  #startLog(data: Uint8Array): void {
    const { pageSize, numRanges } = loggingControlCodec.decode(data);
    if (numRanges > LOG_RANGES_MAX) throw invalid(`DMA logging of ${numRanges} ranges, at most ${LOG_RANGES_MAX}`);
    const ranges = Array.from({ length: numRanges }, (_, i) => {
      const { iova, length } = loggingRangeCodec.decode(data, loggingControlCodec.size + i * loggingRangeCodec.size);
      return { iova: safe(iova, 'iova'), lengthBytes: safe(length, 'length') };
    });
    this.#function.startDirtyLog(safe(pageSize, 'page_size'), ranges);
    this.#logging = true;
  }

  #report(data: Uint8Array): Uint8Array {
    const request = loggingReportCodec.decode(data);
    const [iova, length, pageBytes] = [request.iova, request.length, request.pageSize].map((value) =>
      safe(value, 'report'),
    ) as [number, number, number];
    if (pageBytes === 0 || length / pageBytes / 8 > this.#bytesMax - loggingReportCodec.size - featureCodec.size)
      throw invalid(`DMA log of ${length} bytes by pages of ${pageBytes} is asked for at once`);
    const bitmap = this.#function.reportDirty(iova, length, pageBytes);
    const answer = new Uint8Array(loggingReportCodec.size + bitmap.length);
    loggingReportCodec.encodeInto(answer, 0, request);
    answer.set(bitmap, loggingReportCodec.size);
    return answer;
  }

  // ---- states

  #go(to: number): Promise<void> | undefined {
    const path = migrationPath(this.#state, to);
    if (path === undefined) throw invalid(`Migration from state ${this.#state} to ${to}`);
    return path.length === 0 ? undefined : this.#walk(path);
  }

  async #walk(path: readonly number[]): Promise<void> {
    for (const state of path) await this.#step(state);
  }

  async #step(to: number): Promise<void> {
    const from = this.#state;
    if (to === Stop && from === Running) await this.#stop();
    if (to === Running && from === Stop) this.#run.resume();
    if (to === StopCopy) {
      if (from === PreCopy) await this.#stop();
      this.#data = [this.#function.saveState()];
      this.#position = 0;
    }
    if (from === StopCopy) this.#forget();
    if (from === Resuming && this.#writtenBytes > 0) this.#load();
    if (to === Resuming) this.#forget();
    this.#state = to;
  }

  #stop(): Promise<void> {
    return new Promise((resolve) => this.#run.stop(resolve));
  }

  /** All of it or nothing: after a state that cannot be, the device is of no use until it is reset. */
  #load(): void {
    const state = new Uint8Array(this.#writtenBytes);
    for (let at = 0, i = 0; i < this.#data.length; at += this.#data[i]!.length, i++) state.set(this.#data[i]!, at);
    this.#forget();
    try {
      this.#function.reset();
      this.#function.stop(() => {});
      this.#function.loadState(state);
    } catch (error) {
      this.#state = Failed;
      throw invalid(`Migration data: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  // ---- MIG_DATA

  /** @returns the body of the reply; shorter than asked for at the end. @throws VfioUserError */
  read(body: Uint8Array): Uint8Array {
    const { size } = migDataCodec.decode(body);
    if (this.#state !== StopCopy && this.#state !== PreCopy)
      throw invalid(`Migration data are read in state ${this.#state}`);
    const whole = this.#data[0] ?? new Uint8Array(0);
    const end = Math.min(whole.length, this.#position + Math.min(size, this.#bytesMax));
    const data = whole.subarray(this.#position, end);
    this.#position = end;
    const answer = new Uint8Array(migDataCodec.size + data.length);
    migDataCodec.encodeInto(answer, 0, { argsz: answer.length, size: data.length });
    answer.set(data, migDataCodec.size);
    return answer;
  }

  /** @throws VfioUserError */
  write(body: Uint8Array): void {
    const { size } = migDataCodec.decode(body);
    if (this.#state !== Resuming) throw invalid(`Migration data are written in state ${this.#state}`);
    if (size > body.length - migDataCodec.size) throw invalid(`Migration data of ${size} bytes in ${body.length}`);
    if (this.#writtenBytes + size > STATE_BYTES_MAX)
      throw new VfioUserError(Errno.NoSpace, `Migration data are longer than ${STATE_BYTES_MAX} bytes`);
    this.#data.push(Uint8Array.from(body.subarray(migDataCodec.size, migDataCodec.size + size)));
    this.#writtenBytes += size;
  }
}

/** What may be done with each feature. */
const WAYS: Readonly<Record<number, { readonly get: boolean; readonly set: boolean }>> = {
  [DeviceFeature.Migration]: { get: true, set: false },
  [DeviceFeature.MigDeviceState]: { get: true, set: true },
  [DeviceFeature.DmaLoggingStart]: { get: false, set: true },
  [DeviceFeature.DmaLoggingStop]: { get: false, set: true },
  [DeviceFeature.DmaLoggingReport]: { get: true, set: false },
};

function safe(value: bigint, name: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(`DMA logging with ${name} ${value}`);
  return Number(value);
}
