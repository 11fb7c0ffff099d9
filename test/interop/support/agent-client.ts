/**
 * The machine's side of tools/guest/agent: runs scripts in the guest, any number at a time, over one virtio-serial socket.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface ScriptResult {
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

interface Job {
  resolve(result: ScriptResult): void;
  reject(reason: Error): void;
}

interface AnswerHeader {
  readonly id: number;
  readonly code: number;
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

export class AgentClient {
  readonly #socket: Socket;
  readonly #jobs = new Map<number, Job>();
  #nextId = 1;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #header: AnswerHeader | undefined;
  #lost: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#receive(chunk));
    // It closes when QEMU ends, and then the owner, which knows more, calls `fail`.
    socket.on('error', () => socket.destroy());
  }

  /** Connects to QEMU's socket, which is there soon after QEMU was started. */
  static async connect(path: string, timeoutMs: number): Promise<AgentClient> {
    return new AgentClient(await connectWhenReady(path, timeoutMs));
  }

  /** Starts a script; `id` names its files in the guest's /run/agent. */
  start(script: string, input: Uint8Array): { id: number; result: Promise<ScriptResult> } {
    const id = this.#nextId++;
    const body = Buffer.from(`${script}\n`);
    const result = new Promise<ScriptResult>((resolve, reject) => {
      if (this.#lost) reject(this.#lost);
      else this.#jobs.set(id, { resolve, reject });
    });
    this.#socket.write(`${id} ${body.length} ${input.length}\n`);
    this.#socket.write(body);
    this.#socket.write(input);
    return { id, result };
  }

  /** Fails every script that is under way and every later one. */
  fail(reason: Error): void {
    this.#lost ??= reason;
    for (const job of this.#jobs.values()) job.reject(this.#lost);
    this.#jobs.clear();
  }

  close(): void {
    this.fail(new Error('The guest was stopped'));
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    while (this.#takeAnswer());
  }

  #takeAnswer(): boolean {
    this.#header ??= this.#takeHeader();
    const header = this.#header;
    if (!header || this.#buffered < header.stdoutBytes + header.stderrBytes) return false;
    const all = this.#joined();
    const end = header.stdoutBytes + header.stderrBytes;
    const stdout = all.subarray(0, header.stdoutBytes);
    const stderr = all.subarray(header.stdoutBytes, end);
    this.#keep(all.subarray(end));
    this.#header = undefined;
    this.#jobs.get(header.id)?.resolve({ code: header.code, stdout, stderr });
    this.#jobs.delete(header.id);
    return true;
  }

  #takeHeader(): AnswerHeader | undefined {
    const all = this.#joined();
    const end = all.indexOf('\n');
    if (end < 0) return undefined;
    const line = all.toString('latin1', 0, end);
    const match = /^@(\d+) (\d+) (\d+) (\d+)$/.exec(line);
    if (!match) throw new Error(`The guest agent said ${JSON.stringify(line)}`);
    this.#keep(all.subarray(end + 1));
    const [id, code, stdoutBytes, stderrBytes] = match.slice(1).map(Number) as [number, number, number, number];
    return { id, code, stdoutBytes, stderrBytes };
  }

  #joined(): Buffer {
    if (this.#chunks.length !== 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0]!;
  }

  #keep(rest: Buffer): void {
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#buffered = rest.length;
  }
}

/** A connection to a Unix socket that another process is about to open. */
export async function connectWhenReady(path: string, timeoutMs: number): Promise<Socket> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await connected(path);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(20);
    }
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}
