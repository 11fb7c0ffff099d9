/** resv-register, resv-acquire, resv-release, resv-report, resv-notif-log: nvme-cli's names and options. */
import { type Command, InvalidArgumentError } from 'commander';
import type { HostController } from '../../initiator/controller.ts';
import { type ReservationReport, reservationNotificationLog } from '../../initiator/reservation.ts';
import { type ReservationLog, reservationLogCodec } from '../../wire/cold/log-reservation.ts';
import { type AddressFlags, addAddress, type OutputFormat, parseInteger, resolveAddress } from './address.ts';
import { onNamespace } from './io.ts';
import { printJson, printLine, toHex, writeRaw } from './print.ts';
import { openNamespace, requireNsid, runVerb, withController } from './run.ts';

const KEY_MAX = 0xffff_ffff_ffff_ffffn;

/** A reservation key: 64 bits, decimal or 0x hex. */
function parseKey(text: string): bigint {
  const value = /^(?:\d+|0x[0-9a-f]+)$/i.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value > KEY_MAX)
    throw new InvalidArgumentError('A key of at most 64 bits is needed, such as 0x1234.');
  return value;
}

/** A whole number that fits a field. */
const upTo =
  (max: number) =>
  (text: string): number => {
    const value = parseInteger(text);
    if (value > max) throw new InvalidArgumentError(`Allowed are 0 to ${max}.`);
    return value;
  };

const ACTION_MAX = 7;
const TYPE_MAX = 255;

interface RegisterFlags extends AddressFlags {
  crkey: bigint;
  nrkey: bigint;
  rrega: number;
  cptpl: number;
  iekey?: boolean;
  disnsrs?: boolean;
}

export function registerResvRegister(program: Command): void {
  addAddress(
    program.command('resv-register').description('register, unregister or replace a reservation key'),
    'ckrpiD',
    true,
  )
    .option('-c, --crkey <key>', 'current reservation key', parseKey, 0n)
    .option('-k, --nrkey <key>', 'new reservation key', parseKey, 0n)
    .option('-r, --rrega <action>', '0 register, 1 unregister, 2 replace', upTo(ACTION_MAX), 0)
    .option('-p, --cptpl <change>', 'persist through power loss: 0 no change, 2 clear, 3 set', upTo(3), 0)
    .option('-i, --iekey', 'ignore the existing key')
    .option('-D, --disnsrs', 'this host supports reservations of dispersed namespaces')
    .action((uri: string | undefined, flags: RegisterFlags) =>
      onNamespace('resv-register', uri, flags, async (namespace) => {
        await namespace.reservationRegister({
          action: flags.rrega,
          currentKey: flags.crkey,
          newKey: flags.nrkey,
          ignoreExistingKey: flags.iekey ?? false,
          persistence: flags.cptpl,
          dispersed: flags.disnsrs ?? false,
        });
        if (flags.output === 'text') printLine('NVME Reservation Register success');
        return {};
      }),
    );
}

interface AcquireFlags extends AddressFlags {
  crkey: bigint;
  prkey: bigint;
  rtype: number;
  racqa: number;
  iekey?: boolean;
}

export function registerResvAcquire(program: Command): void {
  addAddress(program.command('resv-acquire').description('acquire or preempt a reservation'), 'cptai', true)
    .option('-c, --crkey <key>', 'current reservation key', parseKey, 0n)
    .option('-p, --prkey <key>', 'key of who is preempted', parseKey, 0n)
    .option(
      '-t, --rtype <type>',
      '1 write exclusive, 2 exclusive access, 3 and 4 the same for registrants only, 5 and 6 held by all registrants',
      upTo(TYPE_MAX),
      0,
    )
    .option('-a, --racqa <action>', '0 acquire, 1 preempt, 2 preempt and abort', upTo(ACTION_MAX), 0)
    .option('-i, --iekey', 'ignore the existing key')
    .action((uri: string | undefined, flags: AcquireFlags) =>
      onNamespace('resv-acquire', uri, flags, async (namespace) => {
        await namespace.reservationAcquire({
          action: flags.racqa,
          type: flags.rtype,
          currentKey: flags.crkey,
          preemptKey: flags.prkey,
          ignoreExistingKey: flags.iekey ?? false,
        });
        if (flags.output === 'text') printLine('NVME Reservation Acquire success');
        return {};
      }),
    );
}

interface ReleaseFlags extends AddressFlags {
  crkey: bigint;
  rtype: number;
  rrela: number;
  iekey?: boolean;
}

export function registerResvRelease(program: Command): void {
  addAddress(program.command('resv-release').description('release a reservation, or clear everything'), 'ctai', true)
    .option('-c, --crkey <key>', 'current reservation key', parseKey, 0n)
    .option('-t, --rtype <type>', 'type of what is held', upTo(TYPE_MAX), 0)
    .option('-a, --rrela <action>', '0 release, 1 clear', upTo(ACTION_MAX), 0)
    .option('-i, --iekey', 'ignore the existing key')
    .action((uri: string | undefined, flags: ReleaseFlags) =>
      onNamespace('resv-release', uri, flags, async (namespace) => {
        await namespace.reservationRelease({
          action: flags.rrela,
          type: flags.rtype,
          currentKey: flags.crkey,
          ignoreExistingKey: flags.iekey ?? false,
        });
        if (flags.output === 'text') printLine('NVME Reservation Release success');
        return {};
      }),
    );
}

