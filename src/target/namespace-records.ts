/** What a subsystem remembers of its namespaces in the state store: those that hosts created, who attached what, and block sizes after Format. */
import { NvmeofError } from '../util/error.ts';
import type { StateStore } from './state-store.ts';

/** A namespace that a host created. */
export interface VolumeRecord {
  readonly nsid: number;
  readonly uuid: string;
  readonly sizeBytes: number;
  readonly shared: boolean;
  blockSize: number;
  /** `making` and `going`: what is left of it is removed at the next start. */
  state: 'making' | 'there' | 'going';
}

/** A configured namespace whose block size a host changed. The record counts as long as the configuration still says `configured`. */
interface FormatRecord {
  readonly configured: number;
  readonly blockSize: number;
}

interface Saved {
  readonly version: 1;
  readonly volumes: readonly VolumeRecord[];
  /** By NSID, by host (target/attachments.ts). */
  readonly attachments: Readonly<Record<string, Readonly<Record<string, boolean>>>>;
  readonly formats: Readonly<Record<string, FormatRecord>>;
}

export class NamespaceRecords {
  readonly #store: StateStore | undefined;
  readonly #name: string;
  readonly volumes: Map<number, VolumeRecord> = new Map<number, VolumeRecord>();
  readonly attachments: Map<number, Readonly<Record<string, boolean>>> = new Map<
    number,
    Readonly<Record<string, boolean>>
  >();
  readonly formats: Map<number, FormatRecord> = new Map<number, FormatRecord>();

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  constructor(store: StateStore | undefined, subnqn: string) {
    this.#store = store;
    this.#name = `${subnqn}.namespaces`;
    const saved = store?.load(this.#name);
    if (saved === undefined) return;
    if (!isSaved(saved)) {
      throw new NvmeofError(
        'NVMEOF_ERR_STATE_STORE',
        `State ${this.#name} is not what this version saves: restore it, or remove it to start without the namespaces that hosts created`,
      );
    }
    for (const volume of saved.volumes) this.volumes.set(volume.nsid, { ...volume });
    for (const [nsid, hosts] of Object.entries(saved.attachments)) this.attachments.set(Number(nsid), hosts);
    for (const [nsid, format] of Object.entries(saved.formats)) this.formats.set(Number(nsid), format);
  }

  get isKept(): boolean {
    return this.#store !== undefined;
  }

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE; what was saved before stands then */
  async save(): Promise<void> {
    const value: Saved = {
      version: 1,
      volumes: [...this.volumes.values()].map((volume) => ({ ...volume })),
      attachments: Object.fromEntries(this.attachments),
      formats: Object.fromEntries(this.formats),
    };
    await this.#store?.save(this.#name, value);
  }
}

function isSaved(value: unknown): value is Saved {
  const saved = value as Partial<Saved> | null;
  return (
    typeof saved === 'object' &&
    saved !== null &&
    saved.version === 1 &&
    Array.isArray(saved.volumes) &&
    typeof saved.attachments === 'object' &&
    typeof saved.formats === 'object'
  );
}
