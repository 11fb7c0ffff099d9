/**
 * A hostile guest on a controller behind PCIe: registers, doorbells, config space, commands, PRPs and SGLs by chance, memory that comes and goes, resets
 * and stops at any point. Nothing outside of what is mapped is written, nothing is left behind, and after a reset a decent driver works.
 */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import { Target } from '../../src/target/target.ts';
import type { PciFunction } from '../../src/transport/pcie/pci-function.ts';
import { Guest } from '../../src/vm/guest.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { HeldBackend } from '../support/vm.ts';
import { fuzz, type Random } from './support/random.ts';

const PAGE = 4096;
const REGION_PAGES = 32;
const REGION_BYTES = REGION_PAGES * PAGE;
/** Around every region, and never mapped. */
const GUARD = 64;
const GUARD_BYTE = 0xa5;
const REGION_COUNT = 4;
/** Regions 0 and 1 are neighbours. */
const BASES = [0x10_0000, 0x10_0000 + REGION_BYTES, 0x4000_0000, 2 ** 40];

const ADMIN_OPCODES = [
  0, 1, 2, 4, 5, 6, 8, 9, 0x0a, 0x0c, 0x0d, 0x15, 0x18, 0x3d, 0x3e, 0x41, 0x42, 0x45, 0x7c, 0x7f, 0x80, 0x84, 0x86,
];
const IO_OPCODES = [0, 1, 2, 4, 5, 8, 9, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x19];

class Region {
  readonly bytes = new Uint8Array(new SharedArrayBuffer(REGION_BYTES + 2 * GUARD)).fill(GUARD_BYTE);
  readonly view = new DataView(this.bytes.buffer, GUARD, REGION_BYTES);
  readonly iova: number;
  isMapped = false;
  isWritable = true;
  /** Content when it was unmapped last (or mapped read-only). */
  frozen: Buffer | undefined;

  constructor(iova: number) {
    this.iova = iova;
    this.bytes.fill(0, GUARD, GUARD + REGION_BYTES);
  }

  check(what: string): void {
    const guards = [...this.bytes.subarray(0, GUARD), ...this.bytes.subarray(GUARD + REGION_BYTES)];
    if (guards.some((byte) => byte !== GUARD_BYTE))
      throw new Error(`${what}: memory around region ${this.iova} was written`);
    if (this.frozen !== undefined && Buffer.compare(this.frozen, Buffer.from(this.bytes)) !== 0) {
      throw new Error(`${what}: region ${this.iova} was written while it was not mapped for that`);
    }
  }
}

class Hostile {
  readonly #random: Random;
  readonly #pci: PciFunction;
  readonly #held: HeldBackend;
  readonly regions = BASES.slice(0, REGION_COUNT).map((base) => new Region(base));
  #states: Uint8Array[] = [];

  constructor(random: Random, pci: PciFunction, held: HeldBackend) {
    this.#random = random;
    this.#pci = pci;
    this.#held = held;
  }

  // ---- numbers

