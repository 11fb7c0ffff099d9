/**
 * Holds the device of an in-process guest while the controller behind it changes: the function of the source, or that of the destination. The guest
 * goes on with the queues in its memory, which may be another copy of it by then.
 */
import type { PciFunction } from '../transport/pcie/pci-function.ts';
import { NvmeofError } from '../util/error.ts';
import type { Guest } from './guest.ts';

/** Something for each end of a move. */
export interface BothEnds<T> {
  readonly source: T;
  readonly destination: T;
}

/** What the orchestrator calls a DeviceFront. @public */
export class GuestFront {
  readonly #guest: Guest;
  readonly #functions: BothEnds<PciFunction>;
  readonly #memory: BothEnds<Uint8Array> | undefined;
  #isPaused = false;
  #pausedAtMs = 0;
  /** Of the last pause. */
  pauseMs = 0;

  /**
   * @param functions the guest is plugged into the source's
   * @param memory what the guest has as RAM at each end, if it moves to another
   */
  constructor(guest: Guest, functions: BothEnds<PciFunction>, memory?: BothEnds<Uint8Array>) {
    this.#guest = guest;
    this.#functions = functions;
    this.#memory = memory;
  }

  async pause(): Promise<void> {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#pausedAtMs = performance.now();
    this.#guest.pause();
  }

  /** @throws NvmeofError NVMEOF_ERR_FRONT unless paused */
  async attach(end: keyof BothEnds<unknown>): Promise<void> {
    const pci = this.#functions[end];
    const guest = this.#guest;
    if (guest.isPlugged && guest.function === pci) return;
    if (!this.#isPaused) {
      throw new NvmeofError('NVMEOF_ERR_FRONT', 'The guest runs: pause it before its device goes to the other end');
    }
    if (guest.isPlugged) guest.unplug();
    if (this.#memory !== undefined) guest.ram.moveTo(this.#memory[end]);
    guest.plug(pci);
  }

  async resume(): Promise<void> {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.pauseMs = performance.now() - this.#pausedAtMs;
    this.#guest.resume();
  }

  /** The guest stays where it is. */
  async close(): Promise<void> {}
}
