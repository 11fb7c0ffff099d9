/**
 * QEMU's machine protocol: one command at a time over its Unix socket.
 */
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { connectWhenReady } from './agent-client.ts';

interface QmpMessage {
  readonly event?: string;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export class QmpClient {
  readonly #socket: Socket;
  readonly #waiting: ((message: QmpMessage) => void)[] = [];
  readonly #listeners: { readonly event: string; resolve(): void }[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      for (const answer of this.#waiting.splice(0)) answer({ error: { class: 'Closed', desc: 'QEMU ended' } });
    });
    createInterface({ input: socket }).on('line', (line) => {
      const message = JSON.parse(line) as QmpMessage;
      if ('return' in message || 'error' in message) this.#waiting.shift()?.(message);
      else if (message.event !== undefined) this.#heard(message.event);
    });
  }

  static async connect(path: string, timeoutMs: number): Promise<QmpClient> {
    const client = new QmpClient(await connectWhenReady(path, timeoutMs));
    await client.execute('qmp_capabilities');
    return client;
  }

  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const message = await new Promise<QmpMessage>((resolve) => {
      this.#waiting.push(resolve);
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
    if (message.error) throw new Error(`QEMU refused ${command}: ${message.error.desc}`);
    return message.return;
  }

  /** The next event of this name. */
  event(event: string): Promise<void> {
    return new Promise((resolve) => {
      this.#listeners.push({ event, resolve });
    });
  }

  #heard(event: string): void {
    const mine = this.#listeners.filter((listener) => listener.event === event);
    for (const listener of mine) {
      this.#listeners.splice(this.#listeners.indexOf(listener), 1);
      listener.resolve();
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
