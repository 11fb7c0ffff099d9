/**
 * What the vendor part of the state of an NVMe/TCP controller holds: all that its host could notice after it has connected to another target. Each
 * block checks all of itself before any of them is applied. Layouts: docs/live-migration-over-tcp.md.
 */

import { MigrationError } from '../../migration/migration-error.ts';
import { decodeStateSection, encodeStateSection, type StateBlock } from '../../migration/state-section.ts';
import { AdminOpcode } from '../../spec/opcode.ts';
import { decodeFunctionState } from '../../transport/pcie/function-state.ts';
import type { ControllerState } from '../../wire/cold/controller-state.ts';
import { AER_LIMIT, type AsyncEvent } from '../async-events.ts';
import { type Controller, KATO_MS_MAX } from '../controller.ts';

interface BlockType {
  readonly kind: number;
  readonly version: number;
  /** A target that does not know it must refuse the state. */
  readonly essential: boolean;
  save(controller: Controller): Uint8Array;
  /** @returns what applies it @throws MigrationError */
  load(controller: Controller, bytes: Uint8Array): () => void;
}

const HOST_NQN_MAX = 223;

function wrong(what: string): MigrationError {
  return new MigrationError('NVMEOF_ERR_STATE_FORMAT', `Controller state ${what}`);
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function need(bytes: Uint8Array, length: number, kind: number): DataView {
  if (bytes.length < length) throw wrong(`has ${bytes.length} bytes in block ${kind}, ${length} are needed`);
  return viewOf(bytes);
}

/** Host identifier (16 bytes), then the host's NQN: the state of one host is not for another. */
const hostBlock: BlockType = {
  kind: 1,
  version: 1,
  essential: true,
  save({ hostid, hostnqn }) {
    return Buffer.concat([hostid, Buffer.from(hostnqn.slice(0, HOST_NQN_MAX))]);
  },
  load(controller, bytes) {
    need(bytes, 17, 1);
    const nqn = Buffer.from(bytes.subarray(16)).toString();
    if (nqn !== controller.hostnqn) throw wrong(`is that of host ${nqn}, this is one of ${controller.hostnqn}`);
    // a guest says itself which identifier it has
    if (controller.memory !== undefined) return () => controller.setHostid(bytes.slice(0, 16));
    if (Buffer.compare(bytes.subarray(0, 16), controller.hostid) !== 0) throw wrong('has another host identifier');
    return () => {};
  },
};

/** KATO (u32, ms), feature 0Bh (u32), ACRE, ETDAS (u8), CDFE (u16) of feature 16h. */
const settingsBlock: BlockType = {
  kind: 2,
  version: 1,
  essential: true,
  save(controller) {
    const bytes = new Uint8Array(12);
    const view = viewOf(bytes);
    view.setUint32(0, controller.katoMs, true);
    view.setUint32(4, controller.asyncEvents.configuration, true);
    const { acre, etdas, copyFormatsEnabled } = controller.hostBehavior;
    view.setUint8(8, acre);
    view.setUint8(9, etdas);
    view.setUint16(10, copyFormatsEnabled, true);
    return bytes;
  },
  load(controller, bytes) {
    const view = need(bytes, 12, 2);
    const katoMs = view.getUint32(0, true);
    if (katoMs > KATO_MS_MAX) throw wrong(`has a keep alive timeout of ${katoMs} ms`);
    return () => {
      controller.setKeepAlive(katoMs);
      controller.asyncEvents.configuration = view.getUint32(4, true);
      controller.hostBehavior = {
        acre: view.getUint8(8),
        etdas: view.getUint8(9),
        copyFormatsEnabled: view.getUint16(10, true),
      };
    };
  },
};

/** Features that are a dword: pairs of key (u32) and value (u32), ascending. */
const featuresBlock: BlockType = {
  kind: 3,
  version: 1,
  essential: true,
  save: ({ features }) => dwords([...features].sort(([a], [b]) => a - b).flat()),
  load(controller, bytes) {
    const values = readDwords(bytes, 3);
    if (values.length % 2 !== 0) throw wrong('has half a feature');
    const pairs = Array.from({ length: values.length / 2 }, (_, i) => [values[2 * i]!, values[2 * i + 1]!] as const);
    return () => {
      controller.features.clear();
      for (const [key, value] of pairs) controller.features.set(key, value);
    };
  },
};

/** NSIDs that log page 04h has, ascending. */
const changedNamespacesBlock: BlockType = {
  kind: 4,
  version: 1,
  essential: false,
  save: (controller) => dwords(controller.changedNamespaces()),
  load(controller, bytes) {
    const nsids = readDwords(bytes, 4);
    return () => {
      controller.clearChangedNamespaces();
      for (const nsid of nsids) controller.namespaceChanged(nsid);
    };
  },
};

/** NSIDs with DULBE, ascending. */
const deallocatedErrorBlock: BlockType = {
  kind: 5,
  version: 1,
  essential: true,
  save: ({ deallocatedErrorNsids }) => dwords([...deallocatedErrorNsids].sort((a, b) => a - b)),
  load(controller, bytes) {
    const nsids = readDwords(bytes, 5);
    for (const nsid of nsids) {
      if (controller.namespace(nsid)?.knowsAllocation !== true) {
        throw wrong(`wants errors for deallocated blocks of namespace ${nsid}, which cannot tell them`);
      }
    }
    return () => {
      controller.deallocatedErrorNsids.clear();
      for (const nsid of nsids) controller.deallocatedErrorNsids.add(nsid);
      controller.subsystem.deallocatedErrorsChanged();
    };
  },
};

/** Entries that log page 01h has had since the controller was made (u32): their numbers go on. */
const errorCountBlock: BlockType = {
  kind: 6,
  version: 1,
  essential: false,
  save: ({ errorLog }) => dwords([errorLog.count]),
  load(controller, bytes) {
    const count = need(bytes, 4, 6).getUint32(0, true);
    return () => {
      controller.errorLog.count = count;
    };
  },
};

/** Registers, admin queue, interrupts and config space: transport/pcie/function-state.ts. */
const functionBlock: BlockType = {
  kind: 16,
  version: 1,
  essential: true,
  save: ({ memory }) => memory!.saveFunction(),
  load(controller, bytes) {
    const applied = controller.memory!.loadFunction(bytes);
    if (typeof applied === 'string') throw wrong(applied);
    return applied;
  },
};

const EVENT_DWORDS = 4;
const REQUEST_DWORDS = 4;

/**
 * Async Event Requests that the guest left with us (count, then CID, whether it has completed and only waits for room, DW0 and DW1 of each), and events
 * that wait (count, then type, info, log page and DW1 of each), and event types that are masked (type and info in one key, and the log page).
 */
const asyncEventsBlock: BlockType = {
  kind: 17,
  version: 1,
  essential: true,
  save({ asyncEvents, memory }) {
    const { requests, pending, masked } = asyncEvents.save();
    const parked = memory!.parkedEvents;
    return dwords([
      requests.length + parked.length,
      ...requests.flatMap(({ cid }) => [cid, 0, 0, 0]),
      ...parked.flatMap(({ cid, result0, result1 }) => [cid, 1, result0, result1]),
      pending.length,
      ...pending.flatMap(({ type, info, lid, result1 }) => [type, info, lid, result1 ?? 0]),
      ...masked.flat(),
    ]);
  },
  load(controller, bytes) {
    const values = readDwords(bytes, 17);
    const requestCount = values[0] ?? 0;
    const eventsAt = 1 + requestCount * REQUEST_DWORDS;
    const eventCount = values[eventsAt] ?? 0;
    const maskedAt = eventsAt + 1 + eventCount * EVENT_DWORDS;
    if (!(maskedAt <= values.length) || (values.length - maskedAt) % 2 !== 0 || requestCount > 2 * AER_LIMIT) {
      throw wrong('has asynchronous events that do not fit their block');
    }
    const requests = Array.from({ length: requestCount }, (_, i) => values.slice(1 + i * REQUEST_DWORDS));
    const pending = Array.from({ length: eventCount }, (_, i) => {
      const [type, info, lid, result1] = values.slice(eventsAt + 1 + i * EVENT_DWORDS);
      return { type: type!, info: info!, lid: lid!, result1: result1! };
    });
    const masked = Array.from(
      { length: (values.length - maskedAt) / 2 },
      (_, i) => [values[maskedAt + 2 * i]!, values[maskedAt + 2 * i + 1]!] as const,
    );
    return () => restoreAsyncEvents(controller, requests, pending, masked);
  },
};

function restoreAsyncEvents(
  controller: Controller,
  requests: readonly (readonly number[])[],
  pending: readonly AsyncEvent[],
  masked: readonly (readonly [number, number])[],
): void {
  const { asyncEvents, memory } = controller;
  asyncEvents.restore(pending, masked);
  for (const [cid, completed, result0, result1] of requests) {
    const request = controller.queue(0)?.restore(AdminOpcode.AsyncEventRequest, cid! & 0xffff);
    if (request === undefined) return;
    if (completed === 0) {
      asyncEvents.add(request);
      continue;
    }
    request.result0 = result0!;
    request.result1 = result1!;
    memory!.parkEvent(request);
  }
}

const BLOCKS: readonly BlockType[] = [
  hostBlock,
  settingsBlock,
  featuresBlock,
  changedNamespacesBlock,
  deallocatedErrorBlock,
  errorCountBlock,
];
/** Of a controller behind PCIe, whose queues and registers are state as well. The function comes first: it has the admin queue. */
const blocksOf = ({ memory }: Controller): readonly BlockType[] =>
  memory === undefined ? BLOCKS : [functionBlock, ...BLOCKS, asyncEventsBlock];

function dwords(values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4);
  const view = viewOf(bytes);
  values.forEach((value, i) => {
    view.setUint32(i * 4, value, true);
  });
  return bytes;
}

