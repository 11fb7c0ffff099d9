/** A target with a controller behind PCIe, and a guest on it; and a backend whose operations wait until they are let go. */

import type { BlockBackend, BlockIo } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import type { Controller } from '../../src/target/controller.ts';
import type { Subsystem, SubsystemOptions } from '../../src/target/subsystem.ts';
import { Target } from '../../src/target/target.ts';
import type { PciFunction, PciFunctionOptions } from '../../src/transport/pcie/pci-function.ts';
import { Guest, type GuestOptions } from '../../src/vm/guest.ts';
import { ManualClock } from './manual-clock.ts';

export const VM_NQN = 'nqn.2024-01.org.example:vm';

export interface TestVmOptions {
  readonly function?: PciFunctionOptions;
  readonly guest?: GuestOptions;
  readonly subsystem?: Partial<SubsystemOptions>;
  readonly backend?: BlockBackend;
}

export class TestVm {
  readonly target: Target;
  readonly clock = new ManualClock();
  readonly subsystem: Subsystem;
  readonly function: PciFunction;
  readonly controller: Controller;
  readonly guest: Guest;
  readonly fatal: unknown[] = [];

  constructor(options: TestVmOptions = {}) {
    this.target = new Target({
      clock: this.clock,
      events: { fatal: (_controller, error) => this.fatal.push(error) },
    });
    this.subsystem = this.target.addSubsystem({ nqn: VM_NQN, allowAnyHost: true, ...options.subsystem });
    const backend = options.backend ?? new MemoryBackend({ blockSize: 512, blockCount: (64 << 20) / 512 });
    this.target.addNamespace(this.subsystem, { nsid: 1, backend });
    const made = this.target.addFunction(this.subsystem, { vectorCount: 8, ...options.function });
    this.function = made.function;
    this.controller = made.controller;
    this.guest = new Guest(options.guest);
    this.guest.plug(this.function);
  }

  close(): Promise<unknown> {
    return this.target.close();
  }
}

/** Holds every read and write until `release`. */
export class HeldBackend implements BlockBackend {
  readonly kind = 'held';
  readonly blockSize = 512;
  readonly blockCount: number;
  readonly volatileWriteCache = false;
  readonly readsZeroAfterDeallocate = false;
  readonly readOnly = false;
  readonly data: Uint8Array;
  readonly held: (() => void)[] = [];
  /** Operations that have begun. */
  begun = 0;

  constructor(blockCount = 1 << 17) {
    this.blockCount = blockCount;
    this.data = new Uint8Array(this.blockSize * blockCount);
  }

  #hold(act: () => void): void {
    this.begun++;
    this.held.push(act);
  }

  /** Lets `count` operations go, oldest first. */
  release(count: number = this.held.length): void {
    for (const act of this.held.splice(0, count)) act();
  }

  read(io: BlockIo): void {
    this.#hold(() => {
      io.provide().set(this.data.subarray(io.offsetBytes, io.offsetBytes + io.lengthBytes));
      io.complete(0);
    });
  }

  write(io: BlockIo): void {
    io.retain();
    this.#hold(() => {
      let offset = io.offsetBytes;
      for (let i = 0; i < io.segmentCount; i++) {
        this.data.set(io.segments[i]!, offset);
        offset += io.segments[i]!.length;
      }
      io.complete(0);
    });
  }

  flush(io: BlockIo): void {
    this.#hold(() => io.complete(0));
  }
  writeZeroes(io: BlockIo): void {
    this.#hold(() => io.complete(0));
  }
  deallocate(io: BlockIo): void {
    this.#hold(() => io.complete(0));
  }
  async close(): Promise<void> {
    this.release();
  }
}

/** Runs the function by hand until `work` is done. */
export async function drive(vm: TestVm, work: Promise<unknown>): Promise<void> {
  let isDone = false;
  const end = work.finally(() => {
    isDone = true;
  });
  while (!isDone) {
    vm.guest.run();
    await new Promise(setImmediate);
  }
  await end;
}
