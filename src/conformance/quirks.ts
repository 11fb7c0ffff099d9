/** Deviations that peers are known for: accepted as `quirk`, so that what is new stands out. `--strict` accepts none. */

export const PEERS = ['nvmeferry', 'nvmet', 'spdk', 'linux-host'] as const;
export type PeerName = (typeof PEERS)[number];

export interface Quirk {
  readonly peer: PeerName;
  /** Ids of cases; `*` for any. */
  readonly cases: readonly string[];
  /** What the failure says. */
  readonly says: RegExp;
  /** Why it is so, and why one can live with it. */
  readonly because: string;
}

/** The implementation behind an Identify Controller structure, as far as its model number tells. */
export function peerOf(model: string): PeerName | undefined {
  if (model === 'nvmeferry') return 'nvmeferry';
  if (model === 'Linux') return 'nvmet';
  if (model.startsWith('SPDK')) return 'spdk';
  return undefined;
}

export function quirkOf(quirks: readonly Quirk[], id: string, reason: string): Quirk | undefined {
  return quirks.find(({ cases, says }) => (cases.includes('*') || cases.includes(id)) && says.test(reason));
}

export const QUIRKS: readonly Quirk[] = [
  {
    peer: 'nvmeferry',
    cases: ['tcp-110'],
    says: /the association goes on/,
    because:
      'Linux resets a controller by closing its I/O queues first and writing CC afterwards, so losing one must not end the association',
  },
  {
    peer: 'nvmet',
    cases: ['*'],
    says: /closed without C2HTermReq/,
    because: 'nvmet never sends C2HTermReq: it shuts the socket down, which ends the connection all the same',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-31', 'tcp-32', 'tcp-36', 'tcp-61', 'tcp-67'],
    says: /answered by|nothing within/,
    because: 'nvmet does not look at PLEN of a command capsule: how much data follows is what the SGL says',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-35'],
    says: /answered by CapsuleResp/,
    because: 'nvmet does not look at PDO: data follows the header, as its CPDA 0 asks for',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-42', 'tcp-43'],
    says: /answered by|nothing within/,
    because: 'nvmet takes or leaves the four bytes of a header digest by what was negotiated, without a look at HDGSTF',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-44', 'tcp-45', 'tcp-47'],
    says: /wrong DDGST: the connection was closed|closed the connection/,
    because:
      'nvmet treats a wrong data digest as fatal: the data is not stored, but the connection goes with the command',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-55'],
    says: /Connect: nothing within/,
    because:
      'nvmet sends no R2T for data that would fit a capsule: it waits for it behind the command, whatever the SGL says',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-56', 'tcp-60'],
    says: /closed the connection|connection was closed/,
    because: 'nvmet refuses the command without draining its data, which it then reads as the next PDU, and closes',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-57', 'tcp-58'],
    says: /found 0x000/,
    because:
      'nvmet tells in-capsule data from the rest by its SGL identifier and takes every other one for a transport data block',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-59'],
    says: /found 0x000/,
    because: 'nvmet does not look at the offset of in-capsule data, which can only be 0 there (ICDOFF 0)',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-66'],
    says: /found 0x002/,
    because:
      'nvmet takes PSDT 01b alone, as the Linux and SPDK hosts send it; Base 2.1 asks for 10b on Fabrics commands',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-83'],
    says: /nothing within/,
    because: 'nvmet finds the command by TTAG alone, which is the tag of its slot, and does not look at CCCID',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-109'],
    says: /admin connection lost: close: nothing/,
    because: 'nvmet keeps I/O queues until keep alive expires or their host closes them',
  },
  {
    peer: 'nvmet',
    cases: ['tcp-110'],
    says: /the association goes on/,
    because: 'nvmet keeps a controller as long as its admin queue, as the Linux host needs it while it resets',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-27'],
    says: /found 0x002/,
    because: 'nvmet answers Invalid Field for log pages and CNS values alike',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-28'],
    says: /found 0x006 Internal Error/,
    because: 'nvmet serves the SMART log only as a whole: any other length is an Internal Error',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-29'],
    says: /found 0x000/,
    because: 'nvmet does not look at LPO but for the discovery log, although LPA bit 2 says that it does',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-40', 'nvme-75'],
    says: /found 0x006 Internal Error/,
    because:
      'nvmet leaves the range to the block layer of its backend, which refuses it as an I/O error; no data is sent',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-68'],
    says: /found 0x001/,
    because: 'nvmet answers Invalid Opcode for an FCTYPE that it does not know',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-71'],
    says: /CNS 03h on inactive NSID: found 0x00b|found 0x002/,
    because: 'nvmet does not tell inactive NSIDs from invalid ones',
  },
  {
    peer: 'nvmet',
    cases: ['nvme-93'],
    says: /found 0x00c/,
    because: 'nvmet refuses Set Features 81h before it looks at EXHID',
  },
  {
    peer: 'linux-host',
    cases: ['*'],
    says: /closed without H2CTermReq/,
    because: 'the Linux host never sends H2CTermReq: it closes, and resets the controller',
  },
  {
    peer: 'linux-host',
    cases: ['host-98'],
    says: /the host goes on|no reaction/,
    because: 'the Linux host refuses an R2T below what it has sent, and takes one above it',
  },
];
