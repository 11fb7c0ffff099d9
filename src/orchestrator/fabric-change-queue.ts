/** Following namespaces by what one controller logs, over NVMe/TCP: who may, and that nobody else changes them. */
import { TrackingAttribute } from '../spec/migration.ts';
import { Status } from '../spec/status.ts';
import { NvmeofError, NvmeStatusError } from '../util/error.ts';
import { ChangeQueue, QueuedSource } from './change-queue.ts';
import type { EndChangeQueue, EndNamespace, FollowedByQueue } from './end.ts';
import type { FabricEnd, Link } from './fabric-end.ts';
import { FabricQueue } from './fabric-queue.ts';

const STATUS_MASK = 0x7ff;

export class FabricChangeQueue implements EndChangeQueue {
  readonly #end: FabricEnd;
  readonly #cntlid: number;

  constructor(end: FabricEnd, cntlid: number) {
    this.#end = end;
    this.#cntlid = cntlid;
  }

  async obstacles(nsids: readonly number[]): Promise<readonly string[]> {
    const link = await this.#end.link();
    if ((link.controller.identify.trattr & TrackingAttribute.UserData) === 0) {
      return [`${this.#end.name} has no queue of changes (TUDCS): use the bitmap`];
    }
    const found: string[] = [];
    for (const nsid of nsids) {
      const others = await this.#others(link, nsid);
      if (others.length > 0) found.push(alsoChangedBy(nsid, others));
    }
    return found;
  }

  /** Controllers of hosts and guests that have the namespace as well. */
  async #others({ controller }: Link, nsid: number): Promise<readonly number[]> {
    const attached = await attachedTo(controller, nsid);
    const unknown = attached.filter((cntlid) => cntlid !== this.#cntlid && cntlid !== controller.cntlid);
    if (unknown.length === 0) return unknown;
    // managers are none of them
    const migratable = await this.#end.migratable();
    return unknown.filter((cntlid) => migratable.includes(cntlid));
  }

  follow(namespaces: readonly EndNamespace[], entries: number): FollowedByQueue {
    const queue = new ChangeQueue(new FabricQueue(this.#end, this.#cntlid, entries), this.#end.clock);
    const sources = namespaces.map(({ identity: { nsid }, source }) => {
      const mustBeWhole = async (): Promise<void> => {
        const others = await this.#others(await this.#end.link(), nsid);
        if (others.length > 0) throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', alsoChangedBy(nsid, others));
      };
      return new QueuedSource(queue, nsid, source, mustBeWhole);
    });
    return {
      sources,
      get overflows() {
        return queue.overflows;
      },
    };
  }
}

/** Where attachment is nobody's affair, every controller may have it. */
async function attachedTo({ management }: Link['controller'], nsid: number): Promise<readonly number[]> {
  try {
    return await management.controllers(nsid);
  } catch (error) {
    const isUnknown = error instanceof NvmeStatusError && (error.status & STATUS_MASK) === Status.InvalidField;
    if (!isUnknown) throw error;
    return management.controllers();
  }
}

function alsoChangedBy(nsid: number, others: readonly number[]): string {
  const whose = `controller ${others.join(', ')} may change namespace ${nsid} as well, and the queue has the changes of one only`;
  return `${whose}: detach it there, or follow by the bitmap`;
}
