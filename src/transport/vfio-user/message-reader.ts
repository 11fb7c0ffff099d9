// @hot
/**
 * Cuts the stream of a vfio-user socket into messages. The header is read by itself: the kernel delivers descriptors with the first bytes they
 * were sent with, so they are known to belong to this message.
 */
import fs from 'node:fs';
import type { FdSocket } from '../../native/fd-socket.ts';
import { VFIO_USER_HEADER_BYTES } from '../../spec/vfio-user.ts';
import { messageBytes } from '../../wire/vfio-user.ts';

export const ReadResult = {
  /** A message is in `bytes`. */
  Message: 0,
  /** Nothing more is there now. */
  Again: 1,
  /** The peer has ended the stream. */
  End: 2,
  /** Its size is none that a message may have: framing is lost. */
  BadSize: 3,
} as const;

/** Most messages are doorbells. */
const BYTES_FIRST = 4096;
const NO_FDS: readonly number[] = [];

export class MessageReader {
  /** The message, from 0 to `length`; valid until the next call of `next`. */
  bytes: Uint8Array = new Uint8Array(new ArrayBuffer(BYTES_FIRST));
  view: DataView = new DataView(this.bytes.buffer);
  length = 0;
  readonly #bytesMax: number;
  #have = 0;
  #fds: readonly number[] = NO_FDS;

  /** @param bytesMax of one message */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Reads on. @returns one of `ReadResult`. @throws NativeError if the connection broke */
  next(socket: FdSocket): number {
    if (this.length !== 0 && this.#have === this.length) {
      this.closeFds();
      this.#have = 0;
      this.length = 0;
    }
    if (this.#have < VFIO_USER_HEADER_BYTES) {
      const result = this.#fill(socket, VFIO_USER_HEADER_BYTES);
      if (result !== ReadResult.Message) return result;
      const length = messageBytes(this.view, 0);
      if (length < VFIO_USER_HEADER_BYTES || length > this.#bytesMax) return ReadResult.BadSize;
      this.#reserve(length);
      this.length = length;
    }
    return this.#fill(socket, this.length);
  }

  #fill(socket: FdSocket, until: number): number {
    while (this.#have < until) {
      const count = socket.receive(this.bytes, this.#have, until - this.#have);
      if (count <= 0) return count < 0 ? ReadResult.Again : ReadResult.End;
      this.#have += count;
      if (socket.receivedFds.length > 0) this.#fds = [...this.#fds, ...socket.receivedFds];
    }
    return ReadResult.Message;
  }

  #reserve(length: number): void {
    if (length <= this.bytes.length) return;
    const larger = new Uint8Array(new ArrayBuffer(2 ** (32 - Math.clz32(length - 1))));
    larger.set(this.bytes.subarray(0, this.#have));
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
  }

  /** Descriptors that came with the message. */
  get fds(): readonly number[] {
    return this.#fds;
  }

  /** The descriptors of the message are the caller's now. */
  takeFds(): readonly number[] {
    const fds = this.#fds;
    this.#fds = NO_FDS;
    return fds;
  }

  /** Closes what nobody took. */
  closeFds(): void {
    for (const fd of this.#fds) fs.closeSync(fd);
    this.#fds = NO_FDS;
  }
}
