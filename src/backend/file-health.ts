/** What the errors of a file say of what it lies on. */
import { CriticalWarning } from '../spec/log-page.ts';
import { MediaStatus, STATUS_CODE_MASK, Status } from '../spec/status.ts';
import type { BackendHealth } from './block-backend.ts';

export class FileHealth {
  #criticalWarning = 0;
  #mediaErrors = 0n;
  #listener: () => void = () => {};

  get now(): BackendHealth {
    return { criticalWarning: this.#criticalWarning, mediaErrors: this.#mediaErrors };
  }

  watch(listener: () => void): void {
    this.#listener = listener;
  }

  /** An operation failed. @param status 15 bits */
  failed(status: number): void {
    const code = status & STATUS_CODE_MASK;
    if (code === MediaStatus.UnrecoveredReadError || code === MediaStatus.WriteFault) {
      this.#mediaErrors++;
      this.#criticalWarning |= CriticalWarning.Reliability;
    } else if (code === Status.NamespaceWriteProtected) {
      this.#criticalWarning |= CriticalWarning.ReadOnly; // the file system became so: what may not be written never gets here
    } else {
      return;
    }
    this.#listener();
  }
}
