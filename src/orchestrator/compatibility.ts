/**
 * What hosts, or a guest, have been told at the source and would not find at the destination. They have asked once, and go by what they were told:
 * a guest does not identify its controller again, a host does so only as its next path comes. Base 2.1, figures 312 and 114 of NVM Command Set 1.2.
 */
import { decodeReservationStatus, type ReservationStatus } from '../wire/cold/reservation.ts';
import type { ControllerFigures, NamespaceFigures } from './end.ts';
import type { Difference } from './figure-rules.ts';
import { identifyDifferences } from './identify-rules.ts';
import type { MoveSpec } from './move-spec.ts';

type Kind = MoveSpec['kind'];

interface Rule<T> {
  /** For moves of that kind only. */
  readonly kind?: Kind;
  /** Severity, or undefined: this is no obstacle. */
  readonly of: (ours: T, theirs: T, kind: Kind) => Difference['severity'] | undefined;
  /** What it is, with both figures, and the remedy. */
  readonly says: (ours: T, theirs: T) => string;
}

const lessIf = (is: boolean): 'less' | undefined => (is ? 'less' : undefined);
const noteIf = (is: boolean): 'note' | undefined => (is ? 'note' : undefined);
const hex = (value: number): string => `0x${value.toString(16)}`;
const lacking = (ours: number, theirs: number): number => ours & ~theirs;
/** MDTS: a power of two of pages; 0 is no limit. */
const pages = (mdts: number): number => (mdts === 0 ? Number.POSITIVE_INFINITY : mdts);
const pagesText = (mdts: number): string => (mdts === 0 ? 'without limit' : `of 2^${mdts} pages`);

const CMIC_ANA = 0x08;
const CMIC_MULTIPLE = 0x02;
const VWC_PRESENT = 0x01;

/** ONCS bits by name. */
const COMMANDS: readonly (readonly [number, string])[] = [
  [0x001, 'Compare'],
  [0x002, 'Write Uncorrectable'],
  [0x004, 'Dataset Management'],
  [0x008, 'Write Zeroes'],
  [0x010, 'saved features'],
  [0x020, 'reservations'],
  [0x040, 'Timestamp'],
  [0x080, 'Verify'],
  [0x100, 'Copy'],
];

function commandsText(bits: number): string {
  const names = COMMANDS.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name);
  return `${names.length === 0 ? '' : `${names.join(', ')}, `}ONCS ${hex(bits)}`;
}

const CONTROLLER_RULES: readonly Rule<ControllerFigures>[] = [
  {
    of: (ours, theirs) => lessIf(lacking(ours.oncs, theirs.oncs) !== 0),
    says: (ours, theirs) =>
      `lacks optional commands that the source has (${commandsText(lacking(ours.oncs, theirs.oncs))}): use a backend or version that has them`,
  },
  {
    of: (ours, theirs) => lessIf(lacking(ours.fuses, theirs.fuses) !== 0),
    says: (ours, theirs) =>
      `lacks fused commands that the source has (FUSES ${hex(lacking(ours.fuses, theirs.fuses))}): use a version that has them`,
  },
  {
    // a host splits its requests by the limit of the path that it takes
    of: (ours, theirs, kind) =>
      pages(theirs.mdts) >= pages(ours.mdts) ? undefined : kind === 'controller' ? 'less' : 'note',
    says: (ours, theirs) =>
      `takes transfers ${pagesText(theirs.mdts)}, the source ${pagesText(ours.mdts)}: raise its MDTS`,
  },
  {
    of: (ours, theirs, kind) =>
      (ours.vwc & VWC_PRESENT) !== 0 || (theirs.vwc & VWC_PRESENT) === 0
        ? undefined
        : kind === 'controller'
          ? 'less'
          : 'note',
    says: () =>
      'has a volatile write cache and the source has none, so nobody flushes: what is written there may be lost with its power; use a backend without',
  },
  {
    // what is whole after a loss of power is what hosts build on
    of: (ours, theirs) =>
      theirs.awupf < ours.awupf ? 'less' : noteIf(theirs.awun < ours.awun || theirs.acwu < ours.acwu),
    says: (ours, theirs) => {
      const figures = ({ awun, awupf, acwu }: ControllerFigures): string => `${awun + 1}/${awupf + 1}/${acwu + 1}`;
      return `writes fewer blocks as a whole (AWUN/AWUPF/ACWU ${figures(theirs)}, the source ${figures(ours)}): a write that hosts take for atomic could be torn; use a backend with the same`;
    },
  },
  {
    kind: 'namespaces',
    of: (ours, theirs) => noteIf(theirs.awupf > ours.awupf),
    says: (ours, theirs) =>
      `writes ${theirs.awupf + 1} blocks as a whole (AWUPF), the source ${ours.awupf + 1}: Linux 6.16 and later wants the same of all paths; use a backend with the same`,
  },
  {
    kind: 'namespaces',
    of: (ours, theirs) => lessIf((theirs.cmic & CMIC_ANA) === 0 || (ours.cmic & CMIC_ANA) === 0),
    says: () => 'and the source have to report asymmetric access both (CMIC bit 3): hosts follow by ANA',
  },
  {
    kind: 'namespaces',
    of: (ours, theirs) => lessIf((theirs.cmic & ours.cmic & CMIC_MULTIPLE) === 0),
    says: () => 'and the source have to be of several controllers both (CMIC bit 1): a host keeps to one path else',
  },
  {
    of: (ours, theirs) => noteIf(lacking(ours.ctratt & 1, theirs.ctratt) !== 0),
    says: () => 'has no 128-bit host identifiers (CTRATT bit 0), the source has: reservations by them cannot be kept',
  },
  {
    kind: 'controller',
    of: (ours, theirs) => noteIf(ours.serial !== theirs.serial || ours.model !== theirs.model),
    says: (ours, theirs) =>
      `is ${theirs.model} ${theirs.serial}, the source ${ours.model} ${ours.serial}: a guest that identifies it again sees that; give it the same serial and model`,
  },
];

