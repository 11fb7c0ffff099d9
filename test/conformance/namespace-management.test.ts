/** Namespace Management and Attachment, masks: sheet of commands 7.1, 10.4; checklist numbers in case names. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { FileVolumePool, MemoryVolumePool, type VolumePool } from '../../src/backend/volume-pool.ts';
import { MemoryStateStore } from '../support/memory-state-store.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { settle, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const OPERATION_DENIED = 0x15;
const INTERNAL_ERROR = 0x06;
const INSUFFICIENT_CAPACITY = 0x115;
const ID_UNAVAILABLE = 0x116;
const ALREADY_ATTACHED = 0x118;
const IS_PRIVATE = 0x119;
const NOT_ATTACHED = 0x11a;
const NO_THIN_PROVISIONING = 0x11b;
const LIST_INVALID = 0x11c;
const INVALID_FORMAT = 0x10a;
const COMMAND_SET_UNSUPPORTED = 0x129;
const ALL = 0xffff_ffff;
const MIB = 1 << 20;
const HOST_A = 'nqn.2024-01.org.example:host-a';
const HOST_B = 'nqn.2024-01.org.example:host-b';

interface CreateFields {
  blocks?: bigint;
  capacity?: bigint;
  flbas?: number;
  dps?: number;
  nmic?: number;
  lbstm?: bigint;
  csi?: number;
}

function create(host: RawHost, fields: CreateFields = {}): Promise<Completion> {
  const { blocks = 2048n, flbas = 0, dps = 0, nmic = 1 } = fields;
  const data = Buffer.alloc(4096);
  data.writeBigUInt64LE(blocks, 0);
  data.writeBigUInt64LE(fields.capacity ?? blocks, 8);
  data[26] = flbas;
  data[29] = dps;
  data[30] = nmic;
  data.writeBigUInt64LE(fields.lbstm ?? 0n, 384);
  return host.command({ opcode: 0x0d, cdw10: 0, cdw11: (fields.csi ?? 0) << 24 }, { data });
}
const remove = (host: RawHost, nsid: number): Promise<Completion> => host.command({ opcode: 0x0d, nsid, cdw10: 1 });
function attachment(host: RawHost, select: number, nsid: number, cntlids: number[]): Promise<Completion> {
  const data = Buffer.alloc(4096);
  data.writeUInt16LE(cntlids.length, 0);
  cntlids.forEach((cntlid, i) => {
    data.writeUInt16LE(cntlid, 2 + 2 * i);
  });
  return host.command({ opcode: 0x15, nsid, cdw10: select }, { data });
}
const attach = (host: RawHost, nsid: number, cntlids = [host.cntlid]): Promise<Completion> =>
  attachment(host, 0, nsid, cntlids);
const detach = (host: RawHost, nsid: number, cntlids = [host.cntlid]): Promise<Completion> =>
  attachment(host, 1, nsid, cntlids);
async function list(host: RawHost, cns: number, nsid = 0): Promise<number[]> {
  const { data, status } = await host.identify(cns, { nsid });
  expect(status).to.equal(0);
  const nsids: number[] = [];
  for (let at = 0; at < 4096 && data.readUInt32LE(at) !== 0; at += 4) nsids.push(data.readUInt32LE(at));
  return nsids;
}
async function controllerList(host: RawHost, cns: number, nsid = 0, from = 0): Promise<number[]> {
  const { data } = await host.command({ opcode: 6, nsid, cdw10: cns | (from << 16) }, { readBytes: 4096 });
  return Array.from({ length: data.readUInt16LE(0) }, (_, i) => data.readUInt16LE(2 + 2 * i));
}
async function capacity(host: RawHost): Promise<[number, number]> {
  const { data } = await host.identify(1);
  return [Number(data.readBigUInt64LE(280)), Number(data.readBigUInt64LE(296))];
}

describe('conformance: namespace management', () => {
  let t: TestTarget;
  let admin: RawHost;
  async function start(options: Parameters<typeof TestTarget.start>[0] = {}): Promise<void> {
    t = await TestTarget.start({
      ...options,
      subsystem: {
        nsidMax: 64,
        volumes: new MemoryVolumePool({ capacityBytes: 4 * MIB }),
        ...options.subsystem,
      },
    });
    admin = await t.admin({ hostnqn: HOST_A });
  }
  afterEach(() => t.close());

  it('without a pool nothing of it is there', async () => {
    t = await TestTarget.start();
    admin = await t.admin();
    expect((await create(admin)).code).to.equal(0x01);
    expect((await attach(admin, 1)).code).to.equal(0x01);
    expect((await admin.identify(1)).data.readUInt16LE(256) & 8, 'OACS').to.equal(0);
    const effects = (await admin.logPage(5, 4096)).data;
    expect([effects.readUInt32LE(4 * 0x0d), effects.readUInt32LE(4 * 0x15)]).to.deep.equal([0, 0]);
    for (const cns of [0x10, 0x11, 0x12, 0x1a, 0x1b, 0x1f]) {
      expect((await admin.identify(cns, { nsid: 1 })).code, `CNS ${cns}`).to.equal(INVALID_FIELD);
    }
  });

  it('with a pool: OACS, effects, FFFFFFFFh of CNS 00h, capacities', async () => {
    await start();
    expect((await admin.identify(1)).data.readUInt16LE(256) & 8, 'OACS').to.equal(8);
    const effects = (await admin.logPage(5, 4096)).data;
    expect([effects.readUInt32LE(4 * 0x0d), effects.readUInt32LE(4 * 0x15)], 'CSUPP, NIC').to.deep.equal([9, 9]);
    const common = await admin.identify(0, { nsid: ALL });
    expect([common.status, common.data[25]], '100: NLBAF').to.deep.equal([0, 1]);
    expect([common.data[130], common.data[134]], 'LBADS').to.deep.equal([9, 12]);
    expect(common.data.readBigUInt64LE(0), 'NSZE').to.equal(0n);
    expect(await capacity(admin)).to.deep.equal([68 * MIB, 4 * MIB]);
  });

  it('a namespace lives: create, attach, write, detach, delete', async () => {
    await start();
    const io = await t.io(admin, { hostnqn: HOST_A });
    const made = await create(admin, { blocks: 512n, flbas: 1 });
    expect([made.status, made.result0]).to.deep.equal([0, 2]);
    expect(await capacity(admin)).to.deep.equal([68 * MIB, 2 * MIB]);
    expect(await list(admin, 0x02), 'not attached').to.deep.equal([1]);
    expect(await list(admin, 0x10)).to.deep.equal([1, 2]);
    expect(await list(admin, 0x1a)).to.deep.equal([1, 2]);
    expect((await admin.identify(0, { nsid: 2 })).data.readBigUInt64LE(0), '71').to.equal(0n);
    expect((await admin.identify(0x11, { nsid: 2 })).data.readBigUInt64LE(0)).to.equal(512n);
    expect((await admin.identify(0x11, { nsid: 2 })).data[26], 'FLBAS').to.equal(1);
    expect((await admin.identify(0x1b, { nsid: 2 })).status).to.equal(0);
    expect((await admin.identify(0x1f, { nsid: 2 })).data[14]! & 1, 'NRDY').to.equal(1);
    expect((await io.read(0, 1, { nsid: 2, blockBytes: 4096 })).code, '43').to.equal(INVALID_FIELD);

    expect((await attach(admin, 2)).status).to.equal(0);
    expect(await list(admin, 0x02)).to.deep.equal([1, 2]);
    expect(await controllerList(admin, 0x12, 2)).to.deep.equal([admin.cntlid]);
    const data = Buffer.alloc(4096, 0x5a);
    expect((await io.command({ opcode: 1, nsid: 2, cdw10: 7, cdw12: 0 }, { data })).status).to.equal(0);
    expect((await io.read(7, 1, { nsid: 2, blockBytes: 4096 })).data.equals(data)).to.equal(true);

    expect((await detach(admin, 2)).status).to.equal(0);
    expect((await io.read(7, 1, { nsid: 2, blockBytes: 4096 })).code, '66').to.equal(INVALID_FIELD);
    expect(await list(admin, 0x02), '66').to.deep.equal([1]);
    expect((await attach(admin, 2)).status).to.equal(0);
    expect((await io.read(7, 1, { nsid: 2, blockBytes: 4096 })).data.equals(data), 'kept').to.equal(true);

    expect((await remove(admin, 2)).status, 'attached or not').to.equal(0);
    expect(await list(admin, 0x10)).to.deep.equal([1]);
    expect(
      (await admin.identify(0x11, { nsid: 2 })).data.every((byte) => byte === 0),
      '72',
    ).to.equal(true);
    expect(await capacity(admin)).to.deep.equal([68 * MIB, 4 * MIB]);
  });

  it('72: CNS 11h of an NSID past NN or FFFFFFFFh: Invalid Namespace or Format; CNS 12h of FFFFFFFFh: Invalid Field', async () => {
    await start();
    for (const cns of [0x11, 0x1b, 0x1f, 0x12]) {
      for (const nsid of [0, 65]) {
        expect((await admin.identify(cns, { nsid })).code, `CNS ${cns}`).to.equal(INVALID_NAMESPACE);
      }
    }
    expect((await admin.identify(0x11, { nsid: ALL })).code).to.equal(INVALID_NAMESPACE);
    expect((await admin.identify(0x12, { nsid: ALL })).code).to.equal(INVALID_FIELD);
    expect((await admin.identify(0x10, { nsid: ALL })).code).to.equal(INVALID_NAMESPACE);
    for (const cns of [0x1a, 0x1b]) {
      expect((await admin.identify(cns, { nsid: 1, cdw11: 2 << 24 })).code, '73').to.equal(INVALID_FIELD);
    }
  });

  it('CNS 13h and 12h list controllers from CNTID on', async () => {
    await start();
    const second = await t.admin({ hostnqn: HOST_B });
    const third = await t.admin({ hostnqn: HOST_B });
    const ids = [admin.cntlid, second.cntlid, third.cntlid];
    expect(await controllerList(admin, 0x13)).to.deep.equal(ids);
    expect(await controllerList(admin, 0x13, 0, ids[1])).to.deep.equal(ids.slice(1));
    expect(await controllerList(admin, 0x12, 1, ids[2])).to.deep.equal(ids.slice(2));
  });

  for (const [what, fields, code] of [
    ['no blocks', { blocks: 0n }, INVALID_FIELD],
    ['NCAP above NSZE', { capacity: 4096n }, INVALID_FIELD],
    ['NCAP below NSZE', { capacity: 1024n }, NO_THIN_PROVISIONING],
    ['an LBA format past NLBAF', { flbas: 2 }, INVALID_FORMAT],
    ['an LBA format by its upper bits', { flbas: 0x20 }, INVALID_FORMAT],
    ['protection information', { dps: 1 }, INVALID_FORMAT],
    ['a storage tag mask', { lbstm: 1n }, INVALID_FIELD],
    ['another command set', { csi: 2 }, COMMAND_SET_UNSUPPORTED],
    ['more than the pool has', { blocks: 8193n }, INSUFFICIENT_CAPACITY],
    ['2^64 - 1 blocks', { blocks: 2n ** 64n - 1n }, INSUFFICIENT_CAPACITY],
  ] as const) {
    it(`create with ${what}: ${code.toString(16)}h, nothing made`, async () => {
      await start();
      const completion = await create(admin, fields);
      expect([completion.code, completion.dnr]).to.deep.equal([code, true]);
      expect(await list(admin, 0x10)).to.deep.equal([1]);
    });
  }

  it('create takes the pool to the last byte, and no NSID is left in the end: 16h', async () => {
    await start({ subsystem: { nsidMax: 3 } });
    expect((await create(admin, { blocks: 4096n })).result0).to.equal(2);
    expect((await create(admin, { blocks: 4096n })).result0).to.equal(3);
    expect(await capacity(admin)).to.deep.equal([68 * MIB, 0]);
    expect((await create(admin, { blocks: 1n })).code).to.equal(INSUFFICIENT_CAPACITY);
    await remove(admin, 2);
    expect((await create(admin, { blocks: 1n })).result0, 'the lowest free one').to.equal(2);
    expect((await create(admin, { blocks: 1n })).code).to.equal(ID_UNAVAILABLE);
  });

  it('SEL that does not exist: Invalid Field, for both commands', async () => {
    await start();
    expect((await admin.command({ opcode: 0x0d, nsid: 1, cdw10: 2 })).code).to.equal(INVALID_FIELD);
    expect((await attachment(admin, 2, 1, [admin.cntlid])).code).to.equal(INVALID_FIELD);
  });

  it('delete of an NSID that is not allocated, invalid, configured, or all of them beside configured ones', async () => {
    await start();
    await create(admin);
    expect((await remove(admin, 9)).code).to.equal(INVALID_FIELD);
    expect((await remove(admin, 0)).code).to.equal(INVALID_NAMESPACE);
    expect((await remove(admin, 65)).code).to.equal(INVALID_NAMESPACE);
    expect((await remove(admin, 1)).code, 'configured').to.equal(OPERATION_DENIED);
    expect((await remove(admin, ALL)).code).to.equal(OPERATION_DENIED);
    expect(await list(admin, 0x10)).to.deep.equal([1, 2]);
  });

  it('delete FFFFFFFFh takes all that hosts created', async () => {
    await start({ empty: true });
    await create(admin);
    await create(admin);
    expect((await remove(admin, ALL)).status).to.equal(0);
    expect(await list(admin, 0x10)).to.deep.equal([]);
  });

  it('attach: twice, of an unknown controller, with an empty or descending list; detach of what is not attached', async () => {
    await start();
    await create(admin);
    expect((await attach(admin, 2, [])).code).to.equal(LIST_INVALID);
    expect((await attach(admin, 2, [admin.cntlid, 999])).code).to.equal(LIST_INVALID);
    expect((await attach(admin, 2, [admin.cntlid, admin.cntlid])).code).to.equal(LIST_INVALID);
    expect((await detach(admin, 2)).code).to.equal(NOT_ATTACHED);
    expect((await attach(admin, 2)).status).to.equal(0);
    expect((await attach(admin, 2)).code).to.equal(ALREADY_ATTACHED);
    expect((await attach(admin, 1)).code, 'attached by default').to.equal(ALREADY_ATTACHED);
    expect((await attach(admin, 9)).code).to.equal(INVALID_FIELD);
    expect((await attach(admin, ALL)).code).to.equal(INVALID_FIELD);
    const other = await t.admin({ hostnqn: HOST_B });
    expect((await attach(admin, 2, [admin.cntlid, other.cntlid])).code, 'all or none').to.equal(ALREADY_ATTACHED);
    expect(await list(other, 0x02)).to.deep.equal([1]);
  });

  it('a private namespace has one controller at a time', async () => {
    await start();
    const other = await t.admin({ hostnqn: HOST_B });
    await create(admin, { nmic: 0 });
    expect((await admin.identify(0x11, { nsid: 2 })).data[30], 'NMIC').to.equal(0);
    expect((await attach(admin, 2, [admin.cntlid, other.cntlid])).code).to.equal(IS_PRIVATE);
    expect((await attach(admin, 2)).status).to.equal(0);
    expect((await attach(admin, 2, [other.cntlid])).code).to.equal(IS_PRIVATE);
    await detach(admin, 2);
    expect((await attach(admin, 2, [other.cntlid])).status).to.equal(0);
  });

  it('34, 66: who is told: attached controllers of attach and detach, all but the deleting one of delete', async () => {
    await start();
    const other = await t.admin({ hostnqn: HOST_B });
    for (const host of [admin, other]) await host.setFeature(0x0b, 0x8_0100);
    const aers = (host: RawHost): Promise<Completion>[] => [
      host.command({ opcode: 0x0c }),
      host.command({ opcode: 0x0c }),
      host.command({ opcode: 0x0c }),
    ];
    const waiting = [...aers(admin), ...aers(other)];
    const heard: string[] = [];
    waiting.forEach((aer, i) => {
      aer.then(
        ({ result0 }) => heard.push(`${i < 3 ? 'admin' : 'other'} ${result0.toString(16)}`),
        () => {},
      );
    });
    const news = async (): Promise<string[]> => {
      await settle();
      return heard.splice(0).sort();
    };
    await create(admin);
    expect(await news()).to.deep.equal(['admin 1c0902', 'other 1c0902']);
    for (const host of [admin, other]) await host.logPage(0x1c, 4096);
    await attach(admin, 2, [other.cntlid]);
    expect(await news(), 'only the one that it is attached to').to.deep.equal(['other 40002']);
    const changed = await other.logPage(4, 4096);
    expect([changed.data.readUInt32LE(0), changed.data.readUInt32LE(4)]).to.deep.equal([2, 0]);
    await remove(other, 2);
    expect(await news(), 'the one that deletes knows').to.deep.equal(['admin 1c0902']);
    const allocated = await admin.logPage(0x1c, 4096);
    expect(allocated.data.readUInt32LE(0)).to.equal(2);
  });

  it('more than 1,024 changes: the list is FFFFFFFFh alone', async () => {
    await start({ subsystem: { nsidMax: 2000 } });
    for (let nsid = 2; nsid <= 1025; nsid++) {
      t.target.addNamespace(t.subsystem, { nsid, backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }) });
    }
    const full = (await admin.logPage(4, 4096, { rae: true })).data;
    expect([full.readUInt32LE(0), full.readUInt32LE(4092)], '1,024 fit').to.deep.equal([2, 1025]);
    t.target.addNamespace(t.subsystem, { nsid: 1026, backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }) });
    for (const lid of [4, 0x1c]) {
      const { data } = await admin.logPage(lid, 4096);
      expect([data.readUInt32LE(0), data.subarray(4).every((byte) => byte === 0)]).to.deep.equal([ALL, true]);
      expect((await admin.logPage(lid, 4096)).data.readUInt32LE(0), 'cleared').to.equal(0);
    }
  });

  describe('what is remembered of hosts', () => {
    it('an attachment holds for the next association of the host, not for another host', async () => {
      await start();
      await create(admin);
      await attach(admin, 2);
      await detach(admin, 1);
      admin.destroy();
      await t.until(() => t.connectionCount === 0);
      const again = await t.admin({ hostnqn: HOST_A });
      expect(again.cntlid).to.not.equal(admin.cntlid);
      expect(await list(again, 0x02)).to.deep.equal([2]);
      expect(await list(await t.admin({ hostnqn: HOST_B }), 0x02)).to.deep.equal([1]);
    });

    it('two controllers of one host are attached apart; a third starts with what either has', async () => {
      await start();
      const second = await t.admin({ hostnqn: HOST_A });
      await create(admin);
      expect((await attach(admin, 2)).status).to.equal(0);
      expect(await list(second, 0x02)).to.deep.equal([1]);
      expect((await attach(admin, 2, [second.cntlid])).status).to.equal(0);
      expect((await detach(admin, 2)).status).to.equal(0);
      expect(await list(admin, 0x02)).to.deep.equal([1]);
      expect(await list(second, 0x02)).to.deep.equal([1, 2]);
      expect(await list(await t.admin({ hostnqn: HOST_A }), 0x02)).to.deep.equal([1, 2]);
    });
  });

  describe('masks', () => {
    async function masked(hosts: string[]): Promise<void> {
      t.target.addNamespace(t.subsystem, {
        nsid: 5,
        hosts,
        backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }),
      });
    }

    it('a host outside sees nothing of it, and cannot attach or delete it', async () => {
      await start();
      await masked([HOST_B]);
      const io = await t.io(admin, { hostnqn: HOST_A });
      const other = await t.admin({ hostnqn: HOST_B });
      expect(await list(other, 0x02)).to.deep.equal([1, 5]);
      expect(await list(admin, 0x02)).to.deep.equal([1]);
      expect(await list(admin, 0x10)).to.deep.equal([1]);
      expect((await admin.identify(0x11, { nsid: 5 })).data.every((byte) => byte === 0)).to.equal(true);
      expect((await admin.identify(0, { nsid: 5 })).data.every((byte) => byte === 0)).to.equal(true);
      expect(await controllerList(admin, 0x12, 5)).to.deep.equal([]);
      expect((await io.read(0, 1, { nsid: 5 })).code).to.equal(INVALID_FIELD);
      expect((await attach(admin, 5)).code).to.equal(INVALID_FIELD);
      expect((await remove(admin, 5)).code).to.equal(INVALID_FIELD);
      expect((await attach(other, 5, [admin.cntlid])).code, 'by a host inside').to.equal(OPERATION_DENIED);
    });

    it('a change at run time tells those that it concerns, and stops I/O', async () => {
      await start();
      await masked([HOST_A]);
      const other = await t.admin({ hostnqn: HOST_B });
      const io = await t.io(admin, { hostnqn: HOST_A });
      for (const host of [admin, other]) await host.setFeature(0x0b, 0x100);
      for (const host of [admin, other]) await host.logPage(4, 4096);
      const lost = admin.command({ opcode: 0x0c });
      const got = other.command({ opcode: 0x0c });
      expect((await io.read(0, 1, { nsid: 5 })).status).to.equal(0);
      t.target.setNamespaceHosts(t.subsystem, 5, [HOST_B]);
      expect([(await lost).result0, (await got).result0]).to.deep.equal([0x40002, 0x40002]);
      expect((await io.read(0, 1, { nsid: 5 })).code).to.equal(INVALID_FIELD);
      expect(await list(other, 0x02)).to.deep.equal([1, 5]);
      expect(await list(admin, 0x02)).to.deep.equal([1]);
    });
  });

  describe('a pool of files', () => {
    let folder: string;
    let state: MemoryStateStore;
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'volumes-'));
      state = new MemoryStateStore();
    });
    afterEach(() => rmSync(folder, { recursive: true }));
    const pool = (): VolumePool => new FileVolumePool({ directory: folder, capacityBytes: 64 * MIB });
    async function restart(volumes: VolumePool = pool()): Promise<void> {
      await start({ state, subsystem: { volumes } });
      await t.subsystem.manager.restore();
    }
    const files = (): string[] => readdirSync(folder);

    it('namespaces, their data, identity and attachments survive a restart; a deleted one does not', async () => {
      await restart();
      await create(admin, { blocks: 256n, flbas: 1 });
      await create(admin, { blocks: 256n });
      await attach(admin, 2);
      const io = await t.io(admin, { hostnqn: HOST_A });
      const data = Buffer.alloc(4096, 0xa7);
      await io.command({ opcode: 1, nsid: 2, cdw10: 3, cdw12: 0x4000_0000 }, { data });
      const identity = (await admin.identify(3, { nsid: 2 })).data;
      await remove(admin, 3);
      expect(files()).to.have.length(1);
      await t.close();
      await restart();
      expect(await list(admin, 0x10)).to.deep.equal([1, 2]);
      expect(await list(admin, 0x02), 'attached still').to.deep.equal([1, 2]);
      expect((await admin.identify(3, { nsid: 2 })).data.equals(identity)).to.equal(true);
      const again = await t.io(admin, { hostnqn: HOST_A });
      expect((await again.read(3, 1, { nsid: 2, blockBytes: 4096 })).data.equals(data)).to.equal(true);
      expect(await capacity(admin)).to.deep.equal([128 * MIB, 63 * MIB]);
    });

    it('no room for the file: Namespace Insufficient Capacity, nothing left', async () => {
      const full = pool();
      full.create = async () => {
        throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
      };
      await restart(full);
      expect((await create(admin)).code).to.equal(INSUFFICIENT_CAPACITY);
      expect([await list(admin, 0x10), files()]).to.deep.equal([[1], []]);
      expect(JSON.parse(state.values.get(`${t.subsystem.nqn}.namespaces`)!).volumes).to.deep.equal([]);
    });

    it('a state store that fails: Internal Error, no file left; it works again later', async () => {
      await restart();
      state.failure = new Error('disk full');
      expect((await create(admin)).code).to.equal(INTERNAL_ERROR);
      expect([await list(admin, 0x10), files()]).to.deep.equal([[1], []]);
      state.failure = undefined;
      expect((await create(admin)).status).to.equal(0);
    });

    it('a file that cannot be deleted: Internal Error, the namespace stays as it was', async () => {
      const stuck = pool();
      await restart(stuck);
      await create(admin, { blocks: 256n });
      await attach(admin, 2);
      stuck.destroy = async () => {
        throw new Error('busy');
      };
      expect((await remove(admin, 2)).code).to.equal(INTERNAL_ERROR);
      expect(await list(admin, 0x02)).to.deep.equal([1, 2]);
      await t.close();
      await restart();
      expect(await list(admin, 0x02)).to.deep.equal([1, 2]);
      expect((await remove(admin, 2)).status).to.equal(0);
      expect(files()).to.deep.equal([]);
    });

    it('what a crash left half made or half deleted is cleared away at the next start', async () => {
      await restart();
      await create(admin, { blocks: 256n });
      await create(admin, { blocks: 256n });
      await t.close();
      const name = `${t.subsystem.nqn}.namespaces`;
      const saved = state.load(name) as { volumes: { state: string; uuid: string }[] };
      saved.volumes[0]!.state = 'making';
      saved.volumes[1]!.state = 'going';
      state.values.set(name, JSON.stringify(saved));
      await restart();
      expect([await list(admin, 0x10), files()]).to.deep.equal([[1], []]);
      expect((state.load(name) as { volumes: unknown[] }).volumes).to.deep.equal([]);
    });

    it('a file that is missing at start is an error that names it, not a namespace that is forgotten', async () => {
      await restart();
      await create(admin, { blocks: 256n });
      const [file] = files();
      rmSync(join(folder, file!));
      await t.close();
      await start({ state, subsystem: { volumes: pool() } });
      let message = '';
      await t.subsystem.manager.restore().catch((error: Error) => {
        message = error.message;
      });
      expect(message)
        .to.include(file!)
        .and.match(/missing/);
      expect(existsSync(join(folder, file!))).to.equal(false);
    });
  });
});
