/**
 * Bugs that an engine could have, put between it and the world: what it says is left out, changed or done at the wrong time. The simulator is worth
 * something only as long as it finds each of them.
 */
import type { DeviceFront, End, EndController, EndNamespace, GuestMemoryMover } from '../../src/orchestrator/end.ts';
import type { JournalEntry, MoveJournal } from '../../src/orchestrator/journal.ts';
import type { ChangeSnapshot, DestinationVolume, SourceVolume } from '../../src/orchestrator/volume.ts';
import { like } from './like.ts';
import type { Where } from './sweep.ts';
import type { Tools } from './world.ts';

export type Plant = (tools: Tools) => Tools;

const withNamespaces = (end: End, change: (namespace: EndNamespace) => Partial<EndNamespace>): End =>
  like(end, {
    namespaces: async () => (await end.namespaces()).map((namespace) => like(namespace, change(namespace))),
  });

const withSource = (end: End, change: (volume: SourceVolume) => Partial<SourceVolume>): End =>
  withNamespaces(end, (namespace) => ({ source: like(namespace.source, change(namespace.source)) }));

const withDestination = (end: End, change: (volume: DestinationVolume) => Partial<DestinationVolume>): End =>
  withNamespaces(end, ({ destination }) => ({ destination: like(destination, change(destination)) }));

const withController = (end: End, change: (controller: EndController) => Partial<EndController>): End =>
  like(end, {
    controller: (cntlid: number) => {
      const controller = end.controller(cntlid);
      return like(controller, change(controller));
    },
  });

const atSource =
  (change: (end: End) => End): Plant =>
  (tools) => ({ ...tools, source: change(tools.source) });
const atDestination =
  (change: (end: End) => End): Plant =>
  (tools) => ({ ...tools, destination: change(tools.destination) });
const atFront =
  (change: (front: DeviceFront) => Partial<DeviceFront>): Plant =>
  (tools) =>
    tools.front === undefined ? tools : { ...tools, front: like(tools.front, change(tools.front)) };
const atMemory =
  (change: (mover: GuestMemoryMover) => Partial<GuestMemoryMover>): Plant =>
  (tools) =>
    tools.memory === undefined ? tools : { ...tools, memory: like(tools.memory, change(tools.memory)) };
const atJournal =
  (change: (journal: MoveJournal) => Partial<MoveJournal>): Plant =>
  (tools) => ({ ...tools, journal: like(tools.journal, change(tools.journal)) });

/** The source's blocks as the queue of the controller has them. */
const withQueued = (
  end: End,
  change: (volume: SourceVolume, controller: EndController) => Partial<SourceVolume>,
): End =>
  withController(end, (controller) => {
    const { changes } = controller;
    if (changes === undefined) return {};
    const follow: typeof changes.follow = (namespaces, entries) => {
      const followed = changes.follow(namespaces, entries);
      return like(followed, { sources: followed.sources.map((volume) => like(volume, change(volume, controller))) });
    };
    return { changes: like(changes, { follow }) };
  });

const nothing = async (): Promise<void> => {};
const NO_CHANGES: ChangeSnapshot = { runs: [], complete: true, acknowledge: nothing };

