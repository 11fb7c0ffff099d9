/**
 * What becomes of a host that connects while its NQN is connected already. The specification allows it: a host has as many controllers as it
 * wants, one per path at least. Some operators do not: two machines with the same NQN (a cloned disk image) are two hosts that hide
 * from each other.
 */
import type { Controller } from './controller.ts';

/** allow: one more controller. refuse: Connect Invalid Host. replace: the others are closed. @public */
export type DuplicatePolicy = 'allow' | 'refuse' | 'replace';

/** @public */
export interface DuplicateHostPolicy {
  /** The same NQN and the same Host Identifier, through the same port: the host itself, again. Through another port it is another path. */
  readonly sameHostid?: DuplicatePolicy | undefined;
  /** The same NQN with another Host Identifier: another machine that claims to be the host. */
  readonly otherHostid?: DuplicatePolicy | undefined;
}

/** @returns the controllers to close, or that the host must be refused */
export function duplicatesOf(
  policy: DuplicateHostPolicy,
  controllers: Iterable<Controller>,
  host: { readonly hostnqn: string; readonly hostid: Uint8Array; readonly portId: number },
): readonly Controller[] | 'refuse' {
  const { sameHostid = 'allow', otherHostid = 'allow' } = policy;
  const replaced: Controller[] = [];
  if (sameHostid === 'allow' && otherHostid === 'allow') return replaced;
  for (const controller of controllers) {
    if (controller.hostnqn !== host.hostnqn) continue;
    const same = controller.hostid.every((byte, i) => byte === host.hostid[i]);
    if (same && controller.portId !== host.portId) continue;
    const decided = same ? sameHostid : otherHostid;
    if (decided === 'refuse') return 'refuse';
    if (decided === 'replace') replaced.push(controller);
  }
  return replaced;
}