const NMIC_SHARED = 0x01;
const DEALLOCATED_READS = 0x07;
const READS_ZERO = 0x01;
const WRITE_PROTECTED = 0x01;

const NAMESPACE_RULES: readonly Rule<NamespaceFigures>[] = [
  {
    of: (ours, theirs) =>
      theirs.nawupf < ours.nawupf ? 'less' : noteIf(theirs.nawun < ours.nawun || theirs.nacwu < ours.nacwu),
    says: (ours, theirs) => {
      const figures = ({ nawun, nawupf, nacwu }: NamespaceFigures): string => `${nawun + 1}/${nawupf + 1}/${nacwu + 1}`;
      return `writes fewer blocks as a whole (NAWUN/NAWUPF/NACWU ${figures(theirs)}, the source ${figures(ours)}): use a backend with the same`;
    },
  },
  {
    of: (ours, theirs) => lessIf(ours.metadataBytes !== theirs.metadataBytes || ours.protection !== theirs.protection),
    says: (ours, theirs) => {
      const figures = ({ metadataBytes, protection }: NamespaceFigures): string =>
        `${metadataBytes} bytes of metadata and protection type ${protection}`;
      return `has ${figures(theirs)}, the source ${figures(ours)}: format it as the source is`;
    },
  },
  {
    kind: 'namespaces',
    of: (ours, theirs) => lessIf((ours.nmic & theirs.nmic & NMIC_SHARED) === 0),
    says: () => 'and the source have to be shared both (NMIC bit 0): hosts take them for two disks else',
  },
  {
    of: (ours, theirs) =>
      noteIf((ours.dlfeat & DEALLOCATED_READS) === READS_ZERO && (theirs.dlfeat & DEALLOCATED_READS) !== READS_ZERO),
    says: () =>
      'does not promise that deallocated blocks read zero (DLFEAT), the source does: who relies on it reads anything',
  },
  {
    of: (_ours, theirs) => lessIf((theirs.nsattr & WRITE_PROTECTED) !== 0),
    says: () => 'is write protected: end that before it is copied to',
  },
  {
    of: (ours, theirs) => noteIf(lacking(ours.nsattr & WRITE_PROTECTED, theirs.nsattr) !== 0),
    says: () => 'will not be write protected, the source is: protect it once it has moved',
  },
  {
    of: (ours, theirs) => noteIf(ours.rescap !== 0 && lacking(ours.rescap, theirs.rescap) !== 0),
    says: (ours, theirs) =>
      `has fewer kinds of reservations (lacks RESCAP ${hex(lacking(ours.rescap, theirs.rescap))}): hosts that acquire one later are refused`,
  },
];

function differencesOf<T>(rules: readonly Rule<T>[], who: string, ours: T, theirs: T, kind: Kind): Difference[] {
  const found: Difference[] = [];
  for (const rule of rules) {
    if (rule.kind !== undefined && rule.kind !== kind) continue;
    const severity = rule.of(ours, theirs, kind);
    if (severity !== undefined) found.push({ severity, message: `${who} ${rule.says(ours, theirs)}` });
  }
  return found;
}

/** @param who the destination, for the messages */
export function controllerDifferences(
  who: string,
  ours: ControllerFigures,
  theirs: ControllerFigures,
  kind: Kind,
): Difference[] {
  return [...differencesOf(CONTROLLER_RULES, who, ours, theirs, kind), ...identifyDifferences(who, ours, theirs, kind)];
}

/** @param who the namespace at the destination, for the messages */
export function namespaceDifferences(
  who: string,
  ours: NamespaceFigures,
  theirs: NamespaceFigures,
  kind: Kind,
): Difference[] {
  return differencesOf(NAMESPACE_RULES, who, ours, theirs, kind);
}

const RESCAP_PERSISTENT = 0x01;
const TYPE_NAMES: Readonly<Record<number, string>> = {
  1: 'Write Exclusive',
  2: 'Exclusive Access',
  3: 'Write Exclusive, Registrants Only',
  4: 'Exclusive Access, Registrants Only',
  5: 'Write Exclusive, All Registrants',
  6: 'Exclusive Access, All Registrants',
};

/**
 * What of the reservations that are held cannot be kept there.
 * @param status extended Reservation Status of the source; undefined: nobody has registered
 */
export function reservationObstacles(who: string, status: Uint8Array | undefined, rescap: number): string[] {
  if (status === undefined) return [];
  const { rtype, ptpls, registrants }: ReservationStatus = decodeReservationStatus(status, true);
  if (registrants.length > 0 && rescap === 0) {
    const held = `${registrants.length} hosts have registered at the source`;
    return [`${who} has no reservations (RESCAP 0), and ${held}: use a backend that has them, or unregister them`];
  }
  const found: string[] = [];
  if (rtype !== 0 && (rescap & (1 << rtype)) === 0) {
    const type = TYPE_NAMES[rtype] ?? `type ${rtype}`;
    found.push(`${who} cannot hold the reservation of the source (${type}, RESCAP ${hex(rescap)}): release it first`);
  }
  if ((ptpls & 1) !== 0 && (rescap & RESCAP_PERSISTENT) === 0) {
    const remedy = 'configure a state directory there';
    found.push(`${who} forgets reservations with its power (no PTPL), and those of the source persist: ${remedy}`);
  }
  return found;
}
