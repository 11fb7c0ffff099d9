/** A host with a Migration Management Controller, and what it says: each command by its numbers, as the specification has them. */
import type { Completion, RawHost } from './raw-host.ts';
import { TestTarget, type TestTargetOptions } from './test-target.ts';

export const MANAGER_NQN = 'nqn.2024-01.org.example:manager';
export const QUEUE_LOG = 0xc8;
export const CHANGES_LOG = 0xc9;
export const CHANGES_FEATURE = 0xc9;

export interface Entry {
  readonly nsid: number;
  readonly slba: number;
  readonly blocks: number;
  readonly lbacir: number;
  readonly deallocated: boolean;
  readonly esa: number;
  readonly phase: number;
}

/** A target whose subsystem is managed by the host `MANAGER_NQN`. */
export const startManaged = (options: TestTargetOptions = {}): Promise<TestTarget> =>
  TestTarget.start({
    ...options,
    subsystem: { migration: { managers: { hosts: [MANAGER_NQN] } }, ...options.subsystem },
  });

export const managerOf = async (t: TestTarget): Promise<Manager> =>
  new Manager(await t.admin({ hostnqn: MANAGER_NQN }));

export class Manager {
  readonly host: RawHost;

  constructor(host: RawHost) {
    this.host = host;
  }

  create(
    cntlid: number,
    slots: number,
    fields: { type?: number; dwords?: number; sel?: number } = {},
  ): Promise<Completion> {
    const { type = 0xc0, dwords = slots * 8, sel = 0 } = fields;
    return this.host.command({ opcode: 0x45, cdw10: sel | (type << 16), cdw11: (cntlid << 16) >>> 0, cdw12: dwords });
  }

  remove(cdqid: number): Promise<Completion> {
    return this.host.command({ opcode: 0x45, cdw10: 1, cdw11: cdqid });
  }

  /** @param action LACT */
  track(cdqid: number, action: number, sel = 0): Promise<Completion> {
    return this.host.command({ opcode: 0x3d, cdw10: sel | (action << 16), cdw11: cdqid });
  }

  suspend(cntlid: number, fields: { stype?: number; dudmq?: boolean } = {}): Promise<Completion> {
    const { stype = 1, dudmq = false } = fields;
    return this.host.command({ opcode: 0x41, cdw11: (cntlid | (stype << 16) | (dudmq ? 0x8000_0000 : 0)) >>> 0 });
  }

  resume(cntlid: number): Promise<Completion> {
    return this.host.command({ opcode: 0x41, cdw10: 1, cdw11: cntlid });
  }

  getState(
    cntlid: number,
    fields: { csvi?: number; csuuidi?: number; offset?: number; bytes?: number } = {},
  ): Promise<Completion> {
    const { csvi = 0, csuuidi = 1, offset = 0, bytes = 4096 } = fields;
    return this.host.command(
      { opcode: 0x42, cdw10: csvi << 16, cdw11: cntlid | (csuuidi << 16), cdw12: offset, cdw15: bytes / 4 - 1 },
      { readBytes: bytes },
    );
  }

  /** @param sequence SEQIND */
  setState(
    cntlid: number,
    data: Uint8Array,
    fields: { sequence?: number; csvi?: number; csuuidi?: number; offset?: number } = {},
  ): Promise<Completion> {
    const { sequence = 3, csvi = 0, csuuidi = 1, offset = 0 } = fields;
    return this.host.command(
      {
        opcode: 0x41,
        cdw10: 2 | (sequence << 16),
        cdw11: (cntlid | (csvi << 16) | (csuuidi << 24)) >>> 0,
        cdw12: offset,
        cdw15: data.length / 4,
      },
      data.length === 0 ? {} : { data, by: 'r2t' },
    );
  }

  /** The whole state, of exactly its size. */
  async state(cntlid: number): Promise<Buffer> {
    const { data } = await this.getState(cntlid);
    return data.subarray(0, 48 + 4 * (data.readUInt32LE(16) + data.readUInt32LE(32)));
  }

  setHead(cdqid: number, head: number, trigger?: number): Promise<Completion> {
    const cdw11 = (cdqid | (trigger === undefined ? 0 : 0x8000_0000)) >>> 0;
    return this.host.command({ opcode: 0x09, cdw10: 0x21, cdw11, cdw12: head, cdw13: trigger ?? 0 });
  }

  getHead(cdqid: number): Promise<Completion> {
    return this.host.command({ opcode: 0x0a, cdw10: 0x21, cdw11: cdqid }, { readBytes: 512 });
  }

  queueLog(cdqid: number, bytes = 64 + 64 * 32, offset = 0): Promise<Completion> {
    const dwords = bytes / 4 - 1;
    return this.host.command(
      { opcode: 2, cdw10: QUEUE_LOG | (dwords << 16), cdw11: (cdqid << 16) >>> 0, cdw12: offset, cdw14: 1 },
      { readBytes: bytes },
    );
  }

