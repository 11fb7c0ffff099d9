/** `--filter key=pattern` of discover: which log entries are taken. */
import { InvalidArgumentError } from 'commander';
import type { DiscoveryLogEntry } from '../../wire/cold/discovery-log.ts';

export const FILTER_KEYS = ['subnqn', 'traddr', 'trsvcid', 'portid', 'subtype', 'adrfam'] as const;
type FilterKey = (typeof FILTER_KEYS)[number];

export interface EntryFilter {
  readonly key: FilterKey;
  readonly pattern: RegExp;
}

const SUBTYPES: readonly string[] = ['', 'referral', 'nvm', 'current'];
const ADRFAMS: readonly string[] = ['', 'ipv4', 'ipv6'];
const WORDS: Partial<Record<FilterKey, readonly string[]>> = { subtype: SUBTYPES, adrfam: ADRFAMS };

const isKey = (key: string): key is FilterKey => (FILTER_KEYS as readonly string[]).includes(key);

/** Commander's parser of the repeatable option. */
export function addFilter(text: string, filters: EntryFilter[]): EntryFilter[] {
  const [, key = '', value = ''] = /^([a-z]+)=(.+)$/.exec(text) ?? [];
  if (!isKey(key)) {
    throw new InvalidArgumentError(
      `KEY=PATTERN is needed, such as subnqn=nqn.2026-01.io.nvmeferry:*; keys: ${FILTER_KEYS.join(', ')}.`,
    );
  }
  const words = WORDS[key]?.filter((word) => word !== '');
  if (words !== undefined && !words.includes(value)) {
    throw new InvalidArgumentError(`Allowed for ${key} are ${words.join(', ')}.`);
  }
  const escaped = value.replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*');
  return [...filters, { key, pattern: new RegExp(`^${escaped}$`, 's') }];
}

function textOf(entry: DiscoveryLogEntry, key: FilterKey): string {
  return WORDS[key]?.[entry[key] as number] ?? String(entry[key]);
}

/** Takes the entries that match each key that is given, by any of its patterns. */
export function matcher(filters: readonly EntryFilter[]): (entry: DiscoveryLogEntry) => boolean {
  const keys = [...new Set(filters.map(({ key }) => key))];
  return (entry) =>
    keys.every((key) => filters.some((filter) => filter.key === key && filter.pattern.test(textOf(entry, key))));
}
