import PQueue from 'p-queue';
import { NvmeofError } from '../util/error.ts';
import type { HostController } from './controller.ts';
import { HostNamespace } from './namespace.ts';

const SCAN_CONCURRENCY = 8;

/** The namespaces of a controller that someone asked for, kept up to date. */
export class NamespaceSet {
  readonly #controller: HostController;
  readonly #known = new Map<number, HostNamespace>();
  readonly #scan = new PQueue({ concurrency: SCAN_CONCURRENCY });

  constructor(controller: HostController) {
    this.#controller = controller;
  }

  async get(nsid: number): Promise<HostNamespace> {
    const known = this.#known.get(nsid);
    if (known?.active) return known;
    const namespace = known ?? new HostNamespace(this.#controller, nsid);
    await namespace.refresh();
    if (!namespace.active) throw new NvmeofError('NVMEOF_ERR_NO_NAMESPACE', `Namespace ${nsid} is not active`);
    // another call may have been faster
    const existing = this.#known.get(nsid);
    if (existing !== undefined) return existing;
    this.#known.set(nsid, namespace);
    return namespace;
  }

  getAll(nsids: readonly number[]): Promise<HostNamespace[]> {
    return Promise.all(nsids.map((nsid) => this.#scan.add(() => this.get(nsid))));
  }

  /** Reads again what is known. @param nsids undefined: all */
  async refresh(nsids: readonly number[] | undefined): Promise<void> {
    const some = nsids ?? [...this.#known.keys()];
    await Promise.all(
      some.map((nsid) =>
        this.#scan.add(async () => {
          try {
            await this.#known.get(nsid)?.refresh();
          } catch (error) {
            if (!(error instanceof NvmeofError)) throw error; // lost again: the next connection refreshes
          }
        }),
      ),
    );
  }
}