  /** Entries that wait. */
  async entries(cdqid: number): Promise<Entry[]> {
    const { data } = await this.queueLog(cdqid);
    return Array.from({ length: data.readUInt32LE(16) }, (_, i): Entry => {
      const at = 64 + i * 32;
      const attributes = data[at + 31]!;
      const lbacir = attributes >> 6;
      return {
        nsid: data.readUInt32LE(at),
        slba: Number(data.readBigUInt64LE(at + 8)),
        blocks: lbacir === 0 ? data.readUInt32LE(at + 4) + 1 : 0,
        lbacir,
        deallocated: (attributes & 0x20) !== 0,
        esa: (attributes >> 1) & 7,
        phase: attributes & 1,
      };
    });
  }

  /** Takes all entries that wait. */
  async drain(cdqid: number): Promise<Entry[]> {
    const entries = await this.entries(cdqid);
    const { data } = await this.queueLog(cdqid, 64);
    const head = (data.readUInt32LE(8) + entries.length) % data.readUInt32LE(20);
    const { code } = await this.setHead(cdqid, head);
    if (code !== 0) throw new Error(`HP ${head} was refused with ${code.toString(16)}`);
    return entries;
  }

  /** @param action 0 stop, 1 start, 2 acknowledge, 3 give back */
  changes(nsid: number, action: number, epoch = 0): Promise<Completion> {
    return this.host.command({ opcode: 9, nsid, cdw10: CHANGES_FEATURE, cdw11: action, cdw12: epoch, cdw14: 1 });
  }

  /** `[first block, blocks]` of each run of log page C9h. */
  async changed(nsid: number): Promise<{ epoch: number; tracking: boolean; runs: [number, number][] }> {
    const bytes = 4096;
    const { data } = await this.host.command(
      { opcode: 2, nsid, cdw10: CHANGES_LOG | ((bytes / 4 - 1) << 16), cdw14: 1 },
      { readBytes: bytes },
    );
    const runs = Array.from({ length: Number(data.readBigUInt64LE(24)) }, (_, i): [number, number] => [
      Number(data.readBigUInt64LE(64 + i * 16)),
      data.readUInt32LE(72 + i * 16) + 1,
    ]);
    return { epoch: Number(data.readBigUInt64LE(8)), tracking: (data[1]! & 1) !== 0, runs };
  }

  // ---- a move across fabrics ------------------------------------------------------------------------------------------------------

  /** Set Features CAh. @param uuidIndex CDW14 */
  setFence(nsid: number, closed: boolean, epoch: bigint, uuidIndex = 1): Promise<Completion> {
    return this.host.command({
      opcode: 9,
      nsid,
      cdw10: 0xca,
      cdw11: closed ? 1 : 0,
      cdw12: Number(epoch & 0xffff_ffffn),
      cdw13: Number(epoch >> 32n),
      cdw14: uuidIndex,
    });
  }

  /** Get Features CAh. */
  async fence(nsid: number): Promise<{ closed: boolean; durable: boolean; epoch: bigint }> {
    const { status, data } = await this.host.command({ opcode: 0x0a, nsid, cdw10: 0xca, cdw14: 1 }, { readBytes: 64 });
    if (status !== 0) throw new Error(`Get Features CAh: ${status.toString(16)}`);
    return { closed: (data[1]! & 1) !== 0, durable: (data[1]! & 2) !== 0, epoch: data.readBigUInt64LE(8) };
  }

  /** Set Features CBh. */
  setReservations(nsid: number, status: Uint8Array, epoch: bigint, bytes = status.length): Promise<Completion> {
    const sqe = { opcode: 9, nsid, cdw10: 0xcb, cdw11: bytes, cdw12: Number(epoch), cdw14: 1 };
    return this.host.command(sqe, status.length === 0 ? {} : { data: status, by: 'r2t' });
  }

  /** Set Features CCh. */
  peer(entry: Uint8Array, isThere: boolean): Promise<Completion> {
    return this.host.command({ opcode: 9, cdw10: 0xcc, cdw11: isThere ? 1 : 0, cdw14: 1 }, { data: entry, by: 'r2t' });
  }

  /** Set Features CDh. @param kibPerSecond 0: none */
  limit(nsid: number, kibPerSecond: number): Promise<Completion> {
    return this.host.command({ opcode: 9, nsid, cdw10: 0xcd, cdw11: kibPerSecond, cdw14: 1 });
  }

  /** Set Features CEh. */
  resetController(cntlid: number): Promise<Completion> {
    return this.host.command({ opcode: 9, cdw10: 0xce, cdw11: cntlid, cdw14: 1 });
  }
}
