/**
 * An end of a move over NVMe/TCP: a host of the subsystem whose controller manages migration. A connection that is lost is made again for what can be
 * repeated; what has ended with it (changes that were followed, controllers that were suspended) is told, never passed over.
 */
import { HostController } from '../initiator/controller.ts';
import { LiveMigration } from '../initiator/live-migration.ts';
import type { HostOptions } from '../initiator/options.ts';
import { formatNvmeUri } from '../initiator/uri.ts';
import { LogPage } from '../spec/log-page.ts';
import { NVMEOF_PORT } from '../spec/nqn.ts';
import { type Clock, systemClock, type Timer } from '../util/clock.ts';
import { ConfigError, NvmeofError, NvmeStatusError, OutcomeUnknownError, TransportError } from '../util/error.ts';
import { FeatureEffect, featureEffectsCodec } from '../wire/cold/log-feature-effects.ts';
import { LogPageSupport, SUPPORTED_LOG_BYTES, supportedLogPagesCodec } from '../wire/cold/log-supported.ts';
import type { ControllerFigures, End, EndController, EndNamespace } from './end.ts';
import { FabricController } from './fabric-controller.ts';
import { FabricNamespace } from './fabric-namespace.ts';
import { IDENTIFY_FIELDS, type IdentifyFigures } from './identify-rules.ts';

/** OACS bit 11. */
const MANAGES = 0x0800;
const DNR = 0x4000;
const COMMAND_TIMEOUT_MS = 15_000;
const CONNECT_TIMEOUT_MS = 3000;
/** How long a connection is tried for, by a call that needs one. */
const PATIENCE_MS = 5000;
const RETRY_MS = 100;
/** Who asks again at once of an end that was not there gets the same answer: less than any pause between attempts. */
const STILL_GONE_MS = 300;
const IO_QUEUES = 4;
/** Longer ones would go off at once. */
const TIMER_MS_MAX = 0x7fffffff;

/** A connection, and what depends on it. */
export interface Link {
  readonly controller: HostController;
  readonly migration: LiveMigration;
  /** Grows with every connection. */
  readonly generation: number;
}

export class FabricEnd implements End {
  readonly name: string;
  readonly subnqn: string;
  readonly #options: HostOptions;
  readonly clock: Clock;
  #link: Link | undefined;
  #connecting: Promise<Link> | undefined;
  /** Of `#connecting`: its reason is what those who wait for it are told. */
  #connectAbort = new AbortController();
  #gone: { readonly atMs: number; readonly error: NvmeofError } | undefined;
  #isClosed = false;
  #isLate = false;
  #lateTimer: Timer | undefined;
  /** Suspended over a connection: it may run again once that is lost. */
  readonly #suspended = new Map<number, number>();

  /** Connects when it is first needed. */
  constructor(options: HostOptions) {
    this.#options = options;
    this.clock = options.clock ?? systemClock;
    this.name = formatNvmeUri({ address: options.address, port: options.port ?? NVMEOF_PORT, subnqn: options.subnqn });
    this.subnqn = options.subnqn;
  }

  /** The operator has had enough: what only waits for somebody else to be gone ends. */
  get interrupt(): AbortSignal | undefined {
    return this.#options.signal;
  }

  /**
   * Connects once, without patience: who is not there, or does not let us manage, is told at once.
   * @throws ConfigError, TransportError, NvmeStatusError
   */
  static async connect(options: HostOptions): Promise<FabricEnd> {
    const end = new FabricEnd(options);
    end.#link = await end.#connect(options.signal ?? undefined);
    return end;
  }

