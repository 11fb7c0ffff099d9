/** Deallocates and zeroes ranges by system calls: fallocate on files, discard and zero-out on block devices. */
import type { IoDone, IoEngine } from '../native/io-engine.ts';
import { FallocateMode } from '../native/operation-layout.ts';
import type { HolePunch } from './hole-punch.ts';

const PUNCH = FallocateMode.PunchHole | FallocateMode.KeepSize;
const ZERO = FallocateMode.ZeroRange | FallocateMode.KeepSize;
/** A block device's range per call, so that a huge discard does not hold a thread for long. */
const DEVICE_RANGE_BYTES = 1 << 30;

type Range = (offset: number, length: number, done: IoDone) => void;

/** The range in pieces of at most `bytesMax`, one after the other; it ends with the first failure. */
function inPieces(call: Range, bytesMax: number, offset: number, length: number, done: IoDone): void {
  if (length <= bytesMax) {
    call(offset, length, done);
    return;
  }
  call(offset, bytesMax, (error) => {
    if (error !== null) done(error, 0, 0, 0);
    else inPieces(call, bytesMax, offset + bytesMax, length - bytesMax, done);
  });
}

/** What a call says when the file system or the device cannot do it at all. */
const cannot = (error: NodeJS.ErrnoException): boolean =>
  error.code === 'EOPNOTSUPP' || error.code === 'ENOTSUP' || error.code === 'ENOSYS' || error.code === 'ENOTTY';

class EngineHolePunch implements HolePunch {
  readonly bytesMin = 0;
  readonly readsZero: boolean;
  readonly #punch: Range;
  readonly #zero: Range;
  readonly #bytesMax: number;
  #punches = true;
  #zeroes = true;

  constructor(punch: Range, zero: Range, device: boolean) {
    this.#punch = punch;
    this.#zero = zero;
    this.readsZero = !device;
    this.#bytesMax = device ? DEVICE_RANGE_BYTES : Number.MAX_SAFE_INTEGER;
  }

  punch(offset: number, length: number, done: (ok: boolean) => void): void {
    if (!this.#punches) {
      done(false);
      return;
    }
    inPieces(this.#punch, this.#bytesMax, offset, length, (error) => {
      if (error !== null && cannot(error)) this.#punches = false;
      done(error === null);
    });
  }

  zero(offset: number, length: number, done: (ok: boolean) => void): void {
    if (!this.#zeroes) {
      done(false);
      return;
    }
    inPieces(this.#zero, this.#bytesMax, offset, length, (error) => {
      if (error !== null && cannot(error)) this.#zeroes = false;
      done(error === null);
    });
  }

  async close(): Promise<void> {}
}

/** Undefined where the file system has no holes. @param sizeBytes of the file: the probe is a range past its end, which changes nothing */
export async function openFileHolePunch(
  engine: IoEngine,
  fd: number,
  sizeBytes: number,
): Promise<HolePunch | undefined> {
  const punch: Range = (offset, length, done) => engine.fallocate(fd, PUNCH, offset, length, done);
  const zero: Range = (offset, length, done) => engine.fallocate(fd, ZERO, offset, length, done);
  const works = await new Promise<boolean>((resolve) => punch(sizeBytes, 4096, (error) => resolve(error === null)));
  return works ? new EngineHolePunch(punch, zero, false) : undefined;
}

/** For block devices: whether they can discard shows with the first discard, which is advice. What was discarded may read as anything. */
export function deviceHolePunch(engine: IoEngine, fd: number): HolePunch {
  const discard: Range = (offset, length, done) => engine.discard(fd, false, offset, length, done);
  const zero: Range = (offset, length, done) => engine.discard(fd, true, offset, length, done);
  return new EngineHolePunch(discard, zero, true);
}
