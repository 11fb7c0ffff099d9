import type { Socket, TcpNetConnectOpts } from 'node:net';
import { DISCOVERY_NQN, DISCOVERY_PORT, NQN_BYTES_MAX, NVMEOF_PORT } from '../spec/nqn.ts';
import { type Clock, systemClock } from '../util/clock.ts';
import { ConfigError } from '../util/error.ts';
import { defaultHostIdentity, parseHostId } from './identity.ts';

/** How to reach a controller, and how to treat it. Times in milliseconds. @public */
export interface HostOptions {
  /** IP address or host name. */
  readonly address: string;
  /** TCP port; default 4420, 8009 for the discovery NQN. */
  readonly port?: number | undefined;
  readonly subnqn: string;
  /** Default: /etc/nvme/hostnqn, or one made from this machine's identity. */
  readonly hostnqn?: string | undefined;
  /** UUID. Default: the one of `hostnqn`, /etc/nvme/hostid, or one made from `hostnqn`. */
  readonly hostid?: string | undefined;
  /** Controller ID to ask for; default FFFFh (dynamic). */
  readonly cntlid?: number | undefined;
  /** I/O queue pairs, 0 to 65534; default 1. The controller may grant fewer. */
  readonly ioQueues?: number | undefined;
  /** Entries of an I/O submission queue, 2 to 32768; default 128. One less can be in flight. The controller may allow fewer. */
  readonly queueSize?: number | undefined;
  /** Keep alive time-out; default 5000, 0 for discovery. */
  readonly katoMs?: number | undefined;
  readonly headerDigest?: boolean | undefined;
  readonly dataDigest?: boolean | undefined;
  readonly disableSqFlow?: boolean | undefined;
  /** Alignment of C2HData to ask for, 0 to 31; default 0. */
  readonly hpda?: number | undefined;
  /** MAXR2T, 0's based; default 0. */
  readonly maxR2t?: number | undefined;
  /** TCP connect, and ICReq to ICResp. Default 10 s each. */
  readonly connectTimeoutMs?: number | undefined;
  /** Admin and Fabrics commands; default 60 s. Then the controller is reset. */
  readonly adminTimeoutMs?: number | undefined;
  /** I/O commands; default 30 s. Then the command is aborted. */
  readonly ioTimeoutMs?: number | undefined;
  /** How long an Abort may take to end its command; default 5 s. Then the controller is reset. */
  readonly abortTimeoutMs?: number | undefined;
  /** Between attempts to reconnect; default 10 s. */
  readonly reconnectDelayMs?: number | undefined;
  /** From the loss of the connection to giving up; default 600 s, `Infinity` for never, 0 for at once. */
  readonly ctrlLossTimeoutMs?: number | undefined;
  /** From the loss of the connection to failing what waits for it; default `Infinity` (off). */
  readonly fastIoFailTimeoutMs?: number | undefined;
  /**
   * From the loss of the connection to repeating what changes blocks and was under way. Default: what the specification has a host wait for,
   * which is CQT (a second if the controller reports none) when the controller ended the connection, and keep alive time-out and CQT when it may
   * not know. 0 repeats as soon as it is connected again, as the Linux host does: the first copy of a write may then come after a newer one.
   */
  readonly quiesceMs?: number | undefined;
  /**
   * Give up as soon as a new Connect is refused with Do Not Retry, as the Linux host does. Default false: a target that is being set up again
   * refuses like one that never heard of us, so only `ctrlLossTimeoutMs` ends the attempts.
   */
  readonly stopOnDnr?: boolean | undefined;
  /**
   * I/O does not wait for a lost connection: what is in flight, and what is submitted while there is none, fails at once with Host Pathing
   * Error (370h). For callers that have other ways to the namespace, as `MultipathSubsystem`. Default false.
   */
  readonly failFast?: boolean | undefined;
  readonly clock?: Clock | undefined;
  /** Ends `connect`; has no meaning afterwards. */
  readonly signal?: AbortSignal | undefined;
  /** How a socket is made; node:net by default. */
  readonly connectSocket?: ((options: TcpNetConnectOpts) => Socket) | undefined;
}

