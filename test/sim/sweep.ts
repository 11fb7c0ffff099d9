/**
 * Scenarios that meet every entry of the journal with every fault, whatever the seed: a move goes without trouble up to that entry (for entries of a
 * rollback, the journal fails where most is to be undone), then it happens, and anything may happen afterwards.
 */
import {
  AFTER_COMMIT,
  BEFORE_COMMIT,
  COMMIT_ENTRY,
  MOVE_ENTRY,
  PLAN_ENTRY,
  ROLLBACK_ENTRY,
} from '../../src/orchestrator/steps.ts';
import type { Random } from '../support/random.ts';
import { type Fault, type Phase, randomOf, type Scenario, scenarioOf, someFault, type When } from './scenario.ts';

type Kind = Scenario['kind'];

const namesOf = (steps: typeof BEFORE_COMMIT, kind: Kind): readonly string[] =>
  steps.filter((step) => step.kind === undefined || step.kind === kind).map(({ name }) => name);

const forward = (names: readonly string[]): string[] => names.flatMap((name) => [`${name} begun`, `${name} done`]);

function entriesOf(kind: Kind): readonly string[] {
  const before = namesOf(BEFORE_COMMIT, kind);
  return [
    `${PLAN_ENTRY} done`,
    ...forward(before),
    `${COMMIT_ENTRY} done`,
    ...forward(namesOf(AFTER_COMMIT, kind)),
    `${MOVE_ENTRY} done`,
    `${ROLLBACK_ENTRY} begun`,
    ...before.map((name) => `${name} undone`),
    `${MOVE_ENTRY} undone`,
  ];
}

/** Everything that a journal may have, of a move and of its rollback. */
export const ENTRIES: Readonly<Record<Kind, readonly string[]>> = {
  namespaces: entriesOf('namespaces'),
  controller: entriesOf('controller'),
};

export const FAULTS = [
  'crash source',
  'crash destination',
  'crash orchestrator',
  'crash front',
  'cut source',
  'cut destination',
  'cut front',
  'stall source',
  'stall destination',
  'late source',
  'late destination',
  'resize source',
  'resize destination',
  'journal',
] as const;
export type FaultName = (typeof FAULTS)[number];

export const faultsOf = (kind: Kind): readonly FaultName[] =>
  kind === 'controller' ? FAULTS : FAULTS.filter((fault) => !fault.endsWith(' front'));

const isOfRollback = (entry: string): boolean => entry.endsWith(' undone') || entry === `${ROLLBACK_ENTRY} begun`;

function faultOf(name: FaultName, when: When, random: Random): Fault {
  const ms = random.pick([1, 5, 30, 200, 1000]);
  const [kind, who] = name.split(' ') as [string, never];
  switch (kind) {
    case 'crash':
      return who === 'front' ? { kind: 'crash-front', when } : { kind, who, when, downMs: ms };
    case 'cut':
      return { kind, who, when, ms };
    case 'stall':
      return { kind, who, when, ms };
    case 'late':
      return { kind, who, when, ms: random.pick([30, 80, 200]) };
    case 'resize':
      return { kind, who, when };
    default:
      return { kind: 'journal', when, isDurable: random.oneIn(2) };
  }
}

export interface Pair {
  readonly kind: Kind;
  readonly entry: string;
  readonly fault: FaultName;
}

export const PAIRS: readonly Pair[] = (['namespaces', 'controller'] as const).flatMap((kind) =>
  ENTRIES[kind].flatMap((entry) => faultsOf(kind).map((fault) => ({ kind, entry, fault }))),
);

/** Before and after the entry is written, and before and after what is done next. */
const PLACES: readonly { readonly plus: number; readonly phase: Phase }[] = [
  { plus: 0, phase: 'before' },
  { plus: 1, phase: 'before' },
  { plus: 1, phase: 'after' },
  { plus: 0, phase: 'after' },
];

/** There is something that can be late. */
const SENT = PLACES.filter(({ plus, phase }) => plus === 1 && phase === 'before');

/**
 * @param round another place, and other circumstances
 * @param seed for all else
 */
export function sweptScenario(pair: Pair, round: number, seed: number): Scenario {
  const { kind, entry, fault } = pair;
  const number = PAIRS.indexOf(pair) + round;
  const random = randomOf(seed ^ 0x5fee);
  const scenario = scenarioOf(seed, kind);
  // nothing is done between the end of a step and the next entry; where a crash ends the writing, nothing is there to fail
  const isSent = fault.startsWith('late ') && entry.endsWith(' begun');
  const places = isSent
    ? SENT
    : entry.endsWith(' begun') && fault !== 'journal'
      ? PLACES
      : PLACES.filter(({ plus }) => plus === 0);
  const place = places[(number + Math.floor(number / places.length)) % places.length]!;
  const phase = fault === 'journal' ? 'before' : place.phase;
  const then: readonly Fault[] = random.oneIn(2)
    ? [someFault(random, scenario.blockCount, { laterMs: random.pick([0.1, 0.5, 1, 3, 10, 40]) })]
    : [];
  return {
    ...scenario,
    modes: scenario.modes.includes('copied') ? scenario.modes : ['copied', ...scenario.modes],
    whenStuck: 'cut',
    blackoutBudgetMs: 300,
    changes: kind === 'controller' && number % 2 === 0 ? 'queue' : 'bitmap',
    movesMemory: kind === 'controller' && Math.floor(number / 2) % 2 === 0,
    hasReservations: kind === 'namespaces' && number % 2 === 0,
    faults: [
      ...(isOfRollback(entry) ? [rollBackOf(kind)] : []),
      faultOf(fault, { entry, plus: place.plus, phase }, random),
      ...then,
    ],
  };
}

/** The last step before the commit cannot be noted: all of them are taken back. */
function rollBackOf(kind: Kind): Fault {
  const last = namesOf(BEFORE_COMMIT, kind).at(-1)!;
  return { kind: 'journal', when: { entry: `${last} done`, plus: 0, phase: 'before' }, isDurable: false };
}

/** Where most bugs show: an outage before the commit. */
const isTelling = ({ kind, entry, fault }: Pair): boolean =>
  /^(crash|cut|late) /.test(fault) && ENTRIES[kind].indexOf(entry) < ENTRIES[kind].indexOf(`${COMMIT_ENTRY} done`);

/** Where a bug shows that hardly shows elsewhere: an entry met by a fault, whatever else; or what a seed has. */
export type Where = Omit<Pair, 'kind'> | { readonly seed: number };
const SEEDS_WHERE = 12;
const BUSY = { depth: 8, thinkMs: 0.2 } as const;

/** For planted bugs: where it shows, if that is known; then in turn what a seed has, and an entry of the journal met by a fault. */
export function* searched(count: number, where?: Where): Generator<Scenario> {
  if (where !== undefined && 'seed' in where) yield scenarioOf(where.seed);
  const place = where === undefined || 'seed' in where ? undefined : where;
  for (const pair of PAIRS) {
    if (pair.entry !== place?.entry || pair.fault !== place.fault) continue;
    for (let seed = 1; seed <= SEEDS_WHERE; seed++) yield { ...sweptScenario(pair, seed, seed), ...BUSY };
  }
  const telling = PAIRS.filter(isTelling);
  for (let i = 1; i <= count; i++) {
    // far from the one before it
    const pair = telling[((i >> 1) * 59) % telling.length]!;
    yield i % 2 === 0 ? sweptScenario(pair, i, i) : scenarioOf(i);
  }
}
