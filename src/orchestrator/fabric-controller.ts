/** A migratable controller by the commands of its manager. Base 2.1 section 8.1.12. */

import type { StateSelection } from '../initiator/live-migration.ts';
import { MEMORY_UNIT_BYTES, TrackingAttribute } from '../spec/migration.ts';
import { NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';
import type { ControllerStateFormats } from '../wire/cold/controller-state.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import type { TrackedMemoryChanges } from '../wire/cold/track-memory.ts';
import type { End, EndChangeQueue, EndController, MemoryRun } from './end.ts';
import { FabricChangeQueue } from './fabric-change-queue.ts';
import type { FabricEnd, Link } from './fabric-end.ts';
import { startMemoryTracking, stopMemoryTracking } from './fabric-memory.ts';
import type { Difference } from './figure-rules.ts';
import { type FunctionFigures, functionDifferences, functionFigures } from './function-figures.ts';
import { unitsOf, within } from './memory-ranges.ts';

const STATUS_MASK = 0x7ff;
const NOT_SUSPENDED = 0x13a;
const INVALID_CONTROLLER = 0x11f;
const NOT_ENOUGH_RESOURCES = 0x138;
const STATE_HEADER_BYTES = 48;
/** Of one answer of Track Receive. */
const MEMORY_CHANGES_MAX = 4096;
/** Version 0 of the NVMe part is the only one there is. */
const STATE_VERSION = 0;
const UUID_BYTES = 16;
/** Before the state itself: which formats its parts have, as indexes differ from end to end. */
const ENVELOPE_BYTES = 4 + UUID_BYTES;

export class FabricController implements EndController {
  readonly cntlid: number;
  readonly changes: EndChangeQueue;
  readonly #end: FabricEnd;
  /** Memory that is tracked, and the connection that it ends with. */
  #tracked: { readonly generation: number; readonly ranges: readonly MemoryRun[] } | undefined;

  constructor(end: FabricEnd, cntlid: number) {
    this.#end = end;
    this.cntlid = cntlid;
    this.changes = new FabricChangeQueue(end, cntlid);
  }

  async suspend(): Promise<void> {
    await this.#end.repeat(async (link) => {
      await link.migration.suspend(this.cntlid);
      this.#end.noteSuspended(this.cntlid, link);
    });
  }

  async resume(): Promise<void> {
    try {
      await this.#end.repeat(({ migration }) => migration.resume(this.cntlid));
    } catch (error) {
      if (statusOf(error) !== NOT_SUSPENDED) throw error; // it runs: an earlier try had its effect
    }
    this.#end.noteSuspended(this.cntlid, undefined);
  }

  async isSuspended(): Promise<boolean> {
    return this.#end.repeat(async (link) => {
      const { selection } = await this.#formats(link);
      return (await link.migration.getStatePart(this.cntlid, selection, 0, STATE_HEADER_BYTES)).suspended;
    });
  }

  async getState(): Promise<Uint8Array> {
    return this.#end.repeat(async (link) => {
      const { selection, formats } = await this.#formats(link);
      const { bytes, suspended } = await link.migration.getState(this.cntlid, selection);
      if (!suspended) {
        const message = `${this.#end.name}: controller ${this.cntlid} runs: somebody resumed or reset it`;
        throw new NvmeofError('NVMEOF_ERR_NOT_SUSPENDED', message);
      }
      return wrap(bytes, selection, formats);
    });
  }

  /** A state that was set before, wholly or in part, stands in its way: it is dropped by a reset then, and the state sent again. */
  async setState(state: Uint8Array): Promise<void> {
    let isFirst = true;
    await this.#end.repeat(async (link) => {
      const selection = indexesAt(await link.migration.stateFormats(), state, this.#end.name);
      const bytes = state.subarray(ENVELOPE_BYTES);
      const isClean = isFirst;
      isFirst = false;
      if (isClean) {
        try {
          await link.migration.setState(this.cntlid, bytes, selection);
          return;
        } catch (error) {
          if (statusOf(error) === undefined) throw error;
        }
      }
      await link.migration.suspend(this.cntlid);
      await link.migration.resetController(this.cntlid);
      await link.migration.suspend(this.cntlid);
      this.#end.noteSuspended(this.cntlid, link);
      await link.migration.setState(this.cntlid, bytes, selection);
    });
  }

  /** A controller that runs is suspended for it: only then its manager may. */
  async reset(): Promise<void> {
    await this.#end.repeat(async ({ migration }) => {
      await migration.suspend(this.cntlid);
      await migration.resetController(this.cntlid);
    });
    this.#end.noteSuspended(this.cntlid, undefined);
  }

  // ---- memory --------------------------------------------------------------------------------------------------------------------

  async trackMemory(ranges: readonly MemoryRun[]): Promise<void> {
    await this.#end.repeat(async (link) => {
      const { identify } = link.controller;
      const untracked = this.#untracked(identify);
      if (untracked !== undefined) throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', untracked);
      await this.#track(link, ranges);
      this.#tracked = { generation: link.generation, ranges };
    });
  }

  async untracked(): Promise<string | undefined> {
    return this.#untracked((await this.#end.link()).controller.identify);
  }

  #untracked({ trattr }: IdentifyController): string | undefined {
    if ((trattr & TrackingAttribute.HostMemory) !== 0) return undefined;
    const remedy = 'copy its memory while it is suspended, or serve it by one that does (THMCS)';
    return `${this.#end.name} does not track memory: ${remedy}`;
  }

  /** As finely as the controller can. */
  async #track(link: Link, ranges: readonly MemoryRun[]): Promise<void> {
    const { identify } = link.controller;
    for (let exponent = identify.minmrtg; ; ) {
      const isCoarsest = exponent >= identify.maxmrtg;
      const units = unitsOf(ranges, exponent, identify, identify.cmmrtd);
      try {
        if (units !== undefined) {
          await startMemoryTracking(this.#end, link, this.cntlid, exponent, units);
          return;
        }
        if (isCoarsest) throw this.#tooManyRanges(ranges, identify.cmmrtd);
      } catch (error) {
        // coarser takes less
        if (statusOf(error) !== NOT_ENOUGH_RESOURCES || isCoarsest) throw error;
      }
      exponent++;
    }
  }

  #tooManyRanges(ranges: readonly MemoryRun[], most: number): NvmeofError {
    const what = `${this.#end.name} tracks ${most} ranges of memory (CMMRTD), the VM has ${ranges.length}`;
    return new NvmeofError('NVMEOF_ERR_UNSUPPORTED', `${what}: give it fewer, larger ones`);
  }

  async memoryChanges(): Promise<{ readonly runs: readonly MemoryRun[]; readonly isFinal: boolean }> {
    const link = await this.#end.link();
    const tracked = this.#tracked;
    if (tracked?.generation !== link.generation) {
      // a failure of the connection: copying may begin again
      const message = `${this.#end.name}: memory is not tracked any more, its connection was lost`;
      throw new TransportError('NVMEOF_ERR_PATH', message);
    }
    const { changes, more, suspended, rpmpg } = await this.#report(link);
    const unit = MEMORY_UNIT_BYTES * 2 ** rpmpg;
    const runs = changes.map(({ saddr, len }) => ({ address: Number(saddr), lengthBytes: len * unit }));
    return { runs: within(runs, tracked.ranges), isFinal: suspended && !more };
  }

  async #report({ migration }: Link): Promise<TrackedMemoryChanges> {
    try {
      return await migration.memoryChanges(this.cntlid, MEMORY_CHANGES_MAX);
    } catch (error) {
      if (statusOf(error) !== INVALID_CONTROLLER) throw error;
      const what = `memory of controller ${this.cntlid} is not tracked any more: it was stopped, or is another controller`;
      throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `${this.#end.name}: ${what}; copy it anew`, { cause: error });
    }
  }

  async stopTrackingMemory(): Promise<void> {
    await this.#end.repeat(({ migration }) => stopMemoryTracking(migration, this.cntlid));
  }

  // ---- formats -------------------------------------------------------------------------------------------------------------------

  async #formats({ migration }: Link): Promise<{ selection: StateSelection; formats: ControllerStateFormats }> {
    const formats = await migration.stateFormats();
    const csvi = formats.versions.indexOf(STATE_VERSION) + 1;
    const csuuidi = formats.uuids.length > 0 ? 1 : 0;
    return { selection: { csvi, csuuidi }, formats };
  }

  /** Of one behind PCIe, what it is now; it may run meanwhile. */
  async #functionOf(link: Link, cntlid: number): Promise<FunctionFigures | undefined> {
    const { selection } = await this.#formats(link);
    if (selection.csvi === 0 || selection.csuuidi === 0) return undefined;
    const { bytes, suspended } = await link.migration.getState(cntlid, selection);
    return functionFigures(bytes, suspended);
  }

  async differences(destination: End, cntlid: number): Promise<readonly Difference[]> {
    if (!isFabric(destination)) return [];
    const [ours, theirs] = await Promise.all([this.#end.link(), destination.link()]);
    const found: Difference[] = [];
    const { formats, selection } = await this.#formats(ours);
    try {
      indexesAt(await theirs.migration.stateFormats(), wrap(new Uint8Array(0), selection, formats), destination.name);
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error;
      found.push({ severity: 'refused', message: error.message });
    }
    if (found.length > 0) return found;
    const [here, there] = await Promise.all([this.#functionOf(ours, this.cntlid), this.#functionOf(theirs, cntlid)]);
    found.push(...functionDifferences(here, there, `Controller ${cntlid} at ${destination.name}`));
    return found;
  }
}

function isFabric(end: End): end is FabricEnd {
  return typeof (end as Partial<FabricEnd>).link === 'function';
}

function statusOf(error: unknown): number | undefined {
  return error instanceof NvmeStatusError ? error.status & STATUS_MASK : undefined;
}

// ---- the envelope of a state -------------------------------------------------------------------------------------------------------

function wrap(bytes: Uint8Array, { csvi, csuuidi }: StateSelection, { uuids }: ControllerStateFormats): Uint8Array {
  const wrapped = new Uint8Array(ENVELOPE_BYTES + bytes.length);
  wrapped[0] = csvi > 0 ? 1 : 0;
  wrapped[1] = csuuidi > 0 ? 1 : 0;
  if (csuuidi > 0) wrapped.set(uuids[csuuidi - 1]!, 4);
  wrapped.set(bytes, ENVELOPE_BYTES);
  return wrapped;
}

/** Indexes of the same formats in another controller's lists. @throws NvmeofError if it does not have them */
function indexesAt(formats: ControllerStateFormats, state: Uint8Array, name: string): StateSelection {
  const csvi = state[0] === 1 ? formats.versions.indexOf(STATE_VERSION) + 1 : 0;
  const uuid = state.subarray(4, ENVELOPE_BYTES);
  const csuuidi = state[1] === 1 ? formats.uuids.findIndex((own) => Buffer.compare(own, uuid) === 0) + 1 : 0;
  if ((state[0] === 1 && csvi === 0) || (state[1] === 1 && csuuidi === 0)) {
    const format =
      csvi === 0 && state[0] === 1 ? `version ${STATE_VERSION}` : `format ${Buffer.from(uuid).toString('hex')}`;
    const message = `${name} does not take controller states of ${format}: use one that serves the same (Identify CNS 20h)`;
    throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', message);
  }
  return { csvi, csuuidi };
}
