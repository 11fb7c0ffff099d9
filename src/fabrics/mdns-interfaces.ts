/** On which interfaces a discovery service is published, and with which addresses. */
import { isIPv4 } from 'node:net';
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';

export interface MdnsPlace {
  /** IPv4 address of the interface that multicast goes through. */
  readonly interfaceAddress: string;
  /** Addresses of the service there. */
  readonly addresses: readonly string[];
}

type Interfaces = NodeJS.Dict<NetworkInterfaceInfo[]>;

/** One IPv4 address of each interface, and all addresses that it has. */
function usable(interfaces: Interfaces): { internal: boolean; interfaceAddress: string; all: string[] }[] {
  return Object.values(interfaces).flatMap((infos = []) => {
    const first = infos.find(({ family }) => family === 'IPv4');
    if (first === undefined) return [];
    const all = infos.map(({ address }) => address).filter((address) => !address.startsWith('fe80:'));
    return [{ internal: first.internal, interfaceAddress: first.address, all }];
  });
}

/** Every interface that has an IPv4 address, the loopback included: where a browser looks. */
export function allInterfaceAddresses(interfaces: Interfaces = networkInterfaces()): string[] {
  return usable(interfaces).map(({ interfaceAddress }) => interfaceAddress);
}

/**
 * @param bound where the service listens: one address stands for the interface that has it, a wildcard for every interface to other machines
 * @param advertised the address to name instead
 */
export function mdnsPlaces(
  bound: string,
  advertised?: string,
  interfaces: Interfaces = networkInterfaces(),
): MdnsPlace[] {
  const known = usable(interfaces);
  const external = known.filter(({ internal }) => !internal);
  const isWildcard = bound === '0.0.0.0' || bound === '::';
  const chosen = isWildcard ? external : known.filter(({ all }) => all.includes(bound));
  // all of 127.0.0.0/8 is the loopback interface, though it is listed with one address only
  if (chosen.length === 0 && bound.startsWith('127.')) chosen.push(...known.filter(({ internal }) => internal));
  return chosen.map(({ interfaceAddress, all }) => ({
    interfaceAddress,
    addresses:
      advertised !== undefined
        ? [advertised]
        : isWildcard
          ? all.filter((address) => bound === '::' || isIPv4(address))
          : [bound],
  }));
}
