/** One run, written down: what is moved, what goes wrong and when, and what the operator says afterwards. All else follows from its seed. */
import { Random } from '../support/random.ts';

export type Phase = 'before' | 'after';

/**
 * The n-th thing that orchestrators do to the world outside (blocks that are copied do not count); the writing of an entry of the journal ("suspend
 * begun"), or what is done `plus` steps later, once; a moment; or so long after the first fault has happened.
 */
export type When =
  | { readonly step: number; readonly phase: Phase }
  | { readonly entry: string; readonly plus: number; readonly phase: Phase }
  | { readonly ms: number }
  | { readonly laterMs: number };

export type Party = 'source' | 'destination';
/** Who can be cut off. */
export type Peer = Party | 'front';

export type Fault =
  /** A process ends at once; it is started again. */
  | { readonly kind: 'crash'; readonly who: Party | 'orchestrator'; readonly when: When; readonly downMs: number }
  /** The process that holds the VM's device ends, and so does the VM: it is started anew, with another, when the move has ended. */
  | { readonly kind: 'crash-front'; readonly when: When }
  /** The orchestrator's connection breaks: before the step, its request is lost; after it, its answer. */
  | { readonly kind: 'cut'; readonly who: Peer; readonly when: When; readonly ms: number }
  /** Somebody gives the first namespace that is copied another size. */
  | { readonly kind: 'resize'; readonly who: Party; readonly when: When }
  /** Hosts lose their connection. */
  | { readonly kind: 'cut-hosts'; readonly who: Party; readonly when: When; readonly ms: number }
  /** Nothing arrives for some time, and then all of it. */
  | { readonly kind: 'stall'; readonly who: Party; readonly when: When; readonly ms: number }
  /** As a stall, and the orchestrator ends while what it has sent is under way: it arrives when another one is at work. */
  | { readonly kind: 'late'; readonly who: Party; readonly when: When; readonly ms: number }
  /** A block that cannot be written at the destination, from then on for `ms`. */
  | { readonly kind: 'bad-block'; readonly block: number; readonly when: When; readonly ms: number }
  /** The journal cannot be written; whether that line is durable is decided by `isDurable`. */
  | { readonly kind: 'journal'; readonly when: When; readonly isDurable: boolean };

export interface Scenario {
  readonly seed: number;
  readonly kind: 'namespaces' | 'controller';
  readonly blockCount: number;
  /** NSIDs 1 and up. */
  readonly modes: readonly ('copied' | 'shared')[];
  /** Commands that the guest has under way. */
  readonly depth: number;
  /** Mean time between the end of a command and the next one. */
  readonly thinkMs: number;
  /** Hosts could use the destination before, with blocks of its own. */
  readonly destinationWasOpen: boolean;
  /** Hosts know the destination before it is announced. */
  readonly hostsKnowDestination: boolean;
  /** The VM goes to another memory. */
  readonly movesMemory: boolean;
  readonly hasReservations: boolean;
  readonly blackoutBudgetMs: number;
  readonly whenStuck: 'refuse' | 'cut' | 'throttle';
  readonly verification: 'none' | 'sampled' | 'full';
  readonly changes: 'bitmap' | 'queue';
  readonly queueEntries: number;
  readonly faults: readonly Fault[];
  /** After the first, second... end of an orchestrator that leaves work behind; then `resume`. */
  readonly operator: readonly ('resume' | 'abort')[];
}

/** Neighbouring seeds have nothing in common. */
function scrambled(seed: number): number {
  let x = (seed + 0x9e37_79b9) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85eb_ca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2_ae35);
  return x ^ (x >>> 16);
}

export const randomOf = (seed: number): Random => new Random(scrambled(seed));

const PARTIES: readonly Party[] = ['source', 'destination'];
/** About as many steps as a move without trouble has. */
const STEPS = 90;
const MOVE_MS = 150;

function someTime(random: Random): When {
  if (random.oneIn(3)) return { ms: random.below(MOVE_MS) };
  return { step: 1 + random.below(STEPS), phase: random.pick(['before', 'after'] as const) };
}

export function someFault(random: Random, blockCount: number, when: When): Fault {
  const ms = random.pick([1, 5, 30, 200, 1000]);
  const who = random.pick(PARTIES);
  switch (random.below(12)) {
    case 0:
    case 1:
    case 2:
      return { kind: 'crash', who: 'orchestrator', when, downMs: random.pick([0, 3, 50, 500]) };
    case 3:
    case 4:
    case 5:
      return { kind: 'crash', who, when, downMs: ms };
    case 6:
    case 7:
    case 8:
      return { kind: 'cut', who, when, ms };
    case 9:
      return { kind: 'stall', who, when, ms };
    case 10:
      return random.oneIn(2)
        ? { kind: 'journal', when, isDurable: random.oneIn(2) }
        : { kind: 'bad-block', block: random.below(blockCount), when, ms: ms * 4 };
    default:
      return { kind: 'cut-hosts', who, when, ms };
  }
}

