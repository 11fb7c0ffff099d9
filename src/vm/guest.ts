/**
 * A guest in this process: RAM, and a small NVMe driver that knows its PCI function only through config space, BAR and interrupts. No socket and no
 * clock: the same calls give the same run. For tests, the demo and the simulator.
 */
import { AdminOpcode, IoOpcode } from '../spec/opcode.ts';
import { Cc, Csts, Property } from '../spec/property.ts';
import type { PciFunction } from '../transport/pcie/pci-function.ts';
import { assert } from '../util/assert.ts';
import { NvmeStatusError } from '../util/error.ts';
import { cqeDw0, cqeDw1, cqeStatus } from '../wire/cqe.ts';
import { SQE_BYTES } from '../wire/sqe.ts';
import { GuestQueue, type OnCompletion } from './guest-queue.ts';
import { GUEST_PAGE_BYTES, GuestRam } from './guest-ram.ts';

const COMMAND = 0x04;
const MEMORY_AND_BUS_MASTER = 0x0006;
const CAPABILITIES = 0x34;
const MSIX_ID = 0x11;
const MSIX_ENABLE = 0x8000;
const DOORBELLS = 0x1000;
const AQA = 0x24;
const ASQ = 0x28;
const ACQ = 0x30;
const CC_ENABLE = 0x0046_0001;
const PSDT_SGL = 0x40;
const LAST_SEGMENT = 0x30;
const IDENTIFY_BYTES = 4096;

/** @public */
export interface GuestOptions {
  /** Default 64 MiB. */
  readonly ramBytes?: number | undefined;
  /** Guest address of its RAM. Default 1 GiB. */
  readonly ramBase?: number | undefined;
  /** True: the guest calls `run` itself as soon as there is work. False: whoever holds the guest does, by `run`. Default true. */
  readonly runsItself?: boolean | undefined;
}

/** @public */
export interface GuestCompletion {
  /** 15-bit status. */
  readonly status: number;
  readonly dw0: number;
  readonly dw1: number;
}

/** Fields of a command; what is absent is 0. */
export interface GuestCommand {
  readonly opcode: number;
  readonly nsid?: number | undefined;
  /** FUSE and PSDT. */
  readonly flags?: number | undefined;
  /** Guest addresses; of an SGL descriptor: its address, and its length. */
  readonly prp1?: number | undefined;
  readonly prp2?: number | undefined;
  /** Type and subtype of an SGL descriptor. */
  readonly sglType?: number | undefined;
  readonly cdw10?: number | undefined;
  readonly cdw11?: number | undefined;
  readonly cdw12?: number | undefined;
  readonly cdw13?: number | undefined;
  readonly cdw14?: number | undefined;
  readonly cdw15?: number | undefined;
}

/** How data is pointed to. */
export type DataPointers = 'prp' | 'sgl';

/** @public */
export class Guest {
  readonly ram: GuestRam;
  readonly #runsItself: boolean;
  #function: PciFunction | undefined;
  readonly queues: GuestQueue[] = [];
  #strideBytes = 4;
  #scheduled = false;
  #isPaused = false;
  /** MSI-X messages that came, by vector. */
  readonly interrupts: number[] = [];
  pinAsserted = false;
  blockSize = 512;
  #wakes: (() => void)[] = [];

  constructor(options: GuestOptions = {}) {
    this.ram = new GuestRam(options.ramBase ?? 2 ** 30, options.ramBytes ?? 64 << 20);
    this.#runsItself = options.runsItself ?? true;
  }

  // ---- the machine ----------------------------------------------------------------------------------------------------------------