interface ReportFlags extends AddressFlags {
  numd?: number;
  eds?: boolean;
  rawBinary?: boolean;
}

const listName = (report: ReservationReport): string => (report.extended ? 'regctlext' : 'regctls');

function reportJson(report: ReservationReport): object {
  const { gen, rtype, regctl, ptpls, registrants } = report;
  const list = registrants.map(({ cntlid, rcsts, hostid, rkey }) => ({ cntlid, rcsts, rkey, hostid: toHex(hostid) }));
  return { gen, rtype, regctl, ptpls, [listName(report)]: list };
}

function printReport(report: ReservationReport): void {
  const { gen, rtype, regctl, ptpls, registrants } = report;
  printLine('\nNVME Reservation status:\n');
  for (const [name, value] of Object.entries({ gen, rtype, regctl, ptpls })) printLine(`${name.padEnd(10)}: ${value}`);
  for (const [i, { cntlid, rcsts, rkey, hostid }] of registrants.entries()) {
    printLine(`${report.extended ? 'regctlext' : 'regctl'}[${i}] :`);
    printLine(`  cntlid  : ${cntlid.toString(16)}`);
    printLine(`  rcsts   : ${rcsts.toString(16)}`);
    printLine(`  rkey    : ${rkey.toString(16)}`);
    printLine(`  hostid  : ${toHex(hostid)}`);
  }
}

export function registerResvReport(program: Command): void {
  addAddress(
    program.command('resv-report').description('who is registered, and who holds the reservation'),
    'deb',
    true,
  )
    .option('-d, --numd <n>', "dwords to read, 0's based (default: all there is)", parseInteger)
    .option('-e, --eds', 'host identifiers of 128 bits (default: what the controller takes)')
    .option('-b, --raw-binary', 'the bytes as they came')
    .action((uri: string | undefined, flags: ReportFlags) =>
      runVerb(async (signal) => {
        const { options, nsid: found } = resolveAddress('resv-report', uri, flags);
        const nsid = requireNsid('resv-report', found);
        const report = await withController({ ...options, ioQueues: 1 }, signal, async (controller) =>
          (await openNamespace('resv-report', controller, nsid)).reservationReport({
            ...(flags.eds ? { extended: true } : {}),
            ...(flags.numd === undefined ? {} : { bytes: (Math.max(flags.numd, NUMD_MIN) + 1) * 4 }),
          }),
        );
        if (flags.rawBinary) await writeRaw(report.bytes);
        else if (flags.output === 'json') printJson(reportJson(report));
        else printReport(report);
      }),
    );
}
/** The header of a report. */
const NUMD_MIN = 5;

interface NotifFlags extends AddressFlags {
  rawBinary?: boolean;
  follow?: boolean;
}

const NOTIFICATIONS = ['Empty Log Page', 'Registration Preempted', 'Reservation Released', 'Reservation Preempted'];

function printNotification(where: string, log: ReservationLog): void {
  printLine(`Reservation Notif Log for device: ${where}`);
  printLine(`Log Page Count\t\t\t\t: ${log.lpc.toString(16)}`);
  printLine(`Resv Notif Log Page Type\t: ${log.rnlpt} (${NOTIFICATIONS[log.rnlpt] ?? 'Reserved'})`);
  printLine(`Num of Available Log Pages\t: ${log.nalp}`);
  printLine(`Namespace ID:\t\t\t\t: ${log.nsid.toString(16)}`);
}

/**
 * A controller keeps the notices from its connection on, so that a new one has none: `--follow` stays connected. They go to every controller of
 * this host, whichever of them registered.
 */
export function registerResvNotifLog(program: Command): void {
  addAddress(
    program.command('resv-notif-log').description('the oldest reservation notification, which leaves the log'),
    'b',
  )
    .option('-b, --raw-binary', 'the bytes as they came')
    .option('--follow', 'stay connected, print a line for each notification, until interrupted')
    .action((uri: string | undefined, flags: NotifFlags) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('resv-notif-log', uri, flags);
        await withController({ ...options, ioQueues: 0 }, signal, async (controller) => {
          if (flags.follow) {
            controller.on('reservationNotice', ({ nsid, type, count }) => printNotice(flags.output, nsid, type, count));
            await ended(controller);
            return;
          }
          const log = await reservationNotificationLog(controller);
          if (flags.rawBinary) await writeRaw(reservationLogCodec.encode(log));
          else if (flags.output === 'json') {
            printJson({ count: log.lpc, rn_log_type: log.rnlpt, num_logs: log.nalp, NSID: log.nsid });
          } else printNotification(options.address, log);
        });
      }),
    );
}

function printNotice(output: OutputFormat, nsid: number, type: number, count: bigint): void {
  if (output === 'json') printLine(JSON.stringify({ count: Number(count), rn_log_type: type, NSID: nsid }));
  else printLine(`namespace ${nsid}: ${NOTIFICATIONS[type] ?? `type ${type}`} (${count})`);
}

/** The controller is closed, or lost for good. */
async function ended(controller: HostController): Promise<void> {
  await new Promise<void>((resolve) => {
    controller.on('state', (state) => {
      if (state === 'dead') resolve();
    });
  });
}
