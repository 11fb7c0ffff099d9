/** Commands of a guest or a host, and how they end. */

export interface HostCommand {
  readonly id: number;
  readonly opcode: 'read' | 'write' | 'deallocate' | 'flush';
  readonly nsid: number;
  readonly slba: number;
  readonly blockCount: number;
  /** What is written. */
  readonly value: number;
  /** Written through. */
  readonly fua: boolean;
}

/** 0 success, or the status. */
export interface HostAnswer {
  readonly status: number;
  /** Of a read: one for each block. */
  readonly values: readonly number[];
}

/** Asymmetric Access Inaccessible. */
export const INACCESSIBLE = 0x302;
export const INTERNAL_ERROR = 0x006;
