/** Interrupts of one function: the MSI-X table with its pending bits, MSI, the pin; INTMS and INTMC for the latter two. NVMe PCIe Transport 1.1 section 3.5. */
import type { ConfigSpace } from './config-space.ts';
import { InterruptMode, type InterruptSink } from './pci-function.ts';

export const MSIX_ENTRY_BYTES = 16;
const VECTOR_CONTROL = 12;
const MASKED = 1;
/** Vectors that INTMS has a bit for. */
const MASK_BITS = 32;

export class Interrupts {
  readonly #config: ConfigSpace;
  readonly vectorCount: number;
  /** The MSI-X table. */
  readonly table: DataView;
  readonly tableBytes: Uint8Array;
  /** A bit per vector. */
  readonly pending: Uint8Array;
  sink: InterruptSink | undefined = undefined;
  /** The front end keeps the table and masks. */
  sinkOwnsTable = false;
  /** INTMS. */
  mask = 0;
  pinAsserted = false;

  constructor(config: ConfigSpace, vectorCount: number) {
    this.#config = config;
    this.vectorCount = vectorCount;
    this.tableBytes = new Uint8Array(vectorCount * MSIX_ENTRY_BYTES);
    this.table = new DataView(this.tableBytes.buffer);
    this.pending = new Uint8Array(Math.ceil(vectorCount / 64) * 8);
    this.reset();
  }

  reset(): void {
    this.tableBytes.fill(0);
    for (let i = 0; i < this.vectorCount; i++)
      this.table.setUint32(i * MSIX_ENTRY_BYTES + VECTOR_CONTROL, MASKED, true);
    this.pending.fill(0);
    this.mask = 0;
    this.setPin(false);
  }

  get mode(): number {
    if (this.#config.msixEnabled) return InterruptMode.MsiX;
    return this.#config.msiEnabled ? InterruptMode.Msi : InterruptMode.Pin;
  }

  /** Vectors that a completion queue may name now. */
  get vectorsUsable(): number {
    const { mode } = this;
    if (mode === InterruptMode.MsiX) return this.vectorCount;
    return mode === InterruptMode.Msi ? this.#config.msiMessages : 1;
  }

  /** An edge on that vector: MSI-X, or MSI unless INTMS masks it. The pin is a level, see `setPin`. */
  raise(vector: number): void {
    const { mode } = this;
    // a message is a write to memory
    if (mode !== InterruptMode.Pin && !this.#config.isBusMaster) return;
    if (mode === InterruptMode.MsiX) {
      if (vector >= this.vectorCount) return;
      if (!this.sinkOwnsTable && (this.#config.msixMasked || this.#isMasked(vector))) {
        this.pending[vector >>> 3] = this.pending[vector >>> 3]! | (1 << (vector & 7));
        return;
      }
      this.sink?.message(vector);
    } else if (mode === InterruptMode.Msi && !this.isMaskedByRegister(vector)) {
      this.sink?.message(Math.min(vector, this.#config.msiMessages - 1));
    }
  }

  isMaskedByRegister(vector: number): boolean {
    return vector < MASK_BITS && (this.mask & (1 << vector)) !== 0;
  }

  setPin(asserted: boolean): void {
    if (asserted === this.pinAsserted) return;
    this.pinAsserted = asserted;
    this.#config.setPinStatus(asserted);
    this.sink?.pin(asserted);
  }

  get pinEnabled(): boolean {
    return this.mode === InterruptMode.Pin && this.#config.pinEnabled;
  }

  #isMasked(vector: number): boolean {
    return (this.table.getUint32(vector * MSIX_ENTRY_BYTES + VECTOR_CONTROL, true) & MASKED) !== 0;
  }

  /** A dword of the table was written. */
  writeTable(offset: number, value: number): void {
    if (offset + 4 > this.tableBytes.length) return;
    this.table.setUint32(offset, value, true);
    this.deliverPending();
  }

  /** Something was unmasked: what was held back goes out. */
  deliverPending(): void {
    if (!this.#config.msixEnabled || this.#config.msixMasked || !this.#config.isBusMaster) return;
    for (let vector = 0; vector < this.vectorCount; vector++) {
      const bit = 1 << (vector & 7);
      if ((this.pending[vector >>> 3]! & bit) === 0 || this.#isMasked(vector)) continue;
      this.pending[vector >>> 3] = this.pending[vector >>> 3]! & ~bit;
      this.sink?.message(vector);
    }
  }
}
