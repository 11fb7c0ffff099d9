/** Properties, controller state, Connect, keep alive: lines 1 to 20 and 68 to 70 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { CheckFailure, check, checkStatus, NotApplicable } from '../check.ts';
import type { Peer } from '../peer.ts';
import type { Completion, RawHost } from '../raw-host.ts';
import { CC_ENABLE, type ConnectFields } from '../raw-pdu.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const SEQUENCE = 0x0c;
const KEEP_ALIVE_INVALID = 0x1a;
const INVALID_QUEUE_ID = 0x101;
const Connect = { Format: 0x180, Busy: 0x181, Parameters: 0x182, Host: 0x184 } as const;
const Property = { CAP: 0x00, VS: 0x08, CC: 0x14, CSTS: 0x1c } as const;
const Csts = { RDY: 1, CFS: 2, SHST: 0x0c, SHST_COMPLETE: 0x08 } as const;
const ALL = 0xffff_ffff;

/** Connect on a connection of its own. */
async function connect(peer: Peer, fields: ConnectFields & { subnqn?: string }): Promise<Completion> {
  return peer.connectQueue(await peer.initialized(), fields);
}

/** Connect Invalid Parameters, and where. */
function invalidParameters(completion: Completion, dw0: number, what: string): void {
  checkStatus(completion, Connect.Parameters, what, 'fabrics');
  check.equal(completion.result0.toString(16), dw0.toString(16), `${what}: IPO and IATTR (DW0, hex)`);
}

async function csts(peer: Peer, host: RawHost): Promise<number> {
  return (await peer.within(host.csts(), 'Property Get CSTS')) & 0xffff;
}

export const propertyCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 3.1.4', tags: ['nvme', 'fabrics', 'properties'] },
  [
    [
      1,
      'Admin command with CC.EN = 0 -> Command Sequence Error',
      async (peer) => {
        const admin = await peer.admin({ enable: false });
        checkStatus(await peer.within(admin.identify(1), 'Identify'), SEQUENCE, 'Identify with CC.EN = 0');
      },
      { requirement: 'Base 2.1 section 3.5.2' },
    ],
    [
      2,
      'Property Get of offset 4h -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const got = await peer.within(admin.propertyGet(4), 'Property Get');
        checkStatus(got, INVALID_FIELD, 'Property Get of offset 4h', 'fabrics');
      },
      { requirement: 'Base 2.1 section 6.5' },
    ],
    [
      3,
      'Property Get of CAP with 4 bytes -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const got = await peer.within(admin.propertyGet(Property.CAP, 4), 'Property Get');
        checkStatus(got, INVALID_FIELD, 'Property Get of CAP with 4 bytes', 'fabrics');
      },
      { requirement: 'Base 2.1 section 6.5' },
    ],
    [
      4,
      'Property Set of CSTS -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const set = await peer.within(admin.propertySet(Property.CSTS, 0), 'Property Set');
        checkStatus(set, INVALID_FIELD, 'Property Set of CSTS', 'fabrics');
        check.equal((await csts(peer, admin)) & 3, Csts.RDY, 'CSTS afterwards');
      },
      { requirement: 'Base 2.1 section 6.6' },
    ],
    [
      5,
      'CC.EN = 1 with IOSQES 0 -> never RDY',
      async (peer) => {
        const admin = await peer.admin({ enable: false });
        await peer.within(admin.propertySet(Property.CC, 0x0040_0001), 'Property Set CC');
        for (let i = 0; i < 5; i++) {
          check.equal((await csts(peer, admin)) & Csts.RDY, 0, 'CSTS.RDY');
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      },
      { requirement: 'Base 2.1 section 3.1.4.5' },
    ],
    [
      6,
      'CC.SHN = 01b -> SHST 10b, Admin commands are refused',
      async (peer) => {
        const admin = await peer.admin();
        await peer.within(admin.propertySet(Property.CC, CC_ENABLE | (1 << 14)), 'Property Set CC');
        const complete = await peer.poll(async () => ((await csts(peer, admin)) & Csts.SHST) === Csts.SHST_COMPLETE);
        check.that(complete, 'SHST did not become 10b');
        const refused = await peer.within(admin.identify(1), 'Identify');
        check.that(refused.code !== 0, 'Identify succeeds after a shutdown');
        check.equal(refused.data.length, 0, 'data of Identify after a shutdown');
      },
      { requirement: 'Base 2.1 section 3.6.2' },
    ],
    [
      7,
      'CC.EN 1 -> 0: RDY 0, I/O queues gone; enabling again works on the same connection',
      async (peer) => {
        const { admin, io } = await peer.association();
        await peer.within(admin.propertySet(Property.CC, 0), 'Property Set CC');
        check.that(await peer.poll(async () => ((await csts(peer, admin)) & Csts.RDY) === 0), 'CSTS.RDY stays 1');
        const flush = await peer.within(io.command({ opcode: 0, nsid: io.nsid }), 'Flush').catch(() => undefined);
        if (flush !== undefined) check.that(flush.code !== 0, 'an I/O queue works on after a controller reset');
        io.destroy();
        await peer.enable(admin);
        checkStatus(await peer.within(admin.identify(1), 'Identify'), 0, 'Identify after the reset');
      },
      { requirement: 'Base 2.1 section 3.7.2' },
    ],
    [
      17,
      'Disconnect on the admin queue -> Invalid Queue Type (Invalid Opcode or Field where unsupported)',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.command({ opcode: 0x7f, fctype: 8 }), 'Disconnect');
        checkStatus(completion, [0x185, INVALID_OPCODE, INVALID_FIELD], 'Disconnect on the admin queue', 'fabrics');
      },
      { requirement: 'Base 2.1 section 6.4' },
    ],
    [
      68,
      'reserved FCTYPE -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.command({ opcode: 0x7f, fctype: 0x3f }), 'FCTYPE 3Fh');
        checkStatus(completion, INVALID_FIELD, 'FCTYPE 3Fh', 'fabrics');
      },
      { requirement: 'Base 2.1 section 6' },
    ],
    [
      69,
      'Create I/O Submission Queue -> Invalid Opcode',
      async (peer) => {
        const admin = await peer.admin();
        for (const opcode of [0x00, 0x01, 0x04, 0x05]) {
          const completion = await peer.within(admin.command({ opcode }), `opcode ${opcode}`);
          checkStatus(completion, INVALID_OPCODE, `Admin opcode ${opcode.toString(16).padStart(2, '0')}h`);
        }
      },
      { requirement: 'Base 2.1 section 3.1.3.3' },
    ],
  ],
);

