/** Which address of a port the discovery log names to a host. */
import { isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';

const WILDCARDS: readonly string[] = ['0.0.0.0', '::'];
const MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;

export const isWildcard = (address: string): boolean => WILDCARDS.includes(address);

/** An IPv4 address that came in by an IPv6 socket, as itself; a zone stands for an interface of this machine and tells a host nothing. */
export function plainAddress(address: string): string {
  return MAPPED.exec(address)?.[1] ?? address.replace(/%.*$/, '');
}

/** First address that other machines can use. */
function firstExternal(family: 'IPv4' | 'IPv6'): string | undefined {
  for (const addresses of Object.values(networkInterfaces())) {
    for (const { address, family: itsFamily, internal } of addresses ?? []) {
      if (itsFamily === family && !internal && !address.startsWith('fe80:')) return address;
    }
  }
  return undefined;
}

/**
 * @param bound where the port listens
 * @param used our address as the asking host reached it
 * @param external an address of the machine, where the host came by another family than the port's; passed in for tests
 * @returns undefined if there is none: the port cannot be reached that way
 */
export function advertisedAddress(
  bound: string,
  used: string | undefined,
  external: (family: 'IPv4' | 'IPv6') => string | undefined = firstExternal,
): string | undefined {
  if (!isWildcard(bound)) return bound;
  const reached = used === undefined ? undefined : plainAddress(used);
  // a socket on :: takes IPv4 as well
  if (bound === '::') return reached ?? external('IPv6') ?? external('IPv4');
  return reached !== undefined && isIPv4(reached) ? reached : external('IPv4');
}
