/** The eventfds that a VM has armed, by index and vector, kept to arm them again elsewhere. Owns the descriptors. */
import fs from 'node:fs';
import { IRQ_INDEX_COUNT, IrqSetFlag } from '../../../spec/vfio-user.ts';
import { setIrqsCodec } from '../../../wire/cold/vfio-user.ts';
import { invalid } from '../vfio-user-error.ts';

/** Consecutive vectors with their eventfds. */
export interface ArmedRun {
  readonly index: number;
  readonly start: number;
  readonly fds: readonly number[];
}

/** MSI-X has no more. */
const VECTORS_MAX = 2048;

export class IrqLedger {
  readonly #lines: (number | undefined)[][] = Array.from({ length: IRQ_INDEX_COUNT }, () => []);

  get armedCount(): number {
    return this.#lines.flat().filter((fd) => fd !== undefined).length;
  }

  /** What a SET_IRQS has set. @param fds owned from now on, also if this throws. @throws VfioUserError, WireError */
  apply(body: Uint8Array, fds: readonly number[]): void {
    let taken = 0;
    try {
      const { flags, index, start, count } = setIrqsCodec.decode(body);
      const lines = this.#lines[index];
      if (lines === undefined || start + count > VECTORS_MAX)
        throw invalid(`Interrupts ${start} to ${start + count} of index ${index} set`);
      if ((flags & IrqSetFlag.ActionTrigger) === 0) return;
      if ((flags & IrqSetFlag.DataNone) !== 0 && count === 0) this.#disable(lines);
      if ((flags & IrqSetFlag.DataEventFd) === 0) return;
      if (fds.length !== 0 && fds.length !== count)
        throw invalid(`${count} interrupts set with ${fds.length} descriptors`);
      for (let i = 0; i < count; i++) {
        const before = lines[start + i];
        if (before !== undefined) fs.closeSync(before);
        lines[start + i] = fds[i];
        taken = Math.min(fds.length, i + 1);
      }
    } finally {
      for (const fd of fds.slice(taken)) fs.closeSync(fd);
    }
  }

  #disable(lines: (number | undefined)[]): void {
    for (const fd of lines) if (fd !== undefined) fs.closeSync(fd);
    lines.length = 0;
  }

  /** Everything that is armed, in messages of at most `fdsMax` descriptors. */
  runs(fdsMax: number): ArmedRun[] {
    const runs: ArmedRun[] = [];
    this.#lines.forEach((lines, index) => {
      let fds: number[] = [];
      for (let vector = 0; vector <= lines.length; vector++) {
        const fd = lines[vector];
        if (fds.length > 0 && (fd === undefined || fds.length === fdsMax)) {
          runs.push({ index, start: vector - fds.length, fds });
          fds = [];
        }
        if (fd !== undefined) fds.push(fd);
      }
    });
    return runs;
  }

  clear(): void {
    for (const lines of this.#lines) this.#disable(lines);
  }
}
