/** Log pages, features, asynchronous events, Abort: lines 27 to 39, 62 and 93 to 98 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, Inconclusive, NotApplicable } from '../check.ts';
import { Onc } from '../facts.ts';
import { listOf, type Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { writePattern } from './tcp-setup.ts';

const INVALID_FIELD = 0x02;
const SEQUENCE = 0x0c;
const INVALID_LOG_PAGE = 0x109;
const AER_LIMIT = 0x105;
const ALL = 0xffff_ffff;
const Notice = { Namespace: 0x0004_0002, Ana: 0x000c_0302, Discovery: 0x0070_f002 } as const;
const Oae = { Namespace: 0x100, Ana: 0x800, Discovery: 0x8000_0000 } as const;

const event = (host: RawHost): Promise<Completion> => host.command({ opcode: 0x0c });

/** NSIDs of LID 04h; the event is cleared. */
async function changed(peer: Peer, admin: RawHost): Promise<number[]> {
  const log = await peer.within(admin.logPage(4, 4096, { nsid: ALL }), 'Get Log Page 04h');
  checkStatus(log, 0, 'Get Log Page 04h');
  return listOf(log.data);
}

async function genctr(peer: Peer, host: RawHost): Promise<{ genctr: bigint; numrec: bigint }> {
  const log = await peer.within(host.logPage(0x70, 20), 'Get Log Page 70h');
  checkStatus(log, 0, 'Get Log Page 70h');
  return { genctr: log.data.readBigUInt64LE(0), numrec: log.data.readBigUInt64LE(8) };
}

export const logCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 5.1.12', tags: ['nvme', 'admin', 'logs'] },
  [
    [
      27,
      'Get Log Page with an unknown LID -> Invalid Log Page',
      async (peer) => {
        const admin = await peer.admin();
        // 6Fh is reserved; what LID 00h names is left alone
        if (((peer.facts.raw.logs?.readUInt32LE(0x6f * 4) ?? 0) & 1) === 1)
          throw new NotApplicable('LID 6Fh is served');
        checkStatus(await peer.within(admin.logPage(0x6f, 512), 'Get Log Page'), INVALID_LOG_PAGE, 'LID 6Fh');
      },
    ],
    [
      28,
      'Get Log Page with NUMD 0 -> 4 bytes',
      async (peer) => {
        const admin = await peer.admin();
        const log = await peer.within(admin.logPage(2, 4, { nsid: ALL }), 'Get Log Page');
        checkStatus(log, 0, 'LID 02h with NUMD 0');
        check.equal(log.data.length, 4, 'bytes returned');
      },
    ],
    [
      29,
      'Get Log Page with LPO past the end, or not aligned -> Invalid Field',
      async (peer) => {
        if ((peer.facts.lpa & 4) === 0) throw new NotApplicable('no extended data for Get Log Page (LPA bit 2)');
        const admin = await peer.admin();
        for (const offset of [516, 2]) {
          const log = await peer.within(admin.logPage(2, 512, { nsid: ALL, offset }), 'Get Log Page');
          checkStatus(log, INVALID_FIELD, `LID 02h with LPO ${offset}`);
        }
      },
    ],
    [
      30,
      'discovery log: 20 bytes, then from byte 1024 on -> consistent GENCTR',
      async (peer) => {
        const host = await peer.discovery();
        const before = await genctr(peer, host);
        const entries = Number(before.numrec);
        if (entries > 0) {
          const log = await peer.within(
            host.logPage(0x70, Math.min(entries, 4) * 1024, { offset: 1024 }),
            'Get Log Page',
          );
          checkStatus(log, 0, 'LID 70h from byte 1024');
          check.oneOf(log.data[2], [1, 2, 3], 'SUBTYPE of the first entry');
        }
        check.equal((await genctr(peer, host)).genctr, before.genctr, 'GENCTR');
      },
      { requirement: 'Base 2.1 section 5.1.12.3.1', tags: ['discovery'] },
    ],
    [
      31,
      'discovery log on an I/O controller -> an error',
      async (peer) => {
        const admin = await peer.admin();
        const log = await peer.within(admin.logPage(0x70, 20), 'Get Log Page');
        check.that(log.code !== 0, 'LID 70h is served by an I/O controller');
      },
      { requirement: 'Base 2.1 section 3.1.3.4', tags: ['discovery'] },
    ],
    [
      32,
      'a subsystem is added -> GENCTR of the discovery log changes',
      async (peer) => {
        const host = await peer.discovery();
        const before = await genctr(peer, host);
        await peer.operator('add-subsystem');
        try {
          const moved = await peer.poll(async () => (await genctr(peer, host)).genctr !== before.genctr);
          check.that(moved, 'GENCTR stays as it was');
        } finally {
          await peer.operator('remove-subsystem');
        }
      },
      { requirement: 'Base 2.1 section 5.1.12.3.1', tags: ['discovery', 'operator'] },
    ],
    [
      95,
      'Persistent Event: LSP 0 without context -> Command Sequence Error; LSP 2 -> success',
      async (peer) => {
        if ((peer.facts.lpa & 0x10) === 0) throw new NotApplicable('no Persistent Event log (LPA bit 4)');
        const admin = await peer.admin();
        const read = await peer.within(
          admin.command({ opcode: 2, cdw10: 0x0d | (127 << 16) }, { readBytes: 512 }),
          'LID 0Dh',
        );
        checkStatus(read, SEQUENCE, 'LID 0Dh without context');
        const release = await peer.within(admin.command({ opcode: 2, cdw10: 0x020d }, { readBytes: 4 }), 'LID 0Dh');
        checkStatus(release, 0, 'LID 0Dh, release of no context');
      },
      { requirement: 'Base 2.1 section 5.1.12.1.14' },
    ],
  ],
);

