/**
 * The steps of a move in their order: what each does and what takes it back. Any of them may have had its effect when it fails, and may be taken, or
 * taken back, again by another process: so all are idempotent, and what a step needs is in the journal.
 */
import { TransportError } from '../util/error.ts';
import type { DeviceFront, EndNamespace } from './end.ts';
import { FRONT_GONE } from './front-control.ts';
import type { JournalEntry } from './journal.ts';
import { all, isSuperseded, MoveError, messageOf, resized } from './move-error.ts';
import type { MoveRecord } from './move-spec.ts';
import type { MoveWork } from './move-work.ts';

export type StepName =
  | 'close-destination'
  | 'announce'
  | 'pre-copy'
  | 'suspend'
  | 'close-source'
  | 'last-copy'
  | 'state'
  | 'attach'
  | 'open-destination'
  | 'resume'
  | 'release'
  | 'clean-up';

/** Entries beside those of steps: the plan is first; the commit decides; the end of a move is last. */
export const PLAN_ENTRY = 'plan';
export const COMMIT_ENTRY = 'commit';
export const ROLLBACK_ENTRY = 'rollback';
export const MOVE_ENTRY = 'move';

export interface StepDeps {
  readonly work: MoveWork;
  /** Of an earlier process, and of this one. */
  readonly entries: readonly JournalEntry[];
  /** Ends waiting in the pause: the operator has had enough, or it takes too long. */
  readonly signal: AbortSignal | undefined;
}

export interface Step {
  readonly name: StepName;
  /** Of moves of that kind only. */
  readonly kind?: MoveRecord['spec']['kind'];
  /** Hosts, or the guest, wait from here on. */
  readonly pauses?: boolean;
  /** @returns what its entry has to say to those who come later */
  readonly take: (deps: StepDeps) => Promise<unknown>;
  /** Before the commit only. */
  readonly undo?: (deps: StepDeps) => Promise<void>;
  /** The end that has to be there for it. */
  readonly undoneAt?: 'source' | 'destination';
  /** Only once that one is undone, or was never begun. */
  readonly undoneAfter?: StepName;
  /** `first`: hosts or the guest wait for it. `once`: it ends with the connection anyway. Default: until it succeeds, but nobody waits for it. */
  readonly undoing?: 'first' | 'once';
}

/** How long the source stays closed in a rollback for a destination that does not answer: never for more than half of the patience. */
const UNDO_WAIT_MS = 2000;

