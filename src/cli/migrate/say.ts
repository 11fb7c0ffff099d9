/** What `migrate` says while it goes on: lines of text or JSON on stdout, and on a terminal a picture of the copying that is drawn again and again. */
import type { Move } from '../../orchestrator/move.ts';
import type { MoveEvent } from '../../orchestrator/move-options.ts';
import { bytesOf } from '../../orchestrator/move-report.ts';
import type { MovePlan } from '../../orchestrator/move-spec.ts';
import { bytesText, durationText, rateText, sparkline } from './units.ts';

const REDRAW_MS = 200;

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
  #move: Move | undefined;
  #plan: MovePlan | undefined;
  #timer: NodeJS.Timeout | undefined;
  #step: string | undefined;
  #lines = 0;
  /** Of the last drawing: bytes and time, for the throughput. */
  #before: { readonly bytes: number; readonly atMs: number } | undefined;
  #throughput = 0;
  #remainingMs: number | undefined;
  #dirtyRate = 0;

  constructor(format: 'text' | 'json') {
    this.#format = format;
  }

  /** Follows a move until `end`. Holds the process meanwhile. */
  begin(move: Move): void {
    this.#move = move;
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#wipe();
  }

  line(text: string, json: Readonly<Record<string, unknown>>): void {
    if (this.#format === 'json') process.stdout.write(`${JSON.stringify(json)}\n`);
    else {
      this.#wipe();
      process.stdout.write(`${text}\n`);
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
        if (this.#format === 'json') this.line('', event);
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
        const left = `${bytesText(round.dirtiedBytes)} changed meanwhile (${rateText(dirtyRate)})`;
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

  #draw(): void {
    const move = this.#move;
    if (move === undefined || this.#format === 'json' || !process.stdout.isTTY) return;
    const report = move.report;
    const { moved } = bytesOf(report);
    const nowMs = report.totalMs;
    if (this.#before !== undefined && nowMs > this.#before.atMs) {
      this.#throughput = ((moved - this.#before.bytes) / (nowMs - this.#before.atMs)) * 1000;
    }
    this.#before = { bytes: moved, atMs: nowMs };
    const first = report.rounds.length === 0 && this.#step === 'pre-copy';
    const total = this.#plan?.allocatedBytes ?? 0;
    const toGo = first && this.#throughput > 0 ? ((total - moved) / this.#throughput) * 1000 : this.#remainingMs;
    const last = report.rounds.at(-1);
    const parts = [
      `${this.#step ?? 'begin'} ${durationText(nowMs)}`,
      `${bytesText(moved)}${first && total > 0 ? ` of ${bytesText(total)} (${Math.floor((moved / total) * 100)} %)` : ''}`,
      rateText(this.#throughput),
    ];
    const second = [
      `round ${report.rounds.length + 1}`,
      `changing ${rateText(this.#dirtyRate)}`,
      `left ${sparkline(report.rounds.map(({ dirtiedBytes }) => dirtiedBytes))}`,
      `pause ${last === undefined || !Number.isFinite(last.blackoutMs) ? '?' : durationText(last.blackoutMs)} of ${report.blackoutBudgetMs} ms`,
      toGo === undefined ? 'no end in sight' : `${durationText(Math.max(0, toGo))} to go`,
    ];
    this.#wipe();
    process.stdout.write(`${parts.join('   ')}\n${second.join('   ')}`);
    this.#lines = 2;
  }

  #wipe(): void {
    if (this.#lines === 0) return;
    process.stdout.write(`\r\x1b[K${'\x1b[1A\x1b[K'.repeat(this.#lines - 1)}`);
    this.#lines = 0;
  }
}
