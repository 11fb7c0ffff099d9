/** Config space of an NVMe function: type 0 header, and the capabilities PM, MSI, MSI-X and PCI Express, in this order. PCI Express Base 4.0 section 7.5. */
import { type PciBar, PciError } from './pci-function.ts';

export const CONFIG_BYTES = 256;

/** Offsets of what is read elsewhere. */
export const Config = {
  Command: 0x04,
  Bar0: 0x10,
  InterruptPin: 0x3d,
  PmControl: 0x44,
  MsiControl: 0x52,
  MsiAddress: 0x54,
  MsiData: 0x5c,
  MsiXControl: 0x62,
  DeviceControl: 0x78,
} as const;

const PM_AT = 0x40;
const MSI_AT = 0x50;
const MSIX_AT = 0x60;
const EXPRESS_AT = 0x70;
const BUS_MASTER = 0x4;
const PIN_DISABLE = 0x400;
const MSI_ENABLE = 0x1;
const MSIX_ENABLE = 0x8000;
const MSIX_MASK_ALL = 0x4000;
const INITIATE_FLR = 0x8000;
const CLASS_NVME = 0x010802;
const STATUS_CAPABILITIES = 0x0010;
const STATUS_PIN = 0x0008;
/** Version 3; no clock, no PME. */
const PM_CAPABILITIES = 0x0003;
/** No Soft Reset: D3hot and back changes nothing. */
const PM_NO_SOFT_RESET = 0x0008;
const MSI_64_BIT = 0x0080;
/** Version 2, PCI Express endpoint. */
const EXPRESS_CAPABILITIES = 0x0002;
const FLR_CAPABLE = 0x1000_0000;
const ROLE_BASED_ERRORS = 0x8000;
/** 2.5 GT/s, one lane. */
const LINK = 0x0011;

export interface ConfigOptions {
  readonly vendorId: number;
  readonly deviceId: number;
  /** 0 none, 1 INTA#. */
  readonly interruptPin: number;
  readonly vectorCount: number;
  /** Log2 of the MSI messages. */
  readonly msiShift: number;
  readonly bar: PciBar;
  readonly msixTableOffset: number;
  readonly msixPendingOffset: number;
}

export class ConfigSpace {
  readonly #options: ConfigOptions;
  readonly #bytes: Uint8Array = new Uint8Array(CONFIG_BYTES);
  readonly #view: DataView = new DataView(this.#bytes.buffer);
  /** Bits that a write changes. */
  readonly #writable: Uint8Array = new Uint8Array(CONFIG_BYTES);

  constructor(options: ConfigOptions) {
    this.#options = options;
    this.#makeWritable();
    this.reset();
  }

  #makeWritable(): void {
    const view = new DataView(this.#writable.buffer);
    view.setUint16(Config.Command, 0x0407, true);
    view.setUint8(0x0c, 0xff);
    view.setUint8(0x3c, 0xff);
    const { lengthBytes } = this.#options.bar;
    view.setUint32(Config.Bar0, -lengthBytes >>> 0, true);
    view.setUint32(Config.Bar0 + 4, 0xffff_ffff, true);
    view.setUint16(Config.PmControl, 0x0003, true);
    view.setUint16(Config.MsiControl, 0x0071, true);
    view.setUint32(Config.MsiAddress, 0xffff_fffc, true);
    view.setUint32(Config.MsiAddress + 4, 0xffff_ffff, true);
    view.setUint16(Config.MsiData, 0xffff, true);
    view.setUint16(Config.MsiXControl, MSIX_ENABLE | MSIX_MASK_ALL, true);
    view.setUint16(Config.DeviceControl, 0x7fff, true);
  }

