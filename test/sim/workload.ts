/** What a guest does all the time, and whether it may see what it sees. Lanes that have one command under way each; no two writes of a block at once. */
import type { Random } from '../support/random.ts';
import type { Oracle, ReadTicket } from './oracle.ts';
import type { SimClock } from './sim-clock.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { Violation } from './violation.ts';

/** From then on it does less. */
const CALM_MS = 400;

export interface WorkloadOptions {
  readonly clock: SimClock;
  readonly random: Random;
  /** By NSID - 1. */
  readonly oracles: readonly Oracle[];
  readonly depth: number;
  readonly thinkMs: number;
  submit(command: HostCommand): Promise<HostAnswer>;
  failed(error: unknown): void;
}

export class Workload {
  readonly #options: WorkloadOptions;
  #ids = 0;
  completed = 0;
  running = 0;
  #stopped = false;
  readonly #outstanding = new Map<number, { readonly command: HostCommand; readonly sinceMs: number }>();

  constructor(options: WorkloadOptions) {
    this.#options = options;
  }

  start(): void {
    for (let lane = 0; lane < this.#options.depth; lane++) {
      this.running++;
      this.#lane()
        .catch((error) => this.#options.failed(error))
        .finally(() => this.running--);
    }
  }

  /** Lanes end with the command that they have under way. */
  stop(): void {
    this.#stopped = true;
  }

  async #lane(): Promise<void> {
    const { clock, random, thinkMs } = this.#options;
    while (!this.#stopped) {
      await this.#one();
      this.completed++;
      await clock.delay(thinkMs * this.#patience * (0.2 + random.below(160) / 100));
    }
  }

  /** Who waits for long does less meanwhile: a run that takes seconds is not about as many commands. */
  get #patience(): number {
    const ms = this.#options.clock.nowMs();
    return ms < CALM_MS ? 1 : ms < 4 * CALM_MS ? 5 : 25;
  }

  async #one(): Promise<void> {
    const { random, oracles } = this.#options;
    const at = random.below(oracles.length);
    const oracle = oracles[at]!;
    const blockCount = 1 + random.below(4);
    // half of it hits a quarter of the blocks
    const span = random.oneIn(2) ? oracle.blockCount >> 2 : oracle.blockCount;
    const slba = random.below(Math.max(1, span - blockCount + 1));
    const count = Math.min(blockCount, oracle.blockCount - slba);
    const chance = random.below(20);
    if (chance < 6) await this.#read(oracle, at + 1, slba, count);
    else if (chance === 6) await this.#flush(oracle, at + 1);
    else if (!oracle.isPending(slba, count)) await this.#write(oracle, at + 1, slba, count, chance < 9);
  }

  /** A command takes effect. @param id of the command */
  executed(id: number): void {
    const command = this.#outstanding.get(id)?.command;
    if (command === undefined || command.opcode === 'read' || command.opcode === 'flush') return;
    this.#options.oracles[command.nsid - 1]!.executed(command.slba, command.blockCount);
  }

  /** Commands without an answer. */
  get waiting(): string[] {
    return [...this.#outstanding.values()].map(({ command: { opcode, nsid, slba, id }, sinceMs }) => {
      return `${opcode} ${nsid}:${slba} (command ${id}, since ${sinceMs.toFixed(2)} ms)`;
    });
  }

  async #submit(unnumbered: Omit<HostCommand, 'id'>): Promise<HostAnswer> {
    const command = { ...unnumbered, id: ++this.#ids };
    this.#outstanding.set(command.id, { command, sinceMs: this.#options.clock.nowMs() });
    const answer = await this.#options.submit(command);
    this.#outstanding.delete(command.id);
    if (answer.status !== 0) {
      throw new Violation(`The guest's ${command.opcode} ends with status ${answer.status.toString(16)}h`);
    }
    return answer;
  }

  async #read(oracle: Oracle, nsid: number, slba: number, blockCount: number): Promise<void> {
    const ticket: ReadTicket = oracle.readStarts(slba, blockCount);
    const answer = await this.#submit({ opcode: 'read', nsid, slba, blockCount, value: 0, fua: false });
    oracle.readEnds(ticket, answer.values);
  }

  async #flush(oracle: Oracle, nsid: number): Promise<void> {
    const startedAt = oracle.flushStarts();
    await this.#submit({ opcode: 'flush', nsid, slba: 0, blockCount: 0, value: 0, fua: false });
    oracle.flushEnds(startedAt);
  }

  async #write(oracle: Oracle, nsid: number, slba: number, blockCount: number, deallocates: boolean): Promise<void> {
    const { random } = this.#options;
    // the id that the command gets: by it is known what is executed
    const value = deallocates ? 0 : this.#ids + 1;
    const fua = !deallocates && random.oneIn(4);
    oracle.writeStarts(slba, blockCount, value);
    const opcode = deallocates ? 'deallocate' : 'write';
    await this.#submit({ opcode, nsid, slba, blockCount, value, fua });
    oracle.writeEnds(slba, blockCount, fua);
  }
}
