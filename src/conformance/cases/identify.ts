/** Identify: lines 21 to 26, 71 to 74 and 100 of the checklist of commands. */
import { type ConformanceCase, casesOf } from '../case.ts';
import { check, checkStatus, NotApplicable } from '../check.ts';
import { Oac } from '../facts.ts';
import { listOf, type Peer } from '../peer.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const INVALID_COMMAND_SET = 0x12c;
const ALL = 0xffff_ffff;
const Nidt = { Eui64: 1, Nguid: 2, Uuid: 3, Csi: 4 } as const;

/** Descriptors of CNS 03h by their type. */
function descriptors(data: Buffer): Map<number, string> {
  const found = new Map<number, string>();
  let at = 0;
  while (at + 4 <= data.length && data[at + 1] !== 0) {
    const type = data[at]!;
    check.that(!found.has(type), `descriptor type ${type} comes twice`);
    found.set(type, data.toString('hex', at + 4, at + 4 + data[at + 1]!));
    at += 4 + data[at + 1]!;
  }
  check.zeroes(data.subarray(at), 'what follows the last descriptor');
  return found;
}

/** An NSID that is valid and not active. @throws NotApplicable if there is none */
export function inactiveNsid(peer: Peer): number {
  const active = new Set(peer.facts.raw.nsids);
  const { nn } = peer.facts;
  for (let nsid = 1; nsid <= Math.min(nn, 2048); nsid++) if (!active.has(nsid)) return nsid;
  throw new NotApplicable(`every NSID up to NN (${nn}) is active`);
}

