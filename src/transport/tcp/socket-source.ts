// @hot
/**
 * Where the bytes of one socket come from, of either side. With the addon the thread's pump says that there are some, and they are read straight to where
 * they belong; without it, or where a socket has no descriptor, node:net reads them into the receive buffer and hands them over. Either way they
 * may be held back, and the end and errors are told once.
 */
import type { Socket } from 'node:net';
import { errnoName } from '../../native/native-error.ts';
import { adoptSocket } from './adopt-socket.ts';
import { receiveArenaId } from './receive-buffer.ts';
import { type PumpMember, type SocketPump, socketPump } from './socket-pump.ts';

const EAGAIN = -11;
/** Of a payload so much must be missing for it to be received where it belongs; less is copied there, with what follows it. */
export const DIRECT_BYTES_MIN = 8192;
/** While the peer sends payloads of that size, no more than this is read beyond what is known: the next one, too, shall go where it belongs. */
export const AHEAD_BYTES = 2048;

/** Where the next bytes go: into `view` as far as it goes, then up to `room` of them into the receive buffer from `start` on. */
export interface ReceivePlan {
  readonly view: Uint8Array | undefined;
  readonly viewOffset: number;
  readonly viewLength: number;
  readonly start: number;
  readonly room: number;
}

/** The connection. */
export interface SourceOwner extends PumpMember {
  /** Where node:net is to read to. */
  nextBuffer(): Uint8Array;
  /** node:net read so many bytes; false: no more until `resume`. */
  onBytes(length: number): boolean;
}

interface WithHandle {
  readonly _handle: { readonly fd?: number; readonly reading?: boolean } | null;
}

export class SocketSource {
  readonly socket: Socket;
  readonly #pump: SocketPump | undefined;
  readonly #fd: number;
  readonly #owner: SourceOwner;
  #token = -1;
  /** Of the last `receive` that gave less than zero. */
  #errno = 0;

  /** Sockets of this thread are read by the addon, if they have descriptors. */
  static get pumps(): boolean {
    return receiveArenaId !== 0 && socketPump() !== undefined;
  }

  /** @param accepted of a server with `pauseOnConnect`, or one that is connected and was paused before; nothing has been read from it */
  constructor(accepted: Socket, owner: SourceOwner, useAddon: boolean = true) {
    const handle = (accepted as unknown as WithHandle)._handle;
    const fd = handle?.fd ?? -1;
    const untouched = handle?.reading !== true && accepted.readableLength === 0;
    this.#owner = owner;
    this.#fd = fd;
    this.#pump = useAddon && fd >= 0 && untouched && SocketSource.pumps ? socketPump() : undefined;
    this.socket =
      this.#pump !== undefined
        ? accepted
        : adoptSocket(
            accepted,
            () => owner.nextBuffer(),
            (length) => owner.onBytes(length),
          );
  }

  /** Its owner reads by `receive` when it is `readable`. */
  get pumped(): boolean {
    return this.#pump !== undefined;
  }

  /** Bytes may come from now on. @throws NativeError */
  start(): void {
    if (this.#pump === undefined) this.socket.resume();
    else this.#token = this.#pump.add(this.#fd, this.#owner);
  }

  /** The kernel keeps what comes until `resume`. For node:net it is `onBytes` that says so. */
  pause(): void {
    if (this.#token >= 0) this.#pump!.pause(this.#token);
  }

  resume(): void {
    if (this.#token >= 0) this.#pump!.resume(this.#token);
    else if (this.#pump === undefined) this.socket.resume();
  }

  /** No more bytes are wanted; before the socket is destroyed, else the descriptor may be another's. Idempotent. */
  stop(): void {
    if (this.#token < 0) return;
    this.#pump!.remove(this.#token);
    this.#token = -1;
  }

  /** @returns bytes received; 0: nothing there now; -1: no more come, `endReason` says why */
  receive(plan: ReceivePlan): number {
    if (this.#token < 0) return 0;
    const received = this.#pump!.binding.streamRead(
      this.#fd,
      receiveArenaId,
      plan.start,
      plan.room,
      plan.view,
      plan.viewOffset,
      plan.viewLength,
    );
    if (received > 0) return received;
    if (received === EAGAIN) return 0;
    this.#errno = received;
    return -1;
  }

  /** Why no more bytes come; undefined: the peer closed the connection. */
  get endError(): Error | undefined {
    if (this.#errno === 0) return undefined;
    const code = errnoName(this.#errno);
    return Object.assign(new Error(`read ${code}`), { code });
  }
}