export const eventCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 5.1.2', tags: ['nvme', 'admin', 'events'] },
  [
    [
      33,
      'more AERs than AERL + 1 -> Asynchronous Event Request Limit Exceeded',
      async (peer) => {
        const admin = await peer.admin({ sqsize: 31 });
        const limit = peer.facts.raw.controller.readUInt8(259) + 1;
        if (limit > 30) throw new NotApplicable(`AERL + 1 is ${limit}, more than an admin queue of 32 shows`);
        const all = Array.from({ length: limit }, () => event(admin));
        for (const one of all) one.catch(() => {});
        checkStatus(await peer.within(event(admin), 'AER beyond the limit'), AER_LIMIT, 'AER beyond the limit');
        check.that(await peer.staysPending(Promise.race(all), admin), 'an AER within the limit was completed');
      },
    ],
    [
      34,
      'a namespace is added -> AER DW0 00040002h; a second change before LID 04h is read -> no second one',
      async (peer) => {
        if ((peer.facts.oaes & Oae.Namespace) === 0) throw new NotApplicable('no such notice (OAES bit 8)');
        const admin = await peer.admin();
        await peer.within(admin.setFeature(0x0b, Oae.Namespace), 'Set Features 0Bh');
        await changed(peer, admin);
        const first = event(admin);
        await peer.operator('add-namespace');
        try {
          check.equal(
            (await peer.within(first, 'AER')).result0.toString(16),
            Notice.Namespace.toString(16),
            'DW0 (hex)',
          );
          const second = event(admin);
          await peer.operator('remove-namespace');
          check.that(await peer.staysPending(second, admin), 'a second AER before LID 04h was read');
          check.that((await changed(peer, admin)).length > 0, 'LID 04h names no namespace');
        } catch (error) {
          await peer.operator('remove-namespace');
          throw error;
        }
      },
      { requirement: 'Base 2.1 section 5.1.2', tags: ['operator'] },
    ],
    [
      35,
      'ANA change -> AER DW0 000C0302h; CHGCNT of the ANA log increments',
      async (peer) => {
        if (!peer.facts.ana) throw new NotApplicable('no ANA (CMIC bit 3)');
        const admin = await peer.admin();
        await peer.within(admin.setFeature(0x0b, Oae.Ana), 'Set Features 0Bh');
        const count = async (): Promise<bigint> => {
          const log = await peer.within(admin.logPage(0x0c, 4096), 'Get Log Page 0Ch');
          checkStatus(log, 0, 'Get Log Page 0Ch');
          return log.data.readBigUInt64LE(0);
        };
        const before = await count();
        const first = event(admin);
        await peer.operator('ana-inaccessible');
        try {
          check.equal((await peer.within(first, 'AER')).result0.toString(16), Notice.Ana.toString(16), 'DW0 (hex)');
          check.that((await count()) > before, 'CHGCNT did not increment');
        } finally {
          await peer.operator('ana-optimized');
        }
      },
      { requirement: 'Base 2.1 section 8.1.1', tags: ['ana', 'operator'] },
    ],
    [
      36,
      'discovery log change -> AER DW0 0070F002h',
      async (peer) => {
        const host = await peer.discovery({ katoMs: 60_000 });
        const oaes = (await peer.within(host.identify(1), 'Identify')).data.readUInt32LE(92);
        if ((oaes & Oae.Discovery) === 0) throw new NotApplicable('no such notice (OAES bit 31)');
        await peer.within(host.setFeature(0x0b, Oae.Discovery), 'Set Features 0Bh');
        await genctr(peer, host);
        const first = event(host);
        await peer.operator('add-subsystem');
        try {
          check.equal(
            (await peer.within(first, 'AER')).result0.toString(16),
            Notice.Discovery.toString(16),
            'DW0 (hex)',
          );
        } finally {
          await peer.operator('remove-subsystem');
        }
      },
      { requirement: 'Base 2.1 section 8.3.2', tags: ['discovery', 'operator'] },
    ],
    [
      97,
      'ANA optimized -> change -> optimized: at least one notice, no namespace attribute notice',
      async (peer) => {
        if (!peer.facts.ana) throw new NotApplicable('no ANA (CMIC bit 3)');
        const admin = await peer.admin();
        await peer.within(admin.setFeature(0x0b, Oae.Ana | Oae.Namespace), 'Set Features 0Bh');
        const first = event(admin);
        const second = event(admin);
        await peer.operator('ana-inaccessible');
        await peer.operator('ana-optimized');
        check.equal((await peer.within(first, 'AER')).result0.toString(16), Notice.Ana.toString(16), 'DW0 (hex)');
        check.that(await peer.staysPending(second, admin), 'a second event before LID 0Ch was read');
      },
      { requirement: 'Base 2.1 section 8.1.1', tags: ['ana', 'operator'] },
    ],
    [
      98,
      'NUSE changes by writes -> no AER',
      async (peer) => {
        const { admin, io } = await peer.association();
        await changed(peer, admin).catch((error: unknown) => {
          if (!(error instanceof CheckFailure)) throw error; // the log is optional
        });
        await peer.within(admin.setFeature(0x0b, peer.facts.oaes & Oae.Namespace), 'Set Features 0Bh');
        const one = event(admin);
        one.catch(() => {});
        await writePattern(peer, io, 0, 8, 98);
        check.that(await peer.staysPending(one, admin), 'a write raised an event');
      },
      { writes: 'namespace' },
    ],
    [
      62,
      'Abort of an unknown CID -> success, DW0 bit 0 is 1',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.command({ opcode: 8, cdw10: 0x7abc_0000 }), 'Abort');
        checkStatus(completion, 0, 'Abort of an unknown CID');
        check.equal(completion.result0 & 1, 1, 'DW0 bit 0');
      },
      { requirement: 'Base 2.1 section 5.1.1' },
    ],
  ],
);

