/**
 * Writes guest memory by DMA_WRITE messages instead of through the mapping: the client then knows what was written (QEMU's dirty bitmap has nothing
 * else). Replies to region accesses go first, since the client may serve none of these while it waits for one.
 */
import { VFIO_USER_HEADER_BYTES, VfioUserCommand, VfioUserFlag } from '../../spec/vfio-user.ts';
import { dmaAccessCodec } from '../../wire/cold/vfio-user.ts';
import { writeMessageHeader } from '../../wire/vfio-user.ts';
import type { DmaWriter } from '../pcie/pci-function.ts';

const ID_COUNT = 0x1_0000;

interface Fence {
  /** Writes sent before it. */
  readonly after: number;
  readonly done: () => void;
}

export class MessageDmaWriter implements DmaWriter {
  readonly #send: (message: Uint8Array) => void;
  readonly #bytesMax: number;
  #sentCount = 0;
  #answeredCount = 0;
  #ended = false;
  readonly #fences: Fence[] = [];

  /** @param bytesMax of data in one message */
  constructor(send: (message: Uint8Array) => void, bytesMax: number) {
    this.#send = send;
    this.#bytesMax = bytesMax;
  }

  write(iova: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && !this.#ended; at += this.#bytesMax) {
      const data = bytes.subarray(at, at + this.#bytesMax);
      const message = new Uint8Array(VFIO_USER_HEADER_BYTES + dmaAccessCodec.size + data.length);
      const id = this.#sentCount % ID_COUNT;
      const view = new DataView(message.buffer);
      writeMessageHeader(view, 0, id, VfioUserCommand.DmaWrite, message.length, VfioUserFlag.Command, 0);
      dmaAccessCodec.encodeInto(message, VFIO_USER_HEADER_BYTES, {
        address: BigInt(iova + at),
        count: BigInt(data.length),
      });
      message.set(data, VFIO_USER_HEADER_BYTES + dmaAccessCodec.size);
      this.#sentCount++;
      this.#send(message);
    }
  }

  fence(done: () => void): void {
    if (this.#ended || this.#answeredCount === this.#sentCount) done();
    else this.#fences.push({ after: this.#sentCount, done });
  }

  /** A reply to one of the writes; they come in order. @returns false if it is none */
  answered(id: number, command: number): boolean {
    if (command !== VfioUserCommand.DmaWrite || this.#answeredCount === this.#sentCount) return false;
    if (id !== this.#answeredCount % ID_COUNT) return false;
    this.#answeredCount++;
    while (this.#fences.length > 0 && this.#fences[0]!.after <= this.#answeredCount) this.#fences.shift()!.done();
    return true;
  }

  /** Writes that the client has not answered. */
  get outstandingCount(): number {
    return this.#sentCount - this.#answeredCount;
  }

  /** The client is gone: nobody waits any more. */
  end(): void {
    this.#ended = true;
    for (const { done } of this.#fences.splice(0)) done();
  }
}
