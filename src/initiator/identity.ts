/** Who this host is: HOSTNQN and HOSTID. Base 2.1 section 4.7; files and defaults as nvme-cli's. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { ConfigError } from '../util/error.ts';

/** @public */
export interface HostIdentity {
  readonly hostnqn: string;
  /** 16 bytes. */
  readonly hostid: Uint8Array;
}

const UUID_NQN = 'nqn.2014-08.org.nvmexpress:uuid:';
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

function readLine(path: string): string | undefined {
  try {
    const line = readFileSync(path, 'utf8').trim();
    return line === '' ? undefined : line;
  } catch {
    return undefined; // it need not exist, nor be ours to read
  }
}

/** A stable UUID (version 8, our own making) for a text. */
function uuidFrom(text: string): string {
  const digest = createHash('sha256').update(`nvmeferry host ${text}`).digest();
  digest[6] = (digest[6]! & 0x0f) | 0x80;
  digest[8] = (digest[8]! & 0x3f) | 0x80;
  const hex = digest.toString('hex', 0, 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

const toBytes = (uuid: string): Uint8Array => new Uint8Array(Buffer.from(uuid.replaceAll('-', ''), 'hex'));

/** A UUID's 16 bytes, in the order it is written. @throws ConfigError */
export function parseHostId(name: string, text: string): Uint8Array {
  if (!UUID.test(text)) {
    throw new ConfigError(
      `${name} is ${JSON.stringify(text)}, a UUID is needed (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)`,
    );
  }
  return toBytes(text);
}

/**
 * The identity to use. One NQN always goes with one HOSTID: targets and the Linux host refuse other combinations.
 * @param hostnqn the NQN to use; default /etc/nvme/hostnqn, else one that stays the same on this machine
 */
export function defaultHostIdentity(hostnqn?: string): HostIdentity {
  const fromFile = readLine('/etc/nvme/hostnqn');
  const nqn = hostnqn ?? fromFile ?? `${UUID_NQN}${uuidFrom(readLine('/etc/machine-id') ?? hostname())}`;
  const uuid = nqn.startsWith(UUID_NQN) ? nqn.slice(UUID_NQN.length) : '';
  const fileId = nqn === fromFile ? readLine('/etc/nvme/hostid') : undefined;
  if (fileId !== undefined && UUID.test(fileId)) return { hostnqn: nqn, hostid: toBytes(fileId) };
  return { hostnqn: nqn, hostid: toBytes(UUID.test(uuid) ? uuid : uuidFrom(nqn)) };
}
