/** supported-log-pages, fid-support-effects-log, lba-status-log: what a controller serves, and where its unreadable blocks are. */
import type { Command } from 'commander';
import { LogPage } from '../../spec/log-page.ts';
import { FEATURE_EFFECTS_LOG_BYTES, FeatureEffect, featureEffectsCodec } from '../../wire/cold/log-feature-effects.ts';
import { type LbaStatusLog, lbaStatusLogCodec, lbaStatusLogElementCodec } from '../../wire/cold/log-lba-status.ts';
import { LogPageSupport, SUPPORTED_LOG_BYTES, supportedLogPagesCodec } from '../../wire/cold/log-supported.ts';
import { type AddressFlags, addAddress, resolveAddress } from './address.ts';
import { addLogVerb } from './logs.ts';
import { hex, printJson, printLine, writeRaw } from './print.ts';
import { runVerb, withAdminHost } from './run.ts';

const LOG_NAMES: Readonly<Record<number, string>> = {
  0: 'Supported Log Pages',
  1: 'Error Information',
  2: 'SMART / Health Information',
  3: 'Firmware Slot Information',
  4: 'Changed Namespace List',
  5: 'Commands Supported and Effects',
  6: 'Device Self-test',
  7: 'Telemetry Host-Initiated',
  8: 'Telemetry Controller-Initiated',
  9: 'Endurance Group Information',
  12: 'Asymmetric Namespace Access',
  13: 'Persistent Event Log',
  14: 'LBA Status Information',
  18: 'Feature Identifiers Supported and Effects',
  28: 'Changed Allocated Namespace List',
  112: 'Discovery',
  128: 'Reservation Notification',
  129: 'Sanitize Status',
};

/** Index and dword of what is supported. */
function supported(dwords: readonly number[], bit: number): [number, number][] {
  return dwords.flatMap((value, i) => ((value & bit) === 0 ? [] : [[i, value]]));
}

export function registerSupportedLogPages(program: Command): void {
  addLogVerb(
    program,
    'supported-log-pages',
    'Supported Log Pages',
    '',
    () => ({ lid: LogPage.SupportedLogPages, bytes: SUPPORTED_LOG_BYTES, nsid: 0 }),
    (bytes, flags, where) => {
      const pages = supported(supportedLogPagesCodec.decode(bytes).lids, LogPageSupport.Supported);
      if (flags.output === 'json') {
        // the blank in the names is nvme-cli's
        printJson({ supported_logs: pages.map(([lid, value]) => ({ [`lid_${hex(lid)} `]: value })) });
        return;
      }
      printLine(`Support Log Pages Details for ${where}:`);
      for (const [lid] of pages) {
        printLine(
          `LID ${lid === 0 ? '0' : hex(lid)} - ${LOG_NAMES[lid] ?? (lid >= 0xc0 ? 'Vendor Specific' : 'Unknown')}`,
        );
      }
    },
  );
}

export function registerFidSupportEffectsLog(program: Command): void {
  addLogVerb(
    program,
    'fid-support-effects-log',
    'Feature Identifiers Supported and Effects',
    '',
    () => ({ lid: LogPage.FeatureEffects, bytes: FEATURE_EFFECTS_LOG_BYTES, nsid: 0 }),
    (bytes, flags, where) => {
      const features = supported(featureEffectsCodec.decode(bytes).fis, FeatureEffect.Supported);
      if (flags.output === 'json') {
        printJson({ fid_support: features.map(([fid, value]) => ({ [`fid_${fid}`]: value })) });
        return;
      }
      printLine(`FID Supports Effects Log for device: ${where}`);
      printLine('Admin Command Set');
      const digits = (value: number, width: number): string => value.toString(16).padStart(width, '0');
      for (const [fid, value] of features)
        printLine(`FID ${digits(fid, 2)} -> Support Effects Log: ${digits(value, 8)}`);
    },
  );
}

const LOG_HEADER_BYTES = lbaStatusLogCodec.size;
/** NLRD: no range is named, examine the whole namespace. */
const EXAMINE_EVERYTHING = 0xffff_ffff;

