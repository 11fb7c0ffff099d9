/** What may be passed on to a device as it came: what a target has none of its own for. */
import { AdminOpcode } from './opcode.ts';

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, i) => first + i);

/**
 * Device Self-test, Security Send and Receive, vendor specific opcodes (Base 2.1 figure 28). Others are the target's own, or would change what the
 * device is under everybody who uses it.
 */
export const PASSTHROUGH_OPCODES: readonly number[] = [
  AdminOpcode.DeviceSelfTest,
  AdminOpcode.SecuritySend,
  AdminOpcode.SecurityReceive,
  ...range(0xc0, 0xff),
];
/** Device Self-test, vendor specific log pages (Base 2.1 figure 202). */
export const PASSTHROUGH_LOG_PAGES: readonly number[] = [0x06, ...range(0xc0, 0xff)];
