/** Discovery: reading the log, following referrals, staying connected for changes. Base 2.1 sections 3.1.3.3 and 5.1.12.3.1. */
import { EventEmitter } from 'node:events';
import { AsyncEventType, AsyncNotice, LogPage } from '../spec/log-page.ts';
import { DISCOVERY_NQN, DISCOVERY_PORT } from '../spec/nqn.ts';
import { FabricsStatus, STATUS_CODE_MASK } from '../spec/status.ts';
import { NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';
import {
  DISCOVERY_ENTRY_BYTES,
  DISCOVERY_HEADER_BYTES,
  type DiscoveryLog,
  type DiscoveryLogEntry,
  type DiscoveryLogHeader,
  DiscoveryLogOption,
  decodeDiscoveryLogEntries,
  decodeDiscoveryLogHeader,
  SubsystemType,
  TransportType,
} from '../wire/cold/discovery-log.ts';
import { decodeExtendedDiscoveryEntries, EXTENDED_ENTRY_BYTES_MIN } from '../wire/cold/discovery-log-extended.ts';
import { supportedLogPagesCodec } from '../wire/cold/log-supported.ts';
import { HostController } from './controller.ts';
import type { HostOptions } from './options.ts';

/** What to ask of the log; a controller that does not offer it refuses. Base 2.1 section 5.1.12.3.1. @public */
export interface DiscoveryLogOptions {
  /** PLEO: only what is reached through the port that is asked. */
  readonly portLocal?: boolean | undefined;
  /** ALLSUBE: also the subsystems that are closed to this host. */
  readonly allSubsystems?: boolean | undefined;
  /** EXTDLPE: entries are `ExtendedDiscoveryLogEntry`, with attributes. */
  readonly extended?: boolean | undefined;
}

/** `HostOptions` whose `subnqn` may be left out (the well-known discovery NQN) and whose port is 8009 by default. @public */
export type DiscoveryOptions = Omit<HostOptions, 'subnqn'> &
  DiscoveryLogOptions & { readonly subnqn?: string | undefined };

/** @public */
export interface DiscoveryEvents {
  /** The log changed; this is the new one. */
  change: [log: DiscoveryLog];
  /** The log changed, but could not be read again. */
  readFailed: [error: Error];
}

const HEADER_READ_BYTES = 20;
/** With TDLPL, the length of a page whose entries are extended. */
const EXTENDED_HEADER_READ_BYTES = 24;
/** As many basic entries would take. */
const EXTENDED_BYTES_MAX = 64 << 20;
const OPTIONS = [
  { key: 'portLocal', bit: DiscoveryLogOption.PortLocal, name: 'port local entries (PLEO)' },
  { key: 'allSubsystems', bit: DiscoveryLogOption.AllSubsystems, name: 'all subsystems (ALLSUBE)' },
  { key: 'extended', bit: DiscoveryLogOption.Extended, name: 'extended entries (EXTDLPE)' },
] as const;
const ATTEMPTS_MAX = 10;
const ENTRIES_MAX = 65536;
const PERSISTENT_KATO_MS = 30_000;

/** A connection to a Discovery controller. @public */
export class DiscoveryController extends EventEmitter<DiscoveryEvents> {
  readonly controller: HostController;
  readonly #log: DiscoveryLogOptions;

  /** Connects for one look, as `nvme discover` does: no keep alive, no events. */
  static async connect(options: DiscoveryOptions): Promise<DiscoveryController> {
    const { portLocal, allSubsystems, extended, ...host } = options;
    const { subnqn = DISCOVERY_NQN, port = DISCOVERY_PORT, katoMs = 0 } = host;
    const controller = await HostController.connect({ ...host, subnqn, port, katoMs, ioQueues: 0 });
    const discovery = new DiscoveryController(controller, { portLocal, allSubsystems, extended });
    try {
      await discovery.#checkOptions();
    } catch (error) {
      await controller.close();
      throw error;
    }
    return discovery;
  }

  /** Connects to stay: keep alive (default 30 s), `change` events, and the log read again after each reconnect. */
  static connectPersistent(options: DiscoveryOptions): Promise<DiscoveryController> {
    return DiscoveryController.connect({ ...options, katoMs: options.katoMs ?? PERSISTENT_KATO_MS });
  }

  private constructor(controller: HostController, log: DiscoveryLogOptions) {
    super();
    this.controller = controller;
    this.#log = log;
    let lost = false;
    controller.on('asyncEvent', ({ type, info }) => {
      if (type === AsyncEventType.Notice && info === AsyncNotice.DiscoveryChange) void this.#changed();
    });
    controller.on('lost', () => {
      lost = true;
    });
    controller.on('state', (state) => {
      if (state === 'live' && lost) void this.#changed();
    });
  }

  /** LSP of every read. */
  get #lsp(): number {
    return OPTIONS.reduce((lsp, { key, bit }) => lsp | (this.#log[key] === true ? bit : 0), 0);
  }

  /** A controller that knows no LSP bits ignores them, and would answer another question than was asked. */
  async #checkOptions(): Promise<void> {
    if (this.#lsp === 0) return;
    let offered = 0;
    try {
      const page = await this.controller.getLogPage({ lid: LogPage.SupportedLogPages, nsid: 0, bytes: 1024 });
      offered = supportedLogPagesCodec.decode(page).lids[LogPage.Discovery]! >>> 16;
    } catch (error) {
      if (!(error instanceof NvmeStatusError)) throw error; // older than the page, and than what it would tell
    }
    for (const { key, bit, name } of OPTIONS) {
      if ((this.#lsp & bit & ~offered) === 0) continue;
      const { address, port } = this.controller.options;
      throw new NvmeofError(
        'NVMEOF_ERR_NOT_SUPPORTED',
        `Discovery controller ${address}:${port} does not offer this host ${name}; ask without ${key}`,
      );
    }
  }

  async #changed(): Promise<void> {
    try {
      this.emit('change', await this.readLog());
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error;
      this.emit('readFailed', error);
    }
  }

  /**
   * The whole log, consistent: read again while the generation counter moves.
   * @throws TransportError NVMEOF_ERR_UNSTABLE if it changed during every attempt
   */
  async readLog(): Promise<DiscoveryLog> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const log = await this.#readOnce();
      if (log !== undefined) return log;
    }
    throw new TransportError(
      'NVMEOF_ERR_UNSTABLE',
      `Discovery log changed during each of ${ATTEMPTS_MAX} attempts to read it`,
    );
  }

  async #readOnce(): Promise<DiscoveryLog | undefined> {
    try {
      const header = await this.#readHeader();
      if (header.recfmt !== 0) {
        throw new TransportError('NVMEOF_ERR_PROTOCOL', `Discovery log has record format ${header.recfmt}, known is 0`);
      }
      const count = Number(header.numrec);
      if (count > ENTRIES_MAX) {
        throw new TransportError(
          'NVMEOF_ERR_PROTOCOL',
          `Discovery log claims ${count} entries, allowed are ${ENTRIES_MAX}`,
        );
      }
      if (count === 0) return { ...header, entries: [] };
      const { extended = false } = this.#log;
      const length = extended ? extendedBytes(header) : count * DISCOVERY_ENTRY_BYTES;
      const bytes = await this.controller.getLogPage({
        lid: LogPage.Discovery,
        nsid: 0,
        lsp: this.#lsp,
        offset: DISCOVERY_HEADER_BYTES,
        bytes: length,
      });
      const after = await this.#readHeader();
      if (after.genctr !== header.genctr || after.numrec !== header.numrec) return undefined;
      const decode = extended ? decodeExtendedDiscoveryEntries : decodeDiscoveryLogEntries;
      return { ...header, entries: decode(bytes, count) };
    } catch (error) {
      const restart =
        error instanceof NvmeStatusError && (error.status & STATUS_CODE_MASK) === FabricsStatus.DiscoverRestart;
      if (restart) return undefined;
      throw error;
    }
  }

  async #readHeader(): Promise<DiscoveryLogHeader> {
    const bytes = this.#log.extended === true ? EXTENDED_HEADER_READ_BYTES : HEADER_READ_BYTES;
    return decodeDiscoveryLogHeader(
      await this.controller.getLogPage({ lid: LogPage.Discovery, nsid: 0, lsp: this.#lsp, bytes }),
    );
  }

  close(): Promise<void> {
    return this.controller.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** TDLPL without the header. @throws TransportError if it cannot be the length of that many entries */
function extendedBytes({ tdlpl, numrec }: DiscoveryLogHeader): number {
  const bytes = tdlpl - DISCOVERY_HEADER_BYTES;
  if (bytes % 4 !== 0 || bytes < Number(numrec) * EXTENDED_ENTRY_BYTES_MIN || bytes > EXTENDED_BYTES_MAX) {
    throw new TransportError(
      'NVMEOF_ERR_PROTOCOL',
      `Discovery log of ${numrec} extended entries claims a length of ${tdlpl} bytes`,
    );
  }
  return bytes;
}

/** The log of one Discovery controller: connects, reads, disconnects. @public */
export async function discover(options: DiscoveryOptions): Promise<DiscoveryLog> {
  const discovery = await DiscoveryController.connect(options);
  try {
    return await discovery.readLog();
  } finally {
    await discovery.close();
  }
}

/** One Discovery controller of a walk. @public */
export interface DiscoveryVisit {
  readonly address: string;
  readonly port: number;
  /** How many referrals led here. */
  readonly depth: number;
  readonly log?: DiscoveryLog;
  /** Why it could not be read. */
  readonly error?: Error;
}

const DEPTH_MAX = 8;
const VISITS_MAX = 64;

/**
 * Follows the referrals: yields each Discovery controller once, the first one first. A referral that fails is yielded with its error.
 * @throws what the first one throws
 * @public
 */
export async function* discoverReferrals(options: DiscoveryOptions): AsyncGenerator<DiscoveryVisit, void, undefined> {
  const seen = new Set<string>();
  const pending = [{ options, depth: 0 }];
  for (let visits = 0; visits < VISITS_MAX; visits++) {
    const next = pending.shift();
    if (next === undefined) return;
    const { address, port = DISCOVERY_PORT } = next.options;
    const key = `${address} ${port}`;
    if (seen.has(key)) continue;
    seen.add(key);
    let log: DiscoveryLog;
    try {
      log = await discover(next.options);
    } catch (error) {
      if (next.depth === 0 || !(error instanceof Error)) throw error;
      yield { address, port, depth: next.depth, error };
      continue;
    }
    yield { address, port, depth: next.depth, log };
    if (next.depth === DEPTH_MAX) continue;
    for (const entry of log.entries) {
      if (entry.subtype !== SubsystemType.Referral || entry.trtype !== TransportType.Tcp) continue;
      const target = entryAddress(entry);
      if (target !== undefined) {
        const { subnqn: _, ...rest } = next.options;
        pending.push({ options: { ...rest, ...target, subnqn: entry.subnqn }, depth: next.depth + 1 });
      }
    }
  }
}

/** Where a log entry's subsystem is reached; undefined if its port is no decimal number. @public */
export function entryAddress(entry: DiscoveryLogEntry): { address: string; port: number } | undefined {
  const port = /^\d{1,5}$/.test(entry.trsvcid) ? Number(entry.trsvcid) : 0;
  if (port === 0 || port > 65535 || entry.traddr === '') return undefined;
  return { address: entry.traddr, port };
}