interface StatusRange {
  readonly rslba: bigint;
  readonly rnlb: number;
}

interface StatusElement {
  readonly neid: number;
  readonly nlrd: number;
  readonly ratype: number;
  readonly lba_rd: readonly StatusRange[];
}

/** Elements of varying length, as far as the page goes. */
function elementsOf(page: Uint8Array, count: number): StatusElement[] {
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  const elements: StatusElement[] = [];
  for (let at = LOG_HEADER_BYTES; elements.length < count && at + ELEMENT_BYTES <= page.length; at += ELEMENT_BYTES) {
    const { neid, nlrd, ratype } = lbaStatusLogElementCodec.decode(page, at);
    const ranges: StatusRange[] = [];
    for (let i = 0; nlrd !== EXAMINE_EVERYTHING && i < nlrd && at + ELEMENT_BYTES + RANGE_BYTES <= page.length; i++) {
      const range = at + ELEMENT_BYTES;
      ranges.push({ rslba: view.getBigUint64(range, true), rnlb: view.getUint32(range + 8, true) });
      at += RANGE_BYTES;
    }
    elements.push({ neid, nlrd, ratype, lba_rd: ranges });
  }
  return elements;
}
const ELEMENT_BYTES = lbaStatusLogElementCodec.size;
const RANGE_BYTES = 16;
/** Far more than any controller has to say. */
const LBA_STATUS_LOG_BYTES_MAX = 1 << 24;

export function registerLbaStatusLog(program: Command): void {
  addAddress(
    program.command('lba-status-log').description('LBA Status Information: where Get LBA Status is worth it'),
    'bR',
  )
    .option('-b, --raw-binary', 'the bytes as they came')
    .option('-r, --rae', 'retain the asynchronous event')
    .action((uri: string | undefined, flags: AddressFlags & { rawBinary?: boolean; rae?: boolean }) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('lba-status-log', uri, flags);
        await withAdminHost({ ...options, ioQueues: 0 }, signal, async (host) => {
          // the first read, with RAE, makes the page stand still until the last one
          const lid = LogPage.LbaStatus;
          const head = lbaStatusLogCodec.decode(
            await host.getLogPage({ lid, bytes: LOG_HEADER_BYTES, retainEvent: true }),
          );
          const bytes = Math.min(Math.max(head.lslplen, LOG_HEADER_BYTES) & ~3, LBA_STATUS_LOG_BYTES_MAX);
          const page = await host.getLogPage({ lid, bytes, retainEvent: flags.rae ?? false });
          if (flags.rawBinary) await writeRaw(page);
          else showLbaStatusLog(options.address, head, elementsOf(page, head.nlslne), flags.output === 'json');
        });
      }),
    );
}

function showLbaStatusLog(
  where: string,
  { lslplen, nlslne, estulb, lsgc }: LbaStatusLog,
  elements: readonly StatusElement[],
  json: boolean,
): void {
  if (json) {
    printJson({ lslplen, nlslne, estulb, lsgc, ns_elements: elements });
    return;
  }
  printLine(`LBA Status Log for device: ${where}`);
  printLine(`LBA Status Log Page Length: ${lslplen}`);
  printLine(`Number of LBA Status Log Namespace Elements: ${nlslne}`);
  printLine(`Estimate of Unrecoverable Logical Blocks: ${estulb}`);
  printLine(`LBA Status Generation Counter: ${lsgc}`);
  for (const { neid, nlrd, ratype, lba_rd } of elements) {
    printLine(`Namespace Element Identifier: ${neid}`);
    printLine(`Number of LBA Range Descriptors: ${nlrd === EXAMINE_EVERYTHING ? 'none, examine the namespace' : nlrd}`);
    printLine(`Recommended Action Type: ${hex(ratype)}`);
    for (const [i, { rslba, rnlb }] of lba_rd.entries()) printLine(`RSLBA[${i}]: ${hex(rslba)} RNLB[${i}]: ${rnlb}`);
  }
}
