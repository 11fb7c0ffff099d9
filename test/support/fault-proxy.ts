/** Stands between two parties on TCP and does what networks do: delays, holds back, swallows, ends one direction, resets. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, Socket } from 'node:net';

/** `pass`: bytes go on. `stall`: they are kept, and go on later. `blackhole`: they are gone, and nobody is told. */
export type ProxyMode = 'pass' | 'stall' | 'blackhole';

/** PDU-Type. */
const R2T = 0x09;

/** A connection of the client, and the one to the server that goes with it. */
export class Pair {
  readonly client: Socket;
  readonly server: Socket;
  readonly #proxy: FaultProxy;
  /** For good: neither party hears anything of the other, its end neither. */
  isDeaf = false;
  /** Once, in place of the next data of the server; its asking for the data of a command (R2T) is none. */
  onAnswer: (() => void) | undefined;

  constructor(proxy: FaultProxy, client: Socket, port: number) {
    this.#proxy = proxy;
    this.client = client;
    this.server = new Socket();
    this.#forward(client, this.server, (data) => proxy.tap?.(data, this) !== 'kept');
    this.#forward(this.server, client, (data) => {
      if (data[0] === R2T) return true;
      const act = this.onAnswer;
      this.onAnswer = undefined;
      act?.();
      return act === undefined;
    });
    client.setNoDelay(true);
    this.server.setNoDelay(true);
    this.server.connect(port, '127.0.0.1');
  }

  #forward(from: Socket, to: Socket, goesOn: (data: Buffer) => boolean): void {
    from.on('data', (data) => {
      if (!this.isDeaf && goesOn(data)) this.#proxy.pass(data, to);
    });
    from.on('end', () => {
      if (!this.isDeaf) this.#proxy.pass(undefined, to);
    });
    from.on('error', () => {
      if (!this.isDeaf) to.destroy();
    });
    from.on('close', () => {
      // a party that was cut off hears nothing of the other's end
      if (this.#proxy.mode !== 'blackhole' && !this.isDeaf) to.destroy();
      this.#proxy.closed(this);
    });
  }

  reset(): void {
    for (const socket of [this.client, this.server]) if (!socket.destroyed) socket.resetAndDestroy();
  }

  destroy(): void {
    this.client.destroy();
    this.server.destroy();
  }
}

export class FaultProxy {
  readonly #server: Server;
  readonly #port: number;
  readonly #pairs = new Set<Pair>();
  readonly #held: (() => void)[] = [];
  #mode: ProxyMode = 'pass';
  /** Of everything that goes on from now on. */
  delayMs = 0;
  /** New connections end at once. */
  refuses = false;
  connections = 0;
  /** Sees what clients send; what it has `kept` does not go on. */
  tap: ((data: Buffer, pair: Pair) => 'passed' | 'kept') | undefined;

  private constructor(port: number) {
    this.#port = port;
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      this.connections++;
      if (this.refuses) client.resetAndDestroy();
      else this.#pairs.add(new Pair(this, client, this.#port));
    });
  }

  /** @param port of the server on the loopback */
  static async start(port: number): Promise<FaultProxy> {
    const proxy = new FaultProxy(port);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get mode(): ProxyMode {
    return this.#mode;
  }

  set mode(mode: ProxyMode) {
    this.#mode = mode;
    if (mode !== 'pass') return;
    for (const go of this.#held.splice(0)) go();
  }

  /** @param data undefined: the end of that direction @internal */
  pass(data: Buffer | undefined, to: Socket): void {
    const go = (): void => {
      if (to.destroyed || !to.writable) return;
      if (data === undefined) to.end();
      else to.write(data);
    };
    if (this.#mode === 'blackhole') return;
    if (this.#mode === 'stall') this.#held.push(go);
    else if (this.delayMs > 0) setTimeout(go, this.delayMs);
    else go();
  }

  /** @internal */
  closed(pair: Pair): void {
    if (pair.client.destroyed && pair.server.destroyed) this.#pairs.delete(pair);
  }

  /** Both parties get a reset. */
  reset(): void {
    for (const pair of this.#pairs) pair.reset();
  }

  /** The server's direction ends; the client may go on talking. */
  halfClose(): void {
    for (const { client } of this.#pairs) if (client.writable) client.end();
  }

  /** Who is connected hears nothing any more, and is not told; who connects from now on is served. */
  deafen(): void {
    for (const pair of this.#pairs) pair.isDeaf = true;
  }

  /** As before; connections that a blackhole swallowed are reset. */
  heal(): void {
    const wasBlackhole = this.#mode === 'blackhole';
    this.delayMs = 0;
    this.refuses = false;
    this.mode = 'pass';
    if (wasBlackhole) this.reset();
  }

  async close(): Promise<void> {
    this.#held.length = 0;
    for (const pair of this.#pairs) pair.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
