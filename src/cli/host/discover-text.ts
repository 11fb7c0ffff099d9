/** Discovery log entries as nvme-cli prints them. */
import { type DiscoveryLog, type DiscoveryLogEntry, TransportType, Treq } from '../../wire/cold/discovery-log.ts';
import type { ExtendedDiscoveryLogEntry } from '../../wire/cold/discovery-log-extended.ts';
import { printLine, toHex } from './print.ts';

const TRTYPES: Readonly<Record<number, string>> = { 1: 'rdma', 2: 'fc', 3: 'tcp', 254: 'loop' };
const ADRFAMS: Readonly<Record<number, string>> = {
  1: 'ipv4',
  2: 'ipv6',
  3: 'infiniband',
  4: 'fibre-channel',
  254: 'loop',
};
const SUBTYPES: Readonly<Record<number, string>> = {
  1: 'discovery subsystem referral',
  2: 'nvme subsystem',
  3: 'current discovery subsystem',
};
const SECTYPES: Readonly<Record<number, string>> = { 0: 'none', 1: 'tls', 2: 'tls13' };
const SECURE_CHANNEL = ['not specified', 'required', 'not required', 'reserved'];

function treqText(treq: number): string {
  const parts = [SECURE_CHANNEL[treq & Treq.secureChannelMask]!];
  if ((treq & Treq.DisableSqFlowControl) !== 0) parts.push('sq flow control disable supported');
  return parts.join(', ');
}

function eflagsText(eflags: number): string {
  const names = ['duplicate discovery information', 'explicit discovery connections', 'no cdc connectivity'];
  const set = names.filter((_, bit) => (eflags & (1 << bit)) !== 0);
  return set.length === 0 ? 'none' : set.join(', ');
}

const ATTRIBUTES: Readonly<Record<number, string>> = { 1: 'host id', 2: 'symbolic name' };

function attributesText(attributes: ExtendedDiscoveryLogEntry['attributes']): string {
  const texts = attributes.map(({ type, value }) => {
    const text = type === 2 ? new TextDecoder().decode(value).replace(/\0+$/, '') : toHex(value);
    return `${ATTRIBUTES[type] ?? `type ${type}`} ${text}`;
  });
  return texts.length === 0 ? 'none' : texts.join(', ');
}

/** As nvme-cli names and prints the fields. */
export function record(entry: DiscoveryLogEntry & Partial<ExtendedDiscoveryLogEntry>): Record<string, string | number> {
  return {
    trtype: TRTYPES[entry.trtype] ?? 'unrecognized',
    adrfam: ADRFAMS[entry.adrfam] ?? 'unrecognized',
    subtype: SUBTYPES[entry.subtype] ?? 'unrecognized',
    treq: treqText(entry.treq),
    portid: entry.portid,
    trsvcid: entry.trsvcid,
    subnqn: entry.subnqn,
    traddr: entry.traddr,
    eflags: eflagsText(entry.eflags),
    ...(entry.trtype === TransportType.Tcp ? { sectype: SECTYPES[entry.sectype] ?? 'unrecognized' } : {}),
    ...(entry.attributes === undefined ? {} : { attributes: attributesText(entry.attributes) }),
  };
}

export function printLog(log: DiscoveryLog): void {
  printLine();
  printLine(`Discovery Log Number of Records ${log.numrec}, Generation counter ${log.genctr}`);
  for (const [i, entry] of log.entries.entries()) {
    printLine(`=====Discovery Log Entry ${i}======`);
    for (const [name, value] of Object.entries(record(entry))) printLine(`${`${name}:`.padEnd(9)}${value}`);
  }
}

export const jsonLog = (log: DiscoveryLog): object => ({ genctr: log.genctr, records: log.entries.map(record) });
