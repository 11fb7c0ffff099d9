/**
 * The control socket of a front: JSON lines, a request and its answer each. Everybody may ask for `status`; the first connection that changes something
 * owns the front until it ends. A front that is paused then stays so: who continues the move takes it over.
 *
 *     {"id":1,"command":"pause"}                             {"id":1,"ok":true,"status":{...}}
 *     {"id":2,"command":"attach","socket":"/run/dpuB.sock"}  {"id":2,"error":"Controller at /run/dpuB.sock: nobody listens there ..."}
 */
import fs from 'node:fs';
import net from 'node:net';
import { dirname } from 'node:path';
import { ConfigError } from '../../../util/error.ts';
import type { FrontStatus } from './front-options.ts';

/** What is controlled. */
export interface Controlled {
  status(): FrontStatus;
  pause(): Promise<void>;
  attach(socket: string): Promise<void>;
  resume(): Promise<void>;
}

const LINE_BYTES_MAX = 16 << 10;
const CONNECTIONS_MAX = 8;
/** Requests of one connection that are not answered. */
const WAITING_MAX = 64;

type Request = Readonly<Record<string, unknown>>;
type Act = (front: Controlled, request: Request) => Promise<void>;

const ACTS: Readonly<Record<string, Act>> = {
  status: async () => {},
  pause: (front) => front.pause(),
  attach: async (front, { socket }) => {
    if (typeof socket !== 'string' || socket === '')
      throw new ConfigError(`attach: socket is ${JSON.stringify(socket)}, the path of a controller's socket is needed`);
    await front.attach(socket);
  },
  resume: (front) => front.resume(),
};

/** @public */
export class FrontControlServer {
  readonly path: string;
  readonly #front: Controlled;
  readonly #server: net.Server;
  readonly #connections = new Set<net.Socket>();
  #owner: net.Socket | undefined;

  private constructor(path: string, front: Controlled) {
    this.path = path;
    this.#front = front;
    this.#server = net.createServer((socket) => this.#serve(socket));
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** Listens; only this user may connect. @throws ConfigError naming the path */
  static async listen(path: string, front: Controlled): Promise<FrontControlServer> {
    const made = new FrontControlServer(path, front);
    if (await isStale(path)) fs.rmSync(path);
    try {
      await new Promise<void>((resolve, reject) => {
        made.#server.once('error', reject);
        made.#server.listen(path, () => {
          made.#server.off('error', reject);
          resolve();
        });
      });
      fs.chmodSync(path, 0o600);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // libuv says EACCES for a folder that is not there
      const isHomeless = code === 'EACCES' && !fs.existsSync(dirname(path));
      const remedy =
        code === 'EADDRINUSE'
          ? 'is in use by another program; choose another path'
          : isHomeless
            ? 'the directory does not exist'
            : `cannot be made (${code})`;
      throw new ConfigError(`Control socket ${path}: ${remedy}`, { cause: error });
    }
    return made;
  }

  #serve(socket: net.Socket): void {
    this.#connections.add(socket);
    let text = '';
    let waiting = 0;
    let turn: Promise<void> = Promise.resolve();
    const answer = (value: object): void => {
      if (!socket.destroyed && socket.writable) socket.write(`${JSON.stringify(value)}\n`);
    };
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        if (line.trim() === '') continue;
        if (++waiting > WAITING_MAX) {
          socket.end(`${JSON.stringify({ error: `more than ${WAITING_MAX} requests wait; read their answers` })}\n`);
          socket.removeAllListeners('data');
          return;
        }
        turn = turn.then(async () => {
          answer(await this.#answerTo(socket, line));
          waiting--;
        });
      }
      if (text.length > LINE_BYTES_MAX) {
        socket.end(`${JSON.stringify({ error: `a line is longer than ${LINE_BYTES_MAX} bytes` })}\n`);
        socket.removeAllListeners('data');
      }
    });
    socket.on('error', () => {}); // it closes
    socket.on('close', () => {
      this.#connections.delete(socket);
      if (this.#owner === socket) this.#owner = undefined;
    });
  }

  async #answerTo(socket: net.Socket, line: string): Promise<object> {
    let id: unknown;
    try {
      const request = parse(line);
      id = request.id;
      const { command } = request;
      const act = typeof command === 'string' && Object.hasOwn(ACTS, command) ? ACTS[command] : undefined;
      if (act === undefined) {
        const known = Object.keys(ACTS).join(', ');
        throw new ConfigError(`command is ${JSON.stringify(command)}; allowed are ${known}`);
      }
      if (command !== 'status') this.#own(socket);
      await act(this.#front, request);
      return { id, ok: true, status: this.#front.status() };
    } catch (error) {
      // whatever it is, a VM is behind this process
      return { id, error: error instanceof Error ? error.message : String(error) };
    }
  }

  /** @throws ConfigError if another connection does */
  #own(socket: net.Socket): void {
    if (this.#owner !== undefined && this.#owner !== socket)
      throw new ConfigError('front: another connection controls it; end that one, or wait until it has ended');
    if (!socket.destroyed) this.#owner = socket;
  }

  /** Ends all connections; the path is free. Idempotent. */
  async close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }
}

function parse(line: string): Request {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new ConfigError('a line is no JSON; wanted is {"id":1,"command":"status"}');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ConfigError('a line is no JSON object; wanted is {"id":1,"command":"status"}');
  return value as Request;
}

/** A socket of a process that was killed. */
function isStale(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    if (!fs.existsSync(path) || !fs.lstatSync(path).isSocket()) {
      resolve(false);
      return;
    }
    const probe = net.connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}
