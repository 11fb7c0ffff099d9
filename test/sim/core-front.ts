/**
 * Holds the guest's device: the function of one end's process at a time, and the guest's memory with it. A process of its own, which outlives
 * orchestrators and targets; while no function is there, or it is paused, the guest stands still.
 */
import type { GuestMemoryMover, MemoryRun } from '../../src/orchestrator/end.ts';
import { TransportError } from '../../src/util/error.ts';
import type { Guest } from '../../src/vm/guest.ts';
import { GUEST_PAGE_BYTES } from '../../src/vm/guest-ram.ts';
import type { CoreTarget } from './core-target.ts';
import type { FrontProcess } from './front-link.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';

const SWITCH_MS = 0.4;
const PAGE_MS = 0.02;

export class CoreFront implements FrontProcess {
  readonly clock: SimClock;
  readonly memories: Readonly<Record<Party, Uint8Array>>;
  readonly #guest: Guest;
  readonly #targets: Readonly<Record<Party, CoreTarget>>;
  attachedTo: Party = 'source';
  isPaused = false;
  isGone = false;
  #isPlugged = false;
  readonly #waiting: (() => void)[] = [];
  /** The guest runs, perhaps with another controller. */
  onRun: () => void = () => {};
  /** It runs from its start, whatever its controller has been told. */
  onReboot: () => void = () => {};

  constructor(clock: SimClock, guest: Guest, targets: Readonly<Record<Party, CoreTarget>>, movesMemory: boolean) {
    this.clock = clock;
    this.#guest = guest;
    this.#targets = targets;
    const source = guest.ram.bytes;
    const destination = movesMemory ? new Uint8Array(new SharedArrayBuffer(source.length)) : source;
    this.memories = { source, destination };
    for (const party of ['source', 'destination'] as const) {
      targets[party].onStart.add(() => {
        if (this.attachedTo === party && !this.isGone) this.#plug();
      });
      targets[party].onEnd.add(() => {
        if (this.attachedTo === party) this.#unplug();
      });
    }
  }

  get isStopped(): boolean {
    return this.isPaused || this.isGone || !this.#isPlugged;
  }

  /** The guest's CPU runs when it resolves, and until the next turn. */
  async runs(): Promise<void> {
    while (this.isStopped) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #plug(): void {
    this.#guest.ram.moveTo(this.memories[this.attachedTo]);
    this.#guest.plug(this.#targets[this.attachedTo].process.function!);
    this.#isPlugged = true;
    this.#update();
  }

  #unplug(): void {
    if (!this.#isPlugged) return;
    this.#isPlugged = false;
    this.#update();
    this.#guest.unplug();
  }

  #update(): void {
    if (this.isStopped) {
      this.#guest.pause();
      return;
    }
    this.#guest.resume();
    this.onRun();
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** The process is gone: the VM ends, and the function stops; what that had fetched ends in the memory of before. */
  crash(): void {
    this.isGone = true;
    this.#update();
    if (!this.#isPlugged) return;
    const pci = this.#guest.function;
    pci.stop(() => {
      if (this.isGone && this.#isPlugged && this.#guest.function === pci) this.#unplug();
    });
  }

  /** Another one, and the VM from its start. Whoever maps its memory anew resets the function first. */
  restart(party: Party): void {
    this.#unplug();
    this.isGone = false;
    this.isPaused = false;
    this.attachedTo = party;
    this.onReboot();
    const { isUp } = this.#targets[party];
    if (!isUp) return;
    const pci = this.#targets[party].process.function!;
    pci.reset();
    if (pci.isStopped) pci.resume();
    this.#plug();
  }

  async pause(): Promise<void> {
    this.isPaused = true;
    this.#update();
    await this.clock.delay(SWITCH_MS);
  }

  async attach(end: Party): Promise<void> {
    await this.clock.delay(SWITCH_MS);
    if (!this.isPaused) throw new TransportError('NVMEOF_ERR_FRONT', 'The device is not paused');
    if (!this.#targets[end].isUp) throw new TransportError('NVMEOF_ERR_FRONT', `The ${end} does not answer`);
    if (this.attachedTo === end && this.#isPlugged) return;
    this.#unplug();
    this.attachedTo = end;
    this.#plug();
  }

  async resume(): Promise<void> {
    await this.clock.delay(SWITCH_MS);
    this.isPaused = false;
    this.#update();
  }
}

/** Copies the guest's memory; what its CPU has changed is found by comparison, and nothing else is looked at. */
export class CoreMover implements GuestMemoryMover {
  readonly ranges: readonly MemoryRun[];
  readonly #process: Orchestrator;
  readonly #front: CoreFront;
  readonly #base: number;
  readonly #isOfCpu: (page: number) => boolean;
  #isFirst = true;

  /** @param isOfCpu page of the RAM, by number: the guest's CPU may write there */
  constructor(process: Orchestrator, front: CoreFront, base: number, isOfCpu: (page: number) => boolean) {
    this.#process = process;
    this.#front = front;
    this.#base = base;
    this.#isOfCpu = isOfCpu;
    this.ranges = [{ address: base, lengthBytes: front.memories.source.length }];
  }

  copy(runs: readonly MemoryRun[]): Promise<number> {
    return this.#process.step('mover: copy', async () => {
      let bytes = 0;
      for (const { address, lengthBytes } of runs) {
        for (let at = address - this.#base; at < address - this.#base + lengthBytes; at += GUEST_PAGE_BYTES) {
          await this.#front.clock.delay(PAGE_MS);
          if (this.#process.isDead) return bytes;
          const { source, destination } = this.#front.memories;
          destination.set(source.subarray(at, at + GUEST_PAGE_BYTES), at);
          bytes += GUEST_PAGE_BYTES;
        }
      }
      return bytes;
    });
  }

  changes(): Promise<readonly MemoryRun[]> {
    return this.#process.step('mover: changes', async () => {
      if (this.#isFirst) {
        this.#isFirst = false;
        return this.ranges;
      }
      const { source, destination } = this.#front.memories;
      const found: MemoryRun[] = [];
      for (let at = 0; at < source.length; at += GUEST_PAGE_BYTES) {
        const page = source.subarray(at, at + GUEST_PAGE_BYTES);
        if (!this.#isOfCpu(at / GUEST_PAGE_BYTES)) continue;
        if (Buffer.compare(page, destination.subarray(at, at + GUEST_PAGE_BYTES)) === 0) continue;
        found.push({ address: this.#base + at, lengthBytes: GUEST_PAGE_BYTES });
      }
      return found;
    });
  }
}
