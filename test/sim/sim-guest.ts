/** A guest's driver: commands into the queue in its memory, completions out of it, and a reset of a controller that has lost its state. */

import type { SimFront } from './sim-front.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { QUEUE_ENTRIES, SUBMISSION_PAGE, WORK_PAGES, workPage } from './sim-ram.ts';
import { Violation } from './violation.ts';

interface Waiting {
  readonly command: HostCommand;
  readonly done: (answer: HostAnswer) => void;
}

export class SimGuest {
  readonly #front: SimFront;
  readonly #waiting = new Map<number, Waiting>();
  readonly #freeCids: number[] = Array.from({ length: QUEUE_ENTRIES - 1 }, (_, cid) => cid);
  #tail = 0;
  #reaped = 0;
  #resetting = false;
  /** Resets so far: allowed only where a process has ended. */
  resets = 0;
  onReset: (() => void) | undefined;
  onViolation: (violation: Violation) => void = () => {};

  constructor(front: SimFront) {
    this.#front = front;
  }

  async start(): Promise<void> {
    this.#resetting = true;
    this.#front.start(this);
    this.#resetting = false;
    await this.#front.access((controller) => controller.enable());
  }

  /** Resolves with the completion. At most `QUEUE_ENTRIES` - 1 at once. */
  async submit(command: HostCommand): Promise<HostAnswer> {
    await this.#front.cpuRuns();
    this.#work(command.id);
    const cid = this.#freeCids.pop();
    if (cid === undefined) throw new Error('The guest submits more than its queue holds');
    return new Promise((resolve) => {
      this.#waiting.set(cid, { command, done: resolve });
      if (!this.#resetting) this.#put(cid, command);
    });
  }

  readonly #expected: number[] = new Array<number>(WORK_PAGES).fill(0);

  /** Its CPU finds what it has left in its memory, and leaves something else. */
  #work(id: number): void {
    const { ram } = this.#front;
    const at = id % WORK_PAGES;
    if (ram.work[at] !== this.#expected[at]) {
      this.onViolation(new Violation(`The guest's memory holds ${ram.work[at]} where it left ${this.#expected[at]}`));
    }
    ram.work[at] = id;
    this.#expected[at] = id;
    this.#front.cpuWrote(workPage(at));
  }

  #put(cid: number, command: HostCommand): void {
    const { ram } = this.#front;
    ram.submissions[this.#tail] = { ...command, cid };
    this.#front.cpuWrote(SUBMISSION_PAGE);
    this.#tail = (this.#tail + 1) % QUEUE_ENTRIES;
    const tail = this.#tail;
    const { resets } = this;
    void this.#front.access((controller) => {
      if (resets === this.resets) controller.doorbell(tail);
    });
  }

  /** Its memory is new, as far as it knows. */
  reboot(): void {
    const { source, destination } = this.#front.rams;
    for (const ram of [source, destination]) {
      ram.completions = [];
      this.#expected.forEach((value, i) => {
        ram.work[i] = value;
      });
    }
  }

  interrupted(): void {
    if (this.#front.cpuStops || this.#resetting) return;
    const { ram } = this.#front;
    for (;;) {
      const completion = ram.completions[this.#reaped % QUEUE_ENTRIES];
      if (completion === undefined || completion.order !== this.#reaped) return;
      this.#reaped++;
      const { cid, status } = completion;
      const waiting = this.#waiting.get(cid);
      if (waiting === undefined) {
        this.onViolation(new Violation(`The guest gets a completion for no command of its own (CID ${cid})`));
        return;
      }
      this.#waiting.delete(cid);
      this.#freeCids.push(cid);
      const values = waiting.command.opcode === 'read' && status === 0 ? ram.data[cid]! : [];
      waiting.done({ status, values: [...values] });
    }
  }

  /** Another controller, or it begins anew: one that is not enabled has lost its state. */
  deviceChanged(): void {
    const { isPaused, isGone, attachedTo, isServed } = this.#front;
    if (isPaused || isGone || !isServed || this.#resetting || this.#front.controllerAt(attachedTo).enabled) return;
    this.#resetting = true;
    void this.#reset();
  }

  async #reset(): Promise<void> {
    this.resets++;
    this.onReset?.();
    await this.#front.access((controller) => {
      this.#tail = 0;
      this.#reaped = 0;
      const { ram } = this.#front;
      ram.completions = [];
      controller.enable();
      this.#resetting = false;
      for (const [cid, { command }] of this.#waiting) this.#put(cid, command);
    });
  }
}
