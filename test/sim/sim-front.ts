/** Holds the guest's device: the guest reaches the controller of one end through it, and that controller the guest's memory. */
import { TransportError } from '../../src/util/error.ts';
import type { FrontProcess } from './front-link.ts';
import type { Party } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';
import type { SimController } from './sim-controller.ts';
import type { SimGuest } from './sim-guest.ts';
import { SimRam } from './sim-ram.ts';
import type { SimTarget } from './sim-target.ts';

const SWITCH_MS = 0.4;

export class SimFront implements FrontProcess {
  readonly clock: SimClock;
  readonly rams: { readonly source: SimRam; readonly destination: SimRam };
  readonly #targets: Readonly<Record<Party, SimTarget>>;
  readonly #cntlids: Readonly<Record<Party, number>>;
  attachedTo: Party = 'source';
  isPaused = false;
  isGone = false;
  guest: SimGuest | undefined;
  readonly #waiting: (() => void)[] = [];
  #cpuPages = new Set<number>();

  constructor(
    clock: SimClock,
    targets: Readonly<Record<Party, SimTarget>>,
    cntlids: Readonly<Record<Party, number>>,
    movesMemory: boolean,
  ) {
    this.clock = clock;
    this.#targets = targets;
    this.#cntlids = cntlids;
    const source = new SimRam();
    this.rams = { source, destination: movesMemory ? new SimRam() : source };
    for (const party of ['source', 'destination'] as const) {
      targets[party].onStart(() => {
        if (this.attachedTo === party && !this.isGone) this.#plug(party);
      });
    }
  }

  get ram(): SimRam {
    return this.rams[this.attachedTo];
  }

  controllerAt(party: Party): SimController {
    return this.#targets[party].controllers.get(this.#cntlids[party])!;
  }

  get isServed(): boolean {
    return this.#targets[this.attachedTo].isUp;
  }

  /** The guest's CPU has written a page. */
  cpuWrote(page: number): void {
    this.#cpuPages.add(page);
  }

  takeCpuPages(): number[] {
    const pages = [...this.#cpuPages];
    this.#cpuPages = new Set();
    return pages;
  }

  /** An access of the guest: waits while paused. */
  async access(act: (controller: SimController) => void): Promise<void> {
    while (this.isPaused || this.isGone || !this.isServed)
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    act(this.controllerAt(this.attachedTo));
  }

  /** The guest's CPU stands still while its memory moves; otherwise only its accesses wait. There is none without the process. */
  get cpuStops(): boolean {
    return this.isGone || (this.isPaused && this.rams.source !== this.rams.destination);
  }

  async cpuRuns(): Promise<void> {
    while (this.cpuStops) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** The guest is started with the source's controller. */
  start(guest: SimGuest): void {
    this.guest = guest;
    this.#plug('source');
  }

  #plug(party: Party): void {
    const ram = this.rams[party];
    this.controllerAt(party).attach({
      ram,
      interrupt: () => {
        if (this.ram === ram) this.guest?.interrupted();
      },
    });
    this.guest?.deviceChanged();
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** The process is gone, and the VM with it. */
  crash(): void {
    this.isGone = true;
  }

  /** Another one, and the VM from its start. */
  restart(party: Party): void {
    for (const one of ['source', 'destination'] as const) {
      const controller = this.controllerAt(one);
      if (controller.attachment === undefined) continue;
      controller.attach(undefined);
      controller.levelReset();
    }
    this.guest?.reboot();
    this.isGone = false;
    this.isPaused = false;
    this.attachedTo = party;
    if (!this.isServed) return;
    this.controllerAt(party).levelReset();
    this.#plug(party);
  }

  async pause(): Promise<void> {
    this.isPaused = true;
    await this.clock.delay(SWITCH_MS);
  }

  async attach(end: Party): Promise<void> {
    await this.clock.delay(SWITCH_MS);
    if (!this.isPaused) throw new TransportError('NVMEOF_ERR_FRONT', 'The device is not paused');
    if (!this.#targets[end].isUp) throw new TransportError('NVMEOF_ERR_FRONT', `The ${end} does not answer`);
    if (this.attachedTo === end && this.controllerAt(end).attachment !== undefined) return;
    this.controllerAt(this.attachedTo).attach(undefined);
    this.attachedTo = end;
    this.#plug(end);
  }

  async resume(): Promise<void> {
    await this.clock.delay(SWITCH_MS);
    this.isPaused = false;
    this.guest?.deviceChanged();
    this.guest?.interrupted();
    this.#wake();
  }
}
