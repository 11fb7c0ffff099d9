/** smart-log, error-log, fw-log, effects-log, get-log. */
import type { Command } from 'commander';
import { NSID_ALL } from '../../spec/identify.ts';
import { LogPage } from '../../spec/log-page.ts';
import { statusName } from '../../spec/status.ts';
import { ConfigError } from '../../util/error.ts';
import { EFFECTS_LOG_BYTES, type EffectsLog, effectsLogCodec } from '../../wire/cold/log-effects.ts';
import { decodeErrorLog, ERROR_LOG_ENTRY_BYTES, type ErrorLogEntry } from '../../wire/cold/log-error.ts';
import { FIRMWARE_LOG_BYTES, firmwareLogCodec } from '../../wire/cold/log-firmware.ts';
import { SMART_LOG_BYTES, type SmartLog, smartLogCodec } from '../../wire/cold/log-smart.ts';
import { type AddressFlags, addAddress, parseInteger, resolveAddress } from './address.ts';
import { hex, printHexDump, printJson, printLine, toHex, writeRaw } from './print.ts';
import { runVerb, withAdminHost } from './run.ts';

const KELVIN = 273;

function smartJson(log: SmartLog): Record<string, unknown> {
  return {
    critical_warning: log.criticalWarning,
    temperature: log.temperature,
    avail_spare: log.availSpare,
    spare_thresh: log.spareThresh,
    percent_used: log.percentUsed,
    endurance_grp_critical_warning_summary: log.enduranceGrpCriticalWarningSummary,
    data_units_read: log.dataUnitsRead,
    data_units_written: log.dataUnitsWritten,
    host_read_commands: log.hostReadCommands,
    host_write_commands: log.hostWriteCommands,
    controller_busy_time: log.controllerBusyTime,
    power_cycles: log.powerCycles,
    power_on_hours: log.powerOnHours,
    unsafe_shutdowns: log.unsafeShutdowns,
    media_errors: log.mediaErrors,
    num_err_log_entries: log.numErrLogEntries,
    warning_temp_time: log.warningTempTime,
    critical_comp_time: log.criticalCompTime,
    ...Object.fromEntries(
      log.temperatureSensor.flatMap((kelvin, i) => (kelvin === 0 ? [] : [[`temperature_sensor_${i + 1}`, kelvin]])),
    ),
    thm_temp1_trans_count: log.thmTemp1TransCount,
    thm_temp2_trans_count: log.thmTemp2TransCount,
    thm_temp1_total_time: log.thmTemp1TotalTime,
    thm_temp2_total_time: log.thmTemp2TotalTime,
  };
}

function printSmart(where: string, nsid: number, log: SmartLog): void {
  printLine(`Smart Log for NVME device:${where} namespace-id:${nsid.toString(16)}`);
  for (const [name, value] of Object.entries(smartJson(log))) {
    let text = String(value);
    if (name.startsWith('temperature')) text = `${Number(value) - KELVIN} °C (${value} K)`;
    else if (/^(avail_spare|spare_thresh|percent_used)$/.test(name)) text = `${value}%`;
    printLine(`${name.padEnd(40)}: ${text}`);
  }
}

/** A verb that reads one log page: text, JSON or raw. */
export function addLogVerb(
  program: Command,
  name: string,
  description: string,
  taken: string,
  page: (flags: LogFlags) => { lid: number; bytes: number; nsid: number; csi?: number },
  show: (bytes: Uint8Array, flags: LogFlags, where: string) => void,
): Command {
  return addAddress(program.command(name).description(description), `b${taken}`)
    .option('-b, --raw-binary', 'the bytes as they came')
    .action((uri: string | undefined, flags: LogFlags) =>
      runVerb(async (signal) => {
        const { options, nsid } = resolveAddress(name, uri, flags);
        const resolved: LogFlags = nsid === undefined ? flags : { ...flags, namespaceId: nsid };
        const bytes = await withAdminHost({ ...options, ioQueues: 0 }, signal, (controller) =>
          controller.getLogPage({ ...page(resolved), retainEvent: flags.rae ?? false }),
        );
        if (flags.rawBinary) await writeRaw(bytes);
        else show(bytes, resolved, options.address);
      }),
    );
}

interface LogFlags extends AddressFlags {
  rawBinary?: boolean;
  rae?: boolean;
  logEntries?: number;
  csi?: number;
}

export function registerSmartLog(program: Command): void {
  addLogVerb(
    program,
    'smart-log',
    'SMART / Health Information',
    '',
    (flags) => ({ lid: LogPage.SmartHealth, bytes: SMART_LOG_BYTES, nsid: flags.namespaceId ?? NSID_ALL }),
    (bytes, flags, where) => {
      const log = smartLogCodec.decode(bytes);
      if (flags.output === 'json') printJson(smartJson(log));
      else printSmart(where, flags.namespaceId ?? NSID_ALL, log);
    },
  );
}

