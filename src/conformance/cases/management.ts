/** Format, Sanitize, namespace management, ANA: lines 64 to 67 and 96 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { applies, check, checkStatus, Inconclusive } from '../check.ts';
import { Oac } from '../facts.ts';
import { listOf, type Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const SANITIZE_IN_PROGRESS = 0x1d;
const INVALID_FORMAT = 0x10a;
const ANA_INACCESSIBLE = 0x302;
const NAMESPACE_NOTICE = 0x0004_0002;
const ALL = 0xffff_ffff;
const AnaState = { Inaccessible: 2 } as const;

/** The ANA state of the namespace under test, by LID 0Ch. */
async function anaState(peer: Peer, admin: RawHost): Promise<number> {
  const log = await peer.within(admin.logPage(0x0c, 4096), 'Get Log Page 0Ch');
  checkStatus(log, 0, 'Get Log Page 0Ch');
  const group = peer.facts.namespace.readUInt32LE(92);
  const groups = log.data.readUInt16LE(8);
  for (let i = 0, at = 16; i < groups && at + 32 <= log.data.length; i++) {
    if (log.data.readUInt32LE(at) === group) return log.data[at + 16]! & 0xf;
    at += 32 + log.data.readUInt32LE(at + 4) * 4;
  }
  throw new Inconclusive(`LID 0Ch does not name ANA group ${group}`);
}

/** Runs `body` while the namespace under test is inaccessible here. */
async function whileInaccessible(peer: Peer, body: (admin: RawHost, io: RawHost) => Promise<void>): Promise<void> {
  applies(peer.facts.ana, 'no ANA (CMIC bit 3)');
  const { admin, io } = await peer.association();
  if ((await anaState(peer, admin)) === AnaState.Inaccessible) {
    await body(admin, io);
    return;
  }
  await peer.operator('ana-inaccessible');
  try {
    await body(admin, io);
  } finally {
    await peer.operator('ana-optimized');
  }
}

/** Actions of Sanitize by their bit of SANICAP. */
const SANITIZE_ACTIONS = [
  [1, 2],
  [2, 3],
  [0, 4],
] as const;

