/**
 * A TCP connection without a kernel: two ends that behave as sockets do, as far as the product uses them, with everything in the hands of the test:
 * how much is on its way, how it is cut, who reads. Bytes that do not fit stay in the sender's own buffers until they do, as a kernel would leave
 * them: a sender that reuses a buffer too early sends wrong bytes here.
 */
import { EventEmitter } from 'node:events';
import type { Socket, TcpNetConnectOpts } from 'node:net';

type Written = (error?: Error | null) => void;

interface PendingWrite {
  readonly buffers: readonly Uint8Array[];
  index: number;
  offset: number;
  readonly done: Written;
}

interface OnRead {
  readonly buffer: () => Uint8Array;
  readonly callback: (bytes: number, buffer: Uint8Array) => boolean;
}

export class MemoryEnd extends EventEmitter {
  readonly remoteAddress = 'memory';
  readonly remotePort = 0;
  peer!: MemoryEnd;
  destroyed = false;
  #capacity: number = Number.POSITIVE_INFINITY;
  /** Most bytes that the next read takes. */
  cut: () => number = () => 65536;
  /** Of both ends: anything happened since it was last set to false. */
  readonly activity: { any: boolean };
  allowHalfOpen = false;
  onread: OnRead | undefined;
  #inbound: Uint8Array[] = [];
  #inboundBytes = 0;
  #paused = false;
  #scheduled = false;
  #writes: PendingWrite[] = [];
  #finQueued = false;
  #finComing = false;
  #finSeen = false;
  #resetComing = false;

  constructor(activity: { any: boolean }) {
    super();
    this.activity = activity;
  }

  /** Bytes that may be on their way to the peer; a write that does not fit blocks. */
  set capacity(bytes: number) {
    this.#capacity = bytes;
    this.#push();
  }

  get writable(): boolean {
    return !this.destroyed && !this.#finQueued;
  }

  /** Bytes that came and were not read. */
  get inboundBytes(): number {
    return this.#inboundBytes;
  }

  // ---- what the product calls

  _write(chunk: Uint8Array, _encoding: string, done: Written): void {
    this.#send([chunk], done);
  }

  _writev(chunks: readonly { chunk: Uint8Array }[], done: Written): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }

  write(bytes: Uint8Array, done: Written = () => {}): boolean {
    // a stream copies nothing, but its callers here reuse nothing either
    this.#send([bytes], done);
    return true;
  }

  end(bytes?: Uint8Array): void {
    if (this.destroyed || this.#finQueued) return;
    if (bytes !== undefined) this.#send([bytes], () => {});
    this.#finQueued = true;
    this.#push();
  }

  destroySoon(): void {
    this.end();
    if (this.#writes.length === 0) this.destroy();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#schedule();
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.activity.any = true;
    const { peer } = this;
    if (this.#inboundBytes > 0 || this.#writes.length > 0) peer.#resetComing = true;
    else peer.#finComing = true;
    peer.#schedule();
    this.#inbound = [];
    this.#inboundBytes = 0;
    const writes = this.#writes.splice(0);
    setImmediate(() => {
      this.activity.any = true;
      for (const { done } of writes) done(null);
      if (error !== undefined) this.emit('error', error);
      this.emit('close');
      peer.#push();
    });
  }

  resetAndDestroy(): void {
    this.peer.#resetComing = true;
    this.destroy();
  }

  setNoDelay(): void {}
  setKeepAlive(): void {}
  ref(): void {}
  unref(): void {}

  // ---- bytes

  #send(buffers: readonly Uint8Array[], done: Written): void {
    if (this.destroyed) {
      done(new Error('This socket has been ended'));
      return;
    }
    this.#writes.push({ buffers, index: 0, offset: 0, done });
    this.#push();
  }

  /** Moves what fits to the peer. */
  #push(): void {
    const { peer } = this;
    for (;;) {
      const write = this.#writes[0];
      if (write === undefined) break;
      if (peer.destroyed) {
        // the answer to bytes for nobody is a reset
        this.#resetComing = true;
        this.#schedule();
        write.index = write.buffers.length;
      }
      while (write.index < write.buffers.length) {
        const room = this.#capacity - peer.#inboundBytes;
        if (room <= 0) return;
        const buffer = write.buffers[write.index]!;
        // a copy, as a kernel makes one (`Buffer.slice` is none)
        const piece = Uint8Array.prototype.slice.call(buffer, write.offset, write.offset + room);
        write.offset += piece.length;
        peer.#inbound.push(piece);
        peer.#inboundBytes += piece.length;
        if (write.offset === buffer.length) {
          write.index++;
          write.offset = 0;
        }
        peer.#schedule();
      }
      this.#writes.shift();
      this.activity.any = true;
      write.done();
    }
    if (this.#finQueued && !peer.#finComing && !peer.#finSeen) {
      peer.#finComing = true;
      peer.#schedule();
    }
  }

  #schedule(): void {
    if (this.#scheduled || this.destroyed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    if (this.destroyed || (this.#paused && !this.#resetComing)) return;
    if (this.#inboundBytes > 0 && !this.#paused) {
      this.activity.any = true;
      this.#hand(this.#take(Math.max(1, this.cut())));
      this.peer.#push();
      this.#schedule();
      return;
    }
    if (this.#resetComing) {
      this.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }));
    } else if (this.#finComing && !this.#finSeen) {
      this.#finSeen = true;
      this.activity.any = true;
      this.emit('end');
      if (!this.allowHalfOpen) this.end();
    }
    if (this.#finSeen && this.#finQueued && this.#writes.length === 0 && !this.destroyed) this.destroy();
  }

  #take(most: number): Uint8Array {
    const parts: Uint8Array[] = [];
    let left = most;
    while (left > 0 && this.#inbound.length > 0) {
      const first = this.#inbound[0]!;
      if (first.length <= left) {
        parts.push(first);
        this.#inbound.shift();
      } else {
        parts.push(first.subarray(0, left));
        this.#inbound[0] = first.subarray(left);
      }
      left -= parts.at(-1)!.length;
    }
    const bytes = Buffer.concat(parts);
    this.#inboundBytes -= bytes.length;
    return bytes;
  }

  #hand(bytes: Uint8Array): void {
    if (this.onread === undefined) {
      this.emit('data', bytes);
      return;
    }
    for (let at = 0; at < bytes.length && !this.destroyed; ) {
      const buffer = this.onread.buffer();
      const piece = bytes.subarray(at, at + buffer.length);
      buffer.set(piece);
      at += piece.length;
      if (!this.onread.callback(piece.length, buffer)) this.pause();
    }
  }
}

/** Two ends of one connection, established. */
export function memoryLink(activity: { any: boolean } = { any: false }): [MemoryEnd, MemoryEnd] {
  const near = new MemoryEnd(activity);
  const far = new MemoryEnd(activity);
  near.peer = far;
  far.peer = near;
  return [near, far];
}

/** A socket that connects, for `connectSocket` of the host; the far end is given to `accept`. */
export function memoryConnect(
  options: TcpNetConnectOpts,
  activity: { any: boolean },
  accept: (far: MemoryEnd) => void,
): Socket {
  const [near, far] = memoryLink(activity);
  near.onread = (options as unknown as { onread?: OnRead }).onread;
  setImmediate(() => {
    if (near.destroyed) return;
    accept(far);
    near.emit('connect');
  });
  return near as unknown as Socket;
}
