/**
 * What has happened when: for each entry of the journal, the faults that met a move between the writing of it and that of the next one (or of what is
 * done side by side, the writing of that entry itself). Faults that had nothing to happen to (a process that was down) are not counted.
 */
import type { Fault, Scenario } from './scenario.ts';
import { ENTRIES, FAULTS, faultsOf } from './sweep.ts';

/** Of a scenario, beside its kind: what else is there while something goes wrong. */
export const CIRCUMSTANCES = ['queue', 'bitmap', 'memory', 'reservations'] as const;
type Circumstance = (typeof CIRCUMSTANCES)[number];

const isGiven = (scenario: Scenario, circumstance: Circumstance): boolean => {
  switch (circumstance) {
    case 'queue':
    case 'bitmap':
      return scenario.changes === circumstance && scenario.modes.includes('copied');
    case 'memory':
      return scenario.movesMemory;
    case 'reservations':
      return scenario.hasReservations;
  }
};

/** As columns are called. */
export function nameOf(fault: Fault): string {
  switch (fault.kind) {
    case 'crash':
    case 'cut':
    case 'stall':
    case 'late':
    case 'resize':
      return `${fault.kind} ${fault.who}`;
    case 'crash-front':
      return 'crash front';
    default:
      return fault.kind;
  }
}

const isOutage = (fault: string): boolean => /^(crash|cut) /.test(fault);

export class Coverage {
  readonly #counts = new Map<string, number>();

  add(scenario: Scenario, entry: string, fault: Fault): void {
    const name = nameOf(fault);
    this.#count(scenario.kind, entry, name);
    if (!isOutage(name)) return;
    const outage = name.split(' ')[0]!;
    for (const circumstance of CIRCUMSTANCES) {
      if (isGiven(scenario, circumstance)) this.#count(scenario.kind, entry, `${outage} with ${circumstance}`);
    }
  }

  #count(kind: Scenario['kind'], entry: string, what: string): void {
    const key = `${kind}, ${entry}: ${what}`;
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
  }

  of(kind: Scenario['kind'], entry: string, what: string): number {
    return this.#counts.get(`${kind}, ${entry}: ${what}`) ?? 0;
  }

  /** What has not happened, of what must. */
  missing(isWanted: (entry: string, fault: string) => boolean): string[] {
    const found: string[] = [];
    for (const kind of KINDS) {
      for (const entry of ENTRIES[kind]) {
        for (const fault of [...faultsOf(kind), ...circumstancesOf(kind)]) {
          if (isWanted(entry, fault) && this.of(kind, entry, fault) === 0) found.push(`${kind}, ${entry}: ${fault}`);
        }
      }
    }
    return found;
  }

  get table(): string {
    return KINDS.map((kind) => this.#tableOf(kind)).join('\n\n');
  }

  #tableOf(kind: Scenario['kind']): string {
    const columns = [...FAULTS.filter((fault) => faultsOf(kind).includes(fault)), ...circumstancesOf(kind)];
    const width = Math.max(...ENTRIES[kind].map(({ length }) => length));
    // one line for each word of a column's head
    const words = columns.map((column) => column.split(' '));
    const widths = words.map((parts) => Math.max(...parts.map(({ length }) => length), 4));
    const line = (first: string, cells: readonly string[]): string =>
      [first.padEnd(width), ...cells.map((cell, i) => cell.padStart(widths[i]!))].join('  ').trimEnd();
    const height = Math.max(...words.map(({ length }) => length));
    const head = Array.from({ length: height }, (_, row) =>
      line(
        row === 0 ? `${kind}:` : '',
        words.map((parts) => parts[row] ?? ''),
      ),
    );
    const rows = ENTRIES[kind].map((entry) =>
      line(
        entry,
        columns.map((column) => String(this.of(kind, entry, column) || '-')),
      ),
    );
    return [...head, ...rows].join('\n');
  }
}

const KINDS = ['namespaces', 'controller'] as const;

const circumstancesOf = (kind: Scenario['kind']): readonly string[] =>
  (kind === 'controller' ? (['queue', 'bitmap', 'memory'] as const) : (['reservations'] as const)).flatMap((one) => [
    `crash with ${one}`,
    `cut with ${one}`,
  ]);
