/** Namespace Write Protection: the states of feature 84h, and which of them outlive the process. Base 2.1 section 8.1.16. */
import type { StateStore } from './state-store.ts';

/** Values of feature 84h. */
export const Protection = { None: 0, Protected: 1, UntilPowerCycle: 2, Permanent: 3 } as const;

/** The namespace, as far as its protection goes. */
export interface ProtectedNamespace {
  readonly nsid: number;
  readonly uuid: Uint8Array;
  readonly backend: { readonly isVolatile?: boolean };
  writeProtection: number;
}

/** The subsystem, as far as protection goes. */
export interface ProtectionOwner {
  readonly state: StateStore | undefined;
  /** What the namespace's hosts may do, and what Identify says of it, has changed. */
  protectionChanged(nsid: number): void;
}

const nameOf = (namespace: ProtectedNamespace): string => `protection-${Buffer.from(namespace.uuid).toString('hex')}`;

/** The state that a namespace comes back with. */
export function savedProtection(state: StateStore | undefined, namespace: ProtectedNamespace): number {
  if (namespace.backend.isVolatile === true) return Protection.None;
  return (state?.load(nameOf(namespace)) as number | undefined) ?? Protection.None;
}

/**
 * Resolves when the state is in force and, where it must outlive the process, durable.
 * @throws NvmeofError NVMEOF_ERR_STATE_STORE; the stricter of both states is in force then
 */
export async function setProtection(
  owner: ProtectionOwner,
  namespace: ProtectedNamespace,
  state: number,
): Promise<void> {
  const lasting = state === Protection.UntilPowerCycle ? Protection.None : state;
  const isLooser = state === Protection.None;
  if (!isLooser) apply(owner, namespace, state);
  if (namespace.backend.isVolatile !== true) {
    await owner.state?.save(nameOf(namespace), lasting === Protection.None ? undefined : lasting);
  }
  if (isLooser) apply(owner, namespace, state);
}

function apply(owner: ProtectionOwner, namespace: ProtectedNamespace, state: number): void {
  namespace.writeProtection = state;
  owner.protectionChanged(namespace.nsid);
}
