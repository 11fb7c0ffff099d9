/**
 * What the vendor part of the state of an NVMe/TCP controller holds: all that its host could notice after it has connected to another target. Each
 * block checks all of itself before any of them is applied. Layouts: docs/live-migration-over-tcp.md.
 */

import { MigrationError } from '../../migration/migration-error.ts';
import { decodeStateSection, encodeStateSection, type StateBlock } from '../../migration/state-section.ts';
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

const BLOCKS: readonly BlockType[] = [
  hostBlock,
  settingsBlock,
  featuresBlock,
  changedNamespacesBlock,
  deallocatedErrorBlock,
  errorCountBlock,
];
const KINDS: ReadonlySet<number> = new Set(BLOCKS.map(({ kind }) => kind));

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
    BLOCKS.map(
      ({ kind, version, essential, save }): StateBlock => ({ kind, version, essential, bytes: save(controller) }),
    ),
  );
}

/** @returns what applies the state, all of it @throws MigrationError what is wrong: nothing is applied */
export function loadController(controller: Controller, section: Uint8Array): () => void {
  const blocks = decodeStateSection(section, KINDS);
  const steps = BLOCKS.flatMap((type) => {
    const block = blocks.get(type.kind);
    if (block !== undefined) return [type.load(controller, block.bytes)];
    if (type.essential) throw wrong(`lacks block ${type.kind}`);
    return [];
  });
  return () => {
    for (const step of steps) step();
  };
}