export const connectCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 6.3', tags: ['nvme', 'fabrics', 'connect'] },
  [
    [
      8,
      'Connect with RECFMT 1 -> Incompatible Format',
      async (peer) => checkStatus(await connect(peer, { recfmt: 1 }), Connect.Format, 'RECFMT 1', 'fabrics'),
    ],
    [
      9,
      'Connect QID 0 with CNTLID 1 on a dynamic subsystem -> Invalid Parameters, DW0 00010010h',
      async (peer) => {
        if (peer.facts.isStatic) throw new NotApplicable('controllers are static (FCATT bit 0)');
        invalidParameters(await connect(peer, { cntlid: 1 }), 0x0001_0010, 'CNTLID 1');
      },
    ],
    [
      10,
      'Connect to an unknown SUBNQN -> Invalid Parameters, DW0 00010100h',
      async (peer) => {
        const nqn = 'nqn.2026-01.io.nvmeferry.conformance:unknown';
        invalidParameters(await connect(peer, { subnqn: nqn }), 0x0001_0100, 'unknown SUBNQN');
      },
    ],
    [
      11,
      'Connect with SQSIZE 0 -> Invalid Parameters, DW0 0000002Ch',
      async (peer) => invalidParameters(await connect(peer, { sqsize: 0 }), 0x2c, 'SQSIZE 0'),
    ],
    [
      12,
      'Connect of a host that is not allowed -> Invalid Host',
      async (peer) => {
        const hostnqn = peer.options.deniedHostnqn;
        if (hostnqn === undefined) throw new NotApplicable('no host that is not allowed was named (--denied-hostnqn)');
        checkStatus(await connect(peer, { hostnqn }), Connect.Host, 'a host that is not allowed', 'fabrics');
      },
    ],
    [
      13,
      'I/O Connect with another host NQN -> Invalid Parameters',
      async (peer) => {
        const admin = await peer.admin();
        const { hostnqn } = peer.options.hosts[1];
        const completion = await connect(peer, { cntlid: admin.cntlid, qid: 1, hostnqn });
        checkStatus(completion, Connect.Parameters, 'I/O Connect of another host', 'fabrics');
      },
    ],
    [
      14,
      'two Connects with one QID -> the second is refused',
      async (peer) => {
        const { admin, io } = await peer.association();
        const completion = await connect(peer, { cntlid: admin.cntlid, qid: 1 });
        const allowed = [SEQUENCE, INVALID_QUEUE_ID, Connect.Parameters, Connect.Busy];
        checkStatus(completion, allowed, 'second Connect of QID 1', 'fabrics');
        const flush = await peer.within(io.command({ opcode: 0, nsid: io.nsid }), 'Flush on the first');
        checkStatus(flush, 0, 'Flush on the first', 'io');
      },
      { requirement: 'Base 2.1 section 3.3.2.3' },
    ],
    [
      15,
      'a Connect that fails leaves no Error Information entry; DNR where it is permanent',
      async (peer) => {
        const admin = await peer.admin();
        const count = async (): Promise<bigint> => {
          const log = await peer.within(admin.logPage(1, 64), 'Get Log Page 01h');
          checkStatus(log, 0, 'Get Log Page 01h');
          return log.data.readBigUInt64LE(0);
        };
        const before = await count();
        const unknown = await connect(peer, { subnqn: 'nqn.2026-01.io.nvmeferry.conformance:unknown' });
        check.that(unknown.dnr, 'Connect to an unknown SUBNQN: DNR is 0');
        await connect(peer, { sqsize: 0 });
        await connect(peer, { recfmt: 1 });
        check.equal(Number((await count()) - before), 0, 'entries added by Connects that failed');
      },
    ],
    [
      16,
      'authentication required, Identify sent -> Authentication Required',
      async (peer) => {
        if (peer.facts.raw.authreq === 0) throw new NotApplicable('the target asks for no authentication (AUTHREQ 0)');
        const host = await peer.initialized();
        await peer.connectQueue(host);
        checkStatus(
          await peer.within(host.identify(1), 'Identify'),
          0x191,
          'Identify before authentication',
          'fabrics',
        );
      },
      { requirement: 'Base 2.1 section 8.3.4' },
    ],
    [
      70,
      'SQHD: flow control on, it advances; off, FFFFh in the Connect response and 0 later',
      async (peer) => {
        const host = await peer.initialized();
        check.that((await peer.connectQueue(host, { cattr: 0 })).sqhd !== 0xffff, 'SQHD is FFFFh with flow control');
        const first = (await peer.within(host.propertyGet(8), 'Property Get')).sqhd!;
        const second = (await peer.within(host.propertyGet(8), 'Property Get')).sqhd!;
        check.equal((second - first + 32) % 32, 1, 'SQHD moves per command');
        const free = await peer.initialized();
        const connected = await peer.connectQueue(free, { cattr: 4 });
        if (connected.sqhd !== 0xffff) {
          peer.note('the target does not disable flow control');
          return;
        }
        check.equal((await peer.within(free.propertyGet(8), 'Property Get')).sqhd, 0, 'SQHD without flow control');
      },
      { requirement: 'Base 2.1 section 3.3.2.8' },
    ],
  ],
);

