/** The part of a saved controller that is its PCIe function's: registers, admin queue, interrupts, config space. docs/live-migration.md has the layout. */
import { Cc, Csts } from '../../spec/property.ts';
import { PAGE_BYTES_MIN } from './guest-memory.ts';

export const FUNCTION_STATE_HEADER_BYTES = 80;

export interface FunctionState {
  readonly cc: number;
  readonly csts: number;
  readonly aqa: number;
  readonly intms: number;
  readonly asq: bigint;
  readonly acq: bigint;
  readonly adminSqHead: number;
  readonly adminSqTail: number;
  readonly adminCqHead: number;
  readonly adminCqTail: number;
  /** Phase tag in slot 0 of the admin completion queue. */
  readonly adminCqPhase: number;
  /** Feature 07h. */
  readonly ioQueuesMax: number;
  readonly hasShadow: boolean;
  readonly shadowAddress: number;
  readonly eventIndexAddress: number;
  readonly config: Uint8Array;
  /** The MSI-X table. */
  readonly table: Uint8Array;
  readonly pending: Uint8Array;
}

const SHADOW = 1;

export function encodeFunctionState(state: FunctionState): Uint8Array {
  const { config, table, pending } = state;
  const bytes = new Uint8Array(FUNCTION_STATE_HEADER_BYTES + config.length + table.length + pending.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, state.cc, true);
  view.setUint32(4, state.csts, true);
  view.setUint32(8, state.aqa, true);
  view.setUint32(12, state.intms, true);
  view.setBigUint64(16, state.asq, true);
  view.setBigUint64(24, state.acq, true);
  view.setUint16(32, state.adminSqHead, true);
  view.setUint16(34, state.adminSqTail, true);
  view.setUint16(36, state.adminCqHead, true);
  view.setUint16(38, state.adminCqTail, true);
  view.setUint8(40, state.adminCqPhase);
  view.setUint8(41, state.hasShadow ? SHADOW : 0);
  view.setUint16(42, state.ioQueuesMax, true);
  view.setBigUint64(48, BigInt(state.shadowAddress), true);
  view.setBigUint64(56, BigInt(state.eventIndexAddress), true);
  view.setUint32(64, config.length, true);
  view.setUint32(68, table.length, true);
  view.setUint32(72, pending.length, true);
  bytes.set(config, FUNCTION_STATE_HEADER_BYTES);
  bytes.set(table, FUNCTION_STATE_HEADER_BYTES + config.length);
  bytes.set(pending, FUNCTION_STATE_HEADER_BYTES + config.length + table.length);
  return bytes;
}

/** @returns what is wrong, if something is */
export function decodeFunctionState(bytes: Uint8Array): FunctionState | string {
  if (bytes.length < FUNCTION_STATE_HEADER_BYTES) return `is ${bytes.length} bytes, too short for a PCIe function`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const configEnd = FUNCTION_STATE_HEADER_BYTES + view.getUint32(64, true);
  const tableEnd = configEnd + view.getUint32(68, true);
  const end = tableEnd + view.getUint32(72, true);
  if (end > bytes.length) return `says ${end} bytes of a PCIe function, there are ${bytes.length}`;
  return {
    cc: view.getUint32(0, true),
    csts: view.getUint32(4, true),
    aqa: view.getUint32(8, true),
    intms: view.getUint32(12, true),
    asq: view.getBigUint64(16, true),
    acq: view.getBigUint64(24, true),
    adminSqHead: view.getUint16(32, true),
    adminSqTail: view.getUint16(34, true),
    adminCqHead: view.getUint16(36, true),
    adminCqTail: view.getUint16(38, true),
    adminCqPhase: view.getUint8(40) & 1,
    hasShadow: (view.getUint8(41) & SHADOW) !== 0,
    ioQueuesMax: view.getUint16(42, true),
    shadowAddress: Number(view.getBigUint64(48, true)),
    eventIndexAddress: Number(view.getBigUint64(56, true)),
    config: bytes.slice(FUNCTION_STATE_HEADER_BYTES, configEnd),
    table: bytes.slice(configEnd, tableEnd),
    pending: bytes.slice(tableEnd, end),
  };
}

/** What it says of the admin queue of an enabled controller. @returns what is wrong */
export function checkAdminQueue(state: FunctionState, pageBytesMax: number): string | undefined {
  if ((state.cc & Cc.EN) === 0) return undefined;
  const sqEntries = (state.aqa & 0xfff) + 1;
  const cqEntries = ((state.aqa >>> 16) & 0xfff) + 1;
  const behind =
    state.adminSqHead >= sqEntries ||
    state.adminSqTail >= sqEntries ||
    state.adminCqHead >= cqEntries ||
    state.adminCqTail >= cqEntries;
  if (behind) return 'has an admin pointer behind its queue';
  if ((state.csts & Csts.RDY) === 0) return undefined;
  const pageBytes = PAGE_BYTES_MIN << ((state.cc >>> Cc.mpsShift) & Cc.mpsMask);
  if (pageBytes > pageBytesMax) return `has pages of ${pageBytes} bytes`;
  const page = BigInt(pageBytes);
  if (sqEntries < 2 || cqEntries < 2 || state.asq % page !== 0n || state.acq % page !== 0n) {
    return 'has an admin queue that cannot be';
  }
  return undefined;
}