const DEFAULT_ERROR_ENTRIES = 64;

function errorJson(entry: ErrorLogEntry): object {
  return {
    error_count: entry.errorCount,
    sqid: entry.sqid,
    cmdid: entry.cmdid,
    status_field: entry.statusField >> 1,
    phase_tag: entry.statusField & 1,
    parm_error_location: entry.parmErrorLocation,
    lba: entry.lba,
    nsid: entry.nsid,
    vs: entry.vs,
    trtype: entry.trtype,
    csi: entry.csi,
    opcode: entry.opcode,
    cs: entry.cs,
    trtype_spec_info: entry.trtypeSpecInfo,
    log_page_version: entry.logPageVersion,
  };
}

function printErrors(where: string, entries: readonly ErrorLogEntry[]): void {
  printLine(`Error Log Entries for device:${where} entries:${entries.length}`);
  printLine('.................');
  for (const [i, entry] of entries.entries()) {
    const status = entry.statusField >> 1;
    printLine(` Entry[${String(i).padStart(2)}]`);
    printLine('.................');
    printLine(`error_count     : ${entry.errorCount}`);
    printLine(`sqid            : ${entry.sqid}`);
    printLine(`cmdid           : ${hex(entry.cmdid)}`);
    printLine(`status_field    : ${hex(status)} (${statusName(status, entry.sqid === 0 ? 'admin' : 'io')})`);
    printLine(`phase_tag       : ${entry.statusField & 1}`);
    printLine(`parm_err_loc    : ${hex(entry.parmErrorLocation)}`);
    printLine(`lba             : ${hex(entry.lba)}`);
    printLine(`nsid            : ${hex(entry.nsid)}`);
    printLine(`vs              : ${entry.vs}`);
    printLine(`trtype          : ${entry.trtype}`);
    printLine(`csi             : ${entry.csi}`);
    printLine(`opcode          : ${hex(entry.opcode)}`);
    printLine(`cs              : ${hex(entry.cs)}`);
    printLine(`trtype_spec_info: ${hex(entry.trtypeSpecInfo)}`);
    printLine(`log_page_version: ${entry.logPageVersion}`);
    printLine('.................');
  }
}

export function registerErrorLog(program: Command): void {
  addLogVerb(
    program,
    'error-log',
    'Error Information',
    'e',
    (flags) => ({
      lid: LogPage.ErrorInformation,
      bytes: (flags.logEntries ?? DEFAULT_ERROR_ENTRIES) * ERROR_LOG_ENTRY_BYTES,
      nsid: NSID_ALL,
    }),
    (bytes, flags, where) => {
      const entries = decodeErrorLog(bytes);
      if (flags.output === 'json') printJson({ errors: entries.map(errorJson) });
      else printErrors(where, entries);
    },
  ).option('-e, --log-entries <n>', 'entries to read', parseInteger);
}

export function registerFwLog(program: Command): void {
  addLogVerb(
    program,
    'fw-log',
    'Firmware Slot Information',
    '',
    () => ({ lid: LogPage.FirmwareSlot, bytes: FIRMWARE_LOG_BYTES, nsid: NSID_ALL }),
    (bytes, flags, where) => {
      const log = firmwareLogCodec.decode(bytes);
      const slots = log.frs.flatMap(({ fr }, i) => (fr === '' ? [] : [[i + 1, fr] as const]));
      if (flags.output === 'json') {
        const revisions = Object.fromEntries(slots.map(([slot, fr]) => [`Firmware Rev Slot ${slot}`, fr]));
        printJson({ [where]: { 'Active Firmware Slot (afi)': log.afi, ...revisions } });
        return;
      }
      printLine(`Firmware Log for device:${where}`);
      printLine(`afi  : ${hex(log.afi)}`);
      for (const [slot, fr] of slots) printLine(`frs${slot} : ${fr}`);
    },
  );
}

const ADMIN_NAMES: Readonly<Record<number, string>> = {
  0: 'Delete I/O Submission Queue',
  1: 'Create I/O Submission Queue',
  2: 'Get Log Page',
  4: 'Delete I/O Completion Queue',
  5: 'Create I/O Completion Queue',
  6: 'Identify',
  8: 'Abort',
  9: 'Set Features',
  10: 'Get Features',
  12: 'Asynchronous Event Request',
  13: 'Namespace Management',
  16: 'Firmware Commit',
  17: 'Firmware Image Download',
  20: 'Device Self-test',
  21: 'Namespace Attachment',
  24: 'Keep Alive',
  128: 'Format NVM',
  129: 'Security Send',
  130: 'Security Receive',
  132: 'Sanitize',
  134: 'Get LBA Status',
};
const IO_NAMES: Readonly<Record<number, string>> = {
  0: 'Flush',
  1: 'Write',
  2: 'Read',
  4: 'Write Uncorrectable',
  5: 'Compare',
  8: 'Write Zeroes',
  9: 'Dataset Management',
  12: 'Verify',
  13: 'Reservation Register',
  14: 'Reservation Report',
  17: 'Reservation Acquire',
  21: 'Reservation Release',
  25: 'Copy',
};

