/** The journal as a disk has it: lines that are durable outlive the orchestrator; one that failed may be durable or not. */
import type { JournalEntry, MoveJournal } from '../../src/orchestrator/journal.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { SimClock } from './sim-clock.ts';

const SYNC_MS = 0.5;

export class SimJournal implements MoveJournal {
  readonly entries: JournalEntry[];
  readonly #lines: string[];
  readonly #process: Orchestrator;
  readonly #clock: SimClock;
  readonly #onDurable: (entry: JournalEntry) => void;

  /** @param lines of the file; they outlive this */
  constructor(process: Orchestrator, clock: SimClock, lines: string[], onDurable: (entry: JournalEntry) => void) {
    this.#process = process;
    this.#clock = clock;
    this.#lines = lines;
    this.#onDurable = onDurable;
    this.entries = lines.map((line) => JSON.parse(line) as JournalEntry);
  }

  async note(entry: JournalEntry): Promise<void> {
    const line = JSON.stringify(entry);
    await this.#process.step(`journal: ${entry.step} ${entry.state}`, async () => {
      await this.#clock.delay(SYNC_MS / 2);
      if (!this.#process.isDead) {
        this.#lines.push(line);
        this.#onDurable(entry);
      }
      await this.#clock.delay(SYNC_MS / 2);
    });
    this.entries.push(entry);
  }
}
