/**
 * The guest of src/vm on a controller behind a vfio-user socket: its RAM is shared by descriptor, interrupts come by eventfd, registers go by messages.
 * What the guest's driver does at power-on is here once more, since reading a register takes a round trip.
 */
import fs from 'node:fs';
import { EventFd } from '../../src/native/event-fd.ts';
import { createMemfd, MappedMemory } from '../../src/native/mapped-memory.ts';
import type { InterruptSink, PciBar, PciFunction } from '../../src/transport/pcie/pci-function.ts';
import { VfioUserClient } from '../../src/transport/vfio-user/client/vfio-user-client.ts';
import { Guest } from '../../src/vm/guest.ts';
import { GuestQueue } from '../../src/vm/guest-queue.ts';

const CONFIG = 7;
const BAR = 0;
const MSIX = 2;
const RAM_BYTES = 16 << 20;

/** The part of a function that a running guest needs. */
class RemoteFunction implements PciFunction {
  readonly #client: VfioUserClient;
  readonly #config: Uint8Array;
  readonly bars: readonly PciBar[] = [{ index: BAR, lengthBytes: 0x4000, is64Bit: true }];
  readonly vectorCount: number;
  readonly msiCount = 0;
  readonly interruptMode = 2;
  readonly pinAsserted = false;
  readonly isStopped = false;
  sink: InterruptSink | undefined;
  onWork = (): void => {};

  constructor(client: VfioUserClient, config: Uint8Array, vectorCount: number) {
    this.#client = client;
    this.#config = config;
    this.vectorCount = vectorCount;
  }