function readDwords(bytes: Uint8Array, kind: number): number[] {
  if (bytes.length % 4 !== 0) throw wrong(`has ${bytes.length} bytes in block ${kind}, which are not whole dwords`);
  const view = viewOf(bytes);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4, true));
}

export function saveController(controller: Controller): Uint8Array {
  return encodeStateSection(
    blocksOf(controller).map(
      ({ kind, version, essential, save }): StateBlock => ({ kind, version, essential, bytes: save(controller) }),
    ),
  );
}

/** @returns what applies the state, all of it @throws MigrationError what is wrong: nothing is applied */
export function loadController(controller: Controller, section: Uint8Array): () => void {
  const types = blocksOf(controller);
  const blocks = decodeStateSection(section, new Set(types.map(({ kind }) => kind)));
  const steps = types.flatMap((type) => {
    const block = blocks.get(type.kind);
    if (block !== undefined) return [type.load(controller, block.bytes)];
    if (type.essential) throw wrong(`lacks block ${type.kind}`);
    return [];
  });
  return () => {
    for (const step of steps) step();
  };
}

const QUEUE_PAGE_EXPONENT_SHIFT = 7;

/**
 * What a whole state says, as far as its parts are there.
 * @returns what applies it, all of it @throws MigrationError what is wrong: nothing is applied
 */
