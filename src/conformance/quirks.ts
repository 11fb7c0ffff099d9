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
];
