/**
 * The client's end of a vfio-user connection: commands go out in order, answers come back in the same order. Owns the socket.
 */
import { FdSocket } from '../../../native/fd-socket.ts';
import {
  MAX_DATA_XFER_SIZE_DEFAULT,
  VFIO_USER_HEADER_BYTES,
  type VfioUserCommand,
  VfioUserFlag,
} from '../../../spec/vfio-user.ts';
import { TransportError } from '../../../util/error.ts';
import { messageCommand, messageErrno, messageFlags, messageId, writeMessageHeader } from '../../../wire/vfio-user.ts';
import { MessageReader, ReadResult } from '../message-reader.ts';
import { VfioUserError } from '../vfio-user-error.ts';

export const LINK_MESSAGE_BYTES_MAX: number = VFIO_USER_HEADER_BYTES + MAX_DATA_XFER_SIZE_DEFAULT + 64;
const MESSAGES_PER_TURN = 512;
const ID_COUNT = 0x1_0000;

type Command = (typeof VfioUserCommand)[keyof typeof VfioUserCommand];

export interface MessageLinkHandlers {
  /** A command of the server, whole, from 0 to `length`; valid until this returns. */
  onCommand(bytes: Uint8Array, length: number): void;
  /** Once, after every unanswered request was told. `error`: not by an orderly end. */
  onClose(error: Error | undefined): void;
  /** What `pass` or `send` refused to take more of has been sent. */
  onDrain?(): void;
}

/** The whole message of an answer, from 0 to `length`, valid until this returns; undefined: the connection ended before. */
export type OnAnswer = (bytes: Uint8Array | undefined, length: number) => void;

interface Asked {
  readonly id: number;
  readonly command: number;
  readonly answered: OnAnswer;
}

export class MessageLink {
  readonly path: string;
  readonly #socket: FdSocket;
  readonly #reader = new MessageReader(LINK_MESSAGE_BYTES_MAX);
  readonly #asked: Asked[] = [];
  readonly #handlers: MessageLinkHandlers;
  #nextId = 0;
  #closed = false;
  #error: Error | undefined;

  /** @throws NativeError naming the path */
  constructor(path: string, handlers: MessageLinkHandlers) {
    this.path = path;
    this.#handlers = handlers;
    this.#socket = FdSocket.connect(path, {
      onReadable: () => this.#onReadable(),
      onClose: (error) => this.#onClose(error),
      onDrain: () => handlers.onDrain?.(),
    });
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Commands that wait for their answers. */
  get outstanding(): number {
    return this.#asked.length;
  }

  // ---- out

  /**
   * A command that is answered.
   * @param message whole, with its header; stays as it is until sent
   * @param fds go with it, and stay the caller's
   * @returns false: much is waiting, stop until `onDrain`
   */
  send(message: Uint8Array, fds: readonly number[], answered: OnAnswer): boolean {
    if (this.#closed) {
      answered(undefined, 0);
      return true;
    }
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    this.#asked.push({ id: messageId(view, 0), command: messageCommand(view, 0), answered });
    return this.#socket.write(message, fds);
  }

  /** A message that is not answered: a posted command, or an answer. @returns as `send` */
  pass(bytes: Uint8Array, length: number): boolean {
    return this.#closed || this.#socket.writeNow(bytes, length);
  }

  /** A command by its body. @returns the body of the answer @throws VfioUserError, TransportError */
  call(command: Command, body: Uint8Array, fds: readonly number[] = []): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.send(this.#message(command, body, VfioUserFlag.Command), fds, (bytes, length) => {
        if (bytes === undefined) {
          reject(this.#lost());
          return;
        }
        const view = new DataView(bytes.buffer, bytes.byteOffset, length);
        if ((messageFlags(view, 0) & VfioUserFlag.Error) === 0) resolve(bytes.slice(VFIO_USER_HEADER_BYTES, length));
        else {
          const errno = messageErrno(view, 0);
          reject(new VfioUserError(errno, `Socket ${this.path}: command ${command} was refused with errno ${errno}`));
        }
      });
    });
  }

  /** A command without an answer. */
  post(command: Command, body: Uint8Array): boolean {
    const message = this.#message(command, body, VfioUserFlag.Command | VfioUserFlag.NoReply);
    return this.pass(message, message.length);
  }

  #message(command: Command, body: Uint8Array, flags: number): Uint8Array {
    const message = new Uint8Array(VFIO_USER_HEADER_BYTES + body.length);
    const id = this.#nextId;
    this.#nextId = (id + 1) % ID_COUNT;
    writeMessageHeader(new DataView(message.buffer), 0, id, command, message.length, flags, 0);
    message.set(body, VFIO_USER_HEADER_BYTES);
    return message;
  }

  #lost(): TransportError {
    return new TransportError('NVMEOF_ERR_VFIO_USER', `Socket ${this.path}: the connection ended`, {
      cause: this.#error,
    });
  }

  // ---- in

  /** Answers and commands of the server wait, as does the server, until `resume`. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  #onReadable(): void {
    try {
      for (let i = 0; i < MESSAGES_PER_TURN && !this.#closed; i++) {
        const result = this.#reader.next(this.#socket);
        if (result === ReadResult.Again) return;
        if (result === ReadResult.Message) this.#handle();
        else this.#fail(result === ReadResult.End ? undefined : 'a message has a size that none has');
      }
    } catch (error) {
      if (this.#socket.isClosed) return; // told already
      this.#error = error instanceof Error ? error : new Error(String(error));
      this.#socket.close();
    }
  }

  #handle(): void {
    const { view, bytes, length } = this.#reader;
    const type = messageFlags(view, 0) & VfioUserFlag.TypeMask;
    if (type === VfioUserFlag.Command) {
      this.#handlers.onCommand(bytes, length);
      return;
    }
    const first = this.#asked[0];
    const fits =
      type === VfioUserFlag.Reply && first?.id === messageId(view, 0) && first.command === messageCommand(view, 0);
    if (!fits) {
      this.#fail('an answer came to nothing asked, or out of turn');
      return;
    }
    this.#asked.shift();
    first.answered(bytes, length);
  }

  /** @param reason undefined: an orderly end */
  #fail(reason: string | undefined): void {
    if (reason !== undefined) this.#error = new VfioUserError(71, `Socket ${this.path}: ${reason}`);
    this.#socket.close();
  }

  // ---- the end

  /** At once. Idempotent; `onClose` is called. */
  close(): void {
    this.#socket.close();
  }

  #onClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error ??= error;
    this.#reader.closeFds();
    for (const { answered } of this.#asked.splice(0)) answered(undefined, 0);
    this.#handlers.onClose(this.#error);
  }
}
