/**
 * A Unix stream socket whose bytes may carry file descriptors (SCM_RIGHTS), in both directions, in order with the bytes: what vfio-user and
 * vhost-user speak.
 */
import fs from 'node:fs';
import { type NativeBinding, type NativeWatcher, WatchEvent } from './binding.ts';
import { requireNative } from './load.ts';
import { checked, errnoName, NativeError } from './native-error.ts';

/** What SCM_RIGHTS carries at most. */
export const FDS_MAX = 253;
const EAGAIN = -11;
const BACKLOG = 16;
const SHUT_WR = 1;

interface Outgoing {
  readonly bytes: Uint8Array;
  offset: number;
  fds: Int32Array | undefined;
  /** Closed once they are sent (or never will be). */
  readonly closeFds: boolean;
}

export interface FdSocketHandlers {
  /** Something is to be read, or the peer closed: call `read` until it gives undefined. */
  onReadable(): void;
  /** Once: the connection is gone; `error` if not by an orderly end. Nothing comes after it. */
  onClose(error: Error | undefined): void;
  /** What was refused has been sent: `write` may go on. */
  onDrain?(): void;
}

/** What one `read` gave: `bytes` 0 is the end of the stream. */
export interface FdRead {
  readonly bytes: number;
  /** They came with one of these bytes; the kernel ends a read behind them. Owned by the reader. */
  readonly fds: readonly number[];
}

const NO_FDS: readonly number[] = [];

/** @public */
export class FdSocket {
  readonly fd: number;
  readonly #binding: NativeBinding;
  readonly #watcher: NativeWatcher;
  readonly #handlers: FdSocketHandlers;
  readonly #received: Int32Array;
  readonly #queue: Outgoing[] = [];
  #queuedBytes = 0;
  #events = -1;
  #paused = false;
  #receivedFds: readonly number[] = NO_FDS;
  #ending = false;
  #closed = false;
  readonly #bufferBytesMax: number;

  /**
   * Owns `fd`, a connected socket.
   * @param options `fdsMax`: descriptors accepted at once (more is an error); `bufferBytesMax`: `write` says false from there on
   */
  constructor(fd: number, handlers: FdSocketHandlers, options: { fdsMax?: number; bufferBytesMax?: number } = {}) {
    this.#binding = requireNative('A socket that carries descriptors');
    this.fd = fd;
    this.#handlers = handlers;
    this.#received = new Int32Array(1 + Math.min(options.fdsMax ?? 16, FDS_MAX));
    this.#bufferBytesMax = options.bufferBytesMax ?? 1 << 20;
    this.#watcher = new this.#binding.Watcher(fd, (events) => this.#polled(events));
    this.#watcher.ref();
    this.#watch();
  }

