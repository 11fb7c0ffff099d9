/**
 * TCP connections in virtual time, as far as the product looks at sockets: bytes arrive late and in order, on each connection for itself; a
 * connection may break, which its two ends learn at different times; nothing may arrive for a while. A write is always taken at once.
 */
import { EventEmitter } from 'node:events';
import type { Socket, TcpNetConnectOpts } from 'node:net';
import type { Random } from '../support/random.ts';
import type { Life } from './life.ts';
import type { Network } from './network.ts';
import type { Party } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';

/** The process that ends with no word leaves its peers in the dark for as long, at most. */
const NOTICED_MS = 80;
/** SYN of a path that is cut is lost; whether that is told at once (no route) or not (a time-out of the caller) depends. */
const REFUSED_MS = 1;
/** Sums of times are not exact. */
const ROUNDING_MS = 1e-6;
const CLIENT_ADDRESS = '192.0.2.200';

interface OnRead {
  readonly buffer: () => Uint8Array;
  readonly callback: (length: number, buffer: Uint8Array) => boolean;
}

/** Bytes, or how it ends. */
type Arrival = Uint8Array | 'end' | 'reset';

interface Item {
  readonly atMs: number;
  readonly arrival: Arrival;
}

/** Where connections are accepted. */
export interface Listener {
  readonly party: Party;
  /** The process that listens; none while it is down. */
  readonly life: Life | undefined;
  accept(socket: Socket): void;
}

export class SimSocket extends EventEmitter {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly readableLength = 0;
  /** What `Network` calls the way that it takes. */
  readonly route: string;
  readonly #net: SimNet;
  readonly #life: Life;
  readonly #bornMs: number;
  readonly #onRead: OnRead | undefined;
  #other: SimSocket | undefined;
  /** Nothing goes through it any more. */
  #isBroken = false;
  #isClosed = false;
  #isPaused: boolean;
  #incoming: Item[] = [];
  #isArmed = false;
  #lastMs = 0;

  constructor(net: SimNet, life: Life, route: string, addresses: readonly [string, string], onRead?: OnRead) {
    super();
    this.#net = net;
    this.#life = life;
    this.#bornMs = net.clock.nowMs();
    this.route = route;
    [this.localAddress, this.remoteAddress] = addresses;
    this.remotePort = 4420;
    this.#onRead = onRead;
    this.#isPaused = onRead === undefined;
    life.sockets.add(this);
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  join(other: SimSocket): void {
    this.#other = other;
    other.#other = this;
  }

  // ---- as node:net has it ----------------------------------------------------------------------------------------------------------

  _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#send([chunk]);
    done();
  }

  _writev(chunks: readonly { readonly chunk: Uint8Array }[], done: (error?: Error | null) => void): void {
    this.#send(chunks.map(({ chunk }) => chunk));
    done();
  }

  #send(chunks: readonly Uint8Array[]): void {
    if (this.#isClosed || this.#isBroken) return;
    this.#other?.arrives(new Uint8Array(Buffer.concat(chunks)));
  }