export const managementCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 5.1.21', tags: ['nvme', 'admin', 'management'], writes: 'subsystem' },
  [
    [
      64,
      'Format with an LBA format that does not exist -> Invalid Format',
      async (peer) => {
        applies(peer.facts.oacs(Oac.Format), 'no Format NVM (OACS bit 1)');
        applies(peer.facts.namespace.readUInt8(25) < 15, 'all 16 formats exist');
        const admin = await peer.admin();
        const fields = { opcode: 0x80, nsid: peer.facts.nsid, cdw10: 0x0f };
        checkStatus(await peer.within(admin.command(fields), 'Format NVM'), INVALID_FORMAT, 'Format NVM with LBAF 15');
      },
      { requirement: 'Base 2.1 section 5.1.10' },
    ],
    [
      65,
      'I/O during Sanitize -> Sanitize In Progress',
      async (peer) => {
        const sanicap = peer.facts.raw.controller.readUInt32LE(328);
        const action = SANITIZE_ACTIONS.find(([bit]) => (sanicap & (1 << bit)) !== 0)?.[1];
        applies(action !== undefined, 'no Sanitize (SANICAP)');
        const { admin, io } = await peer.association();
        const status = async (): Promise<number> => {
          const log = await peer.within(admin.logPage(0x81, 512), 'Get Log Page 81h');
          checkStatus(log, 0, 'Get Log Page 81h');
          return log.data.readUInt16LE(2) & 7;
        };
        checkStatus(
          await peer.within(admin.command({ opcode: 0x84, cdw10: action! | 0x10 }), 'Sanitize'),
          0,
          'Sanitize',
        );
        const read = await peer.within(io.read(0, 1), 'Read');
        const running = (await status()) === 2;
        if (read.code !== SANITIZE_IN_PROGRESS && !running)
          throw new Inconclusive('Sanitize was done before a Read arrived');
        checkStatus(read, SANITIZE_IN_PROGRESS, 'Read during Sanitize', 'io');
        check.that(await peer.poll(async () => (await status()) !== 2, 60_000), 'Sanitize does not end');
        checkStatus(await peer.within(io.read(0, 1), 'Read'), 0, 'Read after Sanitize', 'io');
      },
      { requirement: 'Base 2.1 section 5.1.22', timeoutMs: 90_000 },
    ],
    [
      66,
      'namespace created, attached, detached, deleted: CNS 02h follows, I/O to it fails afterwards, notice sent',
      async (peer) => {
        applies(peer.facts.oacs(Oac.NamespaceManagement), 'no namespace management (OACS bit 3)');
        const { admin, io } = await peer.association();
        const create = Buffer.alloc(4096);
        create.writeBigUInt64LE(8192n, 0);
        create.writeBigUInt64LE(8192n, 8);
        create[26] = peer.facts.namespace.readUInt8(26);
        const made = await peer.within(
          admin.command({ opcode: 0x0d, cdw10: 0 }, { data: create }),
          'Namespace Management',
        );
        checkStatus(made, 0, 'Namespace Management, create');
        const nsid = made.result0;
        const attachment = (detach: boolean): Promise<Completion> => {
          const list = Buffer.alloc(4096);
          list.writeUInt16LE(1, 0);
          list.writeUInt16LE(admin.cntlid, 2);
          const fields = { opcode: 0x15, nsid, cdw10: detach ? 1 : 0 };
          return peer.within(admin.command(fields, { data: list }), 'Namespace Attachment');
        };
        const active = async (): Promise<boolean> => {
          const answer = await peer.within(admin.identify(2, { nsid: nsid - 1 }), 'Identify CNS 02h');
          return listOf(answer.data)[0] === nsid;
        };
        try {
          check.that(!(await active()), 'a namespace is active before it is attached');
          checkStatus(await attachment(false), 0, 'Namespace Attachment, attach');
          check.that(await active(), 'CNS 02h does not name the attached namespace');
          checkStatus(await peer.within(io.read(0, 1, { nsid }), 'Read'), 0, 'Read of the attached namespace', 'io');
          await peer.within(admin.logPage(4, 4096, { nsid: ALL }), 'Get Log Page 04h');
          await peer.within(admin.setFeature(0x0b, 0x100), 'Set Features 0Bh');
          const event = admin.command({ opcode: 0x0c });
          event.catch(() => {});
          checkStatus(await attachment(true), 0, 'Namespace Attachment, detach');
          const read = await peer.within(io.read(0, 1, { nsid }), 'Read');
          checkStatus(read, [INVALID_FIELD, INVALID_NAMESPACE], 'Read of the detached namespace', 'io');
          check.that(!(await active()), 'CNS 02h names the detached namespace');
          const notice = await peer.within(event, 'AER after the detachment');
          check.equal(notice.result0.toString(16), NAMESPACE_NOTICE.toString(16), 'DW0 (hex)');
        } finally {
          const gone = await peer.within(admin.command({ opcode: 0x0d, nsid, cdw10: 1 }), 'Namespace Management');
          checkStatus(gone, 0, 'Namespace Management, delete');
        }
      },
      { timeoutMs: 60_000 },
    ],
  ],
);

export const anaCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 8.1.1', tags: ['nvme', 'ana'] },
  [
    [
      67,
      'ANA inaccessible -> I/O fails with Asymmetric Access Inaccessible, Identify works',
      (peer) =>
        whileInaccessible(peer, async (admin, io) => {
          const read = await peer.within(io.read(0, 1), 'Read');
          checkStatus(read, ANA_INACCESSIBLE, 'Read while inaccessible', 'io');
          const identify = await peer.within(admin.identify(0, { nsid: io.nsid }), 'Identify');
          checkStatus(identify, 0, 'Identify CNS 00h while inaccessible');
        }),
      { tags: ['operator'] },
    ],
    [
      96,
      'ANA inaccessible: Get Features 05h, and Set Features 82h for all namespaces -> Asymmetric Access Inaccessible',
      (peer) =>
        whileInaccessible(peer, async (admin, io) => {
          const get = await peer.within(admin.command({ opcode: 0x0a, nsid: io.nsid, cdw10: 0x05 }), 'Get Features');
          checkStatus(get, ANA_INACCESSIBLE, 'Get Features 05h while inaccessible');
          if (!peer.facts.oncs(5)) return;
          const set = await peer.within(admin.setFeature(0x82, 0, { nsid: ALL }), 'Set Features');
          checkStatus(set, ANA_INACCESSIBLE, 'Set Features 82h for all namespaces');
        }),
      { tags: ['operator'] },
    ],
  ],
);
