import type { HostNamespace } from '../initiator/namespace.ts';
import { NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import type { EndNamespace, EndNamespaceIdentity, FenceState, NamespaceFigures } from './end.ts';
import type { FabricEnd, Link } from './fabric-end.ts';
import { FabricDestination, FabricSource } from './fabric-volume.ts';
import { heldByOther, pastOtherSession } from './other-session.ts';
import type { BlockRun, DestinationVolume, SourceVolume } from './volume.ts';

const STATUS_MASK = 0x7ff;
const INVALID_OPCODE = 0x001;
const INVALID_FIELD = 0x002;
const COMMAND_SEQUENCE_ERROR = 0x00c;

/** A namespace as the managing controller sees it; its volumes are those of one connection. */
export class FabricNamespace implements EndNamespace {
  readonly identity: EndNamespaceIdentity;
  readonly figures: NamespaceFigures;
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  readonly #end: FabricEnd;
  readonly #hasReservations: boolean;

  static async of(end: FabricEnd, link: Link, namespace: HostNamespace): Promise<FabricNamespace> {
    const { uuid } = await link.controller.namespaceDescriptors(namespace.nsid);
    return new FabricNamespace(end, link, namespace, uuid);
  }

  private constructor(end: FabricEnd, link: Link, namespace: HostNamespace, uuid: Uint8Array | undefined) {
    this.#end = end;
    const { nsid, blockSize, blockCount, identify } = namespace;
    this.#hasReservations = identify.rescap !== 0;
    this.identity = {
      nsid,
      blockSize,
      blockCount,
      uuid: hex(uuid),
      nguid: hex(identify.nguid),
      eui64: hex(identify.eui64),
    };
    this.figures = figuresOf(identify, link.controller.identify);
    this.source = new LinkedSource(end, namespace, link);
    this.destination = new FabricDestination(namespace);
  }

  async fence(): Promise<FenceState | undefined> {
    try {
      return await this.#end.repeat(({ migration }) => migration.fence(this.identity.nsid));
    } catch (error) {
      if (error instanceof NvmeofError && error.code === 'NVMEOF_ERR_UNSUPPORTED') return undefined;
      if (error instanceof NvmeStatusError && (error.status & STATUS_MASK) === INVALID_FIELD) return undefined;
      throw error;
    }
  }

  async setFence(isOpen: boolean, epoch: bigint): Promise<void> {
    await this.#end.repeat(async (link) => {
      // a guest that runs again would run into the closed fence
      if (!isOpen) this.#end.stillSuspended(link);
      await link.migration.setFence(this.identity.nsid, isOpen, epoch);
    });
  }

  async reservations(): Promise<Uint8Array | undefined> {
    if (!this.#hasReservations) return undefined;
    return this.#end.repeat(async ({ controller }) => {
      const namespace = await controller.namespace(this.identity.nsid);
      const { bytes, regctl } = await namespace.reservationReport({ extended: true });
      return regctl === 0 ? undefined : bytes;
    });
  }

  async setReservations(status: Uint8Array | undefined, epoch: bigint): Promise<void> {
    await this.#end.repeat(({ migration }) => migration.setReservations(this.identity.nsid, status, epoch));
  }

  async size(): Promise<{ readonly blockSize: number; readonly blockCount: number }> {
    return this.#end.repeat(async ({ controller }) => {
      const namespace = await controller.namespace(this.identity.nsid);
      await namespace.refresh();
      return { blockSize: namespace.blockSize, blockCount: namespace.blockCount };
    });
  }

  async followsChanges(): Promise<boolean> {
    return this.#end.repeat(({ migration }) => migration.canTrackChanges(this.identity.nsid));
  }

  async limitWrites(bytesPerSecond: number | undefined): Promise<void> {
    const { nsid } = this.identity;
    await this.#end.repeat((link) =>
      unlessHeld(this.#end, link, `writes to namespace ${nsid} are limited`, () =>
        link.migration.limitWrites(nsid, bytesPerSecond),
      ),
    );
  }
}

/** NSFEAT bit 1: the namespace has atomic units of its own. */
const OWN_ATOMICS = 0x02;

function figuresOf(identify: IdentifyNamespace, controller: IdentifyController): NamespaceFigures {
  const { flbas, lbaf, dps, nmic, rescap, dlfeat, nsattr, nsfeat } = identify;
  const hasOwn = (nsfeat & OWN_ATOMICS) !== 0;
  return {
    metadataBytes: lbaf[(flbas & 0x0f) | ((flbas & 0x60) >> 1)]?.ms ?? 0,
    protection: dps & 0x07,
    ...{ nmic, rescap, dlfeat, nsattr },
    nawun: hasOwn ? identify.nawun : controller.awun,
    nawupf: hasOwn ? identify.nawupf : controller.awupf,
    nacwu: hasOwn ? identify.nacwu : controller.acwu,
  };
}

/** Where a controller does not say which blocks are allocated, all of them may be. */
class LinkedSource extends FabricSource {
  readonly #end: FabricEnd;
  readonly #namespace: HostNamespace;
  readonly #link: Link;

  constructor(end: FabricEnd, namespace: HostNamespace, link: Link) {
    super(namespace, link.migration);
    this.#end = end;
    this.#namespace = namespace;
    this.#link = link;
  }

  override async *allocated(signal: AbortSignal | undefined): AsyncGenerator<BlockRun> {
    let isFirst = true;
    try {
      for await (const run of super.allocated(signal)) {
        isFirst = false;
        yield run;
      }
    } catch (error) {
      const isUnknown =
        error instanceof NvmeStatusError && [INVALID_OPCODE, INVALID_FIELD].includes(error.status & STATUS_MASK);
      if (!isUnknown || !isFirst) throw error;
      yield { slba: 0, blockCount: this.#namespace.blockCount };
    }
  }

  override async startTracking(): Promise<void> {
    if (!this.#namespace.active) {
      throw new TransportError('NVMEOF_ERR_PATH', `Namespace ${this.#namespace.nsid} is not there any more`);
    }
    const what = `changes of namespace ${this.#namespace.nsid} are followed`;
    await unlessHeld(this.#end, this.#link, what, () => super.startTracking());
  }
}

/** Waits for the end of a session that is gone. That another manager has it is no newer epoch, of which the same status tells elsewhere. */
function unlessHeld(end: FabricEnd, link: Link, what: string, act: () => Promise<void>): Promise<void> {
  const isHeld = (error: unknown): boolean =>
    error instanceof NvmeStatusError && (error.status & STATUS_MASK) === COMMAND_SEQUENCE_ERROR;
  return pastOtherSession(end, link, act, isHeld, (cause) => heldByOther(end.name, what, cause));
}

function hex(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined || bytes.every((byte) => byte === 0)) return undefined;
  return Buffer.from(bytes).toString('hex');
}
