/** What a case for hosts is: how the target misbehaves, and what the host has to do about it. */
import type { ConformanceCase } from '../case.ts';
import type { HostPdu } from '../scripted-target.ts';
import type { HostLink } from './link.ts';

/** What the host's user does to bring a case about. `two-reads` and `two-writes`: at once. */
export type HostAction = 'connect' | 'read' | 'write' | 'two-reads' | 'two-writes';

/**
 * `fatal`: the host ends the connection, by H2CTermReq with one of these FES and FEI (FEI `undefined`: any). `closed`: it closes. `alive`: the
 * connection goes on. `judged`: the case says by itself, from what it saw.
 */
export type Reaction =
  | { readonly kind: 'fatal'; readonly allowed: readonly (readonly [fes: number, fei: number | undefined])[] }
  | { readonly kind: 'closed' }
  | { readonly kind: 'alive' }
  | { readonly kind: 'judged' };

/** How a case is told what happens. */
export interface HostProbe {
  /** From here on the host's reaction counts. @param command that was answered wrong */
  misbehaved(link: HostLink, command?: HostPdu): void;
  /** Ends the case. */
  pass(note?: string): void;
  fail(reason: string): void;
  notApplicable(reason: string): void;
  /** Lets time pass, unless the case is over. */
  after(ms: number, then: () => void): void;
}

export interface HostCase extends Omit<ConformanceCase<never>, 'run' | 'writes'> {
  readonly action: HostAction;
  readonly reaction: Reaction;
  /**
   * What the user of the host has to see, which is not on the wire: an error for the operation (unless the host tries it again by itself), or
   * none.
   */
  readonly user?: 'error' | 'success';
  /** Cases of connection set-up, which have a port of their own: answers ICReq. */
  readonly onIcReq?: (link: HostLink, request: HostPdu, probe: HostProbe) => void;
  /** The PDU behind the ICReq of such a case. */
  readonly onFirst?: (link: HostLink, request: HostPdu, probe: HostProbe) => boolean;
  /** An I/O command: returns true if it was dealt with, and need not be answered. Called until the case has misbehaved. */
  readonly onIo?: (link: HostLink, command: HostPdu, probe: HostProbe) => boolean;
}