  /** As after a conventional reset. */
  reset(): void {
    const { vendorId, deviceId, interruptPin, vectorCount, msiShift } = this.#options;
    const view = this.#view;
    this.#bytes.fill(0);
    view.setUint16(0x00, vendorId, true);
    view.setUint16(0x02, deviceId, true);
    view.setUint16(0x06, STATUS_CAPABILITIES, true);
    view.setUint32(0x08, CLASS_NVME * 0x100 + 0x01, true);
    view.setUint32(Config.Bar0, 0x4, true); // memory, 64 bit
    view.setUint16(0x2c, vendorId, true);
    view.setUint16(0x2e, deviceId, true);
    view.setUint8(0x34, PM_AT);
    view.setUint8(Config.InterruptPin, interruptPin);

    view.setUint16(PM_AT, 0x01 | (MSI_AT << 8), true);
    view.setUint16(PM_AT + 2, PM_CAPABILITIES, true);
    view.setUint16(Config.PmControl, PM_NO_SOFT_RESET, true);

    view.setUint16(MSI_AT, 0x05 | (MSIX_AT << 8), true);
    view.setUint16(Config.MsiControl, MSI_64_BIT | (msiShift << 1), true);

    view.setUint16(MSIX_AT, 0x11 | (EXPRESS_AT << 8), true);
    view.setUint16(Config.MsiXControl, vectorCount - 1, true);
    view.setUint32(MSIX_AT + 4, this.#options.msixTableOffset, true); // BIR 0
    view.setUint32(MSIX_AT + 8, this.#options.msixPendingOffset, true);

    view.setUint16(EXPRESS_AT, 0x10, true);
    view.setUint16(EXPRESS_AT + 2, EXPRESS_CAPABILITIES, true);
    view.setUint32(EXPRESS_AT + 4, FLR_CAPABLE | ROLE_BASED_ERRORS, true);
    view.setUint32(EXPRESS_AT + 0x0c, LINK, true);
    view.setUint16(EXPRESS_AT + 0x12, LINK, true);
  }

  read(offset: number, into: Uint8Array): void {
    into.fill(0);
    if (offset < CONFIG_BYTES) into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /** @returns true if it asks for a function level reset */
  write(offset: number, bytes: Uint8Array): boolean {
    let resets = false;
    for (let i = 0; i < bytes.length && offset + i < CONFIG_BYTES; i++) {
      const at = offset + i;
      const mask = this.#writable[at]!;
      if (at === Config.DeviceControl + 1 && (bytes[i]! & (INITIATE_FLR >>> 8)) !== 0) resets = true;
      this.#bytes[at] = (this.#bytes[at]! & ~mask) | (bytes[i]! & mask);
    }
    return resets;
  }

  /** The INTx status bit. */
  setPinStatus(asserted: boolean): void {
    const status = this.#view.getUint16(0x06, true);
    this.#view.setUint16(0x06, asserted ? status | STATUS_PIN : status & ~STATUS_PIN, true);
  }

  /** The function may reach memory, and send messages. */
  get isBusMaster(): boolean {
    return (this.#view.getUint16(Config.Command, true) & BUS_MASTER) !== 0;
  }

  get msixEnabled(): boolean {
    return (this.#view.getUint16(Config.MsiXControl, true) & MSIX_ENABLE) !== 0;
  }

  get msixMasked(): boolean {
    return (this.#view.getUint16(Config.MsiXControl, true) & MSIX_MASK_ALL) !== 0;
  }

  get msiEnabled(): boolean {
    return (this.#view.getUint16(Config.MsiControl, true) & MSI_ENABLE) !== 0;
  }

  /** Messages that the guest has granted. */
  get msiMessages(): number {
    const granted = (this.#view.getUint16(Config.MsiControl, true) >>> 4) & 0x7;
    return 1 << Math.min(granted, this.#options.msiShift);
  }

  get pinEnabled(): boolean {
    return this.#options.interruptPin !== 0 && (this.#view.getUint16(Config.Command, true) & PIN_DISABLE) === 0;
  }

  save(): Uint8Array {
    return this.#bytes.slice();
  }

  /** What a guest wrote. @param bytes of `save`, of a function with the same options */
  restore(bytes: Uint8Array): void {
    this.write(0, bytes);
  }

  /** @throws PciError if it is that of another kind of function */
  check(bytes: Uint8Array): void {
    if (bytes.length !== CONFIG_BYTES)
      throw new PciError(22, `Config space has ${bytes.length} bytes, not ${CONFIG_BYTES}`);
    const fresh = new ConfigSpace(this.#options).save();
    for (let i = 0; i < CONFIG_BYTES; i++) {
      // status comes and goes with the interrupt pin
      if (i === 0x06 || i === 0x07) continue;
      if (((bytes[i]! ^ fresh[i]!) & ~this.#writable[i]!) !== 0) {
        throw new PciError(22, `Config space differs at ${i.toString(16)}h in what no guest can change`);
      }
    }
  }
}
