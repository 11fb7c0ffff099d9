/**
 * A host's connection and a target's, linked in memory: their sockets are real, but the handles below carry the bytes from one buffer to the
 * other. Everything that JavaScript does per command runs as it does over TCP, without the kernel, and the time that each side takes is summed up.
 */
import { Socket, type TcpNetConnectOpts } from 'node:net';
import { connectCommandSet } from '../../src/target/commands/connect.ts';
import type { Port } from '../../src/target/port.ts';
import { QueuePair } from '../../src/target/queue-pair.ts';
import type { Target } from '../../src/target/target.ts';
import { TcpTargetConnection } from '../../src/transport/tcp/target-connection.ts';
import { ViewCache } from '../../src/util/view-cache.ts';

/** What node:net asks of a handle. */
export class FakeHandle {
  /** Takes what is written; called in the middle of the sender's write. */
  onWrite: (buffer: Uint8Array) => void = () => {};
  onWritten: () => void = () => {};

  writev(_request: object, chunks: readonly Uint8Array[]): number {
    for (let i = 0; i < chunks.length; i++) this.onWrite(chunks[i]!);
    this.onWritten();
    return 0;
  }
  writeBuffer(_request: object, buffer: Uint8Array): number {
    this.onWrite(buffer);
    this.onWritten();
    return 0;
  }
  useUserBuffer(): void {}
  readStart(): number {
    return 0;
  }
  readStop(): number {
    return 0;
  }
  setNoDelay(): number {
    return 0;
  }
  getAsyncId(): number {
    return 0;
  }
  ref(): void {}
  unref(): void {}
  shutdown(): number {
    return 0;
  }
  reset(done: () => void): number {
    setImmediate(done);
    return 0;
  }
  close(done?: () => void): void {
    if (done !== undefined) setImmediate(done);
  }
}

/** Bytes on their way. */
class Wire {
  readonly #bytes = new Uint8Array(new ArrayBuffer(4 << 20));
  /** So that the link itself makes no garbage in a steady state. */
  readonly #views = new ViewCache(this.#bytes);
  #head = 0;
  #tail = 0;

  get length(): number {
    return this.#tail - this.#head;
  }

  put(buffer: Uint8Array): void {
    this.#bytes.set(buffer, this.#tail);
    this.#tail += buffer.length;
  }

  /** Moves what fits into `buffer`. */
  take(buffer: Uint8Array): number {
    const length = Math.min(buffer.length, this.length);
    buffer.set(this.#views.view(this.#head, length));
    this.#head += length;
    if (this.#head === this.#tail) {
      this.#head = 0;
      this.#tail = 0;
    }
    return length;
  }
}

interface OnRead {
  readonly buffer: Uint8Array | (() => Uint8Array);
  readonly callback: (bytes: number, buffer: Uint8Array) => boolean;
}

const symbolOf = (object: object, name: string): symbol => {
  for (let at: object | null = object; at !== null; at = Object.getPrototypeOf(at)) {
    const found = Object.getOwnPropertySymbols(at).find(({ description }) => description === name);
    if (found !== undefined) return found;
  }
  throw new Error(`This Node's sockets have no ${name}: the link must be adapted`);
};

/** Milliseconds spent by each side while handling what it received. */
export interface LinkTimes {
  hostMs: number;
  targetMs: number;
}

export class LoopLink {
  readonly #toTarget = new Wire();
  readonly #toHost = new Wire();
  readonly #times: LinkTimes;
  #hostRead: OnRead | undefined;
  #targetBuffer: Uint8Array = new Uint8Array(0);
  #targetRead: (bytes: number) => boolean = () => true;
  /** The host's socket, not yet connected. */
  readonly socket: Socket;
  /** Time that was spent in the handles: it belongs to neither side. */
  #wireMs = 0;

  constructor(options: TcpNetConnectOpts, port: Port, target: Target, times: LinkTimes) {
    this.#times = times;
    const host = new FakeHandle();
    const far = new FakeHandle();
    this.#connectHandle(host, this.#toTarget);
    this.#connectHandle(far, this.#toHost);
    const { onread } = options as unknown as { onread: OnRead };
    this.#hostRead = onread;
    this.socket = new Socket({ handle: host, onread } as object);
    this.#startTarget(far, port, target);
    setImmediate(() => this.socket.emit('connect'));
  }

  #connectHandle(handle: FakeHandle, wire: Wire): void {
    let startMs = 0;
    handle.onWrite = (buffer) => {
      if (startMs === 0) startMs = performance.now();
      wire.put(buffer);
    };
    handle.onWritten = () => {
      this.#wireMs += performance.now() - startMs;
      startMs = 0;
    };
  }

  #startTarget(handle: FakeHandle, port: Port, target: Target): void {
    Object.defineProperty(handle, 'useUserBuffer', {
      value: (buffer: Uint8Array) => {
        this.#targetBuffer = buffer;
      },
    });
    const accepted = { remoteAddress: 'loop', remotePort: 0, _handle: handle, on: () => {} } as unknown as Socket;
    const connection = new TcpTargetConnection(
      accepted,
      port.tcp,
      target.clock,
      target.pool.transfers,
      (transport) => new QueuePair(transport, connectCommandSet(port), target.pool, 2),
      () => {},
    );
    if (connection.queuePair.closed) throw new Error('The connection is closed');
    const adopted = (handle as unknown as Record<symbol, Socket>)[symbolOf(handle, 'owner_symbol')];
    if (adopted === undefined) throw new Error('The connection did not take the handle over');
    this.#targetRead = (adopted as unknown as Record<symbol, (bytes: number) => boolean>)[
      symbolOf(adopted, 'kBufferCb')
    ]!;
  }

  /** Hands over what is on its way, to the target and then to the host. @returns false if there was nothing */
  exchange(): boolean {
    const any = this.#toTarget.length + this.#toHost.length > 0;
    while (this.#toTarget.length > 0) {
      const length = this.#toTarget.take(this.#targetBuffer);
      this.#wireMs = 0;
      const startMs = performance.now();
      this.#targetRead(length);
      this.#times.targetMs += performance.now() - startMs - this.#wireMs;
    }
    while (this.#toHost.length > 0) {
      const { buffer, callback } = this.#hostRead!;
      const into = typeof buffer === 'function' ? buffer() : buffer;
      const length = this.#toHost.take(into);
      this.#wireMs = 0;
      const startMs = performance.now();
      callback(length, into);
      this.#times.hostMs += performance.now() - startMs - this.#wireMs;
    }
    return any;
  }
}