  async #connect(signal: AbortSignal | undefined): Promise<Link> {
    const controller = await HostController.connect({
      ioQueues: IO_QUEUES,
      adminTimeoutMs: COMMAND_TIMEOUT_MS,
      ioTimeoutMs: COMMAND_TIMEOUT_MS,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      ...withoutUndefined(this.#options),
      // lost is lost: what was followed and suspended has ended with it
      ctrlLossTimeoutMs: 0,
      signal,
    });
    if ((controller.identify.oacs & MANAGES) === 0) {
      const { hostnqn } = controller.options;
      await controller.close();
      const remedy = 'add it to the managers of the subsystem (migration), or name another host with hostnqn';
      throw new ConfigError(`${this.name}: host ${hostnqn} manages no migration there: ${remedy}`);
    }
    const generation = (this.#link?.generation ?? 0) + 1;
    return { controller, migration: new LiveMigration(controller), generation };
  }

  /** The connection of the moment, or a new one. @throws TransportError */
  async link(): Promise<Link> {
    if (this.#isClosed) throw this.#closedError();
    if (this.#isLate) throw this.#lateError();
    const link = this.#link;
    if (link?.controller.association !== undefined) return link;
    if (this.#gone !== undefined && this.clock.nowMs() - this.#gone.atMs < STILL_GONE_MS) throw this.#gone.error;
    this.#connecting ??= this.#reconnect().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #reconnect(): Promise<Link> {
    this.#connectAbort = new AbortController();
    const { signal } = this.#connectAbort;
    await this.#link?.controller.close();
    const deadlineMs = this.clock.nowMs() + PATIENCE_MS;
    for (;;) {
      try {
        signal.throwIfAborted();
        const link = await this.#connect(signal);
        if (signal.aborted) {
          await link.controller.close();
          throw signal.reason;
        }
        this.#link = link;
        this.#gone = undefined;
        return link;
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (error instanceof ConfigError || this.clock.nowMs() >= deadlineMs) {
          const gone = unreachable(this.name, error);
          this.#gone = { atMs: this.clock.nowMs(), error: gone };
          throw gone;
        }
        await new Promise<void>((resolve) => {
          this.clock.setTimer(resolve, RETRY_MS);
        });
      }
    }
  }

  waitUntil(atMs: number | undefined): void {
    this.#lateTimer?.cancel();
    this.#lateTimer = undefined;
    this.#isLate = false;
    if (atMs === undefined) return;
    const late = (): void => {
      this.#isLate = true;
      const error = this.#lateError();
      this.#connectAbort.abort(error);
      this.#link?.controller.association?.fail(error);
    };
    const ms = atMs - this.clock.nowMs();
    if (ms <= 0) late();
    else this.#lateTimer = this.clock.setTimer(late, Math.min(ms, TIMER_MS_MAX));
  }

  #lateError(): TransportError {
    const why = this.#gone === undefined ? '' : ` (${this.#gone.error.message})`;
    return new TransportError('NVMEOF_ERR_PATIENCE', `${this.name} has not answered in time${why}`);
  }

  #closedError(): TransportError {
    return new TransportError('NVMEOF_ERR_CLOSED', `${this.name} was closed`);
  }

  /** What can be repeated: once more over a new connection, if the one it began on is lost. */
  async repeat<T>(act: (link: Link) => Promise<T>): Promise<T> {
    const link = await this.link();
    try {
      return await act(link);
    } catch (error) {
      if (!isLost(error)) throw error;
      return act(await this.link());
    }
  }

  // ---- suspensions ---------------------------------------------------------------------------------------------------------------

  noteSuspended(cntlid: number, link: Link | undefined): void {
    if (link === undefined) this.#suspended.delete(cntlid);
    else this.#suspended.set(cntlid, link.generation);
  }

  /** @throws TransportError if a controller may run again because the connection that suspended it was lost */
  stillSuspended(link: Link): void {
    for (const [cntlid, generation] of this.#suspended) {
      if (generation === link.generation) continue;
      const message = `${this.name}: controller ${cntlid} may run again, the connection that suspended it was lost`;
      throw new TransportError('NVMEOF_ERR_SUSPENSION_LOST', message);
    }
  }

  // ---- End -----------------------------------------------------------------------------------------------------------------------

  async namespaces(): Promise<readonly EndNamespace[]> {
    return this.repeat(async (link) => {
      const found: EndNamespace[] = [];
      for (const namespace of await link.controller.namespaces()) {
        found.push(await FabricNamespace.of(this, link, namespace));
      }
      return found;
    });
  }

  async figures(): Promise<ControllerFigures> {
    return this.repeat(async ({ controller }) => {
      const { sn, mn, oncs, fuses, mdts, vwc, cmic, ctratt, awun, awupf, acwu } = controller.identify;
      const { cntlid } = controller;
      const cntlids = await controller.management.controllers();
      const names = { serial: sn.trim(), model: mn.trim() };
      const identify = Object.fromEntries(IDENTIFY_FIELDS.map((name) => [name, controller.identify[name]]));
      return {
        ...names,
        ...{ oncs, fuses, mdts, vwc, cmic, ctratt, awun, awupf, acwu, cntlid, cntlids },
        identify: identify as unknown as IdentifyFigures,
        ...(await supported(controller)),
      };
    });
  }

  async migratable(): Promise<readonly number[]> {
    return this.repeat(async ({ controller, migration }) => {
      const { versions, uuids } = await migration.stateFormats();
      const selection = { csvi: versions.length > 0 ? 1 : 0, csuuidi: uuids.length > 0 ? 1 : 0 };
      const found: number[] = [];
      for (const cntlid of await controller.management.controllers()) {
        if (cntlid === controller.cntlid) continue;
        try {
          await migration.getStatePart(cntlid, selection, 0, HEADER_BYTES);
          found.push(cntlid);
        } catch (error) {
          // another manager, or one that has gone meanwhile
          if (!(error instanceof NvmeStatusError)) throw error;
        }
      }
      return found;
    });
  }

  controller(cntlid: number): EndController {
    return new FabricController(this, cntlid);
  }

  async announce(peer: { readonly address: string; readonly service: number }, isThere: boolean): Promise<void> {
    const entry = { traddr: peer.address, trsvcid: String(peer.service), subnqn: this.subnqn };
    await this.repeat(({ migration }) => migration.announcePeer(entry, isThere));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.waitUntil(undefined);
    this.#connectAbort.abort(this.#closedError());
    try {
      await this.#connecting;
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error; // it could not be made: nothing to close
    }
    await this.#link?.controller.close();
  }
}

/** Of log pages and features; what is not told is not compared. */
async function supported(controller: HostController): Promise<Pick<ControllerFigures, 'logPages' | 'features'>> {
  const logPages = await identifiers(controller, LogPage.SupportedLogPages, (page) => {
    const { lids } = supportedLogPagesCodec.decode(page);
    return lids.map((dword) => dword & LogPageSupport.Supported);
  });
  if (logPages?.includes(LogPage.FeatureEffects) !== true) return { logPages };
  const features = await identifiers(controller, LogPage.FeatureEffects, (page) => {
    const { fis } = featureEffectsCodec.decode(page);
    return fis.map((dword) => dword & FeatureEffect.Supported);
  });
  return { logPages, features };
}

/** @param supports of each identifier, 0 if not. */
async function identifiers(
  controller: HostController,
  lid: number,
  supports: (page: Uint8Array) => readonly number[],
): Promise<number[] | undefined> {
  try {
    const flags = supports(await controller.getLogPage({ lid, nsid: 0, bytes: SUPPORTED_LOG_BYTES }));
    return [...flags.keys()].filter((id) => flags[id] !== 0);
  } catch (error) {
    if (!(error instanceof NvmeStatusError)) throw error;
    return undefined; // a target that keeps no such log
  }
}

const HEADER_BYTES = 48;

/** The connection is gone, or the command's outcome with it. */
export function isLost(error: unknown): boolean {
  return error instanceof TransportError || error instanceof OutcomeUnknownError;
}

function unreachable(name: string, cause: unknown): NvmeofError {
  if (cause instanceof ConfigError) return cause;
  if (cause instanceof NvmeStatusError && (cause.status & DNR) !== 0) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  return new TransportError('NVMEOF_ERR_PATH', `${name} cannot be reached: ${message}`, { cause });
}

function withoutUndefined(options: HostOptions): HostOptions {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as unknown as HostOptions;
}
