/** Changed Attached Namespace List log page (LID 04h). Base 2.1 section 5.1.12.1.5. */
import { NSID_ALL } from '../../spec/identify.ts';
import { decodeNsidList, encodeNsidList, NSID_LIST_MAX } from './lists.ts';
import { type Codec, structure } from './table.ts';

export const CHANGED_NAMESPACES_BYTES = 4096;
const firstCodec: Codec<{ nsid: number }> = structure('ChangedNamespaces', 4, [[0, 'nsid', 'u32']]);

/** @param nsids ascending; more than 1024 are reported as "too many" @public */
export function encodeChangedNamespaces(nsids: readonly number[]): Uint8Array {
  if (nsids.length <= NSID_LIST_MAX) return encodeNsidList(nsids);
  const bytes = new Uint8Array(CHANGED_NAMESPACES_BYTES);
  firstCodec.encodeInto(bytes, 0, { nsid: NSID_ALL });
  return bytes;
}

/** @returns the namespaces, or undefined if there were too many to list: any may have changed @public */
export function decodeChangedNamespaces(bytes: Uint8Array): number[] | undefined {
  return firstCodec.decode(bytes).nsid === NSID_ALL ? undefined : decodeNsidList(bytes);
}
