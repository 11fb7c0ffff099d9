/**
 * BAR 0 of an NVMe controller: controller registers, doorbells, MSI-X table and pending bits, each where it stands. PCIe Transport 1.1 section 3.1, NVMe
 * Base 2.1 section 3.1.4. Registers that fabrics do not have are kept here.
 */
import { Cc, Property } from '../../spec/property.ts';
import { type Interrupts, MSIX_ENTRY_BYTES } from './interrupts.ts';
import type { PciBar } from './pci-function.ts';

const REGISTER_BYTES = 0x1000;
const BAR_PAGE = 0x1000;

const Register = { INTMS: 0x0c, INTMC: 0x10, AQA: 0x24, ASQ: 0x28, ACQ: 0x30 } as const;
/** NSSR: "NVMe". */
const SUBSYSTEM_RESET = 0x4e56_4d65;
const NSSRO = 0x10;

/** Where what stands in it, by how much of it there is. */
export interface BarLayout {
  readonly bar: PciBar;
  readonly strideBytes: number;
  /** Behind the last doorbell. */
  readonly doorbellEnd: number;
  readonly tableOffset: number;
  readonly tableBytes: number;
  readonly pendingOffset: number;
}

/** @param doorbellStride CAP.DSTRD */
export function barLayout(vectorCount: number, ioQueuesMax: number, doorbellStride: number): BarLayout {
  const strideBytes = 4 << doorbellStride;
  const doorbellEnd = REGISTER_BYTES + (ioQueuesMax + 1) * 2 * strideBytes;
  const tableOffset = Math.ceil(doorbellEnd / BAR_PAGE) * BAR_PAGE;
  const pendingOffset = tableOffset + BAR_PAGE;
  const lengthBytes = 2 ** Math.ceil(Math.log2(pendingOffset + BAR_PAGE));
  const tableBytes = vectorCount * MSIX_ENTRY_BYTES;
  return {
    bar: { index: 0, lengthBytes, is64Bit: true },
    ...{ strideBytes, doorbellEnd, tableOffset, tableBytes, pendingOffset },
  };
}

/** Registers that are the core's. */
interface CoreRegisters {
  readonly cap: bigint;
  readonly cc: number;
  readonly csts: number;
  getProperty(offset: number, bytes: 4 | 8): bigint | undefined;
  /** CC was written. */
  setConfiguration(value: number): void;
}

/** What an access leads to. */
export interface BarOwner {
  readonly controller: CoreRegisters;
  doorbell(index: number, value: number): void;
  /** CC was written: there may be work. */
  configured(): void;
  /** Vectors are masked that were not, or the other way round. @param unmasked some of them may have something to tell */
  maskChanged(unmasked: boolean): void;
  /** NSSR was written as it has to be. */
  resetRequested(): void;
}

export class FunctionBar {
  readonly #layout: BarLayout;
  readonly #owner: BarOwner;
  readonly #interrupts: Interrupts;
  aqa = 0;
  asq = 0n;
  acq = 0n;
  nssro = false;

  constructor(layout: BarLayout, owner: BarOwner, interrupts: Interrupts) {
    this.#layout = layout;
    this.#owner = owner;
    this.#interrupts = interrupts;
  }

  /** As after power-on. */
  reset(): void {
    this.aqa = 0;
    this.asq = 0n;
    this.acq = 0n;
    this.nssro = false;
  }

  // ---- reads

  read(offset: number, into: Uint8Array): void {
    let dword = 0;
    let at = -1;
    for (let i = 0; i < into.length; i++) {
      const aligned = (offset + i) & ~3;
      if (aligned !== at) {
        at = aligned;
        dword = this.#readDword(aligned);
      }
      into[i] = dword >>> (((offset + i) & 3) * 8);
    }
  }