  #address(): number {
    const random = this.#random;
    const region = random.pick(this.regions);
    switch (random.below(8)) {
      case 0:
        return (
          region.iova + random.pick([-8, -1, 0, REGION_BYTES - 16, REGION_BYTES - 8, REGION_BYTES, REGION_BYTES + PAGE])
        );
      case 1:
        return random.u32() * 2 ** random.below(22);
      case 2:
        return region.iova + random.below(REGION_BYTES);
      case 3:
        return region.iova + (random.below(REGION_BYTES) & ~3);
      default:
        return region.iova + random.below(REGION_PAGES) * PAGE;
    }
  }

  #poke(address: number, value: number): void {
    for (const { iova, view, frozen } of this.regions) {
      if (frozen !== undefined) continue;
      if (address >= iova && address + 4 <= iova + REGION_BYTES) view.setUint32(address - iova, value >>> 0, true);
    }
  }

  #pokeAddress(at: number, address: number): void {
    this.#poke(at, address >>> 0);
    this.#poke(at + 4, Math.floor(address / 2 ** 32));
  }

  #write(offset: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    this.#pci.writeBar(0, offset, bytes);
  }

  // ---- what it does

  step(): void {
    const random = this.#random;
    random.weighted<() => void>([
      [30, () => this.#command()],
      [20, () => this.#ring()],
      [8, () => void this.#pci.run()],
      [6, () => this.#lists()],
      [4, () => this.#held.release(1 + random.below(4))],
      [3, () => this.#register()],
      [2, () => this.#map()],
      [2, () => this.#enable()],
      [1, () => this.#config()],
      [1, () => this.#life()],
      [1, () => this.#scribble()],
    ])();
  }

  /** Queues stand in region 0: admin in pages 0 and 1, I/O queue n in pages 2n and 2n + 1. */
  #enable(): void {
    const random = this.#random;
    const base = random.chance(6) ? this.#address() : this.regions[0]!.iova;
    this.#write(0x14, 0);
    this.#write(0x24, random.chance(6) ? random.u32() : 0x000f_000f);
    this.#write(0x28, base);
    this.#write(0x2c, Math.floor(base / 2 ** 32));
    this.#write(0x30, base + PAGE);
    this.#write(0x34, Math.floor(base / 2 ** 32));
    this.#write(0x14, random.chance(5) ? random.u32() : 0x0046_0001);
  }

  #command(): void {
    const random = this.#random;
    const qid = random.below(4);
    const slot = random.below(16);
    const at = this.regions[0]!.iova + 2 * qid * PAGE + slot * 64;
    const opcode = random.chance(8) ? random.below(256) : random.pick(qid === 0 ? ADMIN_OPCODES : IO_OPCODES);
    const flags = random.weighted([
      [10, 0],
      [6, 0x40],
      [1, 0x80],
      [1, random.below(256)],
    ]);
    this.#poke(at, opcode | (flags << 8) | (random.below(40) << 16));
    this.#poke(
      at + 4,
      random.weighted([
        [10, 1],
        [4, 2],
        [1, random.field(32)],
      ]),
    );
    this.#pokeAddress(at + 24, this.#address());
    this.#pokeAddress(at + 32, this.#address());
    if ((flags & 0xc0) !== 0 && !random.chance(6)) {
      this.#poke(at + 32, random.below(4) === 0 ? random.field(32) : random.below(300) * 16);
      this.#poke(at + 36, random.pick([0, 0x10, 0x20, 0x30, 0x30, 0x40]) * 2 ** 24);
    }
    if (qid === 0 && (opcode === 1 || opcode === 5) && !random.chance(4)) {
      const queue = 1 + random.below(3);
      this.#pokeAddress(at + 24, this.regions[0]!.iova + (2 * queue + (opcode === 5 ? 1 : 0)) * PAGE);
      this.#poke(at + 40, queue | (15 << 16));
      this.#poke(at + 44, opcode === 5 ? 3 | (queue << 16) : 1 | (queue << 16));
      return;
    }
    this.#poke(at + 40, random.chance(2) ? random.below(600) : random.field(32));
    this.#poke(at + 44, random.chance(2) ? 0 : random.field(32));
    this.#poke(at + 48, random.chance(2) ? random.below(100) : random.field(32));
    this.#poke(at + 52, random.chance(2) ? 0 : random.field(32));
    this.#poke(at + 60, random.chance(2) ? 0 : random.field(32));
  }

  #ring(): void {
    const random = this.#random;
    const index = random.chance(10) ? random.below(1024) : random.below(8);
    this.#write(0x1000 + index * 4, random.chance(10) ? random.field(32) : random.below(16));
  }

  /** PRP lists and SGL segments anywhere. */
  #lists(): void {
    const random = this.#random;
    let at = this.#address() & ~7;
    const isSgl = random.chance(2);
    for (let i = 0; i < 40; i++) {
      this.#pokeAddress(at, this.#address());
      if (isSgl) {
        this.#poke(at + 8, random.chance(4) ? random.field(32) : random.below(5000));
        this.#poke(at + 12, random.pick([0, 0, 0, 0, 0x10, 0x20, 0x30, 0x50]) * 2 ** 24);
      }
      at += isSgl ? 16 : 8;
    }
  }

  #register(): void {
    const random = this.#random;
    const offset = random.chance(2) ? random.below(32) * 4 : random.below(0x5000);
    const bytes = random.bytes(random.pick([1, 2, 4, 4, 4, 8, 16]));
    this.#pci.writeBar(random.chance(20) ? 3 : 0, offset, bytes);
    this.#pci.readBar(0, random.below(0x6000), new Uint8Array(random.below(64)));
  }

  #config(): void {
    const random = this.#random;
    // not the reset of the function too often
    const offset = random.below(256);
    this.#pci.writeConfig(offset, random.bytes(random.pick([1, 2, 4, 8])));
    this.#pci.readConfig(random.below(300), new Uint8Array(random.below(16)));
  }

  #map(): void {
    const random = this.#random;
    const region = random.pick(this.regions);
    if (region.isMapped) {
      this.#pci.unmap(region.iova, REGION_BYTES);
      region.isMapped = false;
      region.frozen = Buffer.from(region.bytes);
      return;
    }
    region.check('before it is mapped');
    const writable = !random.chance(8);
    this.mapRegion(region, writable);
  }

  mapRegion(region: Region, writable: boolean): void {
    this.#pci.map({
      iova: region.iova,
      lengthBytes: REGION_BYTES,
      buffer: region.bytes.buffer,
      bufferOffset: GUARD,
      writable,
    });
    region.isMapped = true;
    region.isWritable = writable;
    region.frozen = undefined;
  }

  #life(): void {
    const random = this.#random;
    switch (random.below(6)) {
      case 0:
        this.#pci.reset();
        return;
      case 1:
        this.#pci.stop(() => {});
        return;
      case 2:
        this.#pci.resume();
        return;
      case 3:
        this.#states.push(this.#pci.saveState());
        return;
      case 4: {
        const state = this.#states.pop();
        if (state === undefined) return;
        for (let i = random.below(4); i > 0; i--) state[random.below(state.length)]! ^= 1 << random.below(8);
        try {
          this.#pci.loadState(state);
        } catch (error) {
          // refused, as it should be
          if (!(error instanceof MigrationError) && (error as Error).name !== 'WireError') throw error;
        }
        return;
      }
      default:
        this.#pci.startDirtyLog(PAGE, []);
    }
  }

  #scribble(): void {
    const random = this.#random;
    const region = random.pick(this.regions);
    const offset = random.below(REGION_BYTES - 256);
    region.bytes.set(random.bytes(256), GUARD + offset);
    if (region.frozen !== undefined) region.frozen = Buffer.from(region.bytes);
  }
}

