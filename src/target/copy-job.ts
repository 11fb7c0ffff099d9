/**
 * A running Copy: part by part through one buffer, each part read from its sources and then written with one write, so that a copy within the
 * atomic write unit is one. Between parts, others have their turn. Without its queue it ends with the operation that it has at the backend.
 */
import { Status } from '../spec/status.ts';
import type { Namespace } from './namespace.ts';
import type { Request } from './request.ts';
import { Step } from './step.ts';

/** A range to copy from. */
export interface CopySource {
  readonly namespace: Namespace;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface CopyPlan {
  /** In order; together they go to where the request's own range begins. */
  readonly sources: readonly CopySource[];
  /** Asked before each part. @returns 0, or the status to stop with */
  mayRun(): number;
  readonly fua: boolean;
}

/** @param completeCount how many sources were copied as a whole, from the first on */
export type CopyDone = (status: number, completeCount: number) => void;

/** No more than this is read before it is written. */
const PART_BYTES = 1 << 20;

export class CopyJob {
  readonly #request: Request;
  readonly #plan: CopyPlan;
  readonly #done: CopyDone;
  readonly #step: Step;
  readonly #totalBytes: number;
  /** From the end to the beginning, so that a range moved upwards within itself is read before it is overwritten. */
  readonly #backwards: boolean;
  /** The part in progress: `start` to `end` of the whole, of which `filled` bytes are read. */
  #start = 0;
  #end = 0;
  #filled = 0;
  #writing = false;
  #looping = false;
  #stepDone = false;
  readonly #nextPart: () => void = () => this.#beginPart();

  private constructor(request: Request, plan: CopyPlan, done: CopyDone) {
    this.#request = request;
    this.#plan = plan;
    this.#done = done;
    this.#totalBytes = plan.sources.reduce((sum, source) => sum + source.lengthBytes, 0);
    const [only, ...others] = plan.sources;
    this.#backwards =
      only !== undefined &&
      others.length === 0 &&
      only.namespace === request.namespace &&
      only.offsetBytes < request.offsetBytes;
    this.#step = new Step(request, (status) => this.#onStep(status));
  }

  static start(request: Request, plan: CopyPlan, done: CopyDone): void {
    const job = new CopyJob(request, plan, done);
    if (job.#totalBytes === 0) {
      done(0, 0);
      return;
    }
    request.workMemory.take(Math.min(job.#totalBytes, PART_BYTES), (buffer) => {
      job.#step.buffer = buffer;
      request.queuePair.stepping(job.#step);
      job.#start = job.#backwards ? job.#totalBytes : 0;
      job.#end = job.#start;
      job.#beginPart();
    });
  }

  #beginPart(): void {
    const status = this.#plan.mayRun();
    if (status !== 0) {
      this.#finish(status);
      return;
    }
    if (this.#backwards) {
      this.#end = this.#start;
      this.#start = Math.max(0, this.#end - PART_BYTES);
    } else {
      this.#start = this.#end;
      this.#end = Math.min(this.#totalBytes, this.#start + PART_BYTES);
    }
    this.#filled = 0;
    this.#writing = false;
    this.#loop();
  }

  /** Steps that complete within their call are a loop, not a recursion. */
  #loop(): void {
    this.#looping = true;
    do {
      this.#stepDone = false;
      this.#startStep();
    } while (this.#stepDone && this.#looping);
    this.#looping = false;
  }

  #startStep(): void {
    const { namespace, offsetBytes } = this.#request;
    const partBytes = this.#end - this.#start;
    if (this.#filled === partBytes) {
      if (this.#request.abandoned) {
        // what its host has sent since, over another queue, must not be overwritten
        this.#onStep(Status.AbortedSqDeletion);
        return;
      }
      this.#writing = true;
      namespace!.countWrite(partBytes);
      this.#step.write(namespace!, offsetBytes + this.#start, partBytes, this.#plan.fua);
      return;
    }
    let position = this.#start + this.#filled;
    let index = 0;
    while (position >= this.#plan.sources[index]!.lengthBytes) position -= this.#plan.sources[index++]!.lengthBytes;
    const source = this.#plan.sources[index]!;
    const bytes = Math.min(source.lengthBytes - position, partBytes - this.#filled);
    source.namespace.countRead(bytes);
    this.#step.read(source.namespace, source.offsetBytes + position, bytes, false, this.#filled);
  }

  #onStep(status: number): void {
    if (status !== 0) {
      this.#looping = false;
      this.#finish(status);
      return;
    }
    if (this.#writing) {
      this.#looping = false;
      this.#endPart();
      return;
    }
    this.#gather();
    if (this.#looping) this.#stepDone = true;
    else this.#loop();
  }

  /** What was lent is copied; what was provided is in the buffer already. */
  #gather(): void {
    const { segments, segmentCount } = this.#step;
    const buffer = this.#step.buffer!;
    for (let i = 0; i < segmentCount; i++) {
      const view = segments[i]!;
      if (view.buffer !== buffer.buffer) buffer.set(view, this.#filled);
      this.#filled += view.length;
    }
  }

  #endPart(): void {
    if (this.#backwards ? this.#start === 0 : this.#end === this.#totalBytes) this.#finish(0);
    else setImmediate(this.#nextPart);
  }

  #finish(status: number): void {
    const buffer = this.#step.buffer!;
    this.#step.buffer = undefined;
    this.#request.queuePair.stepped(this.#step);
    // the step's segments may be views of the buffer: nobody looks at them any more
    this.#request.workMemory.give(buffer);
    this.#done(status, status === 0 ? this.#plan.sources.length : this.#completeCount());
  }

  #completeCount(): number {
    if (this.#backwards) return 0;
    let left = this.#start;
    let count = 0;
    while (left > 0 && left >= this.#plan.sources[count]!.lengthBytes) left -= this.#plan.sources[count++]!.lengthBytes;
    return count;
  }
}