/** `HostOptions` with every default filled in. */
export interface ResolvedHostOptions {
  readonly address: string;
  readonly port: number;
  readonly subnqn: string;
  readonly hostnqn: string;
  /** 16 bytes. */
  readonly hostid: Uint8Array;
  readonly cntlid: number;
  readonly ioQueues: number;
  readonly queueSize: number;
  readonly katoMs: number;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
  readonly disableSqFlow: boolean;
  readonly hpda: number;
  readonly maxR2t: number;
  readonly connectTimeoutMs: number;
  readonly adminTimeoutMs: number;
  readonly ioTimeoutMs: number;
  readonly abortTimeoutMs: number;
  readonly reconnectDelayMs: number;
  readonly ctrlLossTimeoutMs: number;
  readonly fastIoFailTimeoutMs: number;
  readonly quiesceMs: number | undefined;
  readonly stopOnDnr: boolean;
  readonly failFast: boolean;
  readonly clock: Clock;
  readonly connectSocket: ((options: TcpNetConnectOpts) => Socket) | undefined;
}

function integer(name: string, value: number | undefined, fallback: number, min: number, max: number): number {
  const given = value ?? fallback;
  if (!Number.isInteger(given) || given < min || given > max) {
    throw new ConfigError(`Option ${name} is ${given}, allowed are integers from ${min} to ${max}`);
  }
  return given;
}

function time(name: string, value: number | undefined, fallback: number): number {
  const given = value ?? fallback;
  if (Number.isNaN(given) || given < 0) throw new ConfigError(`Option ${name} is ${given}, allowed are 0 and more`);
  return given;
}

/** @throws ConfigError naming the field, what was found, what is allowed */
export function checkNqn(name: string, nqn: string): string {
  const bytes = Buffer.byteLength(nqn);
  if (!nqn.startsWith('nqn.')) throw new ConfigError(`${name} is ${JSON.stringify(nqn)}, it must start with "nqn."`);
  if (bytes > NQN_BYTES_MAX) throw new ConfigError(`${name} is ${bytes} bytes long, allowed are ${NQN_BYTES_MAX}`);
  if (nqn.includes('\0')) throw new ConfigError(`${name} contains a NUL`);
  return nqn;
}

/** Fills in defaults and checks ranges. @throws ConfigError */
export function resolveOptions(options: HostOptions): ResolvedHostOptions {
  const subnqn = checkNqn('Option subnqn', options.subnqn);
  const discovery = subnqn === DISCOVERY_NQN;
  if (options.address === '') throw new ConfigError('Option address is empty, an IP address or host name is needed');
  const identity = defaultHostIdentity(options.hostnqn);
  return {
    address: options.address,
    port: integer('port', options.port, discovery ? DISCOVERY_PORT : NVMEOF_PORT, 1, 65535),
    subnqn,
    hostnqn: checkNqn('Option hostnqn', identity.hostnqn),
    hostid: options.hostid === undefined ? identity.hostid : parseHostId('Option hostid', options.hostid),
    cntlid: integer('cntlid', options.cntlid, 0xffff, 0, 0xffff),
    ioQueues: integer('ioQueues', options.ioQueues, discovery ? 0 : 1, 0, 65534),
    queueSize: integer('queueSize', options.queueSize, 128, 2, 32768),
    katoMs: integer('katoMs', options.katoMs, discovery ? 0 : 5000, 0, 0xffffffff),
    headerDigest: options.headerDigest ?? false,
    dataDigest: options.dataDigest ?? false,
    disableSqFlow: options.disableSqFlow ?? false,
    hpda: integer('hpda', options.hpda, 0, 0, 31),
    maxR2t: integer('maxR2t', options.maxR2t, 0, 0, 15),
    connectTimeoutMs: time('connectTimeoutMs', options.connectTimeoutMs, 10_000),
    adminTimeoutMs: time('adminTimeoutMs', options.adminTimeoutMs, 60_000),
    ioTimeoutMs: time('ioTimeoutMs', options.ioTimeoutMs, 30_000),
    abortTimeoutMs: time('abortTimeoutMs', options.abortTimeoutMs, 5000),
    reconnectDelayMs: time('reconnectDelayMs', options.reconnectDelayMs, 10_000),
    ctrlLossTimeoutMs: time('ctrlLossTimeoutMs', options.ctrlLossTimeoutMs, 600_000),
    fastIoFailTimeoutMs: time('fastIoFailTimeoutMs', options.fastIoFailTimeoutMs, Number.POSITIVE_INFINITY),
    quiesceMs: options.quiesceMs === undefined ? undefined : time('quiesceMs', options.quiesceMs, 0),
    stopOnDnr: options.stopOnDnr ?? false,
    failFast: options.failFast ?? false,
    clock: options.clock ?? systemClock,
    connectSocket: options.connectSocket,
  };
}