export const BEFORE_COMMIT: readonly Step[] = [
  {
    name: 'close-destination',
    take: ({ work }) => eachAt(work.atDestination(), (namespace) => namespace.setFence(false, work.epoch)),
    undo: async ({ work, entries }) => {
      await work.closing; // or it would come late
      // hosts that have followed the announcement would find two of it, and blocks of it may be overwritten
      const isTouched = entries.some(({ step }) => step === 'announce' || step === 'pre-copy');
      const wasOpen = (await work.atDestination()).filter(({ planned }) => planned.destinationWasOpen);
      const stay = wasOpen.filter(({ planned }) => isTouched && planned.mode === 'copied');
      for (const { planned } of stay) {
        work.warn(`Namespace ${planned.nsid} stays closed at ${work.options.destination.name}: what it held is gone`);
      }
      const open = wasOpen.filter((one) => !stay.includes(one));
      await all(open, ({ namespace }) => unlessSuperseded(work, () => namespace.setFence(true, work.endEpoch)));
    },
    undoneAt: 'destination',
    // which closes it as well
    undoneAfter: 'close-source',
  },
  {
    name: 'announce',
    kind: 'namespaces',
    take: ({ work }) => announce(work, true),
    undo: ({ work }) => announce(work, false),
    undoneAt: 'source',
  },
  {
    name: 'pre-copy',
    take: ({ work }) => work.copyWhileInUse(),
    undo: async ({ work }) => {
      const results = await Promise.allSettled([work.stopCopying(), work.stopTrackingMemory()]);
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    },
    undoneAt: 'source',
    undoing: 'once',
  },
  {
    name: 'suspend',
    kind: 'controller',
    pauses: true,
    take: async ({ work }) => {
      await work.options.front?.pause();
      await work.sourceController.suspend();
    },
    undo: async ({ work }) => {
      await work.sourceController.resume();
      await unlessGone(work, async (front) => front.resume('source'));
    },
    undoneAt: 'source',
    undoneAfter: 'close-source',
    undoing: 'first',
  },
  {
    name: 'close-source',
    pauses: true,
    take: ({ work }) => eachAt(work.atSource(), (namespace) => namespace.setFence(false, work.epoch)),
    undo: reopenSource,
    undoneAt: 'source',
    undoing: 'first',
  },
  {
    name: 'last-copy',
    take: async ({ work, signal }) => {
      await sameSizes(work);
      try {
        await work.preCopy?.finish(signal);
      } finally {
        work.noteFigures();
      }
      await sameSizes(work);
      await all(await work.pairs(), async ({ planned, source, destination }) => {
        const status = await source.reservations();
        // where nobody has registered at either end there is nothing to say
        if (status === undefined && planned.destinationReservations === undefined) return;
        await destination.setReservations(status, work.epoch);
      });
    },
    undo: async ({ work }) => {
      await all(await work.atDestination(), async ({ planned, namespace }) => {
        const before = planned.destinationReservations;
        const now = await namespace.reservations();
        if (before === undefined ? now === undefined : now !== undefined && before === base64(now)) return;
        const status = before === undefined ? undefined : new Uint8Array(Buffer.from(before, 'base64'));
        await unlessSuperseded(work, () => namespace.setReservations(status, work.endEpoch));
      });
    },
    undoneAt: 'destination',
  },
  {
    name: 'state',
    kind: 'controller',
    take: async ({ work }) => {
      const state = await work.sourceController.getState();
      await loadState(work, state);
      return { state: base64(state) };
    },
    undo: ({ work }) => work.destinationController.reset(),
    undoneAt: 'destination',
  },
];

export const AFTER_COMMIT: readonly Step[] = [
  { name: 'attach', kind: 'controller', take: attachDestination },
  {
    name: 'open-destination',
    take: ({ work }) => eachAt(work.atDestination(), (namespace) => namespace.setFence(true, work.endEpoch)),
  },
  {
    name: 'resume',
    kind: 'controller',
    take: async ({ work: { destinationController } }) => {
      // if not, it runs: the first try had its effect
      if (await destinationController.isSuspended()) await destinationController.resume();
    },
  },
  { name: 'release', kind: 'controller', take: ({ work }) => unlessGone(work, (front) => front.resume('destination')) },
  { name: 'clean-up', take: cleanUp },
];

export function stepsOf(steps: readonly Step[], record: MoveRecord): readonly Step[] {
  return steps.filter(({ kind }) => kind === undefined || kind === record.spec.kind);
}

/** Nobody copies what a namespace grew by, and hosts would find another size there. */
async function sameSizes(work: MoveWork): Promise<void> {
  const { options } = work;
  await all(await work.pairs(), async ({ planned, source, destination }) => {
    const both = [
      [source, options.source.name],
      [destination, options.destination.name],
    ] as const;
    await all(both, ([namespace, at]) => sameSize(planned, namespace, at));
  });
}

async function sameSize(
  { nsid, blockSize, blockCount }: MoveRecord['namespaces'][number],
  namespace: EndNamespace,
  at: string,
): Promise<void> {
  const now = await namespace.size?.();
  if (now === undefined || (now.blockSize === blockSize && now.blockCount === blockCount)) return;
  throw resized(`Namespace ${nsid} at ${at}`, { blockSize, blockCount }, now);
}

