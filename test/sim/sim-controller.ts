/** A guest's controller: it fetches from the guest's memory, executes, and completes there; by the product's own table of its life. */
import { LifecycleInput, LifecycleState, lifecycle } from '../../src/migration/lifecycle.ts';
import { DNR, SpecificStatus, Status } from '../../src/spec/status.ts';
import { NvmeStatusError } from '../../src/util/error.ts';
import { type HostAnswer, INTERNAL_ERROR } from './sim-host-io.ts';
import type { SimQueue } from './sim-queue.ts';
import { COMPLETION_PAGE, QUEUE_ENTRIES, type SimRam, slotPage } from './sim-ram.ts';
import { type Session, type SimTarget, sequenceError } from './sim-target.ts';
import { Violation } from './violation.ts';

/** Commands that are fetched and not complete; more wait in the guest's queue, also over a move. */
const FETCHED_MAX = 2;

/** What a front gives a controller: the guest's memory and its interrupts. */
export interface Attachment {
  readonly ram: SimRam;
  interrupt(): void;
}

interface QueueState {
  readonly enabled: boolean;
  readonly sqHead: number;
  readonly sqTail: number;
  readonly cqTail: number;
}

type Input = (typeof LifecycleInput)[keyof typeof LifecycleInput];

export class SimController {
  readonly cntlid: number;
  readonly #target: SimTarget;
  readonly #life: number;
  state: number = LifecycleState.Running;
  suspender: Session | undefined;
  enabled = false;
  sqHead = 0;
  sqTail = 0;
  cqTail = 0;
  attachment: Attachment | undefined;
  /** Pages written since the last report. */
  tracked: { readonly owner: Session; pages: Set<number> } | undefined;
  /** Where its changes are logged. */
  queue: SimQueue | undefined;
  #inFlight = 0;
  /** Resets so far: what was fetched before one has no completion. */
  #resets = 0;
  readonly #quiet: (() => void)[] = [];

  constructor(target: SimTarget, cntlid: number) {
    this.#target = target;
    this.cntlid = cntlid;
    this.#life = target.life;
  }

  get isSuspended(): boolean {
    return this.state !== LifecycleState.Running && this.#inFlight === 0;
  }

  #step(input: Input, what: string): void {
    const transition = lifecycle(this.state, input);
    if (transition === undefined) throw new Violation(`The model gives a controller input ${input} in ${this.state}`);
    this.state = transition.next;
    if (transition.status !== 0) throw new NvmeStatusError(what, transition.status | DNR, 'admin');
  }

  // ---- the guest's side -----------------------------------------------------------------------------------------------------------

  doorbell(tail: number): void {
    if (!this.enabled) return;
    this.sqTail = tail;
    this.work();
  }

  /** CC.EN 0 and 1: the guest's own reset, which ends a suspension. */
  enable(): void {
    this.levelReset();
    this.enabled = true;
  }

  levelReset(): void {
    this.#resets++;
    this.enabled = false;
    this.sqHead = 0;
    this.sqTail = 0;
    this.cqTail = 0;
    this.#inFlight = 0;
    this.suspender = undefined;
    this.#step(LifecycleInput.Reset, 'reset');
    this.queue?.log.resume();
    this.#released();
  }

  /** Fetches what there is. */
  work(): void {
    while (this.state === LifecycleState.Running && this.enabled && this.attachment !== undefined) {
      if (this.#target.life !== this.#life || this.sqHead === this.sqTail || this.#inFlight >= FETCHED_MAX) return;
      const slot = this.sqHead;
      this.sqHead = (slot + 1) % QUEUE_ENTRIES;
      this.#execute(slot, this.attachment).catch((error) => this.#target.observer.failed(error));
    }
  }

  async #execute(slot: number, { ram }: Attachment): Promise<void> {
    const command = ram.submissions[slot];
    if (command === undefined) throw new Violation(`A controller at the ${this.#target.name} fetches an empty slot`);
    const resets = this.#resets;
    this.#inFlight++;
    const namespace = this.#target.namespaces.get(command.nsid);
    const answer: HostAnswer | undefined =
      namespace === undefined ? { status: INTERNAL_ERROR, values: [] } : await namespace.execute(command, this);
    if (answer === undefined || this.#target.life !== this.#life || resets !== this.#resets) return;
    this.#inFlight--;
    this.#complete(ram, command.cid, answer);
    this.#released();
    this.work();
  }

  #complete(ram: SimRam, cid: number, { status, values }: HostAnswer): void {
    if (this.attachment?.ram !== ram) throw new Violation(`The ${this.#target.name} writes into memory it has no more`);
    if (values.length > 0) {
      ram.data[cid] = [...values];
      this.#mark(slotPage(cid));
    }
    ram.completions[this.cqTail % QUEUE_ENTRIES] = { cid, status, order: this.cqTail };
    this.cqTail++;
    this.#mark(COMPLETION_PAGE);
    this.attachment.interrupt();
  }

  #mark(page: number): void {
    this.tracked?.pages.add(page);
  }

  #released(): void {
    if (this.#inFlight === 0) for (const resolve of this.#quiet.splice(0)) resolve();
  }

  attach(attachment: Attachment | undefined): void {
    this.attachment = attachment;
    attachment?.interrupt();
    this.work();
  }

  // ---- the manager's side ---------------------------------------------------------------------------------------------------------

  async suspend(session: Session): Promise<void> {
    this.#step(LifecycleInput.Suspend, 'Suspend');
    this.suspender = session;
    while (this.#inFlight > 0) await new Promise<void>((resolve) => this.#quiet.push(resolve));
    if (this.isSuspended) this.queue?.log.suspend();
  }

  resume(): void {
    if (this.state !== LifecycleState.Running && this.#target.hasClosed) throw sequenceError('Resume');
    this.#step(LifecycleInput.Resume, 'Resume');
    this.#run();
  }

  #run(): void {
    this.suspender = undefined;
    this.queue?.log.resume();
    this.attachment?.interrupt();
    this.work();
  }

  getState(): Uint8Array {
    const { enabled, sqHead, sqTail, cqTail } = this;
    const state: QueueState = { enabled, sqHead, sqTail, cqTail };
    return new TextEncoder().encode(JSON.stringify(state));
  }

  setState(bytes: Uint8Array): void {
    this.#step(LifecycleInput.SetFirst, 'Set Controller State');
    const wrong = (): never => {
      this.#step(LifecycleInput.Reject, 'Set Controller State');
      throw new NvmeStatusError('Set Controller State', Status.InvalidField | DNR, 'admin');
    };
    if (this.enabled) wrong();
    const state = JSON.parse(new TextDecoder().decode(bytes)) as QueueState;
    this.enabled = state.enabled;
    this.sqHead = state.sqHead;
    this.sqTail = state.sqTail;
    this.cqTail = state.cqTail;
    this.#step(LifecycleInput.Commit, 'Set Controller State');
  }

  /** As the manager's act; refused for one that runs. */
  reset(): void {
    if (!this.isSuspended) {
      throw new NvmeStatusError('Set Features CEh', SpecificStatus.ControllerNotSuspended | DNR, 'admin');
    }
    this.levelReset();
  }

  managerLeft(session: Session): void {
    if (this.tracked?.owner === session) this.tracked = undefined;
    if (this.queue?.owner === session) this.queue = undefined;
    if (this.suspender !== session) return;
    this.suspender = undefined;
    // a fence that is closed holds it
    if (this.#target.hasClosed && this.state !== LifecycleState.Loading) return;
    this.#step(LifecycleInput.ManagerReset, 'manager');
    if (this.state === LifecycleState.Running) this.#run();
  }
}
