/** What one NVMe/TCP connection of the target agreed on with the host, and where it stands: shared by its reader, its writer and itself. */

/** Limits of a port's connections; all in bytes unless named otherwise. */
export interface TcpTargetOptions {
  /** IOCCSZ * 16 - 64: in-capsule data that I/O queues take. Multiple of 16. */
  readonly inCapsuleBytes: number;
  /** MAXH2CDATA: at least 4096, multiple of 4. */
  readonly maxH2cDataBytes: number;
  /** CPDA, 0..31 (0's based dwords). Linux hosts connect only with 0. */
  readonly cpda: number;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
  /** Data buffers that one connection may hold for its commands before further ones wait. */
  readonly bufferBytesMax: number;
  /** From accept to ICReq, and from ICResp to a successful Connect. */
  readonly setupTimeoutMs: number;
  /** From a TermReq to closing the connection if the peer does not (TCP 1.0 section 3.5.2: 30 s). */
  readonly termTimeoutMs: number;
}

export const TCP_TARGET_DEFAULTS: TcpTargetOptions = {
  inCapsuleBytes: 8192,
  maxH2cDataBytes: 1 << 20,
  cpda: 0,
  headerDigest: true,
  dataDigest: true,
  bufferBytesMax: 8 << 20,
  setupTimeoutMs: 30_000,
  termTimeoutMs: 30_000,
};

/** Counters of one connection; plain numbers, read by metrics. */
export interface TcpCounters {
  commands: number;
  bytesIn: number;
  writes: number;
  blockedWrites: number;
}

export const LinkState = { WaitIcReq: 0, Live: 1, Terminating: 2, Closed: 3 } as const;

/** Bits of `Request.transportState`. `R2tWaits`: its R2T is not yet formatted, so no data may come. `Held`: its controller is suspended. */
export const Slot = { AwaitingData: 1, Drain: 2, DigestError: 4, Parked: 8, R2tWaits: 16, Held: 32 } as const;

export class TargetLink {
  readonly options: TcpTargetOptions;
  readonly counters: TcpCounters = { commands: 0, bytesIn: 0, writes: 0, blockedWrites: 0 };
  state: number = LinkState.WaitIcReq;
  headerDigest = false;
  dataDigest = false;
  /** HPDA in bytes. */
  hostAlignBytes = 4;
  /** CPDA in bytes. */
  readonly controllerAlignBytes: number;

  constructor(options: TcpTargetOptions) {
    this.options = options;
    this.controllerAlignBytes = (options.cpda + 1) * 4;
  }
}