  get function(): PciFunction {
    assert(this.#function !== undefined, 'The guest has no function');
    return this.#function;
  }

  /** Puts the function into the machine: RAM is mapped, interrupts come here. A guest that had another goes on with this one. */
  plug(pci: PciFunction): void {
    this.#function = pci;
    pci.setInterruptSink({
      message: (vector) => this.#interrupt(vector),
      pin: (asserted) => {
        this.pinAsserted = asserted;
        if (asserted && !this.#isPaused) this.#reapAll();
      },
    });
    pci.onWork = (): void => this.#schedule();
    pci.map({ iova: this.ram.base, lengthBytes: this.ram.lengthBytes, buffer: this.ram.bytes.buffer });
  }

  /** Takes it out. */
  unplug(): void {
    const pci = this.function;
    this.#function = undefined;
    pci.setInterruptSink(undefined);
    pci.onWork = (): void => {};
    pci.unmapAll();
  }

  get isPlugged(): boolean {
    return this.#function !== undefined;
  }

  /** Its CPU stands still: it touches neither its memory nor its function. What the function has fetched goes on. */
  pause(): void {
    this.#isPaused = true;
  }

  /** What came meanwhile is taken, and what waited goes on. Idempotent. */
  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    if (this.isPlugged) this.#reapAll();
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#wakes.splice(0)) wake();
  }

  /** Until then it writes nothing into its memory. */
  async #runs(): Promise<void> {
    while (this.#isPaused) await new Promise<void>((resolve) => this.#wakes.push(resolve));
  }

  #schedule(): void {
    if (!this.#runsItself || this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.run();
    });
  }

  /** Lets the function work until it has nothing to do. */
  run(): void {
    while (this.#function?.run() === true) {
      // as long as there is more
    }
  }

  #interrupt(vector: number): void {
    this.interrupts[vector] = (this.interrupts[vector] ?? 0) + 1;
    if (this.#isPaused) return;
    for (const queue of this.queues) if (queue?.vector === vector) this.reap(queue);
  }

  #reapAll(): void {
    for (const queue of this.queues) if (queue !== undefined) this.reap(queue);
  }

  /** Takes completions and rings the head doorbell. */
  reap(queue: GuestQueue): number {
    const count = queue.reap();
    if (count > 0) this.writeDword(this.#doorbell(queue.cqid * 2 + 1), queue.cqHead);
    return count;
  }

  // ---- registers ------------------------------------------------------------------------------------------------------------------

  readonly #register = new Uint8Array(4);
  readonly #registerView = new DataView(this.#register.buffer);

  readDword(offset: number): number {
    this.function.readBar(0, offset, this.#register);
    return this.#registerView.getUint32(0, true);
  }

  writeDword(offset: number, value: number): void {
    this.#registerView.setUint32(0, value, true);
    this.function.writeBar(0, offset, this.#register);
  }

  /** As guests do where a front end splits: low half first. */
  writeAddress(offset: number, address: number): void {
    this.writeDword(offset, address >>> 0);
    this.writeDword(offset + 4, Math.floor(address / 2 ** 32));
  }

  readConfigWord(offset: number): number {
    const bytes = new Uint8Array(2);
    this.function.readConfig(offset, bytes);
    return bytes[0]! | (bytes[1]! << 8);
  }

  writeConfigWord(offset: number, value: number): void {
    this.function.writeConfig(offset, Uint8Array.of(value & 0xff, value >>> 8));
  }

  /** Offset of a capability in config space. */
  capability(id: number): number {
    for (let at = this.readConfigWord(CAPABILITIES) & 0xff; at !== 0; at = this.readConfigWord(at) >>> 8) {
      if ((this.readConfigWord(at) & 0xff) === id) return at;
    }
    throw new Error(`The function has no capability ${id}`);
  }

  #doorbell(index: number): number {
    return DOORBELLS + index * this.#strideBytes;
  }

  /** The tail doorbell. */
  ring(queue: GuestQueue): void {
    this.writeDword(this.#doorbell(queue.qid * 2), queue.tail);
  }

  // ---- driver ---------------------------------------------------------------------------------------------------------------------

  /** MSI-X on, with every vector unmasked. */
  enableMsix(): void {
    const at = this.capability(MSIX_ID);
    const control = this.readConfigWord(at + 2);
    const table = this.readConfigWord(at + 4) & ~7;
    for (let vector = 0; vector <= (control & 0x7ff); vector++) this.writeDword(table + vector * 16 + 12, 0);
    this.writeConfigWord(at + 2, control | MSIX_ENABLE);
  }

  /** Enables the controller with an admin queue, and MSI-X. @throws Error if it does not become ready */
  enable(entries = 32, configuration: number = CC_ENABLE): void {
    this.writeConfigWord(COMMAND, MEMORY_AND_BUS_MASTER);
    this.enableMsix();
    this.#strideBytes = 4 << (this.readDword(Property.CAP + 4) & 0xf);
    this.ram.pageBytes = GUEST_PAGE_BYTES << ((configuration >>> Cc.mpsShift) & Cc.mpsMask);
    const admin = new GuestQueue(this.ram, { qid: 0, entries, vector: 0 });
    this.queues.length = 0;
    this.queues.push(admin);
    this.writeDword(AQA, (entries - 1) | ((entries - 1) << 16));
    this.writeAddress(ASQ, admin.sqAddress);
    this.writeAddress(ACQ, admin.cqAddress);
    this.writeDword(Property.CC, configuration);
    const csts = this.readDword(Property.CSTS);
    if ((csts & (Csts.RDY | Csts.CFS)) !== Csts.RDY) throw new Error(`The controller is not ready: CSTS ${csts}`);
  }

  /** CC.EN 1 to 0: queues are gone; commands that were outstanding get no answer. */
  disable(): void {
    this.writeDword(Property.CC, 0);
    this.queues.length = 0;
  }

  get admin(): GuestQueue {
    return this.queues[0]!;
  }

  /** Puts a command into the queue, without ringing. */
  put(queue: GuestQueue, command: GuestCommand, done: OnCompletion): number {
    const at = this.ram.at(queue.slotAddress);
    const { view } = this.ram;
    const cid = queue.take(done);
    for (let i = 0; i < SQE_BYTES; i += 4) view.setUint32(at + i, 0, true);
    view.setUint32(at, command.opcode | ((command.flags ?? 0) << 8) | (cid << 16), true);
    view.setUint32(at + 4, command.nsid ?? 0, true);
    this.#putAddress(at + 24, command.prp1 ?? 0);
    this.#putAddress(at + 32, command.prp2 ?? 0);
    if (command.sglType !== undefined) view.setUint32(at + 36, command.sglType * 2 ** 24, true);
    view.setUint32(at + 40, command.cdw10 ?? 0, true);
    view.setUint32(at + 44, command.cdw11 ?? 0, true);
    view.setUint32(at + 48, command.cdw12 ?? 0, true);
    view.setUint32(at + 52, command.cdw13 ?? 0, true);
    view.setUint32(at + 56, command.cdw14 ?? 0, true);
    view.setUint32(at + 60, command.cdw15 ?? 0, true);
    return cid;
  }

  #putAddress(at: number, address: number): void {
    this.ram.view.setUint32(at, address >>> 0, true);
    this.ram.view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
  }

  /** Submits a command; resolves with its completion, whatever its status. Waits for room in the queue, and while paused. */
  async command(queue: GuestQueue, command: GuestCommand): Promise<GuestCompletion> {
    while (this.#isPaused || queue.room === 0) await new Promise<void>((resolve) => this.#wakes.push(resolve));
    return new Promise((resolve) => {
      this.put(queue, command, (cqe, at) => {
        resolve({ status: cqeStatus(cqe, at), dw0: cqeDw0(cqe, at), dw1: cqeDw1(cqe, at) });
        this.#wake();
      });
      this.ring(queue);
    });
  }

  /** An admin command that must succeed. @throws NvmeStatusError */
  async #adminCommand(what: string, command: GuestCommand): Promise<GuestCompletion> {
    const completion = await this.command(this.admin, command);
    if (completion.status !== 0) throw new NvmeStatusError(what, completion.status, 'admin', completion.dw0);
    return completion;
  }

  async identify(cns: number, nsid = 0): Promise<Uint8Array> {
    const address = this.ram.allocate(IDENTIFY_BYTES);
    try {
      await this.#adminCommand('Identify', { opcode: AdminOpcode.Identify, nsid, prp1: address, cdw10: cns });
      return this.ram.slice(address, IDENTIFY_BYTES);
    } finally {
      this.ram.release(address, IDENTIFY_BYTES);
    }
  }

  /** Creates one I/O queue pair. @param vector default: the queue's own, as far as there are */
  async createQueue(
    qid: number,
    entries = 64,
    vector?: number,
    completionEntries: number = entries,
  ): Promise<GuestQueue> {
    if (this.#isPaused) await this.#runs();
    const queue = new GuestQueue(this.ram, {
      qid,
      entries,
      completionEntries,
      vector: vector ?? qid % this.function.vectorCount,
    });
    await this.#adminCommand(`Create I/O Completion Queue ${qid}`, {
      opcode: AdminOpcode.CreateIoCq,
      prp1: queue.cqAddress,
      cdw10: (qid | ((completionEntries - 1) << 16)) >>> 0,
      cdw11: (0x3 | (queue.vector << 16)) >>> 0,
    });
    await this.#adminCommand(`Create I/O Submission Queue ${qid}`, {
      opcode: AdminOpcode.CreateIoSq,
      prp1: queue.sqAddress,
      cdw10: (qid | ((entries - 1) << 16)) >>> 0,
      cdw11: (0x1 | (qid << 16)) >>> 0,
    });
    this.queues[qid] = queue;
    return queue;
  }

  async deleteQueue(qid: number): Promise<void> {
    await this.#adminCommand(`Delete I/O Submission Queue ${qid}`, { opcode: AdminOpcode.DeleteIoSq, cdw10: qid });
    await this.#adminCommand(`Delete I/O Completion Queue ${qid}`, { opcode: AdminOpcode.DeleteIoCq, cdw10: qid });
    this.queues[qid]?.release();
    delete this.queues[qid];
  }

  /** Enables the controller, asks for queues, and creates them: what a driver does first. */
  async start(queueCount = 1, entries = 64): Promise<void> {
    this.enable();
    await this.identify(1);
    await this.#adminCommand('Set Features', {
      opcode: AdminOpcode.SetFeatures,
      cdw10: 0x07,
      cdw11: ((queueCount - 1) | ((queueCount - 1) << 16)) >>> 0,
    });
    for (let qid = 1; qid <= queueCount; qid++) await this.createQueue(qid, entries);
    const namespace = await this.identify(0, 1);
    this.blockSize = 1 << (namespace[128 + 4 * (namespace[26]! & 0xf) + 2]! || 9);
  }

  // ---- data -----------------------------------------------------------------------------------------------------------------------

  /**
   * PRP1 and PRP2 for `lengthBytes` at a guest address, dword aligned.
   * @param list pages for PRP lists, `prpListBytes` of them
   */
  prps(address: number, lengthBytes: number, list: number): { prp1: number; prp2: number } {
    const first = GUEST_PAGE_BYTES - (address % GUEST_PAGE_BYTES);
    if (lengthBytes <= first) return { prp1: address, prp2: 0 };
    const second = address + first;
    if (lengthBytes - first <= GUEST_PAGE_BYTES) return { prp1: address, prp2: second };
    let at = list;
    for (let page = second; page < address + lengthBytes; page += GUEST_PAGE_BYTES) {
      const isLastSlot = at % GUEST_PAGE_BYTES === GUEST_PAGE_BYTES - 8;
      if (isLastSlot && page + GUEST_PAGE_BYTES < address + lengthBytes) {
        this.ram.writeU64(at, at + 8);
        at += 8;
      }
      this.ram.writeU64(at, page);
      at += 8;
    }
    return { prp1: address, prp2: list };
  }

  /** One segment of data blocks, one for each page. */
  #sgl(address: number, lengthBytes: number, list: number): { prp1: number; prp2: number; sglType: number } {
    let at = list;
    for (let from = address; from < address + lengthBytes; ) {
      const take = Math.min(GUEST_PAGE_BYTES - (from % GUEST_PAGE_BYTES), address + lengthBytes - from);
      this.ram.writeU64(at, from);
      this.ram.writeU64(at + 8, take);
      at += 16;
      from += take;
    }
    return { prp1: list, prp2: at - list, sglType: LAST_SEGMENT };
  }

  async #transfer(
    opcode: number,
    nsid: number,
    slba: number,
    address: number,
    lengthBytes: number,
    by: DataPointers,
    queue: GuestQueue,
  ): Promise<void> {
    if (this.#isPaused) await this.#runs();
    const listBytes = Math.ceil(lengthBytes / GUEST_PAGE_BYTES + 1) * 16 + GUEST_PAGE_BYTES;
    const list = this.ram.allocate(listBytes);
    const pointers = by === 'prp' ? this.prps(address, lengthBytes, list) : this.#sgl(address, lengthBytes, list);
    const completion = await this.command(queue, {
      opcode,
      nsid,
      flags: by === 'prp' ? 0 : PSDT_SGL,
      ...pointers,
      cdw10: slba >>> 0,
      cdw11: Math.floor(slba / 2 ** 32),
      cdw12: lengthBytes / this.blockSize - 1,
    });
    this.ram.release(list, listBytes);
    if (completion.status !== 0)
      throw new NvmeStatusError(opcode === IoOpcode.Read ? 'Read' : 'Write', completion.status, 'io', completion.dw0);
  }

  #ioQueue(): GuestQueue {
    const queue = this.queues.find((one, qid) => qid > 0 && one !== undefined);
    assert(queue !== undefined, 'The guest has no I/O queue');
    return queue;
  }

  /** Reads blocks. @throws NvmeStatusError */
  async read(
    nsid: number,
    slba: number,
    blocks: number,
    by: DataPointers = 'prp',
    queue: GuestQueue = this.#ioQueue(),
  ): Promise<Uint8Array> {
    const length = blocks * this.blockSize;
    const address = this.ram.allocate(length);
    try {
      await this.#transfer(IoOpcode.Read, nsid, slba, address, length, by, queue);
      return this.ram.slice(address, length);
    } finally {
      this.ram.release(address, length);
    }
  }

  /** Writes whole blocks. @throws NvmeStatusError */
  async write(
    nsid: number,
    slba: number,
    data: Uint8Array,
    by: DataPointers = 'prp',
    queue: GuestQueue = this.#ioQueue(),
  ): Promise<void> {
    if (this.#isPaused) await this.#runs();
    const address = this.ram.allocate(data.length);
    try {
      this.ram.write(address, data);
      await this.#transfer(IoOpcode.Write, nsid, slba, address, data.length, by, queue);
    } finally {
      this.ram.release(address, data.length);
    }
  }

  /** @throws NvmeStatusError */
  async flush(nsid: number, queue: GuestQueue = this.#ioQueue()): Promise<void> {
    const completion = await this.command(queue, { opcode: IoOpcode.Flush, nsid });
    if (completion.status !== 0) throw new NvmeStatusError('Flush', completion.status, 'io', completion.dw0);
  }
}
