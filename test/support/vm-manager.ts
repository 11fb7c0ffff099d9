/** A manager behind PCIe: a second function of the subsystem, driven by the hypervisor's own guest. Commands by their numbers, as the specification has them. */

import type { Controller } from '../../src/target/controller.ts';
import type { PciFunction } from '../../src/transport/pcie/pci-function.ts';
import { Guest, type GuestCommand, type GuestCompletion } from '../../src/vm/guest.ts';
import { TestVm, type TestVmOptions } from './vm.ts';

export const MANAGER_PORT = 9;

export interface Change {
  readonly address: number;
  readonly units: number;
}

/** A subsystem with a guest's controller, and managers at `MANAGER_PORT`. */
export const managedVm = (options: TestVmOptions = {}): TestVm =>
  new TestVm({ ...options, subsystem: { migration: { managers: { ports: [MANAGER_PORT] } }, ...options.subsystem } });

export class VmManager {
  readonly guest = new Guest({ ramBytes: 4 << 20, ramBase: 2 ** 32 });
  readonly function: PciFunction;
  readonly controller: Controller;
  readonly #buffer: number;

  constructor(vm: TestVm) {
    const made = vm.target.addFunction(vm.subsystem, { portId: MANAGER_PORT, vectorCount: 2 });
    this.function = made.function;
    this.controller = made.controller;
    this.guest.plug(this.function);
    this.guest.enable();
    this.#buffer = this.guest.ram.allocate(1 << 20);
  }

  admin(command: GuestCommand): Promise<GuestCompletion> {
    return this.guest.command(this.guest.admin, command);
  }

  /** An admin command with data in one contiguous buffer. */
  async data(command: GuestCommand, lengthBytes: number): Promise<GuestCompletion & { data: Buffer }> {
    const list = this.guest.ram.allocate(8192);
    const pointers = this.guest.prps(this.#buffer, lengthBytes, list);
    const completion = await this.admin({ ...command, ...pointers });
    this.guest.ram.release(list, 8192);
    return { ...completion, data: Buffer.from(this.guest.ram.slice(this.#buffer, lengthBytes)) };
  }

  send(command: GuestCommand, data: Uint8Array): Promise<GuestCompletion> {
    this.guest.ram.write(this.#buffer, data);
    return this.data(command, Math.max(4, data.length));
  }

  suspend(cntlid: number): Promise<GuestCompletion> {
    return this.admin({ opcode: 0x41, cdw11: cntlid | (1 << 16) });
  }

  resume(cntlid: number): Promise<GuestCompletion> {
    return this.admin({ opcode: 0x41, cdw10: 1, cdw11: cntlid });
  }

  /** The whole state, of exactly its size. */
  async getState(cntlid: number, csvi = 1, csuuidi = 1): Promise<Buffer> {
    const bytes = 64 << 10;
    const { status, data } = await this.data(
      { opcode: 0x42, cdw10: csvi << 16, cdw11: cntlid | (csuuidi << 16), cdw15: bytes / 4 - 1 },
      bytes,
    );
    if (status !== 0) throw new Error(`Get Controller State: ${status.toString(16)}`);
    return data.subarray(0, 48 + 4 * (data.readUInt32LE(16) + data.readUInt32LE(32)));
  }

  /** @param fields of the command; the rest is as for one part that is all */
  setState(
    cntlid: number,
    state: Uint8Array,
    fields: { csvi?: number; csuuidi?: number } = {},
  ): Promise<GuestCompletion> {
    const { csvi = 1, csuuidi = 1 } = fields;
    return this.send(
      {
        opcode: 0x41,
        cdw10: 2 | (3 << 16),
        cdw11: (cntlid | (csvi << 16) | (csuuidi << 24)) >>> 0,
        cdw15: state.length / 4,
      },
      state,
    );
  }

  /** Track Memory Changes, start. @param ranges address and units */
  track(
    cntlid: number,
    exponent: number,
    ranges: readonly (readonly [number, number])[],
    ver = 0,
  ): Promise<GuestCompletion> {
    const data = Buffer.alloc(8 + ranges.length * 12);
    data[0] = ver;
    data[3] = exponent;
    data.writeUInt32LE(ranges.length, 4);
    ranges.forEach(([address, units], i) => {
      data.writeBigUInt64LE(BigInt(address), 8 + i * 12);
      data.writeUInt32LE(units, 16 + i * 12);
    });
    return this.send({ opcode: 0x3d, cdw10: 1 | (1 << 16), cdw11: cntlid }, data);
  }

  untrack(cntlid: number): Promise<GuestCompletion> {
    return this.admin({ opcode: 0x3d, cdw10: 1, cdw11: cntlid, prp1: 0xdead_beef });
  }

  async tracked(
    cntlid: number,
    bytes = 64 << 10,
  ): Promise<{ status: number; more: boolean; suspended: boolean; exponent: number; changes: Change[] }> {
    const { status, data } = await this.data({ opcode: 0x3e, cdw11: cntlid, cdw12: bytes / 4 - 1 }, bytes);
    const changes = Array.from({ length: status === 0 ? data.readUInt32LE(4) : 0 }, (_, i) => ({
      address: Number(data.readBigUInt64LE(16 + i * 16)),
      units: data.readUInt32LE(24 + i * 16),
    }));
    return {
      status,
      more: (data[1]! & 1) !== 0,
      suspended: (data[1]! & 2) !== 0,
      exponent: data.readUInt16LE(8),
      changes,
    };
  }

  /** Create Controller Data Queue of QT 0. @param contiguous PC */
  createQueue(
    cntlid: number,
    prp1: number,
    slots: number,
    contiguous = true,
    dwords: number = slots * 8,
  ): Promise<GuestCompletion> {
    return this.admin({
      opcode: 0x45,
      prp1,
      cdw11: ((contiguous ? 1 : 0) | (cntlid << 16)) >>> 0,
      cdw12: dwords,
    });
  }

  log(cdqid: number, start: boolean): Promise<GuestCompletion> {
    return this.admin({ opcode: 0x3d, cdw10: start ? 1 << 16 : 0, cdw11: cdqid });
  }

  setHead(cdqid: number, head: number): Promise<GuestCompletion> {
    return this.admin({ opcode: 0x09, cdw10: 0x21, cdw11: cdqid, cdw12: head });
  }
}