  /** @throws NativeError naming the path */
  static connect(path: string, handlers: FdSocketHandlers, options?: { fdsMax?: number }): FdSocket {
    const binding = requireNative('A socket that carries descriptors');
    return new FdSocket(checked(binding.unixConnect(path), 'connect', `Socket ${path}`), handlers, options);
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Bytes that the peer has not taken yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /**
   * Reads into `buffer` from `offset` on, at most `length` bytes: a reader that asks for a message header alone gets its descriptors with it.
   * @returns undefined: nothing there now
   * @throws NativeError if the connection broke or the peer sent too many descriptors; the socket is closed then
   */
  read(buffer: Uint8Array, offset: number, length: number): FdRead | undefined {
    const bytes = this.receive(buffer, offset, length);
    return bytes < 0 ? undefined : { bytes, fds: this.#receivedFds };
  }

  /** Of the last `receive`; owned by the caller. */
  get receivedFds(): readonly number[] {
    return this.#receivedFds;
  }

  /** As `read`, for those who make no object per message. @returns bytes, 0 at the end of the stream, -1 if nothing is there now */
  receive(buffer: Uint8Array, offset: number, length: number): number {
    this.#receivedFds = NO_FDS;
    if (this.#closed) return -1;
    const received = this.#received;
    const bytes = this.#binding.receiveMessage(this.fd, buffer, offset, length, received);
    if (bytes === EAGAIN) return -1;
    if (bytes < 0) {
      const what =
        errnoName(bytes) === 'EMSGSIZE'
          ? `more than ${received.length - 1} descriptors came at once`
          : errnoName(bytes);
      const error = new NativeError(`Socket ${this.fd}: ${what}`, { errno: bytes, syscall: 'recvmsg' });
      this.#close(error);
      throw error;
    }
    const count = received[0]!;
    if (count > 0) this.#receivedFds = Array.from(received.subarray(1, 1 + count));
    return bytes;
  }

  /** `onReadable` is not called until `resume`: the peer has to wait. If it ends the stream meanwhile, the socket closes. */
  pause(): void {
    if (this.#paused || this.#closed) return;
    this.#paused = true;
    this.#watch();
  }

  resume(): void {
    if (!this.#paused || this.#closed) return;
    this.#paused = false;
    this.#watch();
  }

  /**
   * Sends `bytes`, and `fds` with the first of them. The bytes must stay as they are until sent.
   * @param options `closeFds`: they are closed once sent
   * @returns false: much is waiting, stop until `onDrain`
   */
  write(bytes: Uint8Array, fds: readonly number[] = NO_FDS, options: { closeFds?: boolean } = {}): boolean {
    if (this.#closed || this.#ending)
      throw new NativeError(`Socket ${this.fd} is closed`, { errno: 32, syscall: 'sendmsg' });
    if (fds.length > FDS_MAX)
      throw new NativeError(`Socket ${this.fd}: ${fds.length} descriptors at once, ${FDS_MAX} is the most`);
    if (bytes.length === 0) throw new NativeError(`Socket ${this.fd}: a message needs at least one byte`);
    this.#queue.push({
      bytes,
      offset: 0,
      fds: fds.length === 0 ? undefined : Int32Array.from(fds),
      closeFds: options.closeFds === true,
    });
    this.#queuedBytes += bytes.length;
    if (this.#queue.length === 1) this.#send();
    return this.#queuedBytes < this.#bufferBytesMax;
  }

  /**
   * As `write`, for bytes that change when this returns: what the peer does not take at once is copied. No object is made for a message that it takes.
   * @param length bytes from the start of `bytes`
   */
  writeNow(bytes: Uint8Array, length: number): boolean {
    if (this.#closed || this.#ending)
      throw new NativeError(`Socket ${this.fd} is closed`, { errno: 32, syscall: 'sendmsg' });
    let sent = 0;
    if (this.#queue.length === 0) {
      const result = this.#binding.sendMessage(this.fd, bytes, 0, length, undefined);
      if (result === length) return true;
      // an error comes again when the rest is sent
      sent = Math.max(0, result);
    }
    return this.write(bytes.slice(sent, length));
  }

  /** Sends what waits, then the end of the stream; reading goes on. */
  end(): void {
    if (this.#closed || this.#ending) return;
    this.#ending = true;
    if (this.#queue.length === 0) this.#binding.shutdownSocket(this.fd, SHUT_WR);
  }

  /** At once; what waits is lost. Idempotent. `onClose` is called. */
  close(): void {
    this.#close(undefined);
  }

  #polled(events: number): void {
    if (events < 0) {
      this.#close(new NativeError(`Socket ${this.fd}: ${errnoName(events)}`, { errno: events, syscall: 'poll' }));
      return;
    }
    if ((events & WatchEvent.Writable) !== 0) this.#send();
    if (this.#closed) return;
    if (this.#paused) {
      if ((events & WatchEvent.Disconnect) !== 0) this.#close(undefined);
      return;
    }
    if ((events & (WatchEvent.Readable | WatchEvent.Disconnect)) !== 0) this.#handlers.onReadable();
  }

  #send(): void {
    const wasFull = this.#queuedBytes >= this.#bufferBytesMax;
    while (this.#queue.length > 0) {
      const next = this.#queue[0]!;
      const sent = this.#binding.sendMessage(
        this.fd,
        next.bytes,
        next.offset,
        next.bytes.length - next.offset,
        next.fds,
      );
      if (sent === EAGAIN) break;
      if (sent < 0) {
        this.#close(new NativeError(`Socket ${this.fd}: ${errnoName(sent)}`, { errno: sent, syscall: 'sendmsg' }));
        return;
      }
      if (next.fds !== undefined) {
        if (next.closeFds) for (const fd of next.fds) fs.closeSync(fd);
        next.fds = undefined;
      }
      next.offset += sent;
      this.#queuedBytes -= sent;
      if (next.offset === next.bytes.length) this.#queue.shift();
    }
    this.#watch();
    if (this.#queue.length === 0 && this.#ending) this.#binding.shutdownSocket(this.fd, SHUT_WR);
    if (wasFull && this.#queuedBytes < this.#bufferBytesMax) this.#handlers.onDrain?.();
  }

  /** What is waited for: bytes unless it is paused, room if something has to be sent. */
  #watch(): void {
    const events =
      (this.#paused ? WatchEvent.Disconnect : WatchEvent.Readable) | (this.#queue.length > 0 ? WatchEvent.Writable : 0);
    if (events === this.#events) return;
    this.#events = events;
    checked(this.#watcher.start(events), 'epoll_ctl', `Socket ${this.fd} cannot be watched`);
  }

  #close(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    for (const outgoing of this.#queue) {
      if (outgoing.closeFds && outgoing.fds !== undefined) for (const fd of outgoing.fds) fs.closeSync(fd);
    }
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    fs.closeSync(this.fd);
    this.#handlers.onClose(error);
  }
}

/** Listens on a path in the file system; owns the path it made. @public */
export class FdSocketServer {
  readonly path: string;
  readonly #binding: NativeBinding;
  readonly #fd: number;
  readonly #watcher: NativeWatcher;
  #closed = false;

  /** @param onConnection gets the descriptor of each connection, and owns it. @throws NativeError naming the path */
  constructor(path: string, onConnection: (fd: number) => void, onError: (error: Error) => void) {
    this.path = path;
    this.#binding = requireNative('A socket that carries descriptors');
    this.#fd = checked(this.#binding.unixListen(path, BACKLOG), 'bind', `Socket ${path}`);
    this.#watcher = new this.#binding.Watcher(this.#fd, () => {
      const fd = this.#binding.unixAccept(this.#fd);
      if (fd >= 0) onConnection(fd);
      else if (fd !== EAGAIN) {
        onError(
          new NativeError(`Socket ${path}: accept failed with ${errnoName(fd)}`, { errno: fd, syscall: 'accept4' }),
        );
      }
    });
    this.#watcher.ref();
    checked(this.#watcher.start(WatchEvent.Readable), 'epoll_ctl', `Socket ${path}`);
  }

  /** Idempotent; connections stay. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    fs.closeSync(this.#fd);
    fs.rmSync(this.path, { force: true });
  }
}

/** Two connected sockets. @throws NativeError */
export function socketPair(): [number, number] {
  const pair = requireNative('A socket that carries descriptors').unixPair();
  if (typeof pair !== 'number') return pair;
  checked(pair, 'socketpair', 'A pair of sockets cannot be made');
  throw new NativeError('A pair of sockets cannot be made');
}
