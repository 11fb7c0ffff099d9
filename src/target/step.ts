// @hot
/** A step of a command that takes several operations (Copy, Compare, Verify): one operation at a time on a namespace, reused for the next. */
import type { UserDataLog } from '../migration/user-data-log.ts';
import type { Arena } from '../util/arena.ts';
import type { Controller } from './controller.ts';
import type { Namespace, NamespaceIo } from './namespace.ts';
import { type GateEntry, GateState } from './range-gate.ts';
import type { Request } from './request.ts';

export class Step implements NamespaceIo {
  readonly #request: Request;
  readonly #done: (status: number) => void;
  #namespace: Namespace | undefined = undefined;
  /** Where reads go whose backend lends nothing; at least as long as any of them. */
  buffer: Uint8Array | undefined = undefined;
  /** Write: taken from here. */
  #bufferOffset = 0;

  offsetBytes = 0;
  lengthBytes = 0;
  fua = false;
  readonly segments: Uint8Array[] = [];
  segmentCount = 0;
  operation = 0;
  gateState: number = GateState.Outside;
  gateExclusive = false;
  gateNext: GateEntry | undefined = undefined;
  gatePrevious: GateEntry | undefined = undefined;

  /** @param done called with the status of each operation */
  constructor(request: Request, done: (status: number) => void) {
    this.#request = request;
    this.#done = done;
  }

  get abandoned(): boolean {
    return this.#request.queuePair.closed;
  }

  get controller(): Controller {
    return this.#request.controller;
  }

  get changeLog(): UserDataLog | undefined {
    return this.#request.queuePair.controller!.changeLog;
  }

  get deallocatedIsError(): boolean {
    return this.#request.queuePair.controller!.deallocatedErrorNsids.has(this.#namespace!.nsid);
  }

  /** @param locked the command has the range locked; @param bufferOffset where the data goes in `buffer` */
  read(namespace: Namespace, offsetBytes: number, lengthBytes: number, locked: boolean, bufferOffset = 0): void {
    this.#aim(namespace, offsetBytes, lengthBytes, bufferOffset);
    this.fua = false;
    if (locked) namespace.readLocked(this);
    else namespace.readStep(this);
  }

  /** Writes the first `lengthBytes` of `buffer`. */
  write(namespace: Namespace, offsetBytes: number, lengthBytes: number, fua: boolean): void {
    this.#aim(namespace, offsetBytes, lengthBytes, 0);
    this.fua = fua;
    this.segments[0] = this.buffer!.subarray(0, lengthBytes);
    this.segmentCount = 1;
    namespace.writeStep(this);
  }

  #aim(namespace: Namespace, offsetBytes: number, lengthBytes: number, bufferOffset: number): void {
    this.#namespace = namespace;
    this.offsetBytes = offsetBytes;
    this.lengthBytes = lengthBytes;
    this.#bufferOffset = bufferOffset;
    this.segments.length = 0;
    this.segmentCount = 0;
  }

  /** Its data is the command's own for as long as that runs. */
  retain(): void {}

  lend(view: Uint8Array): void {
    this.segments[this.segmentCount++] = view;
  }

  /** It is looked at in the same turn: nothing changes meanwhile. */
  lendAt(arena: Arena, offsetBytes: number, lengthBytes: number): void {
    this.lend(arena.bytes.subarray(offsetBytes, offsetBytes + lengthBytes));
  }

  provide(): Uint8Array {
    const view = this.buffer!.subarray(this.#bufferOffset, this.#bufferOffset + this.lengthBytes);
    this.lend(view);
    return view;
  }

  gateOpened(): void {
    this.#namespace!.begin(this);
  }

  /** The queue of its command is gone. */
  outliveQueue(): void {
    const namespace = this.#namespace;
    if (namespace === undefined) return;
    if (this.gateState === GateState.Limited) namespace.writeLimit!.letThrough((io) => io === this);
    namespace.outlives(this);
  }

  complete(status: number): void {
    if (this.gateState !== GateState.Outside && !this.#namespace!.ended(this, status)) return;
    this.#done(status);
  }
}
