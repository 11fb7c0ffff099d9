/** NVMe Qualified Names and the UUIDs in them. Base 2.1 section 4.7. */
import { DISCOVERY_NQN, NQN_BYTES_MAX } from '../spec/nqn.ts';
import { ConfigError } from '../util/error.ts';

const UUID_PREFIX = 'nqn.2014-08.org.nvmexpress:uuid:';
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
/** Labels as DNS has them: 1 to 63 letters, digits and hyphens, no hyphen at either end; the first one starts with a letter. */
const LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?';
const DOMAIN_FORM = new RegExp(`^nqn\\.[0-9]{4}-(?:0[1-9]|1[0-2])\\.(?=[A-Za-z])${LABEL}(?:\\.${LABEL})*:.+$`, 'su');

/**
 * What makes a name unfit for the 256-byte fields that carry NQNs, whatever its form: nothing more is asked of names that others chose, since
 * peers in the field use names of no form at all.
 * @returns the complaint, to follow the name in a message, or undefined
 * @public
 */
export function nqnFieldProblem(nqn: string): string | undefined {
  if (nqn === '') return 'is empty';
  if (nqn.includes('\0')) return 'contains a NUL';
  if (/\p{Surrogate}/u.test(nqn)) return 'is not well-formed Unicode';
  const bytes = Buffer.byteLength(nqn);
  if (bytes > NQN_BYTES_MAX) return `is ${bytes} bytes long, at most ${NQN_BYTES_MAX} are allowed`;
  return undefined;
}

/**
 * What makes a name not a NQN: `nqn.yyyy-mm.reverse.domain:string`, `nqn.2014-08.org.nvmexpress:uuid:<uuid>`, or the discovery NQN.
 * @returns the complaint, to follow the name in a message, or undefined
 * @public
 */
export function nqnProblem(nqn: string): string | undefined {
  const problem = nqnFieldProblem(nqn);
  if (problem !== undefined || nqn === DISCOVERY_NQN) return problem;
  if (nqn.startsWith(UUID_PREFIX)) {
    return UUID.test(nqn.slice(UUID_PREFIX.length)) ? undefined : `does not end in a UUID as ${UUID_PREFIX} asks for`;
  }
  return DOMAIN_FORM.test(nqn) ? undefined : 'does not have the form nqn.yyyy-mm.reverse.domain:name';
}

/**
 * For names that our own user gives.
 * @param what names the place in the message, as `subsystems[0].nqn`
 * @returns `nqn`
 * @throws ConfigError if it is not a NQN
 * @public
 */
export function checkNqn(nqn: string, what: string): string {
  const problem = nqnProblem(nqn);
  if (problem !== undefined) throw new ConfigError(`${what} ${JSON.stringify(nqn)} ${problem}`);
  return nqn;
}

/** Whether `nqn` is the well-known name of every discovery service. @public */
export function isDiscoveryNqn(nqn: string): boolean {
  return nqn === DISCOVERY_NQN;
}

/** The NQN of a UUID; `uuid` comes from the caller's random source. @throws ConfigError if it is no UUID @public */
export function uuidNqn(uuid: string): string {
  return UUID_PREFIX + checkUuid(uuid);
}

/** The UUID of a NQN that has one, in lower case. @public */
export function uuidOfNqn(nqn: string): string | undefined {
  if (!nqn.startsWith(UUID_PREFIX)) return undefined;
  const uuid = nqn.slice(UUID_PREFIX.length);
  return UUID.test(uuid) ? uuid.toLowerCase() : undefined;
}

/** The 16 bytes of a UUID, most significant first, as HOSTID and the UUID of a namespace stand on the wire. @throws ConfigError @public */
export function uuidToBytes(uuid: string): Uint8Array {
  const digits = checkUuid(uuid).replaceAll('-', '');
  return Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** The UUID of 16 bytes, in lower case. @public */
export function uuidFromBytes(bytes: Uint8Array): string {
  if (bytes.length !== 16) throw new ConfigError(`A UUID has 16 bytes, not ${bytes.length}`);
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  const parts = [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)];
  return parts.join('-');
}

function checkUuid(uuid: string): string {
  if (!UUID.test(uuid)) throw new ConfigError(`${JSON.stringify(uuid)} is not a UUID`);
  return uuid.toLowerCase();
}
