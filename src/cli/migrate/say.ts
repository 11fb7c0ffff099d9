/** What `migrate` says while it goes on: lines of text or JSON on stdout, and on a terminal a picture of the copying that is drawn again and again. */
import type { Move } from '../../orchestrator/move.ts';
import type { MoveEvent } from '../../orchestrator/move-options.ts';
import { bytesOf } from '../../orchestrator/move-report.ts';
import type { MovePlan } from '../../orchestrator/move-spec.ts';
import { picture } from './picture.ts';
import { bytesText, durationText, rateText } from './units.ts';

const REDRAW_MS = 200;
const COLUMNS_DEFAULT = 80;

/** What of a stream is used. */
export interface TellerOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const STEP_TEXTS: Readonly<Record<string, string>> = {
  'close-destination': 'destination closed to hosts',
  announce: "source's discovery names the destination",
  'pre-copy': 'copied while in use',
  suspend: 'controller suspended',
  'close-source': 'source closed to hosts',
  'last-copy': 'last changes copied',
  state: 'controller state at the destination',
  commit: 'committed',
  attach: 'device handed over',
  'open-destination': 'destination open to hosts',
  resume: 'controller runs at the destination',
  release: 'guest goes on',
  'clean-up': 'source cleaned up',
};

export class Teller {
  readonly #format: 'text' | 'json';
  readonly #out: TellerOutput;
  /** Somebody else writes on the terminal. */
  #isHeld = false;
  #move: Pick<Move, 'report'> | undefined;
  #plan: MovePlan | undefined;
  #timer: NodeJS.Timeout | undefined;
  #step: string | undefined;
  #lines = 0;
  /** Of the last drawing: bytes and time, for the throughput. */
  #before: { readonly bytes: number; readonly atMs: number } | undefined;
  #throughput = 0;
  #remainingMs: number | undefined;
  #dirtyRate = 0;

  constructor(format: 'text' | 'json', out: TellerOutput = process.stdout) {
    this.#format = format;
    this.#out = out;
  }

  /** Follows a move until `end`. Holds the process meanwhile. */
  begin(move: Pick<Move, 'report'>): void {
    this.#move = move;
    this.#timer = setInterval(() => this.draw(), REDRAW_MS);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#wipe();
  }

  /** No picture while `act` has the terminal. */
  async aside<T>(act: () => Promise<T>): Promise<T> {
    this.#wipe();
    this.#isHeld = true;
    try {
      return await act();
    } finally {
      this.#isHeld = false;
    }
  }

  line(text: string, json: Readonly<Record<string, unknown>>): void {
    if (this.#format === 'json') this.#out.write(`${JSON.stringify(json)}\n`);
    else {
      this.#wipe();
      this.#out.write(`${text}\n`);
    }
  }

  /** As `MoveOptions.onEvent`. */
  readonly event = (event: MoveEvent): void => {
    switch (event.event) {
      case 'plan':
        this.#plan = event.plan;
        break; // said by who asked for it
      case 'step': {
        const { step, state } = event;
        if (state === 'begun') this.#step = step;
        const text = STEP_TEXTS[step] ?? step;
        // without a peer nothing is announced
        const isNothing = step === 'announce' && this.#plan !== undefined && this.#plan.record.spec.peer === undefined;
        if (this.#format === 'json') this.line('', event);
        else if (isNothing) break;
        else if (state === 'done') this.line(`  ${text}`, event);
        else if (state === 'undone') this.line(`  undone: ${text}`, event);
        break;
      }
      case 'round': {
        const { round, copyRate, dirtyRate, remainingMs } = event;
        this.#remainingMs = remainingMs;
        this.#dirtyRate = dirtyRate;
        const number = this.#move?.report.rounds.length ?? 0;
        const copied = `${bytesText(round.bytes)} in ${durationText(round.durationMs)}`;
        const left = `${bytesText(round.dirtiedBytes)} changed (${rateText(dirtyRate)})`;
        const pause = Number.isFinite(round.blackoutMs) ? `, pause ${durationText(round.blackoutMs)}` : '';
        this.line(`  round ${number}: ${copied}, ${left}${pause}`, {
          event: 'round',
          number,
          ...round,
          blackoutMs: Number.isFinite(round.blackoutMs) ? round.blackoutMs : null,
          copyRate: copyRate ?? null,
          dirtyRate,
          remainingMs: remainingMs ?? null,
        });
        break;
      }
      case 'retry':
        this.line(`  ${event.step}: ${event.message}; trying again`, event);
        break;
      case 'warning':
        this.line(`  warning: ${event.message}`, event);
        break;
      default:
        event satisfies never;
    }
  };

  /** The picture, anew; on a terminal only. */
  draw(): void {
    const move = this.#move;
    if (move === undefined || this.#isHeld || this.#format === 'json' || this.#out.isTTY !== true) return;
    const { report } = move;
    const { moved } = bytesOf(report);
    const nowMs = report.totalMs;
    const before = this.#before;
    if (before !== undefined && nowMs > before.atMs) {
      this.#throughput = ((moved - before.bytes) / (nowMs - before.atMs)) * 1000;
    }
    this.#before = { bytes: moved, atMs: nowMs };
    const lines = picture(
      {
        report,
        step: this.#step,
        plannedBytes: this.#plan?.allocatedBytes ?? 0,
        throughput: this.#throughput,
        dirtyRate: this.#dirtyRate,
        remainingMs: this.#remainingMs,
      },
      // the last column would wrap on some
      (this.#out.columns ?? COLUMNS_DEFAULT) - 1,
    );
    this.#wipe();
    this.#out.write(lines.join('\n'));
    this.#lines = lines.length;
  }

  #wipe(): void {
    if (this.#lines === 0) return;
    this.#out.write(`\r\x1b[K${'\x1b[1A\x1b[K'.repeat(this.#lines - 1)}`);
    this.#lines = 0;
  }
}