async function round(random: Random): Promise<void> {
  const clock = new ManualClock();
  const fatal: unknown[] = [];
  const target = new Target({ clock, events: { fatal: (_controller, error) => fatal.push(error) } });
  const subsystem = target.addSubsystem({ nqn: 'nqn.2024-01.org.example:fuzz', allowAnyHost: true });
  target.addNamespace(subsystem, { nsid: 1, backend: new MemoryBackend({ blockSize: 512, blockCount: 4096 }) });
  const held = new HeldBackend();
  target.addNamespace(subsystem, { nsid: 2, backend: held });
  const { function: pci } = target.addFunction(subsystem, {
    vectorCount: 4,
    ioQueuesMax: 4,
    doorbellStride: 0,
    queueEntriesMax: 64,
    allowSubsystemReset: random.chance(2),
  });
  pci.setInterruptSink({ message: () => {}, pin: () => {} });
  const hostile = new Hostile(random, pci, held);
  for (const region of hostile.regions) hostile.mapRegion(region, true);
  let usedMax = 0;
  for (let i = 0; i < 1500; i++) {
    hostile.step();
    if (i % 50 === 0) {
      clock.advance(random.below(30));
      await Promise.resolve();
      usedMax = Math.max(usedMax, target.pool.usedBytes);
      // what is under way has ended, or waits for the backend
    }
    if (i % 300 === 0) for (const region of hostile.regions) region.check(`step ${i}`);
  }
  for (const region of hostile.regions) region.check('at the end');
  expect(usedMax, 'buffers').to.be.below(80 << 20);
  for (const error of fatal) expect(String((error as Error).message)).to.match(/is not in guest memory$/);

  // a decent driver takes over
  pci.unmapAll();
  for (const region of hostile.regions) region.frozen = Buffer.from(region.bytes);
  pci.reset();
  while (held.held.length > 0) held.release();
  for (let i = 0; i < 10; i++) await new Promise(setImmediate);
  while (held.held.length > 0) held.release();
  expect([...subsystem.lingering()], 'queue pairs that are left').to.deep.equal([]);
  expect(target.pool.usedBytes, 'buffers that are left').to.equal(0);
  const guest = new Guest({ ramBytes: 1 << 20 });
  guest.plug(pci);
  await guest.start(2);
  const identify = await guest.identify(0, 1);
  const blockSize = 1 << identify[128 + 4 * (identify[26]! & 0xf) + 2]!;
  guest.blockSize = blockSize;
  await guest.write(1, 1, new Uint8Array(blockSize).fill(0x33)).catch((error: { status?: number }) => {
    // the hostile one may have protected or reserved it
    if (error.status === undefined) throw error;
  });
  for (const region of hostile.regions) region.check('afterwards');
  await target.close();
}

describe('fuzz: PCIe guest', () => {
  fuzz('hostile guest: registers, commands, pointers, memory', 25, round);
});
