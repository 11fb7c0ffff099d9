/** Requests of a VM that the front keeps, or sends on changed: views of them, and whether they want an answer. */
import { VfioUserFlag } from '../../../spec/vfio-user.ts';
import { messageFlags } from '../../../wire/vfio-user.ts';

/** Offset of the header's flags. */
const FLAGS_AT = 8;

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export const takesNoAnswer = (message: Uint8Array): boolean =>
  (messageFlags(viewOf(message), 0) & VfioUserFlag.NoReply) !== 0;

/** The same command, to be answered. */
export function answered(message: Uint8Array): Uint8Array {
  const copy = message.slice();
  const view = viewOf(copy);
  view.setUint32(FLAGS_AT, messageFlags(view, 0) & ~VfioUserFlag.NoReply, true);
  return copy;
}
