/** Reading the ANA log (LID 0Ch) of a controller, whole and consistent. Base 2.1 sections 5.1.12.1.13 and 8.1.1. */
import { LogPage } from '../spec/log-page.ts';
import { NvmeofError } from '../util/error.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import { ANA_DESCRIPTOR_BYTES, ANA_HEADER_BYTES, type AnaLog, decodeAnaLog } from '../wire/cold/log-ana.ts';
import type { GetLogPageOptions } from './controller-commands.ts';

/** CMIC bit 3. */
const CMIC_ANA = 0x08;
const RGO = 1;
const ATTEMPTS_MAX = 8;
/** Most of the log that is asked for at once, if the controller names no limit. */
const PIECE_BYTES_MAX = 1024 * 1024;

/** What reading takes; a `HostController` is one. */
export interface AnaLogSource {
  readonly identify: IdentifyController;
  readonly maxTransferBytes: number;
  getLogPage(options: GetLogPageOptions): Promise<Uint8Array>;
}

/** The controller reports ANA states. */
export function reportsAna(identify: Pick<IdentifyController, 'cmic'>): boolean {
  return (identify.cmic & CMIC_ANA) !== 0;
}

/**
 * Reads the log; the controller may report the next change then. One command where it fits into MDTS, as the Linux host does it: the Linux
 * target ignores offsets. Otherwise in pieces, again if CHGCNT moved meanwhile.
 * @param groupsOnly without the namespaces of each group (RGO)
 * @throws NvmeStatusError, TransportError, WireError; NvmeofError NVMEOF_ERR_ANA_LOG if it never stands still
 */
export async function readAnaLog(source: AnaLogSource, groupsOnly = false): Promise<AnaLog> {
  const { nanagrpid, mnan, nn } = source.identify;
  const nsidBytes = groupsOnly ? 0 : (mnan === 0 ? nn : mnan) * 4;
  const bytesMax = ANA_HEADER_BYTES + nanagrpid * ANA_DESCRIPTOR_BYTES + nsidBytes;
  const pieceBytes = Math.min(PIECE_BYTES_MAX, source.maxTransferBytes);
  const lsp = groupsOnly ? RGO : 0;
  const read = (bytes: number, retainEvent: boolean): Promise<Uint8Array> =>
    source.getLogPage({ lid: LogPage.Ana, bytes, lsp, retainEvent, bytesPerCommand: pieceBytes });
  let bytes = Math.min(bytesMax, pieceBytes);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const whole = bytes <= pieceBytes;
    const page = await read(bytes, !whole);
    const needed = Math.min(bytesMax, anaLogBytes(page));
    if (needed > bytes) {
      bytes = needed;
      continue;
    }
    if (whole || chgcntOf(await read(ANA_HEADER_BYTES, false)) === chgcntOf(page)) return decodeAnaLog(page);
  }
  throw new NvmeofError('NVMEOF_ERR_ANA_LOG', `The ANA log changed during each of ${ATTEMPTS_MAX} readings`);
}

const viewOf = (page: Uint8Array): DataView => new DataView(page.buffer, page.byteOffset, page.byteLength);
const chgcntOf = (page: Uint8Array): bigint => viewOf(page).getBigUint64(0, true);

/** How long the log is, as far as its beginning tells; at least one group longer than `page` if that does not hold it all. */
function anaLogBytes(page: Uint8Array): number {
  const view = viewOf(page);
  let end = ANA_HEADER_BYTES;
  for (let left = view.getUint16(8, true); left > 0; left--) {
    if (end + ANA_DESCRIPTOR_BYTES > page.length) return end + left * ANA_DESCRIPTOR_BYTES + page.length;
    end += ANA_DESCRIPTOR_BYTES + view.getUint32(end + 4, true) * 4;
  }
  return end;
}