/** A KATO that is valid and short. */
const shortKato = (peer: Peer): number => Math.max(1000, peer.facts.kas * 100);

export const keepAliveCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 3.9', tags: ['nvme', 'fabrics', 'keep-alive'] },
  [
    [
      18,
      'no Keep Alive for KATO -> connections closed, a new Connect is accepted',
      async (peer) => {
        const katoMs = shortKato(peer);
        const admin = await peer.admin({ katoMs });
        const io = await peer.io(admin);
        for (let ms = 0; ms < 4 * katoMs + 10_000 && !admin.ended; ms += 250) await peer.elapse(250);
        await peer.expectEnd(admin, `${katoMs} ms without Keep Alive`);
        await peer.expectEnd(io, 'I/O connection of an expired controller');
        await peer.admin();
      },
      { slow: true, timeoutMs: 120_000 },
    ],
    [
      19,
      'Set Features 0Fh above the limit -> Keep Alive Timeout Invalid, old value kept',
      async (peer) => {
        const admin = await peer.admin({ katoMs: 60_000 });
        const before = await peer.within(admin.getFeature(0x0f), 'Get Features 0Fh');
        checkStatus(before, 0, 'Get Features 0Fh');
        const set = await peer.within(admin.setFeature(0x0f, ALL), 'Set Features 0Fh');
        if (set.code === 0) throw new NotApplicable('the target has no limit of KATO');
        checkStatus(set, KEEP_ALIVE_INVALID, 'Set Features 0Fh with FFFFFFFFh');
        const after = await peer.within(admin.getFeature(0x0f), 'Get Features 0Fh');
        check.equal(after.result0, before.result0, 'KATO afterwards');
      },
      { requirement: 'Base 2.1 section 5.1.25.1.14' },
    ],
    [
      20,
      'TBKAS 0: I/O without Keep Alive -> expiry',
      async (peer) => {
        if ((peer.facts.ctratt & 0x40) !== 0) throw new NotApplicable('keep alive is traffic based (CTRATT bit 6)');
        const katoMs = shortKato(peer);
        const admin = await peer.admin({ katoMs });
        const io = await peer.io(admin);
        for (let ms = 0; ms < 4 * katoMs + 10_000 && !admin.ended; ms += 250) {
          await io.command({ opcode: 0, nsid: io.nsid }).catch(() => undefined);
          await peer.elapse(250);
        }
        if (!admin.ended) throw new CheckFailure(`I/O alone keeps the association for more than ${4 * katoMs} ms`);
      },
      { slow: true, timeoutMs: 120_000 },
    ],
  ],
);
