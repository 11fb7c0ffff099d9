/** lm create-cdq, delete-cdq, set-cdq, get-cdq, read-cdq: Controller Data Queues. */
import type { Command } from 'commander';
import { CdqType, EntryRange, EntrySequence } from '../../../spec/migration.ts';
import { ConfigError } from '../../../util/error.ts';
import { ResidentQueueFlag } from '../../../wire/cold/log-migration.ts';
import {
  entryBlockCount,
  entryDeallocated,
  entryNsid,
  entryPhase,
  entryRange,
  entrySequence,
  entrySlba,
  UDMQ_ENTRY_BYTES,
  UDMQ_ENTRY_DWORDS,
} from '../../../wire/udmq-entry.ts';
import { type AddressFlags, parseInteger } from '../address.ts';
import { printFields, printJson, printLine, printTable, toHex } from '../print.ts';
import { CNTLID_MAX, cdqidOption, cntlidOption, inRange, type LmRunner, lmCommand, needsLasting } from './session.ts';

const QUEUE = 'a queue';
const ENTRIES_DEFAULT = 4096;
const U16_MAX = 0xffff;
const U32_MAX = 0xffff_ffff;
/** Entries of one answer. */
const READ_DEFAULT = 1024;

interface CreateFlags extends AddressFlags {
  size: number;
  cntlid: number;
  queueType: number;
}

function registerCreate(group: Command, run: LmRunner): void {
  cntlidOption(lmCommand(group, 'create-cdq', 'create a queue of the changes that a controller makes', 'scq'))
    .option('-s, --size <dwords>', 'size: 8 dwords for each entry', parseInteger, ENTRIES_DEFAULT * UDMQ_ENTRY_DWORDS)
    .option('-q, --queue-type <type>', 'queue type', parseInteger, CdqType.ResidentUserDataMigration)
    .option('--consent', 'taken as in nvme lm; no memory is handed over')
    .action((uri: string | undefined, flags: CreateFlags) =>
      run('create-cdq', uri, flags, async (session) => {
        needsLasting('create-cdq', session, QUEUE);
        if (flags.queueType !== CdqType.ResidentUserDataMigration) {
          const why = 'a queue in the memory of this program would be gone with it';
          throw new ConfigError(`lm create-cdq --queue-type: found ${flags.queueType}, allowed is 0xc0: ${why}`);
        }
        inRange('create-cdq', 'cntlid', flags.cntlid, 0, CNTLID_MAX);
        if (flags.size % UDMQ_ENTRY_DWORDS !== 0) {
          throw new ConfigError(`lm create-cdq --size: found ${flags.size}, needed are whole entries of 8 dwords`);
        }
        const cdqid = await session.lm.createQueue(flags.cntlid, flags.size / UDMQ_ENTRY_DWORDS);
        if (flags.output === 'json') printJson({ cdqid });
        else printLine(`create-cdq: success, CDQID=0x${cdqid.toString(16).padStart(4, '0')}`);
      }),
    );
}

interface QueueFlags extends AddressFlags {
  cdqid: number;
}

function registerDelete(group: Command, run: LmRunner): void {
  cdqidOption(lmCommand(group, 'delete-cdq', 'delete a queue, and end its logging', 'C')).action(
    (uri: string | undefined, flags: QueueFlags) =>
      run('delete-cdq', uri, flags, async (session) => {
        needsLasting('delete-cdq', session, QUEUE);
        await session.lm.deleteQueue(inRange('delete-cdq', 'cdqid', flags.cdqid, 0, U16_MAX));
        if (flags.output === 'json') printJson({ cdqid: flags.cdqid });
        else printLine('delete-cdq: success');
      }),
  );
}

interface SetFlags extends QueueFlags {
  hp: number;
  tpt?: number;
}

function registerSet(group: Command, run: LmRunner): void {
  cdqidOption(lmCommand(group, 'set-cdq', 'release entries, arm or disarm the tail pointer trigger', 'CHT'))
    .requiredOption('-H, --hp <slot>', 'new head: entries before it are consumed', parseInteger)
    .option(
      '-T, --tpt <slot>',
      'tail pointer trigger: an event when this slot is filled; without it, none',
      parseInteger,
    )
    .action((uri: string | undefined, flags: SetFlags) =>
      run('set-cdq', uri, flags, async (session) => {
        needsLasting('set-cdq', session, QUEUE);
        const { cdqid, hp, tpt } = flags;
        inRange('set-cdq', 'hp', hp, 0, U32_MAX);
        if (tpt !== undefined) inRange('set-cdq', 'tpt', tpt, 0, U32_MAX);
        await session.lm.consumeQueue(inRange('set-cdq', 'cdqid', cdqid, 0, U16_MAX), hp, tpt);
        if (flags.output === 'json') printJson({ cdqid, hp, tpt: tpt ?? null });
        else printLine('set-cdq: success');
      }),
    );
}

