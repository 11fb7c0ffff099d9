/** The unique NQN of a discovery subsystem. Base 2.1 section 3.1.3.3.1: beside the well-known one, which every discovery service answers to. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { uuidFromBytes, uuidNqn } from './nqn.ts';

function machineId(): string {
  try {
    return readFileSync('/etc/machine-id', 'utf8').trim();
  } catch {
    return ''; // the host name has to do
  }
}

/**
 * A discovery NQN that survives restarts and differs between machines and, by `place`, between discovery services of one machine. A UUID NQN
 * whose UUID is of version 8 (RFC 9562: the maker's own scheme). The host name counts beside the machine id, since containers of one image
 * share the latter.
 * @param place what tells this service from others on the machine, as its address and port
 * @public
 */
export function defaultDiscoveryNqn(place: string): string {
  const text = ['nvmeferry discovery', machineId(), hostname(), place].join('\0');
  const bytes = Uint8Array.from(createHash('sha256').update(text).digest().subarray(0, 16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return uuidNqn(uuidFromBytes(bytes));
}