async function eachAt(
  namespaces: Promise<readonly { readonly namespace: EndNamespace }[]>,
  act: (namespace: EndNamespace) => Promise<void>,
): Promise<void> {
  await all(await namespaces, ({ namespace }) => act(namespace));
}

async function announce({ options, record }: MoveWork, isThere: boolean): Promise<void> {
  if (record.spec.peer !== undefined) await options.source.announce(record.spec.peer, isThere);
}

/**
 * The destination first, in an epoch that nothing late can overtake; then the source. A destination that does not answer is closed already, in the
 * epoch of the move, and only a commit would open it: the source does not wait long for it.
 */
async function reopenSource({ work }: StepDeps): Promise<void> {
  work.closing = work
    .atDestination()
    .then((namespaces) =>
      all(namespaces, ({ namespace }) => unlessSuperseded(work, () => namespace.setFence(false, work.endEpoch))),
    )
    .catch((error) => work.warn(`The destination could not be told of the rollback: ${messageOf(error)}`));
  await work.atMost(Math.min(UNDO_WAIT_MS, work.patienceMs / 2), work.closing);
  await all(await work.atSource(), ({ namespace }) =>
    unlessSuperseded(work, () => namespace.setFence(true, work.endEpoch)),
  );
}

/** A newer move has the namespace: what became of ours is its affair. */
async function unlessSuperseded(work: MoveWork, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!isSuperseded(error)) throw error;
    work.warn(`A newer move has taken over: ${messageOf(error)}`);
  }
}

async function loadState({ destinationController }: MoveWork, state: Uint8Array): Promise<void> {
  await destinationController.suspend();
  await destinationController.setState(state);
}

/**
 * Gives the device to the destination, whose controller runs as soon as its namespaces are open and it is not suspended any more. If its process
 * was restarted since the state was set, it gets the state again; but never once they may have been opened: it may have run, and would repeat
 * commands.
 */
async function attachDestination({ work, entries }: StepDeps): Promise<void> {
  const controller = work.destinationController;
  const mayHaveRun = entries.some(({ step }) => step === 'open-destination');
  if (!mayHaveRun && !(await controller.isSuspended())) await loadState(work, stateIn(entries));
  await unlessGone(work, async (front) => {
    await front.pause();
    await front.attach('destination');
  });
}

/**
 * A front that is gone has no VM any more: nobody waits, and nothing is to be handed over. Where the controller is to be, a new front finds it, and
 * the VM, started again, resets it.
 */
async function unlessGone(work: MoveWork, act: (front: DeviceFront) => Promise<void>): Promise<void> {
  const { front } = work.options;
  if (front === undefined) return;
  try {
    await act(front);
  } catch (error) {
    if (!(error instanceof TransportError) || error.code !== FRONT_GONE) throw error;
    const message = `${error.message}: start another front at the controller where it is now, and the VM anew`;
    if (!work.report.warnings.includes(message)) work.warn(message);
  }
}

function stateIn(entries: readonly JournalEntry[]): Uint8Array {
  const detail = entries.findLast(({ step, state }) => step === 'state' && state === 'done')?.detail;
  const { state } = (detail ?? {}) as { readonly state?: string };
  if (state === undefined) {
    const message = 'The journal has no state of the controller: it was changed by another program';
    throw new MoveError('NVMEOF_ERR_MOVE_STATE', message, 'moved-unfinished');
  }
  return new Uint8Array(Buffer.from(state, 'base64'));
}

/** What is left at the source; a source that is gone has nothing left. */
async function cleanUp({ work }: StepDeps): Promise<void> {
  try {
    await work.stopCopying();
  } catch (error) {
    work.warn(`The source could not be cleaned up: ${messageOf(error)}`);
  }
  if (work.record.spec.kind !== 'controller') return;
  try {
    await work.sourceController.reset();
  } catch (error) {
    const what = `The source's controller could not be reset, and stays suspended: ${messageOf(error)}`;
    work.warn(`${what}; start its process anew before anything moves there`);
  }
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
