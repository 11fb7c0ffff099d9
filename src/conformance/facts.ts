/** What a target says about itself: read once, so that cases know what applies. Offsets: Base 2.1 figures 312 and 328, NVM 1.2 figure 114. */
import { Inconclusive } from './check.ts';

export const Onc = {
  Compare: 0,
  WriteUncorrectable: 1,
  DatasetManagement: 2,
  WriteZeroes: 3,
  SaveSelect: 4,
  Reservations: 5,
  Timestamp: 6,
  Verify: 7,
  Copy: 8,
  NamespaceZeroes: 12,
} as const;
export const Oac = { Format: 1, NamespaceManagement: 3, GetLbaStatus: 9 } as const;

export interface RawFacts {
  readonly cap: bigint;
  readonly vs: number;
  /** CNS 01h. */
  readonly controller: Buffer;
  readonly nsids: readonly number[];
  /** Of the namespace under test; undefined if there is none. */
  readonly nsid: number | undefined;
  /** CNS 00h of it. */
  readonly namespace: Buffer | undefined;
  /** CNS 06h with CSI 0, if it is served. */
  readonly nvmController: Buffer | undefined;
  /** LID 05h, if it is served. */
  readonly effects: Buffer | undefined;
  /** LID 00h, if it is served. */
  readonly logs: Buffer | undefined;
  /** AUTHREQ of the Connect response. */
  readonly authreq: number;
}

const text = (bytes: Buffer): string => bytes.toString('latin1').split('\0')[0]!.trim();

export class PeerFacts {
  readonly raw: RawFacts;

  constructor(raw: RawFacts) {
    this.raw = raw;
  }

  get serial(): string {
    return text(this.raw.controller.subarray(4, 24));
  }
  get model(): string {
    return text(this.raw.controller.subarray(24, 64));
  }
  get firmware(): string {
    return text(this.raw.controller.subarray(64, 72));
  }
  get version(): string {
    const { vs } = this.raw;
    return `${vs >>> 16}.${(vs >>> 8) & 0xff}`;
  }
  get mqes(): number {
    return Number(this.raw.cap & 0xffffn);
  }
  /** Bytes; undefined: no limit. */
  get mdtsBytes(): number | undefined {
    const mdts = this.raw.controller.readUInt8(77);
    const page = 4096 << Number((this.raw.cap >> 48n) & 0xfn);
    return mdts === 0 ? undefined : page * 2 ** mdts;
  }
  get ana(): boolean {
    return (this.raw.controller.readUInt8(76) & 8) !== 0;
  }
  get oaes(): number {
    return this.raw.controller.readUInt32LE(92);
  }
  get ctratt(): number {
    return this.raw.controller.readUInt32LE(96);
  }
  oacs(bit: number): boolean {
    return (this.raw.controller.readUInt16LE(256) & (1 << bit)) !== 0;
  }
  oncs(bit: number): boolean {
    return (this.raw.controller.readUInt16LE(520) & (1 << bit)) !== 0;
  }
  get lpa(): number {
    return this.raw.controller.readUInt8(261);
  }
  get nn(): number {
    return this.raw.controller.readUInt32LE(516);
  }
  get fused(): boolean {
    return (this.raw.controller.readUInt16LE(522) & 1) !== 0;
  }
  get vwc(): number {
    return this.raw.controller.readUInt8(525);
  }
  get kas(): number {
    return this.raw.controller.readUInt16LE(320);
  }
  get ioccsz(): number {
    return this.raw.controller.readUInt32LE(1792);
  }
  get inCapsuleBytes(): number {
    return Math.max(0, this.ioccsz * 16 - 64);
  }
  get isStatic(): boolean {
    return (this.raw.controller.readUInt8(1802) & 1) !== 0;
  }
  /** A field of CNS 06h, CSI 0: limits of commands. */
  nvmLimit(offset: number): number {
    return this.raw.nvmController?.readUInt8(offset) ?? 0;
  }

  // ---- the namespace under test

  get nsid(): number {
    if (this.raw.nsid === undefined) throw new Inconclusive('the subsystem has no active namespace');
    return this.raw.nsid;
  }
  get namespace(): Buffer {
    if (this.raw.namespace === undefined) throw new Inconclusive('the subsystem has no active namespace');
    return this.raw.namespace;
  }
  /** Data and interleaved metadata of a block. */
  get blockBytes(): number {
    const { namespace } = this;
    const flbas = namespace.readUInt8(26);
    const format = namespace.readUInt32LE(128 + 4 * ((flbas & 0xf) | ((flbas & 0x60) >>> 1)));
    return 2 ** ((format >>> 16) & 0xff) + (format & 0xffff);
  }
  get blockCount(): bigint {
    return this.namespace.readBigUInt64LE(0);
  }
  /** Type of protection information, 0 for none. */
  get protection(): number {
    return this.namespace.readUInt8(29) & 7;
  }
  get dlfeat(): number {
    return this.namespace.readUInt8(33);
  }
  get rescap(): number {
    return this.namespace.readUInt8(31);
  }
}