/** What came later than the rest, and is drawn apart: a seed is otherwise what it was before. */
function rareFaults(random: Random, kind: Scenario['kind']): Fault[] {
  if (!random.oneIn(5)) return [];
  const when = someTime(random);
  const isOfFront = kind === 'controller' && random.oneIn(2);
  if (!isOfFront) return [{ kind: 'resize', who: random.pick(PARTIES), when }];
  if (random.oneIn(2)) return [{ kind: 'crash-front', when }];
  return [{ kind: 'cut', who: 'front', when, ms: random.pick([1, 5, 30, 200, 1000]) }];
}

/** @param wanted default: as the seed has it */
export function scenarioOf(seed: number, wanted?: Scenario['kind']): Scenario {
  const random = randomOf(seed);
  const ofQueue = randomOf(~seed);
  const drawn = random.oneIn(2) ? 'namespaces' : 'controller';
  const kind = wanted ?? drawn;
  const blockCount = random.pick([24, 64, 160]);
  const mode = (): 'copied' | 'shared' => (kind === 'controller' && random.oneIn(3) ? 'shared' : 'copied');
  const destinationWasOpen = random.oneIn(5);
  const faultCount = random.pick([0, 1, 1, 1, 2, 2, 3, 4]);
  return {
    seed,
    kind,
    blockCount,
    modes: Array.from({ length: random.pick([1, 1, 2, 3]) }, mode),
    depth: random.pick([1, 2, 4, 8]),
    thinkMs: random.pick([0.2, 1, 4]),
    destinationWasOpen,
    hostsKnowDestination: !destinationWasOpen && random.oneIn(2),
    movesMemory: kind === 'controller' && random.oneIn(2),
    hasReservations: kind === 'namespaces' && random.oneIn(2),
    blackoutBudgetMs: random.pick([40, 100, 300]),
    whenStuck: random.pick(['refuse', 'cut', 'throttle'] as const),
    verification: random.pick(['none', 'none', 'sampled', 'full'] as const),
    changes: kind === 'controller' && ofQueue.oneIn(2) ? 'queue' : 'bitmap',
    queueEntries: ofQueue.pick([2, 5, 30, 1000]),
    faults: [
      ...Array.from({ length: faultCount }, () => someFault(random, blockCount, someTime(random))),
      ...rareFaults(randomOf(seed ^ 0x2a2e), kind),
    ],
    operator: Array.from({ length: 4 }, () => (random.oneIn(3) ? ('abort' as const) : ('resume' as const))),
  };
}

/** Smaller scenarios that may fail in the same way, the boldest first. */
export function* smaller(scenario: Scenario): Generator<Scenario> {
  const { faults, modes, operator } = scenario;
  // what depends on the first of them stays behind it
  for (let i = faults.length - 1; i >= 0; i--) yield { ...scenario, faults: faults.filter((_, n) => n !== i) };
  if (modes.length > 1) {
    for (let i = 0; i < modes.length; i++) yield { ...scenario, modes: modes.filter((_, n) => n !== i) };
  }
  if (scenario.blockCount > 8) yield { ...scenario, blockCount: Math.max(8, scenario.blockCount >> 1) };
  if (scenario.depth > 1) yield { ...scenario, depth: scenario.depth >> 1 };
  if (scenario.thinkMs < 4) yield { ...scenario, thinkMs: 4 };
  if (scenario.destinationWasOpen) yield { ...scenario, destinationWasOpen: false };
  if (scenario.hostsKnowDestination) yield { ...scenario, hostsKnowDestination: false };
  if (scenario.movesMemory) yield { ...scenario, movesMemory: false };
  if (scenario.hasReservations) yield { ...scenario, hasReservations: false };
  if (scenario.changes === 'queue') yield { ...scenario, changes: 'bitmap' };
  if (scenario.queueEntries < 1000) yield { ...scenario, queueEntries: 1000 };
  if (scenario.verification !== 'none') yield { ...scenario, verification: 'none' };
  if (operator.includes('abort')) yield { ...scenario, operator: operator.map(() => 'resume' as const) };
}