  setNoDelay(): void {}
  setKeepAlive(): void {}

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#arm();
  }

  end(bytes: Uint8Array): void {
    this.#send([bytes]);
    if (!this.#isBroken) this.#other?.arrives('end');
  }

  destroySoon(): void {
    this.destroy();
  }

  resetAndDestroy(): void {
    this.destroy();
  }

  destroy(): void {
    if (this.#isClosed) return;
    this.#over();
    queueMicrotask(() => this.emit('close'));
    if (!this.#isBroken) this.#other?.arrives('end');
  }

  // ---- what happens to it ----------------------------------------------------------------------------------------------------------

  #over(): void {
    this.#isClosed = true;
    this.#incoming.length = 0;
    this.#life.sockets.delete(this);
    this.#net.sockets.delete(this);
  }

  /** Its process is gone: the system tells the peer. */
  kill(losesSent: boolean): void {
    if (this.#isClosed) return;
    this.#over();
    this.removeAllListeners();
    if (this.#isBroken) return;
    if (losesSent) this.#other?.drop();
    this.#other?.arrives('end');
  }

  /** What is on its way to this end does not arrive. */
  drop(): void {
    this.#incoming.length = 0;
  }

  /** Nothing goes through any more. What is under way may arrive all the same; this end knows at once, the other perhaps later. */
  breakNow(): void {
    if (this.#isClosed || this.#isBroken) return;
    const { random } = this.#net;
    const other = this.#other;
    for (const one of [this, other]) {
      if (one === undefined) continue;
      one.#isBroken = true;
      if (random.oneIn(2)) one.#incoming.length = 0;
    }
    other?.arrives('reset', random.oneIn(2) ? 0 : 1 + random.below(NOTICED_MS));
    this.#incoming.length = 0;
    this.fail('ECONNRESET');
  }

  fail(code: string): void {
    if (this.#isClosed) return;
    this.#over();
    this.emit('error', Object.assign(new Error(`connect ${code}`), { code }));
    this.emit('close');
  }

  // ---- what arrives ----------------------------------------------------------------------------------------------------------------

  arrives(arrival: Arrival, delayMs: number = this.#net.latencyMs()): void {
    if (this.#isClosed) return;
    this.#lastMs = Math.max(this.#lastMs, this.#net.clock.nowMs() + delayMs);
    this.#incoming.push({ atMs: this.#lastMs, arrival });
    this.#arm();
  }

  #arm(): void {
    const first = this.#incoming[0];
    if (first === undefined || this.#isArmed || this.#isPaused) return;
    this.#isArmed = true;
    this.#net.clock.setTimer(() => this.#arrive(), first.atMs - this.#net.clock.nowMs());
  }

  #arrive(): void {
    const { clock } = this.#net;
    const stallMs = this.#net.stallMs(this.route, this.#bornMs);
    if (stallMs > 0) {
      clock.setTimer(() => this.#arrive(), stallMs);
      return;
    }
    this.#isArmed = false;
    while (!this.#isPaused && !this.#isClosed) {
      const first = this.#incoming[0];
      if (first === undefined || first.atMs > clock.nowMs() + ROUNDING_MS) break;
      this.#incoming.shift();
      const { arrival } = first;
      if (arrival === 'end') this.emit('end');
      else if (arrival === 'reset') this.fail('ECONNRESET');
      else this.#deliver(arrival);
    }
    this.#arm();
  }

  #deliver(bytes: Uint8Array): void {
    this.#net.delivered(bytes);
    if (this.#onRead === undefined) {
      this.emit('data', bytes);
      return;
    }
    for (let at = 0; at < bytes.length && !this.#isClosed; ) {
      const buffer = this.#onRead.buffer();
      const piece = bytes.subarray(at, at + buffer.length);
      buffer.set(piece);
      this.#onRead.callback(piece.length, buffer);
      at += piece.length;
    }
  }
}

export class SimNet {
  readonly clock: SimClock;
  readonly random: Random;
  readonly sockets: Set<SimSocket> = new Set();
  readonly #network: Network;
  readonly #listeners = new Map<string, Listener>();
  /** Of all that was delivered, and when: the same for the same run. */
  #digest = 0x811c_9dc5;

  constructor(clock: SimClock, random: Random, network: Network) {
    this.clock = clock;
    this.random = random;
    this.#network = network;
  }

  get digest(): number {
    return this.#digest >>> 0;
  }

  delivered(bytes: Uint8Array): void {
    this.#mix(Math.round(this.clock.nowMs() * 1000));
    this.#mix(bytes.length);
    for (let i = 0; i < bytes.length; i += 1 + (i >> 4)) this.#mix(bytes[i]!);
  }

  #mix(value: number): void {
    this.#digest = Math.imul(this.#digest ^ value, 0x0100_0193);
  }

  latencyMs(): number {
    return 0.05 + this.random.below(20) / 100;
  }

  stallMs(route: string, bornMs: number): number {
    return this.#network.stallMs(route, bornMs);
  }

  listen(address: string, listener: Listener): void {
    this.#listeners.set(address, listener);
  }

  /** `connectSocket` of a process. @param routeOf the name of its way to that party */
  connector(life: Life, routeOf: (party: Party) => string): (options: TcpNetConnectOpts) => Socket {
    return (options) => {
      const { onread, host } = options as unknown as { onread: OnRead; host: string };
      const listener = this.#listeners.get(host)!;
      const route = routeOf(listener.party);
      const socket = new SimSocket(this, life, route, [CLIENT_ADDRESS, host], onread);
      this.sockets.add(socket);
      this.clock.setTimer(() => this.#reach(socket, listener, life), this.latencyMs());
      return socket as unknown as Socket;
    };
  }

  #reach(socket: SimSocket, listener: Listener, life: Life): void {
    if (socket.isClosed || life.isOver) return;
    if (this.#network.isCut(socket.route)) {
      if (this.random.oneIn(2)) this.clock.setTimer(() => socket.fail('EHOSTUNREACH'), REFUSED_MS);
      else this.clock.setTimer(() => this.#reach(socket, listener, life), 5 * REFUSED_MS);
      return;
    }
    if (listener.life === undefined) {
      socket.fail('ECONNREFUSED');
      return;
    }
    const accepted = new SimSocket(this, listener.life, socket.route, [socket.remoteAddress, socket.localAddress]);
    this.sockets.add(accepted);
    socket.join(accepted);
    listener.accept(accepted as unknown as Socket);
    this.clock.setTimer(() => {
      if (!socket.isClosed) socket.emit('connect');
    }, this.latencyMs());
  }

  /** Every connection that takes this way breaks. @param life of that process only */
  breakAll(route: string): void {
    for (const socket of [...this.sockets]) {
      // the end that connected knows first
      if (socket.route === route && socket.localAddress === CLIENT_ADDRESS) socket.breakNow();
    }
  }
}
