/** Blocks about what a controller has to tell its host: log pages, counts, events. */

import { anaCountsCodec, dwordsCodec, errorsCodec, eventsCodec, StateBlockKind } from '../../wire/cold/state-blocks.ts';
import { EVENT_TYPE_MAX } from '../async-events.ts';
import { ERROR_LOG_ENTRIES } from '../error-log.ts';
import { type BlockType, wrongState } from './block-type.ts';

const number = (value: bigint): number => {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw wrongState(`has a count of ${value}`);
  return Number(value);
};

/** NSIDs that log page 04h has. */
export const changedNamespacesBlock: BlockType = {
  kind: StateBlockKind.ChangedNamespaces,
  version: 1,
  essential: false,
  save: (controller) => dwordsCodec.encode(controller.changedNamespaces()),
  load(controller, bytes) {
    const nsids = dwordsCodec.decode(bytes);
    return { apply: () => controller.setChangedNamespaces(nsids) };
  },
};

/** NSIDs that log page 1Ch has. */
export const changedAllocatedBlock: BlockType = {
  kind: StateBlockKind.ChangedAllocatedNamespaces,
  version: 1,
  essential: false,
  save: (controller) => dwordsCodec.encode(controller.changedAllocatedNamespaces()),
  load(controller, bytes) {
    const nsids = dwordsCodec.decode(bytes);
    return { apply: () => controller.setChangedAllocatedNamespaces(nsids) };
  },
};

/** Entries that log page 01h has had since the controller was made: their numbers go on. */
export const errorCountBlock: BlockType = {
  kind: StateBlockKind.ErrorCount,
  version: 1,
  essential: false,
  save: ({ errorLog }) => dwordsCodec.encode([errorLog.count]),
  load(controller, bytes) {
    const [count] = dwordsCodec.decode(bytes);
    if (count === undefined) throw wrongState('has no error count');
    return {
      apply(): void {
        controller.errorLog.count = count;
      },
    };
  },
};

/** Log page 01h. */
export const errorsBlock: BlockType = {
  kind: StateBlockKind.Errors,
  version: 1,
  essential: false,
  save: ({ errorLog }) =>
    errorsCodec.encode(
      errorLog.entries().map((entry) => ({ ...entry, errorCount: BigInt(entry.errorCount), lba: BigInt(entry.lba) })),
    ),
  load(controller, bytes) {
    const entries = errorsCodec
      .decode(bytes)
      .map((entry) => ({ ...entry, errorCount: number(entry.errorCount), lba: number(entry.lba) }));
    if (entries.length > ERROR_LOG_ENTRIES) throw wrongState(`has ${entries.length} error entries`);
    if (entries.some(({ errorCount }, i) => i > 0 && errorCount >= entries[i - 1]!.errorCount)) {
      throw wrongState('has error entries whose numbers do not descend');
    }
    return { apply: () => controller.errorLog.replace(entries) };
  },
};

/** Change counts of log page 0Ch. */
export const anaCountsBlock: BlockType = {
  kind: StateBlockKind.AnaCounts,
  version: 1,
  essential: false,
  save({ anaCounts }) {
    const groups = [...anaCounts.groups()].sort(([a], [b]) => a - b);
    return anaCountsCodec.encode([
      { anagrpid: 0, count: BigInt(anaCounts.count) },
      ...groups.map(([anagrpid, count]) => ({ anagrpid, count: BigInt(count) })),
    ]);
  },
  load(controller, bytes) {
    const counts = anaCountsCodec.decode(bytes).map(({ anagrpid, count }) => [anagrpid, number(count)] as const);
    return { apply: () => controller.anaCounts.replace(new Map(counts)) };
  },
};

/** Events that wait for an AER, and those whose log page was not read since they were reported. */
export const eventsBlock: BlockType = {
  kind: StateBlockKind.Events,
  version: 1,
  essential: false,
  save: ({ asyncEvents }) => eventsCodec.encode(asyncEvents.export()),
  load(controller, bytes) {
    const events = eventsCodec.decode(bytes);
    if (events.some(({ type, state }) => type > EVENT_TYPE_MAX || state > 1)) throw wrongState('has an unknown event');
    return { apply: () => controller.asyncEvents.import(events) };
  },
};

/** Log page 0Eh while it stands still; nothing if it does not. */
export const lbaStatusBlock: BlockType = {
  kind: StateBlockKind.LbaStatus,
  version: 1,
  essential: false,
  save: ({ lbaStatusLog }) => lbaStatusLog ?? new Uint8Array(0),
  load(controller, bytes) {
    return {
      apply(): void {
        controller.lbaStatusLog = bytes.length === 0 ? undefined : bytes;
      },
    };
  },
};