function effects(log: EffectsLog): { admin: [number, string, number][]; io: [number, string, number][] } {
  const supported = (list: readonly number[], names: Readonly<Record<number, string>>): [number, string, number][] =>
    list.flatMap((value, opcode) => ((value & 1) === 0 ? [] : [[opcode, names[opcode] ?? 'Unknown', value]]));
  return { admin: supported(log.acs, ADMIN_NAMES), io: supported(log.iocs, IO_NAMES) };
}

export function registerEffectsLog(program: Command): void {
  addLogVerb(
    program,
    'effects-log',
    'Commands Supported and Effects',
    'c',
    (flags) => ({ lid: LogPage.CommandsSupportedAndEffects, bytes: EFFECTS_LOG_BYTES, nsid: 0, csi: flags.csi ?? 0 }),
    (bytes, flags) => {
      const { admin, io } = effects(effectsLogCodec.decode(bytes));
      if (flags.output === 'json') {
        const object = (prefix: string, list: [number, string, number][]): object =>
          Object.fromEntries(list.map(([opcode, name, value]) => [`${prefix}${opcode} (${name})`, value]));
        const log = { admin_cmd_set: object('ACS', admin), io_cmd_set: object('IOCS', io) };
        printJson([{ command_set_identifier: flags.csi ?? 0, effects_log: log }]);
        return;
      }
      const line = (prefix: string, [opcode, name, value]: [number, string, number]): void =>
        printLine(`${`${prefix}${opcode}`.padEnd(7)} [${name.padEnd(32)}] ${value.toString(16).padStart(8, '0')}`);
      printLine('Admin Commands');
      for (const one of admin) line('ACS', one);
      printLine();
      printLine('NVM Commands');
      for (const one of io) line('IOCS', one);
    },
  ).option('-c, --csi <id>', 'command set', parseInteger);
}

interface GetLogFlags extends AddressFlags {
  logId?: number;
  logLen?: number;
  lpo?: number;
  lsp?: number;
  lsi?: number;
  rae?: boolean;
  csi?: number;
  uuidIndex?: number;
  rawBinary?: boolean;
}

export function registerGetLog(program: Command): void {
  addAddress(program.command('get-log').description('any log page, as bytes'), 'ilLSRyUb')
    .option('-i, --log-id <lid>', 'log page', parseInteger)
    .option('-l, --log-len <bytes>', 'length, a multiple of 4', parseInteger)
    .option('-L, --lpo <bytes>', 'offset', parseInteger)
    .option('-S, --lsp <value>', 'log specific field', parseInteger)
    .option('--lsi <value>', 'log specific identifier', parseInteger)
    .option('-R, --rae', 'retain the asynchronous event')
    .option('-y, --csi <id>', 'command set', parseInteger)
    .option('-U, --uuid-index <n>', 'UUID index', parseInteger)
    .option('-b, --raw-binary', 'the bytes as they came')
    .action((uri: string | undefined, flags: GetLogFlags) =>
      runVerb(async (signal) => {
        const { options, nsid } = resolveAddress('get-log', uri, flags);
        const { logId: lid, logLen: bytes } = flags;
        if (lid === undefined) throw new ConfigError('get-log: --log-id is missing, e.g. --log-id 2');
        if (bytes === undefined) throw new ConfigError('get-log: --log-len is missing, e.g. --log-len 512');
        const page = await withAdminHost({ ...options, ioQueues: 0 }, signal, (controller) =>
          controller.getLogPage({
            lid,
            bytes,
            offset: flags.lpo ?? 0,
            lsp: flags.lsp ?? 0,
            lsi: flags.lsi ?? 0,
            retainEvent: flags.rae ?? false,
            csi: flags.csi ?? 0,
            uuidIndex: flags.uuidIndex ?? 0,
            nsid: nsid ?? NSID_ALL,
          }),
        );
        if (flags.rawBinary) await writeRaw(page);
        else if (flags.output === 'json') printJson({ log_id: lid, data_len: page.length, data: toHex(page) });
        else {
          printLine(`Device:${options.address} log-id:${lid} namespace-id:${hex(nsid ?? NSID_ALL)}`);
          printHexDump(page);
        }
      }),
    );
}
