/** On what an `lm` verb works: a connection of its own, a local device, or the connection of a batch. */
import type { Command } from 'commander';
import { LiveMigration, type MigrationHost } from '../../../initiator/live-migration.ts';
import { ConfigError } from '../../../util/error.ts';
import { type AddressFlags, addAddress, parseInteger, resolveAddress } from '../address.ts';
import { isDevicePath } from '../local-device.ts';
import { runVerb, withAdminHost } from '../run.ts';

export interface LmSession {
  readonly lm: LiveMigration<MigrationHost>;
  /** Of the URI or device, if it names a namespace. */
  readonly nsid: number | undefined;
  /** Queues, tracking and suspensions last beyond this verb: the management controller's association does. */
  readonly lasts: boolean;
}

/** Runs the work of a verb on what its address names. */
export type LmRunner = (
  verb: string,
  uri: string | undefined,
  flags: AddressFlags,
  work: (session: LmSession) => Promise<void>,
) => Promise<void>;

/** A connection for one verb, closed at its end; or a local device, whose association is the kernel's. */
export const runAlone: LmRunner = (verb, uri, flags, work) =>
  runVerb(async (signal) => {
    // here --cntlid names the controller to migrate, not the one to connect to
    const address = { ...flags };
    delete address.cntlid;
    const { options, nsid } = resolveAddress(`lm ${verb}`, uri, address);
    await withAdminHost({ ...options, ioQueues: 0 }, signal, (host) =>
      work({ lm: new LiveMigration<MigrationHost>(host), nsid, lasts: isDevicePath(options.address) }),
    );
  });

/** @throws ConfigError where what the verb makes would be gone before anybody could use it */
export function needsLasting(verb: string, { lasts }: LmSession, what: string): void {
  if (lasts) return;
  throw new ConfigError(
    `lm ${verb}: over NVMe/TCP ${what} ends with the connection that made it; run it in 'nvmeferry lm batch', or on a local /dev/nvme0`,
  );
}

export const CNTLID_MAX = 0xffef;

/** A sub-command of `lm` with its address. @param letters that its own options use */
export function lmCommand(group: Command, name: string, description: string, letters: string): Command {
  return addAddress(group.command(name).description(description), letters, false, true);
}

/** `-c, --cntlid`. */
export const cntlidOption = (command: Command): Command =>
  command.requiredOption('-c, --cntlid <id>', 'controller that is migrated', parseInteger);
/** `-C, --cdqid`. */
export const cdqidOption = (command: Command): Command =>
  command.requiredOption('-C, --cdqid <id>', 'Controller Data Queue', parseInteger);

/** @throws ConfigError naming the option */
export function inRange(verb: string, option: string, value: number, min: number, max: number): number {
  if (value < min || value > max) {
    throw new ConfigError(`lm ${verb} --${option}: found ${value}, allowed are ${min} to ${max}`);
  }
  return value;
}
