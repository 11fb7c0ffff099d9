import { TransportError } from '../../util/error.ts';

/** What a socket's error means, and what to do about it: one line each. */
const REMEDIES: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'refused the connection; check that a target listens there',
  EHOSTUNREACH: 'cannot be reached: no route to host; check the address and the network',
  ENETUNREACH: 'cannot be reached: network unreachable; check the address and the network',
  ETIMEDOUT: 'did not answer; check address, port and firewall',
  ENOTFOUND: 'has a host name that does not resolve; check the spelling, or use an IP address',
  EAI_AGAIN: 'has a host name that could not be resolved now; check the name server, or use an IP address',
  ECONNRESET: 'reset the connection',
  EPIPE: 'closed the connection',
  EACCES: 'may not be connected to: permission denied by this machine; check its firewall',
  EPERM: 'may not be connected to: permission denied by this machine; check its firewall',
  EADDRNOTAVAIL: 'cannot be connected to from this machine: no local address or port is free',
  EMFILE: 'cannot be connected to: too many open files; raise the limit (ulimit -n)',
};

/** A socket's error as one line that names the peer and the remedy; the errno is its `code`, the original its `cause`. */
export function connectError(peer: string, error: Error): TransportError {
  // several addresses were tried, all failed: the first one says why
  const first = error instanceof AggregateError && error.errors[0] instanceof Error ? error.errors[0] : error;
  const code = 'code' in first && typeof first.code === 'string' ? first.code : 'NVMEOF_ERR_SOCKET';
  return new TransportError(code, `${peer} ${REMEDIES[code] ?? `failed: ${first.message}`}`, { cause: error });
}
