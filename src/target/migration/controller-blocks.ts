/**
 * What the vendor part of a controller's state holds: all that its host could notice once another controller has taken its place. Everything is
 * checked before anything is applied. Layouts: docs/live-migration-over-tcp.md.
 */
import { decodeStateSection, encodeStateSection, type StateBlock } from '../../migration/state-section.ts';
import {
  dwordsCodec,
  hostBlockCodec,
  StateBlockKind,
  settingsCodec,
  settingsQueuesCodec,
  TimestampFlag,
  timestampCodec,
} from '../../wire/cold/state-blocks.ts';
import { type Controller, KATO_MS_MAX } from '../controller.ts';
import { type BlockType, type Loaded, wrongState } from './block-type.ts';
import { eventRequestsBlock, functionBlock, registersBlock } from './function-blocks.ts';
import {
  anaCountsBlock,
  changedAllocatedBlock,
  changedNamespacesBlock,
  errorCountBlock,
  errorsBlock,
  eventsBlock,
  lbaStatusBlock,
} from './log-blocks.ts';
import { allOrNothing, namespacesBlock, noticesBlock, reservationsBlock } from './namespace-blocks.ts';

/** The state of one host is not for another. */
const hostBlock: BlockType = {
  kind: StateBlockKind.Host,
  version: 1,
  essential: true,
  save: ({ hostid, hostnqn }) => hostBlockCodec.encode({ hostid, hostnqn }),
  load(controller, bytes) {
    const { hostid, hostnqn } = hostBlockCodec.decode(bytes);
    if (hostnqn !== controller.hostnqn)
      throw wrongState(`is that of host ${hostnqn}, this is one of ${controller.hostnqn}`);
    // a guest says itself which identifier it has
    if (controller.memory !== undefined) return { apply: () => controller.setHostid(Uint8Array.from(hostid)) };
    if (Buffer.compare(hostid, controller.hostid) !== 0) throw wrongState('has another host identifier');
    return {};
  },
};

/** Keep alive, features 07h, 0Bh and 16h. */
const settingsBlock: BlockType = {
  kind: StateBlockKind.Settings,
  version: 2,
  essential: true,
  save(controller) {
    const { acre, etdas, copyFormatsEnabled } = controller.hostBehavior;
    const { katoMs, asyncEvents, ioQueuesMax } = controller;
    return Buffer.concat([
      settingsCodec.encode({ katoMs, asyncEvents: asyncEvents.configuration, acre, etdas, cdfe: copyFormatsEnabled }),
      settingsQueuesCodec.encode({ ioQueuesMax }),
    ]);
  },
  load(controller, bytes) {
    const { katoMs, asyncEvents, acre, etdas, cdfe } = settingsCodec.decode(bytes);
    if (katoMs > KATO_MS_MAX) throw wrongState(`has a keep alive timeout of ${katoMs} ms`);
    const hasQueues = bytes.length >= settingsCodec.size + settingsQueuesCodec.size;
    const ioQueuesMax = hasQueues ? settingsQueuesCodec.decode(bytes, settingsCodec.size).ioQueuesMax : 0;
    return {
      apply(): void {
        controller.setKeepAlive(katoMs);
        controller.asyncEvents.configuration = asyncEvents;
        controller.hostBehavior = { acre, etdas, copyFormatsEnabled: cdfe };
        // a host with queues here has asked for them here
        if (ioQueuesMax > 0 && controller.ioQueueCount === 0) {
          controller.ioQueuesMax = Math.min(ioQueuesMax, controller.ioQueuesLimit);
        }
      },
    };
  },
};

/** Features that are a dword: pairs of key and value, ascending. */
const featuresBlock: BlockType = {
  kind: StateBlockKind.Features,
  version: 1,
  essential: true,
  save: ({ features }) => dwordsCodec.encode([...features].sort(([a], [b]) => a - b).flat()),
  load(controller, bytes) {
    const values = dwordsCodec.decode(bytes);
    if (values.length % 2 !== 0) throw wrongState('has half a feature');
    const pairs = Array.from({ length: values.length / 2 }, (_, i) => [values[2 * i]!, values[2 * i + 1]!] as const);
    return {
      apply(): void {
        controller.features.clear();
        for (const [key, value] of pairs) controller.features.set(key, value);
      },
    };
  },
};

