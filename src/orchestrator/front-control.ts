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
  readonly timer: NodeJS.Timeout;
  readonly resolve: (status: FrontReport) => void;
  readonly reject: (error: Error) => void;
}

const LINE_BYTES_MAX = 1 << 20;
/** What has no answer by then has failed: hosts wait. */
const CALL_MS = 10_000;

/** `code` of the error that says so: a front that is gone takes the device of its VM with it, for ever. */
export const FRONT_GONE = 'NVMEOF_ERR_FRONT_GONE';

/** @public */
export class FrontControl implements DeviceFront {
  readonly path: string;
  readonly #sockets: FrontSockets;
  readonly #callMs: number;
  /** Undefined: not connected yet, or not any more. */
  #socket: net.Socket | undefined;
  #connecting: Promise<void> | undefined;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #text = '';
  #isClosed = false;

  /** Connects when it is first needed, and again if the front has ended the connection but is there. */
  constructor(path: string, sockets: FrontSockets, options: { readonly callMs?: number } = {}) {
    this.path = path;
    this.#sockets = sockets;
    this.#callMs = options.callMs ?? CALL_MS;
  }

  /** @throws ConfigError if nobody listens there */
  static async connect(path: string, sockets: FrontSockets): Promise<FrontControl> {
    const control = new FrontControl(path, sockets);
    try {
      await control.#join();
    } catch (error) {
      const { code } = (error as Error).cause as NodeJS.ErrnoException;
      throw new ConfigError(
        `Front at ${path}: cannot be reached (${code}); start nvmeferry front with --control ${path}`,
        { cause: error },
      );
    }
    return control;
  }

  /** @throws TransportError `FRONT_GONE` if nobody is there */
  async #join(): Promise<void> {
    const socket = net.connect(this.path);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      const isGone = code === 'ECONNREFUSED' || code === 'ENOENT';
      const what = isGone ? `is gone (${code}), and with it the device of its VM` : `cannot be reached (${code})`;
      throw new TransportError(isGone ? FRONT_GONE : 'NVMEOF_ERR_FRONT', `Front at ${this.path}: ${what}`, { cause });
    }
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => this.#read(chunk));
    socket.on('error', () => {}); // it closes
    socket.on('close', () => this.#lost(socket, 'the front ended the connection'));
    this.#text = '';
    this.#socket = socket;
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
    this.#isClosed = true;
    await this.#connecting?.catch(() => {}); // it was told to who asked
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#lost(socket, 'the connection was closed');
    if (socket.closed) return;
    await new Promise<void>((resolve) => {
      socket.once('close', () => resolve());
      socket.destroy();
    });
  }

  async #ask(request: Readonly<Record<string, unknown>>): Promise<FrontReport> {
    if (this.#isClosed) throw this.#failure('the connection was closed');
    if (this.#socket === undefined) {
      this.#connecting ??= this.#join().finally(() => {
        this.#connecting = undefined;
      });
      await this.#connecting;
    }
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const socket = this.#socket!;
      // a late answer must not come to another question
      const timer = setTimeout(() => {
        this.#lost(socket, `no answer for ${this.#callMs} ms; see whether its process is stopped`);
        socket.destroy();
      }, this.#callMs);
      this.#waiting.set(id, { timer, resolve, reject });
      socket.write(`${JSON.stringify({ id, ...request })}\n`);
    });
  }

  #read(chunk: string): void {
    this.#text += chunk;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      this.#answered(line);
    }
    if (this.#text.length > LINE_BYTES_MAX) this.#socket?.destroy();
  }

  #answered(line: string): void {
    const { id, error, status } = parse(line);
    const waiting = typeof id === 'number' ? this.#waiting.get(id) : undefined;
    if (waiting === undefined) {
      // an answer to nothing: what it says is why the front ends the connection
      const socket = this.#socket;
      if (socket === undefined) return;
      this.#lost(socket, typeof error === 'string' ? error : 'it does not speak as a front does');
      socket.destroy();
      return;
    }
    this.#waiting.delete(id as number);
    clearTimeout(waiting.timer);
    if (typeof error === 'string') waiting.reject(new ConfigError(`Front at ${this.path}: ${error}`));
    else waiting.resolve(status as FrontReport);
  }

  /** What was asked of it may have been done, or not. */
  #lost(socket: net.Socket, reason: string): void {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    for (const { timer, reject } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(this.#failure(reason));
    }
    this.#waiting.clear();
  }

  #failure(reason: string): TransportError {
    return new TransportError('NVMEOF_ERR_FRONT', `Front at ${this.path}: ${reason}`);
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