function registerGet(group: Command, run: LmRunner): void {
  cdqidOption(lmCommand(group, 'get-cdq', 'head and trigger of a queue', 'C')).action(
    (uri: string | undefined, flags: QueueFlags) =>
      run('get-cdq', uri, flags, async (session) => {
        needsLasting('get-cdq', session, QUEUE);
        const { hp, tpt, triggerEnabled } = await session.lm.queueState(
          inRange('get-cdq', 'cdqid', flags.cdqid, 0, U16_MAX),
        );
        if (flags.output === 'json') printJson({ cdqid: flags.cdqid, etpt: triggerEnabled, hp, tpt });
        else {
          printFields(
            [
              ['Enable Tail Pointer Trigger (ETPT)', triggerEnabled ? 'Yes' : 'No'],
              ['Head Pointer (HP)', String(hp)],
              ['Tail Pointer Trigger (TPT)', String(tpt)],
            ],
            36,
          );
        }
      }),
  );
}

// ---- entries -------------------------------------------------------------------------------------------------------------------------

const SEQUENCES: Readonly<Record<number, string>> = {
  [EntrySequence.Middle]: 'changed',
  [EntrySequence.First]: 'first',
  [EntrySequence.HostStopped]: 'last: stopped',
  [EntrySequence.Suspended]: 'last: suspended',
  [EntrySequence.Full]: 'last: full',
};

/** One entry as `lm read-cdq` shows it. */
export interface QueueEntry {
  readonly slot: number;
  /** Since the queue was created. */
  readonly number: number;
  readonly sequence: string;
  /** Absent where the entry has no range. */
  readonly nsid?: number;
  readonly slba?: number;
  /** Absent: every block of the namespace. */
  readonly blocks?: number;
  readonly deallocated?: boolean;
  readonly phase: number;
  readonly raw: string;
}

/** @param entries of 32 bytes each */
export function describeEntries(entries: Uint8Array, headSlot: number, slots: number, first: number): QueueEntry[] {
  const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
  return Array.from({ length: entries.length / UDMQ_ENTRY_BYTES }, (_, i): QueueEntry => {
    const at = i * UDMQ_ENTRY_BYTES;
    const range = entryRange(view, at);
    const whole = range === EntryRange.WholeNamespace;
    const blocks = range === EntryRange.Blocks ? { slba: entrySlba(view, at), blocks: entryBlockCount(view, at) } : {};
    const sequence = entrySequence(view, at);
    return {
      slot: (headSlot + i) % slots,
      number: first + i,
      sequence: SEQUENCES[sequence] ?? `reserved (${sequence})`,
      ...(range === EntryRange.Blocks || whole ? { nsid: entryNsid(view, at), ...blocks } : {}),
      ...(range === EntryRange.Blocks ? { deallocated: entryDeallocated(view, at) } : {}),
      phase: entryPhase(view, at),
      raw: toHex(entries.subarray(at, at + UDMQ_ENTRY_BYTES)),
    };
  });
}

interface ReadFlags extends QueueFlags {
  entries: number;
  consume?: boolean;
}

function registerRead(group: Command, run: LmRunner): void {
  cdqidOption(lmCommand(group, 'read-cdq', 'entries that wait in a queue, decoded', 'Cn'))
    .option('-n, --entries <n>', 'most entries to read', parseInteger, READ_DEFAULT)
    .option('--consume', 'release them (set-cdq) once they are printed')
    .action((uri: string | undefined, flags: ReadFlags) =>
      run('read-cdq', uri, flags, async (session) => {
        needsLasting('read-cdq', session, QUEUE);
        const cdqid = inRange('read-cdq', 'cdqid', flags.cdqid, 0, U16_MAX);
        const { header, entries } = await session.lm.readQueue(
          cdqid,
          inRange('read-cdq', 'entries', flags.entries, 1, READ_DEFAULT),
        );
        const list = describeEntries(entries, header.head, header.cap, Number(header.seq));
        const has = (bit: number): boolean => (header.flags & bit) !== 0;
        const { More, Logging, Full, Suspended } = ResidentQueueFlag;
        const state = { logging: has(Logging), full: has(Full), suspended: has(Suspended), more: has(More) };
        if (flags.output === 'json') {
          const { cntlid, head, tail, cap, nent } = header;
          printJson({ cdqid, cntlid, head, tail, slots: cap, waiting: nent, ...state, entries: list });
        } else {
          const on = Object.entries(state).flatMap(([name, value]) => (value ? [name] : []));
          printLine(
            `CDQ ${cdqid} of controller ${header.cntlid}: ${header.nent} waiting; ${on.join(', ') || 'not logging'}`,
          );
          if (list.length > 0)
            printTable(['Slot', 'Entry', 'NSID', 'SLBA', 'Blocks', 'Deallocated'], list.map(entryRow));
        }
        if (flags.consume) await session.lm.consumeQueue(cdqid, (header.head + list.length) % header.cap);
      }),
    );
}

const entryRow = ({ slot, sequence, nsid, slba, blocks, deallocated }: QueueEntry): string[] => [
  String(slot),
  sequence,
  nsid === undefined ? '-' : String(nsid),
  slba === undefined ? '-' : String(slba),
  nsid === undefined ? '-' : String(blocks ?? 'all'),
  deallocated === true ? 'yes' : '-',
];

export function registerQueueVerbs(group: Command, run: LmRunner): void {
  registerCreate(group, run);
  registerDelete(group, run);
  registerSet(group, run);
  registerGet(group, run);
  registerRead(group, run);
}