export function checkControllerState(controller: Controller, { nvme, vendor }: ControllerState): () => void {
  const { memory } = controller;
  const loadVendor = vendor === undefined ? undefined : loadController(controller, vendor);
  if (nvme === undefined) return loadVendor ?? ((): void => {});
  if (controller.ioQueueCount > 0) throw wrong('has an NVMe part, and the controller has I/O queues');
  const count = nvme.submissionQueues.length + nvme.completionQueues.length;
  if (memory === undefined) {
    // a queue over NVMe/TCP is a connection, which only the host can make
    if (count > 0) throw wrong('has I/O queues');
    return loadVendor ?? ((): void => {});
  }
  const saved = vendor === undefined ? undefined : savedRegisters(vendor);
  const cc = saved?.cc ?? controller.cc;
  const pageBytes = 4096 << ((cc >>> QUEUE_PAGE_EXPONENT_SHIFT) & 0xf);
  const granted = saved?.ioQueuesMax ?? controller.ioQueuesMax;
  const reason = memory.checkQueues(nvme, granted, controller.queueEntriesMax, pageBytes);
  if (reason !== undefined) throw wrong(reason);
  if (count > 0 && (cc & 1) === 0) throw wrong('has I/O queues of a controller that is not enabled');
  return () => {
    loadVendor?.();
    memory.loadQueues(nvme);
  };
}

function savedRegisters(vendor: Uint8Array): { cc: number; ioQueuesMax: number } | undefined {
  const block = decodeStateSection(
    vendor,
    new Set([...BLOCKS, functionBlock, asyncEventsBlock].map(({ kind }) => kind)),
  ).get(functionBlock.kind);
  const state = block === undefined ? undefined : decodeFunctionState(block.bytes);
  return typeof state === 'string' ? undefined : state;
}
