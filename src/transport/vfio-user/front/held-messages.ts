/** Accesses of the guest that wait for a controller, in their order. Those that it waits for itself have a time; doorbells have none. */
import { VfioUserFlag } from '../../../spec/vfio-user.ts';
import { messageFlags } from '../../../wire/vfio-user.ts';

/** From here on the VM's socket is not read any more. */
const BYTES_MAX = 1 << 20;

export interface HeldMessage {
  readonly bytes: Uint8Array;
  readonly isAnswered: boolean;
  readonly sinceMs: number;
}

export class HeldMessages {
  #list: HeldMessage[] = [];
  #bytes = 0;

  get count(): number {
    return this.#list.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get isFull(): boolean {
    return this.#bytes >= BYTES_MAX;
  }

  /** @param bytes a message; owned from now on */
  push(bytes: Uint8Array, nowMs: number): void {
    this.#list.push(held(bytes, nowMs));
    this.#bytes += bytes.length;
  }

  /** Before all others: they were asked earlier. */
  putBack(messages: readonly Uint8Array[], nowMs: number): void {
    this.#list = [...messages.map((bytes) => held(bytes, nowMs)), ...this.#list];
    for (const { length } of messages) this.#bytes += length;
  }

  takeAll(): HeldMessage[] {
    const all = this.#list;
    this.#list = [];
    this.#bytes = 0;
    return all;
  }

  /** Since when the one that has waited longest for its answer has; undefined: none waits for an answer. */
  get oldestMs(): number | undefined {
    const times = this.#list.filter(({ isAnswered }) => isAnswered).map(({ sinceMs }) => sinceMs);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  /** Takes out those that have waited for an answer since `untilMs` or before. */
  expire(untilMs: number): HeldMessage[] {
    const expired = this.#list.filter(({ isAnswered, sinceMs }) => isAnswered && sinceMs <= untilMs);
    if (expired.length === 0) return expired;
    this.#list = this.#list.filter((message) => !expired.includes(message));
    for (const { bytes } of expired) this.#bytes -= bytes.length;
    return expired;
  }
}

function held(bytes: Uint8Array, sinceMs: number): HeldMessage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { bytes, isAnswered: (messageFlags(view, 0) & VfioUserFlag.NoReply) === 0, sinceMs };
}