export const featureCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 5.1.25', tags: ['nvme', 'admin', 'features'] },
  [
    [
      37,
      'Set Features 07h with FFFFFFFFh -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        checkStatus(await peer.within(admin.setFeature(7, ALL), 'Set Features'), INVALID_FIELD, 'Set Features 07h');
      },
    ],
    [
      38,
      'Set Features 81h on fabrics -> Command Sequence Error',
      async (peer) => {
        const admin = await peer.admin();
        const set = await peer.within(
          admin.setFeature(0x81, 1, { data: new Uint8Array(16).fill(1) }),
          'Set Features 81h',
        );
        checkStatus(set, SEQUENCE, 'Set Features 81h');
      },
      { requirement: 'Base 2.1 section 5.1.25.1.28' },
    ],
    [
      39,
      'Get Features with SEL 3 -> capabilities',
      async (peer) => {
        if (!peer.facts.oncs(Onc.SaveSelect)) throw new NotApplicable('no SEL in Get Features (ONCS bit 4)');
        const admin = await peer.admin();
        const get = await peer.within(admin.getFeature(0x0b, { sel: 3 }), 'Get Features');
        checkStatus(get, 0, 'Get Features 0Bh with SEL 3');
        check.equal(get.result0 & ~7, 0, 'reserved bits of the capabilities');
        check.equal(get.result0 & 4, 4, 'Asynchronous Event Configuration: changeable');
      },
      { requirement: 'Base 2.1 section 5.1.11' },
    ],
    [
      93,
      'Set Features 81h with EXHID 0 -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const set = await peer.within(
          admin.setFeature(0x81, 0, { data: new Uint8Array(8).fill(1) }),
          'Set Features 81h',
        );
        checkStatus(set, INVALID_FIELD, 'Set Features 81h with EXHID 0');
      },
      { requirement: 'Base 2.1 section 5.1.25.1.28' },
    ],
    [
      94,
      'Set Features 0Bh with bits that are not supported -> Invalid Field, or ignored',
      async (peer) => {
        const admin = await peer.admin();
        const unsupported = (0x0fff_0000 & ~peer.facts.oaes) >>> 0;
        if (unsupported === 0) throw new Inconclusive('every event is supported');
        const set = await peer.within(admin.setFeature(0x0b, unsupported), 'Set Features 0Bh');
        checkStatus(set, [INVALID_FIELD, 0], 'Set Features 0Bh');
        if (set.code === 0) peer.note('accepted');
      },
    ],
  ],
);