  #readDword(offset: number): number {
    if (offset < REGISTER_BYTES) return this.#readRegister(offset);
    const { table, pending } = this.#interrupts;
    const { tableOffset, tableBytes, pendingOffset } = this.#layout;
    if (offset >= tableOffset && offset < tableOffset + tableBytes) return table.getUint32(offset - tableOffset, true);
    const at = offset - pendingOffset;
    if (at < 0 || at + 4 > pending.length) return 0;
    return pending[at]! | (pending[at + 1]! << 8) | (pending[at + 2]! << 16) | (pending[at + 3]! << 24);
  }

  #readRegister(offset: number): number {
    const { controller } = this.#owner;
    switch (offset) {
      case Property.CAP:
        return Number(controller.cap & 0xffff_ffffn);
      case Property.CAP + 4:
        return Number(controller.cap >> 32n);
      case Register.INTMS:
      case Register.INTMC:
        return this.#interrupts.mask;
      case Property.CSTS:
        return controller.csts | (this.nssro ? NSSRO : 0);
      case Register.AQA:
        return this.aqa;
      case Register.ASQ:
        return Number(this.asq & 0xffff_ffffn);
      case Register.ASQ + 4:
        return Number(this.asq >> 32n);
      case Register.ACQ:
        return Number(this.acq & 0xffff_ffffn);
      case Register.ACQ + 4:
        return Number(this.acq >> 32n);
      default:
        return Number(controller.getProperty(offset, 4) ?? 0n);
    }
  }

  // ---- writes

  /** @param bytes 4 or 8, aligned; anything else is ignored */
  write(offset: number, bytes: Uint8Array): void {
    if (offset % 4 !== 0 || (bytes.length !== 4 && bytes.length !== 8)) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < bytes.length; i += 4) this.writeDword(offset + i, view.getUint32(i, true));
  }

  writeDword(offset: number, value: number): void {
    const { strideBytes, doorbellEnd, tableOffset } = this.#layout;
    if (offset >= REGISTER_BYTES && offset < doorbellEnd) {
      const index = (offset - REGISTER_BYTES) / strideBytes;
      if (Number.isInteger(index)) this.#owner.doorbell(index, value);
      return;
    }
    if (offset >= tableOffset) this.#interrupts.writeTable(offset - tableOffset, value);
    else this.#writeRegister(offset, value);
  }

  #writeRegister(offset: number, value: number): void {
    const interrupts = this.#interrupts;
    const { controller } = this.#owner;
    switch (offset) {
      case Register.INTMS:
        interrupts.mask = (interrupts.mask | value) >>> 0;
        this.#owner.maskChanged(false);
        return;
      case Register.INTMC:
        interrupts.mask = (interrupts.mask & ~value) >>> 0;
        this.#owner.maskChanged(true);
        return;
      case Property.CC:
        controller.setConfiguration(value);
        this.#owner.configured();
        return;
      case Property.CSTS:
        if ((value & NSSRO) !== 0) this.nssro = false;
        return;
      case Property.NSSR:
        if (value === SUBSYSTEM_RESET) this.#owner.resetRequested();
        return;
      default:
        // they must not change under an enabled controller
        if ((controller.cc & Cc.EN) === 0) this.#writeAdminRegister(offset, value);
    }
  }

  #writeAdminRegister(offset: number, value: number): void {
    const low = BigInt(value);
    switch (offset) {
      case Register.AQA:
        this.aqa = value & 0x0fff_0fff;
        return;
      case Register.ASQ:
        this.asq = (this.asq & ~0xffff_ffffn) | (low & ~0xfffn);
        return;
      case Register.ASQ + 4:
        this.asq = (this.asq & 0xffff_ffffn) | (low << 32n);
        return;
      case Register.ACQ:
        this.acq = (this.acq & ~0xffff_ffffn) | (low & ~0xfffn);
        return;
      case Register.ACQ + 4:
        this.acq = (this.acq & 0xffff_ffffn) | (low << 32n);
    }
  }
}