export const PLANTED: Readonly<Record<string, Plant>> = {
  'the queue is not drained to its end': atSource((end) =>
    withQueued(end, (volume, controller) => ({
      changes: async () => ((await controller.isSuspended()) ? NO_CHANGES : volume.changes()),
    })),
  ),
  'what the queue says is deallocated is left as it was': atSource((end) =>
    withQueued(end, (volume) => ({
      changes: async () => {
        const snapshot = await volume.changes();
        return { ...snapshot, runs: snapshot.runs.filter(({ isDeallocated }) => isDeallocated !== true) };
      },
    })),
  ),
  'the source is never closed': atSource((end) =>
    withNamespaces(end, (namespace) => {
      let pretended: bigint | undefined;
      return {
        setFence: async (isOpen, epoch) => {
          if (isOpen) await namespace.setFence(isOpen, epoch);
          pretended = isOpen ? undefined : epoch;
        },
        fence: async () => {
          const fence = await namespace.fence();
          return fence === undefined || pretended === undefined ? fence : { ...fence, isOpen: false, epoch: pretended };
        },
      };
    }),
  ),
  'the source is not opened again': atSource((end) =>
    withNamespaces(end, (namespace) => ({
      setFence: async (isOpen, epoch) => (isOpen ? undefined : namespace.setFence(isOpen, epoch)),
    })),
  ),
  'the destination is opened when the source is closed': (tools) => {
    let open = nothing;
    const destination = withNamespaces(tools.destination, (namespace) => ({
      setFence: async (isOpen, epoch) => {
        open = () => namespace.setFence(true, epoch);
        await namespace.setFence(isOpen, epoch);
      },
    }));
    const source = withNamespaces(tools.source, (namespace) => ({
      setFence: async (isOpen, epoch) => {
        await namespace.setFence(isOpen, epoch);
        if (!isOpen) await open();
      },
    }));
    return { ...tools, source, destination };
  },
  'the destination stays closed': atDestination((end) =>
    withNamespaces(end, (namespace) => ({
      setFence: async (isOpen, epoch) => (isOpen ? undefined : namespace.setFence(isOpen, epoch)),
    })),
  ),
  'what was changed last is not copied': atSource((end) => {
    let isClosed = false;
    return withNamespaces(end, (namespace) => ({
      setFence: async (isOpen, epoch) => {
        isClosed = !isOpen;
        await namespace.setFence(isOpen, epoch);
      },
      source: like(namespace.source, {
        changes: async () => (isClosed ? NO_CHANGES : namespace.source.changes()),
      }),
    }));
  }),
  'a run of changed blocks is left out': atSource((end) =>
    withSource(end, (volume) => ({
      changes: async () => {
        const { runs, complete, acknowledge } = await volume.changes();
        return { runs: runs.slice(1), complete, acknowledge };
      },
    })),
  ),
  'changes are followed only after the first copy': atSource((end) =>
    withSource(end, (volume) => {
      let isStarted = false;
      return {
        startTracking: nothing,
        changes: async () => {
          if (!isStarted) await volume.startTracking();
          isStarted = true;
          return volume.changes();
        },
      };
    }),
  ),
  'changes that were lost count as none': atSource((end) =>
    withSource(end, (volume) => ({ changes: () => volume.changes().catch(() => NO_CHANGES) })),
  ),
  'holes are not copied': atDestination((end) => withDestination(end, () => ({ clear: nothing }))),
  'the destination is not flushed': atDestination((end) => withDestination(end, () => ({ flush: nothing }))),
  'the commit is written after the destination is open': atJournal((journal) => {
    let late: JournalEntry | undefined;
    return {
      note: async (entry) => {
        if (entry.step === 'commit') late = entry;
        else await journal.note(entry);
        if (late === undefined || entry.step !== 'open-destination' || entry.state !== 'done') return;
        await journal.note(late);
        late = undefined;
      },
    };
  }),
  'the commit is forgotten by who comes next': atJournal((journal) => ({
    entries: journal.entries.filter(({ step }) => step !== 'commit'),
  })),
  'reservations stay behind': atDestination((end) => withNamespaces(end, () => ({ setReservations: nothing }))),
  'the announcement is not taken back': atSource((end) =>
    like(end, { announce: async (peer, isThere) => (isThere ? end.announce(peer, isThere) : undefined) }),
  ),
  'the front is not paused': atFront(() => ({ pause: nothing })),
  'the front stays at the source': atFront((front) => ({
    attach: async (end) => (end === 'source' ? front.attach(end) : undefined),
  })),
  'the front is not resumed': atFront(() => ({ resume: nothing })),
  'the state is loaded again after the controller ran': atDestination((end) => {
    let loaded: Uint8Array | undefined;
    return withController(end, (controller) => ({
      setState: async (state) => {
        loaded = state;
        await controller.setState(state);
      },
      resume: async () => {
        await controller.resume();
        if (loaded === undefined) return;
        await controller.suspend();
        await controller.reset();
        await controller.suspend();
        await controller.setState(loaded);
        await controller.resume();
      },
    }));
  }),
  "the controller's pages are not copied": atSource((end) =>
    withController(end, (controller) => ({
      memoryChanges: async () => ({ ...(await controller.memoryChanges()), runs: [] }),
    })),
  ),
  "the CPU's pages are not copied": atMemory((mover) => {
    let isFirst = true;
    return {
      changes: async () => {
        const changes = await mover.changes();
        if (!isFirst) return [];
        isFirst = false;
        return changes;
      },
    };
  }),
  'a commit that could not be written counts': atJournal((journal) => ({
    note: async (entry) => {
      try {
        await journal.note(entry);
      } catch (error) {
        if (entry.step !== 'commit') throw error;
      }
    },
  })),
  'reservations stay at the destination after a rollback': atDestination((end) =>
    withNamespaces(end, (namespace) => ({
      setReservations: async (status, epoch) =>
        status === undefined ? undefined : namespace.setReservations(status, epoch),
    })),
  ),
  'the controller at the source goes on running': atSource((end) => withController(end, () => ({ suspend: nothing }))),
  'a size that changed is not noticed': (tools) => {
    const blind = (end: End): End =>
      withNamespaces(end, ({ identity: { blockSize, blockCount } }) => ({
        size: async () => ({ blockSize, blockCount }),
      }));
    return { ...tools, source: blind(tools.source), destination: blind(tools.destination) };
  },
};

/** Where they show, of those that hardly show elsewhere. */
export const SHOWN: Readonly<Record<string, Where>> = {
  'a commit that could not be written counts': { entry: 'commit done', fault: 'journal' },
  'a size that changed is not noticed': { entry: 'pre-copy done', fault: 'resize destination' },
  'changes that were lost count as none': { seed: 322 },
  'the commit is forgotten by who comes next': { seed: 12 },
  'the destination is not flushed': { entry: 'commit done', fault: 'crash destination' },
  'reservations stay at the destination after a rollback': { seed: 87 },
};