  get configBytes(): number {
    return this.#config.length;
  }
  readConfig(offset: number, into: Uint8Array): void {
    into.set(this.#config.subarray(offset, offset + into.length));
  }
  writeConfig(offset: number, bytes: Uint8Array): void {
    this.#config.set(bytes, offset);
    this.#client.postRegion(CONFIG, offset, bytes);
  }
  readBar(): void {
    throw new Error('A register behind a socket is not read at once');
  }
  writeBar(index: number, offset: number, bytes: Uint8Array): void {
    if (!this.#client.isClosed) this.#client.postRegion(index, offset, Uint8Array.from(bytes));
  }
  setInterruptSink(sink: InterruptSink | undefined): void {
    this.sink = sink;
  }
  run(): boolean {
    return false;
  }
  // whoever has the socket does these
  map(): void {}
  unmap(): void {}
  unmapAll(): void {}
  startDirtyLog(): void {}
  stopDirtyLog(): void {}
  reportDirty(): Uint8Array {
    return new Uint8Array(0);
  }
  reset(): void {}
  stop(): void {}
  resume(): void {}
  saveState(): Uint8Array {
    return new Uint8Array(0);
  }
  loadState(): void {}
  close(): void {}
}

function ramOf({ ram }: Guest, path: string | undefined): number {
  if (path === undefined) return createMemfd({ name: 'ram', lengthBytes: ram.lengthBytes });
  const fd = fs.openSync(path, 'w+');
  fs.ftruncateSync(fd, ram.lengthBytes);
  return fd;
}

export class RemoteVm {
  readonly guest: Guest;
  client: VfioUserClient;
  ramFd: number;
  #ram: MappedMemory;
  readonly #lines: EventFd[];
  #function: RemoteFunction;
  readonly #config: Uint8Array;

  private constructor(guest: Guest, client: VfioUserClient, vectors: number, config: Uint8Array, ramPath?: string) {
    this.guest = guest;
    this.client = client;
    this.#config = config;
    this.ramFd = ramOf(guest, ramPath);
    this.#ram = MappedMemory.map({ fd: this.ramFd, lengthBytes: guest.ram.lengthBytes });
    guest.ram.moveTo(new Uint8Array(this.#ram.buffer));
    this.#function = new RemoteFunction(client, config, vectors);
    guest.plug(this.#function);
    this.#lines = Array.from({ length: vectors }, () => new EventFd());
    this.#lines.forEach((line, vector) => {
      line.watch(() => this.#function.sink?.message(vector));
    });
  }

  /**
   * Connects as QEMU does: memory, then interrupts.
   * @param onClose the device is gone
   * @param ramPath its memory is that file, which is made; default: none that anybody else could name
   */
  static async connect(path: string, onClose?: () => void, ramPath?: string): Promise<RemoteVm> {
    const guest = new Guest({ ramBytes: RAM_BYTES });
    const client = await VfioUserClient.connect(path, {
      onClose,
      onDmaWrite: (iova, data) => guest.ram.write(iova, data),
    });
    const config = await client.readRegion(CONFIG, 0, 256);
    const { count } = await client.irqInfo(MSIX);
    const vm = new RemoteVm(guest, client, count, Uint8Array.from(config), ramPath);
    await vm.share(client);
    return vm;
  }

  /** Goes on, as another hypervisor's VM: with that device, in that memory. It is paused. */
  async moveTo(path: string, ramPath: string): Promise<void> {
    const client = await VfioUserClient.connect(path);
    this.guest.unplug();
    this.client.close();
    fs.closeSync(this.ramFd);
    const before = this.#ram;
    this.client = client;
    this.ramFd = fs.openSync(ramPath, 'r+');
    this.#ram = MappedMemory.map({ fd: this.ramFd, lengthBytes: before.byteLength });
    this.guest.ram.moveTo(new Uint8Array(this.#ram.buffer));
    await before.unmap();
    this.#function = new RemoteFunction(client, this.#config, this.#lines.length);
    this.guest.plug(this.#function);
    await this.share(client);
    await this.readDword(0x1c);
  }

  /** Gives that device the memory and the interrupts. */
  async share(client: VfioUserClient): Promise<void> {
    const { base, lengthBytes } = this.guest.ram;
    // in two parts, as a PC's memory is
    const half = lengthBytes / 2;
    await client.mapDma({ iova: base, lengthBytes: half, fd: this.ramFd });
    await client.mapDma({ iova: base + half, lengthBytes: half, fd: this.ramFd, offsetBytes: half });
    await client.setEventFds(
      MSIX,
      0,
      this.#lines.map(({ fd }) => fd),
    );
  }

  async readDword(offset: number): Promise<number> {
    const bytes = await this.client.readRegion(BAR, offset, 4);
    return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  }

  async writeConfiguration(value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    await this.client.writeRegion(BAR, 0x14, bytes);
  }

  /** Resets and enables the controller, and creates I/O queues. */
  async start(queueCount = 1, entries = 32): Promise<void> {
    const { guest } = this;
    await this.client.reset();
    guest.writeConfigWord(0x04, 0x0006);
    guest.enableMsix();
    const admin = new GuestQueue(guest.ram, { qid: 0, entries, vector: 0 });
    guest.queues.length = 0;
    guest.queues.push(admin);
    guest.writeDword(0x24, (entries - 1) | ((entries - 1) << 16));
    guest.writeAddress(0x28, admin.sqAddress);
    guest.writeAddress(0x30, admin.cqAddress);
    guest.writeDword(0x14, 0x0046_0001);
    const csts = await this.readDword(0x1c);
    if ((csts & 3) !== 1) throw new Error(`The controller is not ready: CSTS ${csts}`);
    await guest.command(guest.admin, {
      opcode: 0x09,
      cdw10: 0x07,
      cdw11: ((queueCount - 1) | ((queueCount - 1) << 16)) >>> 0,
    });
    for (let qid = 1; qid <= queueCount; qid++) await guest.createQueue(qid, entries);
  }

  async close(): Promise<void> {
    this.client.close();
    for (const line of this.#lines) line.close();
    fs.closeSync(this.ramFd);
    await this.#ram.unmap();
  }
}
