/** The front process of a VM, over its control socket (JSON lines). One connection owns the front until it ends; a front that is paused stays paused then. */
import net from 'node:net';
import { ConfigError, TransportError } from '../util/error.ts';
import type { DeviceFront } from './end.ts';

/** Sockets of the controllers at both ends, as the front reaches them. @public */
export interface FrontSockets {
  readonly source: string;
  readonly destination: string;
}

/** What a front says of itself; see `VfioUserFront`. @public */
export interface FrontReport {
  readonly vm: 'connected' | 'none';
  readonly controller: { readonly socket: string; readonly state: 'joined' | 'away' };
  readonly paused: boolean;
  readonly waiting: { readonly messages: number; readonly bytes: number };
  readonly stateLost: boolean;
}

interface Waiting {
  readonly resolve: (status: FrontReport) => void;
  readonly reject: (error: Error) => void;
}

const LINE_BYTES_MAX = 1 << 20;

/** @public */
export class FrontControl implements DeviceFront {
  readonly path: string;
  readonly #sockets: FrontSockets;
  readonly #socket: net.Socket;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #text = '';
  #ended: Error | undefined;

  private constructor(path: string, sockets: FrontSockets, socket: net.Socket) {
    this.path = path;
    this.#sockets = sockets;
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => this.#read(chunk));
    socket.on('error', () => {}); // it closes
    socket.on('close', () => this.#end('the front ended the connection'));
  }

  /** @throws ConfigError if nobody listens there */
  static async connect(path: string, sockets: FrontSockets): Promise<FrontControl> {
    const socket = net.connect(path);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new ConfigError(
        `Front at ${path}: cannot be reached (${code}); start nvmeferry front with --control ${path}`,
        { cause: error },
      );
    }
    return new FrontControl(path, sockets, socket);
  }

  status(): Promise<FrontReport> {
    return this.#ask({ command: 'status' });
  }

  async pause(): Promise<void> {
    await this.#ask({ command: 'pause' });
  }

  async attach(end: 'source' | 'destination'): Promise<void> {
    await this.#ask({ command: 'attach', socket: this.#sockets[end] });
  }

  async resume(): Promise<void> {
    await this.#ask({ command: 'resume' });
  }

  /** The front goes on as it is; another connection may control it. Idempotent. */
  async close(): Promise<void> {
    this.#end('the connection was closed');
    if (this.#socket.closed) return;
    await new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve());
      this.#socket.destroy();
    });
  }

  #ask(request: Readonly<Record<string, unknown>>): Promise<FrontReport> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ id, ...request })}\n`);
    });
  }

  #read(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      this.#answered(line);
    }
    if (this.#text.length > LINE_BYTES_MAX) this.#socket.destroy();
  }

  #answered(line: string): void {
    const { id, error, status } = parse(line);
    const waiting = typeof id === 'number' ? this.#waiting.get(id) : undefined;
    if (waiting === undefined) {
      // an answer to nothing: what it says is why the front ends the connection
      this.#end(typeof error === 'string' ? error : 'it does not speak as a front does');
      this.#socket.destroy();
      return;
    }
    this.#waiting.delete(id as number);
    if (typeof error === 'string') waiting.reject(new ConfigError(`Front at ${this.path}: ${error}`));
    else waiting.resolve(status as FrontReport);
  }

  #end(reason: string): void {
    this.#ended ??= new TransportError('NVMEOF_ERR_FRONT', `Front at ${this.path}: ${reason}`);
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
    this.#waiting.clear();
  }
}

function parse(line: string): { id?: unknown; error?: unknown; status?: unknown } {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
