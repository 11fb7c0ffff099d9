/** Reads a range of a namespace piece by piece and shows each to a visitor: what Compare and Verify have in common. */
import type { Namespace } from './namespace.ts';
import type { Request } from './request.ts';
import { Step } from './step.ts';

const LENT_BYTES = 1 << 20;
const BUFFER_BYTES = 128 << 10;

/** @returns 0, or the status to end with. @param offset of `view` from the start of the range */
export type Visit = (view: Uint8Array, offset: number) => number;

export class RangeScan {
  readonly #request: Request;
  readonly #namespace: Namespace;
  readonly #locked: boolean;
  readonly #visit: Visit | undefined;
  readonly #done: (status: number) => void;
  readonly #step: Step;
  readonly #pieceBytes: number;
  #position = 0;
  /** The step completes within the call that starts it: the loop goes on, it does not recurse. */
  #looping = false;
  #stepDone = false;
  #stepStatus = 0;

  private constructor(request: Request, locked: boolean, visit: Visit | undefined, done: (status: number) => void) {
    this.#request = request;
    this.#namespace = request.namespace!;
    this.#locked = locked;
    this.#visit = visit;
    this.#done = done;
    this.#step = new Step(request, (status) => this.#onStep(status));
    this.#pieceBytes = this.#namespace.readNeedsBuffer ? BUFFER_BYTES : LENT_BYTES;
  }

  /**
   * Scans the range of `request`.
   * @param locked the request has its range locked
   * @param visit absent: it is only read
   * @param done the first status that is not 0, or 0
   */
  static start(request: Request, locked: boolean, visit: Visit | undefined, done: (status: number) => void): void {
    const scan = new RangeScan(request, locked, visit, done);
    if (!request.namespace!.readNeedsBuffer) {
      scan.#loop();
      return;
    }
    request.workMemory.take(Math.min(BUFFER_BYTES, request.lengthBytes), (buffer) => {
      scan.#step.buffer = buffer;
      scan.#loop();
    });
  }

  #loop(): void {
    this.#looping = true;
    let status = 0;
    while (status === 0 && this.#position < this.#request.lengthBytes) {
      this.#stepDone = false;
      const bytes = Math.min(this.#pieceBytes, this.#request.lengthBytes - this.#position);
      this.#step.read(this.#namespace, this.#request.offsetBytes + this.#position, bytes, this.#locked);
      if (!this.#stepDone) {
        this.#looping = false;
        return;
      }
      status = this.#stepStatus !== 0 ? this.#stepStatus : this.#look();
    }
    this.#end(status);
  }

  #onStep(status: number): void {
    this.#stepDone = true;
    this.#stepStatus = status;
    if (this.#looping) return;
    const seen = status !== 0 ? status : this.#look();
    if (seen !== 0) this.#end(seen);
    else this.#loop();
  }

  #look(): number {
    const { segments, segmentCount } = this.#step;
    for (let i = 0; i < segmentCount; i++) {
      const view = segments[i]!;
      const status = this.#visit?.(view, this.#position) ?? 0;
      if (status !== 0) return status;
      this.#position += view.length;
    }
    return 0;
  }

  #end(status: number): void {
    const { buffer } = this.#step;
    this.#step.buffer = undefined;
    if (buffer !== undefined) this.#request.workMemory.give(buffer);
    this.#done(status);
  }
}
