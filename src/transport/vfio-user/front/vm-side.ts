/** The VM's end of the front: reads its messages one by one, answers, and makes it wait. Owns the socket. */
import { FdSocket } from '../../../native/fd-socket.ts';
import { VFIO_USER_HEADER_BYTES, VfioUserFlag } from '../../../spec/vfio-user.ts';
import { messageCommand, messageFlags, messageId, writeMessageHeader } from '../../../wire/vfio-user.ts';
import { LINK_MESSAGE_BYTES_MAX } from '../client/message-link.ts';
import { MessageReader, ReadResult } from '../message-reader.ts';

export const VM_FDS_MAX = 16;
const MESSAGES_PER_TURN = 512;
const NO_BYTES = new Uint8Array(0);

export interface VmSideOwner {
  /** A message is in the reader; its descriptors are closed unless they are taken. */
  message(reader: MessageReader): void;
  closed(reason: string, error: Error | undefined): void;
  /** The VM takes answers again. */
  drained(): void;
}

export class VmSide {
  readonly #owner: VmSideOwner;
  readonly #socket: FdSocket;
  readonly #reader = new MessageReader(LINK_MESSAGE_BYTES_MAX);
  #reason = 'the VM closed the connection';
  #closed = false;
  #waits = false;
  /** It does not take its answers: it gets no more until it does. */
  #clogged = false;

  /** Owns `fd`. */
  constructor(fd: number, owner: VmSideOwner) {
    this.#owner = owner;
    this.#socket = new FdSocket(
      fd,
      {
        onReadable: () => this.#onReadable(),
        onClose: (error) => this.#onClose(error),
        onDrain: () => {
          this.#clogged = false;
          this.#flow();
          owner.drained();
        },
      },
      { fdsMax: VM_FDS_MAX },
    );
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Nothing is read until `proceed`: what the VM sends waits in its socket. */
  wait(): void {
    this.#waits = true;
    this.#flow();
  }

  proceed(): void {
    this.#waits = false;
    this.#flow();
  }

  #flow(): void {
    if (this.#waits || this.#clogged) this.#socket.pause();
    else this.#socket.resume();
  }

  /** A whole message, which may change when this returns. @returns false: it takes no more now, until `drained` */
  pass(bytes: Uint8Array, length: number): boolean {
    if (this.#closed || this.#socket.writeNow(bytes, length)) return true;
    this.#clogged = true;
    this.#flow();
    return false;
  }

  /** @param request its header */
  answer(request: Uint8Array, body: Uint8Array = NO_BYTES): void {
    this.#reply(request, body, VfioUserFlag.Reply, 0);
  }

  refuse(request: Uint8Array, errno: number): void {
    this.#reply(request, NO_BYTES, VfioUserFlag.Reply | VfioUserFlag.Error, errno);
  }

  #reply(request: Uint8Array, body: Uint8Array, flags: number, errno: number): void {
    const view = new DataView(request.buffer, request.byteOffset, request.byteLength);
    if ((messageFlags(view, 0) & VfioUserFlag.NoReply) !== 0) return;
    const message = new Uint8Array(VFIO_USER_HEADER_BYTES + body.length);
    const header = new DataView(message.buffer);
    writeMessageHeader(header, 0, messageId(view, 0), messageCommand(view, 0), message.length, flags, errno);
    message.set(body, VFIO_USER_HEADER_BYTES);
    this.pass(message, message.length);
  }

  #onReadable(): void {
    try {
      for (let i = 0; i < MESSAGES_PER_TURN && !this.#waits && !this.#clogged && !this.#closed; i++) {
        const result = this.#reader.next(this.#socket);
        if (result === ReadResult.Again) return;
        if (result === ReadResult.Message) this.#owner.message(this.#reader);
        else this.close(result === ReadResult.End ? this.#reason : 'a message has a size that none has');
      }
    } catch (error) {
      if (!this.#socket.isClosed) this.close(error instanceof Error ? error.message : String(error));
    }
  }

  close(reason: string): void {
    this.#reason = reason;
    this.#socket.close();
  }

  #onClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.closeFds();
    this.#owner.closed(this.#reason, error);
  }
}
