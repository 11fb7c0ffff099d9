/** Reservation commands of one raw host, bytes laid out by hand. */
import { expect } from 'chai';
import type { Completion, RawHost } from './raw-host.ts';
import type { TestTarget } from './test-target.ts';

export interface Registrant {
  readonly cntlid: number;
  readonly rcsts: number;
  readonly rkey: bigint;
  readonly hostid: string;
}
export interface Report {
  readonly gen: number;
  readonly rtype: number;
  readonly regctl: number;
  readonly ptpls: number;
  readonly registrants: readonly Registrant[];
}

export const RESERVATION_CONFLICT = 0x083;

function keys(...values: bigint[]): Buffer {
  const data = Buffer.alloc(values.length * 8);
  values.forEach((value, i) => {
    data.writeBigUInt64LE(value, i * 8);
  });
  return data;
}

/** A host identifier that is easy to tell in a report. */
export const hostidOf = (digit: number): Uint8Array => new Uint8Array(16).fill(digit * 0x11);

/** One controller of a host. */
export class ReservationHost {
  readonly admin: RawHost;
  readonly io: RawHost;
  readonly hostid: Uint8Array;
  nsid = 1;

  private constructor(admin: RawHost, io: RawHost, hostid: Uint8Array) {
    this.admin = admin;
    this.io = io;
    this.hostid = hostid;
  }

  static async connect(t: TestTarget, hostid: Uint8Array): Promise<ReservationHost> {
    const hostnqn = `nqn.2026-01.test:host-${Buffer.from(hostid).toString('hex')}`;
    const admin = await t.admin({ hostid, hostnqn });
    return new ReservationHost(admin, await t.io(admin, { hostid, hostnqn }), hostid);
  }

  register(newKey: bigint, more: { currentKey?: bigint; cdw10?: number } = {}): Promise<Completion> {
    const data = keys(more.currentKey ?? 0n, newKey);
    return this.io.command({ opcode: 0x0d, nsid: this.nsid, cdw10: more.cdw10 ?? 0 }, { data });
  }

  unregister(currentKey: bigint, cdw10 = 1): Promise<Completion> {
    return this.register(0n, { currentKey, cdw10 });
  }

  replace(currentKey: bigint, newKey: bigint, ignore = false): Promise<Completion> {
    return this.register(newKey, { currentKey, cdw10: 2 | (ignore ? 8 : 0) });
  }

  /** @param action 0 acquire, 1 preempt, 2 preempt and abort */
  acquire(currentKey: bigint, type: number, action = 0, preemptKey = 0n, bits = 0): Promise<Completion> {
    const data = keys(currentKey, preemptKey);
    return this.io.command({ opcode: 0x11, nsid: this.nsid, cdw10: action | (type << 8) | bits }, { data });
  }

  release(currentKey: bigint, type: number, bits = 0): Promise<Completion> {
    return this.io.command({ opcode: 0x15, nsid: this.nsid, cdw10: (type << 8) | bits }, { data: keys(currentKey) });
  }

  clear(currentKey: bigint): Promise<Completion> {
    return this.release(currentKey, 0, 1);
  }

  reportBytes(bytes: number, eds = 1): Promise<Completion> {
    const fields = { opcode: 0x0e, nsid: this.nsid, cdw10: bytes / 4 - 1, cdw11: eds };
    return this.io.command(fields, { readBytes: bytes });
  }

  async report(): Promise<Report> {
    const { status, data } = await this.reportBytes(4096);
    expect(status, 'Reservation Report').to.equal(0);
    const regctl = data.readUInt16LE(5);
    const registrants = Array.from({ length: regctl }, (_, i) => {
      const at = 64 + i * 64;
      return {
        cntlid: data.readUInt16LE(at),
        rcsts: data.readUInt8(at + 2),
        rkey: data.readBigUInt64LE(at + 8),
        hostid: data.subarray(at + 16, at + 32).toString('hex'),
      };
    });
    return { gen: data.readUInt32LE(0), rtype: data.readUInt8(4), regctl, ptpls: data.readUInt8(9), registrants };
  }

  /** Reads log page 80h: count, type, pages left, NSID. */
  async notice(rae = false): Promise<[count: number, type: number, left: number, nsid: number]> {
    const { status, data } = await this.admin.logPage(0x80, 64, { rae });
    expect(status, 'log page 80h').to.equal(0);
    return [Number(data.readBigUInt64LE(0)), data.readUInt8(8), data.readUInt8(9), data.readUInt32LE(12)];
  }

  /** Every notice that waits, by type. */
  async notices(): Promise<number[]> {
    const types: number[] = [];
    for (;;) {
      const [, type] = await this.notice();
      if (type === 0) return types;
      types.push(type);
    }
  }
}
