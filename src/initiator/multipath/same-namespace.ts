/** Whether two controllers mean the same namespace by an NSID. Base 2.1 section 4.7.1: NGUID, EUI64 and UUID are the same through every controller. */

import { STATUS_CODE_MASK, Status } from '../../spec/status.ts';
import { NvmeStatusError } from '../../util/error.ts';
import type { IdentifyNamespace } from '../../wire/cold/identify-namespace.ts';
import type { NamespaceIdentifiers } from '../../wire/cold/lists.ts';
import type { HostController } from '../controller.ts';

/** Bytes of a logical block, with the metadata that is transferred with it. */
export function blockSizeOf(identify: IdentifyNamespace): number {
  const index = (identify.flbas & 0xf) | ((identify.flbas >> 1) & 0x30);
  const format = identify.lbaf[index]!;
  return 2 ** format.lbads + ((identify.flbas & 0x10) !== 0 ? format.ms : 0);
}

const NOT_THERE: readonly number[] = [Status.InvalidNamespaceOrFormat, Status.InvalidField];

/** What a controller says of a namespace; undefined if it has none there. @throws TransportError, NvmeStatusError */
export async function describeNamespace(
  controller: HostController,
  nsid: number,
): Promise<{ identifiers: NamespaceIdentifiers; blockSize: number } | undefined> {
  try {
    const identify = await controller.identifyNamespace(nsid);
    if (identify.ncap === 0n) return undefined;
    const identifiers = await controller.namespaceDescriptors(nsid);
    return { identifiers, blockSize: blockSizeOf(identify) };
  } catch (error) {
    if (error instanceof NvmeStatusError && NOT_THERE.includes(error.status & STATUS_CODE_MASK)) return undefined;
    throw error;
  }
}

function equal(a: string | Uint8Array | undefined, b: string | Uint8Array | undefined): boolean {
  if (typeof a === 'string' || typeof b === 'string' || a === undefined || b === undefined) return a === b;
  return Buffer.compare(a, b) === 0;
}

export async function sameNamespace(
  controller: HostController,
  meant: { readonly nsid: number; readonly identifiers: NamespaceIdentifiers; readonly blockSize: number },
): Promise<'same' | 'other' | 'none'> {
  const found = await describeNamespace(controller, meant.nsid);
  if (found === undefined) return 'none';
  const { identifiers, blockSize } = found;
  const named = (['nguid', 'eui64', 'uuid'] as const).filter((key) => meant.identifiers[key] !== undefined);
  const same =
    named.length > 0 &&
    blockSize === meant.blockSize &&
    (['nguid', 'eui64', 'uuid'] as const).every((key) => equal(identifiers[key], meant.identifiers[key]));
  return same ? 'same' : 'other';
}