export const identifyCases: ConformanceCase[] = casesOf(
  'nvme',
  { requirement: 'Base 2.1 section 5.1.13', tags: ['nvme', 'admin', 'identify'] },
  [
    [
      21,
      'CNS FFh -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        checkStatus(await peer.within(admin.identify(0xff), 'Identify'), INVALID_FIELD, 'CNS FFh');
      },
    ],
    [
      22,
      'CNS 02h with NSID FFFFFFFFh -> Invalid Namespace or Format',
      async (peer) => {
        const admin = await peer.admin();
        for (const nsid of [0xffff_fffe, ALL]) {
          const completion = await peer.within(admin.identify(2, { nsid }), 'Identify');
          checkStatus(completion, INVALID_NAMESPACE, `CNS 02h with NSID ${nsid.toString(16)}h`);
        }
      },
    ],
    [
      23,
      'CNS 03h -> terminated list, the same through all controllers',
      async (peer) => {
        const nsid = peer.facts.nsid;
        const lists: string[] = [];
        for (let i = 0; i < 2; i++) {
          const admin = await peer.admin();
          const completion = await peer.within(admin.identify(3, { nsid }), 'Identify');
          checkStatus(completion, 0, 'CNS 03h');
          lists.push(JSON.stringify([...descriptors(completion.data)].sort()));
        }
        check.equal(lists[1], lists[0], 'descriptors through a second controller');
      },
    ],
    [
      24,
      'CNS 08h -> NSTAT bit 0 set',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.identify(8, { nsid: peer.facts.nsid }), 'Identify');
        if (completion.code === INVALID_FIELD && peer.facts.raw.vs < 0x20000) {
          throw new NotApplicable(`the target implements NVMe ${peer.facts.version}`);
        }
        checkStatus(completion, 0, 'CNS 08h');
        check.equal(completion.data[14]! & 1, 1, 'NSTAT.NRDY');
      },
    ],
    [
      25,
      'CNS 01h: CNTLID is that of the Connect response',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.identify(1), 'Identify');
        checkStatus(completion, 0, 'CNS 01h');
        check.equal(completion.data.readUInt16LE(78), admin.cntlid, 'CNTLID');
      },
    ],
    [
      26,
      'CNS 01h: MAXCMD, IOCCSZ >= 4, IORCSZ 1, ICDOFF 0, SGLS[1:0] and KAS not 0',
      async (peer) => {
        const { controller } = peer.facts.raw;
        check.that(controller.readUInt16LE(514) !== 0, 'MAXCMD is 0');
        check.that(controller.readUInt32LE(1792) >= 4, `IOCCSZ is ${controller.readUInt32LE(1792)}, needed >= 4`);
        check.equal(controller.readUInt32LE(1796), 1, 'IORCSZ');
        check.equal(controller.readUInt16LE(1800), 0, 'ICDOFF');
        check.that((controller.readUInt32LE(536) & 3) !== 0, 'SGLS bits 1:0 are 0');
        check.that(controller.readUInt16LE(320) !== 0, 'KAS is 0');
        check.equal(controller.readUInt32LE(80), peer.facts.raw.vs, 'VER, as the property VS');
        check.equal(controller.toString('latin1', 768, 1024).split('\0')[0], peer.options.subnqn, 'SUBNQN');
      },
    ],
    [
      71,
      'CNS 00h, 05h, 08h on an inactive NSID -> success, zeroes; 03h -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const nsid = inactiveNsid(peer);
        // 05h and 08h are of NVMe 2.0
        for (const cns of peer.facts.raw.vs >= 0x20000 ? [0x00, 0x05, 0x08] : [0x00]) {
          const what = `CNS ${cns.toString(16).padStart(2, '0')}h on inactive NSID`;
          const completion = await peer.within(admin.identify(cns, { nsid }), 'Identify');
          checkStatus(completion, 0, what);
          check.zeroes(completion.data, what);
        }
        const list = await peer.within(admin.identify(3, { nsid }), 'Identify');
        checkStatus(list, INVALID_FIELD, 'CNS 03h on inactive NSID');
      },
    ],
    [
      72,
      'CNS 11h on an unallocated NSID -> zeroes; on an NSID above NN -> Invalid Namespace or Format',
      async (peer) => {
        if (!peer.facts.oacs(Oac.NamespaceManagement)) throw new NotApplicable('no namespace management (OACS bit 3)');
        const admin = await peer.admin();
        const allocated = new Set(listOf((await peer.within(admin.identify(0x10), 'Identify CNS 10h')).data));
        const { nn } = peer.facts;
        let free = 1;
        while (allocated.has(free)) free++;
        if (free <= nn) {
          const completion = await peer.within(admin.identify(0x11, { nsid: free }), 'Identify');
          checkStatus(completion, 0, 'CNS 11h on an unallocated NSID');
          check.zeroes(completion.data, 'CNS 11h on an unallocated NSID');
        }
        if (nn < 0xffff_fffd) {
          const above = await peer.within(admin.identify(0x11, { nsid: nn + 1 }), 'Identify');
          checkStatus(above, INVALID_NAMESPACE, 'CNS 11h on NN + 1');
        }
      },
    ],
    [
      73,
      'CNS 06h with a CSI that is not supported -> Invalid Field',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.identify(6, { cdw11: 0x3f << 24 }), 'Identify');
        checkStatus(completion, [INVALID_FIELD, INVALID_COMMAND_SET], 'CNS 06h with CSI 3Fh');
      },
    ],
    [
      74,
      'CNS 03h: no descriptor type twice, UUID if there is neither EUI64 nor NGUID, CSI with I/O command set selection',
      async (peer) => {
        const admin = await peer.admin();
        for (const nsid of peer.facts.raw.nsids.slice(0, 8)) {
          const completion = await peer.within(admin.identify(3, { nsid }), 'Identify');
          checkStatus(completion, 0, `CNS 03h of NSID ${nsid}`);
          const found = descriptors(completion.data);
          const named = found.has(Nidt.Eui64) || found.has(Nidt.Nguid) || found.has(Nidt.Uuid);
          check.that(named, `NSID ${nsid} has neither EUI64 nor NGUID nor UUID`);
          if ((peer.facts.raw.cap & (1n << 43n)) !== 0n) {
            check.that(found.has(Nidt.Csi), `NSID ${nsid} has no CSI descriptor though CAP.CSS bit 6 is set`);
          }
        }
      },
    ],
    [
      100,
      'CNS 00h with NSID FFFFFFFFh -> capabilities, or Invalid Namespace or Format without namespace management',
      async (peer) => {
        const admin = await peer.admin();
        const completion = await peer.within(admin.identify(0, { nsid: ALL }), 'Identify');
        if (peer.facts.oacs(Oac.NamespaceManagement)) {
          checkStatus(completion, 0, 'CNS 00h with NSID FFFFFFFFh');
          check.equal(completion.data.readBigUInt64LE(0), 0n, 'NSZE of the common capabilities');
        } else checkStatus(completion, [INVALID_NAMESPACE, INVALID_FIELD, 0], 'CNS 00h with NSID FFFFFFFFh');
      },
    ],
  ],
);