/** NSIDs with DULBE, ascending. */
const deallocatedErrorBlock: BlockType = {
  kind: StateBlockKind.DeallocatedErrors,
  version: 1,
  essential: true,
  save: ({ deallocatedErrorNsids }) => dwordsCodec.encode([...deallocatedErrorNsids].sort((a, b) => a - b)),
  load(controller, bytes) {
    const nsids = dwordsCodec.decode(bytes);
    for (const nsid of nsids) {
      if (controller.subsystem.allocated(nsid, controller.hostnqn)?.knowsAllocation !== true) {
        throw wrongState(`wants errors for deallocated blocks of namespace ${nsid}, which cannot tell them`);
      }
    }
    return {
      apply(): void {
        controller.deallocatedErrorNsids.clear();
        for (const nsid of nsids) controller.deallocatedErrorNsids.add(nsid);
        controller.subsystem.deallocatedErrorsChanged();
      },
    };
  },
};

/** Feature 0Eh. It goes on from the moment of the suspension here, so it may have stood still in between. */
const timestampBlock: BlockType = {
  kind: StateBlockKind.Timestamp,
  version: 1,
  essential: false,
  save({ timestamp }) {
    const { wasSet, stopped } = timestamp;
    const flags = (wasSet ? TimestampFlag.WasSet : 0) | (stopped ? TimestampFlag.Stopped : 0);
    return timestampCodec.encode({ ms: BigInt(timestamp.nowMs()), flags });
  },
  load(controller, bytes) {
    const { ms, flags } = timestampCodec.decode(bytes);
    if (ms >= 1n << 48n) throw wrongState(`has a timestamp of ${ms} ms`);
    const wasSet = (flags & TimestampFlag.WasSet) !== 0;
    const stopped = (flags & TimestampFlag.Stopped) !== 0;
    return { apply: () => controller.timestamp.restore(Number(ms), wasSet, stopped) };
  },
};

/** In the order in which they are applied: what tells the host of changes comes after what changes something. */
const BLOCKS: readonly BlockType[] = [
  hostBlock,
  namespacesBlock,
  reservationsBlock,
  settingsBlock,
  featuresBlock,
  deallocatedErrorBlock,
  timestampBlock,
  changedNamespacesBlock,
  changedAllocatedBlock,
  errorCountBlock,
  errorsBlock,
  anaCountsBlock,
  noticesBlock,
  eventsBlock,
  lbaStatusBlock,
];
/** Of one behind PCIe: the function comes first, because it has the admin queue on which its events wait. */
const PCIE_BLOCKS: readonly BlockType[] = [functionBlock, registersBlock, ...BLOCKS, eventRequestsBlock];

const blocksOf = ({ memory }: Controller): readonly BlockType[] => (memory === undefined ? BLOCKS : PCIE_BLOCKS);

export function saveController(controller: Controller): Uint8Array {
  const blocks = blocksOf(controller).map(
    ({ kind, version, essential, save }): StateBlock => ({ kind, version, essential, bytes: save(controller) }),
  );
  return encodeStateSection(blocks.sort((a, b) => a.kind - b.kind));
}

/**
 * @returns what it will do: `durable` first, if there is any, then `apply`
 * @throws MigrationError, WireError what is wrong: nothing is applied
 */
export function loadController(controller: Controller, section: Uint8Array): Loaded {
  const types = blocksOf(controller);
  const blocks = decodeStateSection(section, new Set(types.map(({ kind }) => kind)));
  const loaded = types.flatMap((type) => {
    const block = blocks.get(type.kind);
    if (block !== undefined) return [type.load(controller, block.bytes)];
    if (type.essential) throw wrongState(`lacks block ${type.kind}`);
    return [];
  });
  const durable = loaded.flatMap((block) => (block.durable === undefined ? [] : [block.durable]));
  return {
    durable: durable.length === 0 ? undefined : () => allOrNothing(durable),
    apply(): void {
      for (const block of loaded) block.apply?.();
    },
  };
}
