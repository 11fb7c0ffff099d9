/**
 * A process that drains a queue, as a mover beside the host does: `QueueDrainer` starts it. Argument: `DrainerSetting` as JSON. Each line on stdin is a
 * `DrainerCommand` as JSON, each is answered by a line: `DrainerReport`.
 */
import { createInterface } from 'node:readline';
import { HostController, parseNvmeUri } from '../../src/initiator.ts';
import { LiveMigration } from '../../src/migration.ts';
import { type DrainPolicy, QueueDrain } from './queue-drain.ts';

export interface DrainerSetting {
  readonly uri: string;
  readonly hostnqn: string;
}

export type DrainerCommand =
  /** Follows that controller from now on. */
  | { readonly what: 'begin'; readonly cntlid: number; readonly policy: DrainPolicy }
  /** The queue stays; what is off logs nothing. */
  | { readonly what: 'track'; readonly on: boolean }
  /** Answered when no drain is under way. */
  | { readonly what: 'settle' }
  | { readonly what: 'end' };

export interface DrainerReport {
  /** Drained since `begin`. */
  readonly entries: number;
}

const setting = JSON.parse(process.argv[2]!) as DrainerSetting;
const { nsid: _, subnqn, ...rest } = parseNvmeUri(setting.uri);
const manager = await HostController.connect({ ...rest, subnqn: subnqn!, hostnqn: setting.hostnqn, ioQueues: 0 });
const lm = new LiveMigration(manager);
let drain: QueueDrain | undefined;

function answer(): void {
  const report: DrainerReport = { entries: drain?.entries ?? 0 };
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

answer();
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as DrainerCommand;
  if (command.what === 'begin') drain = await QueueDrain.start(lm, command.cntlid, command.policy);
  if (command.what === 'track' || command.what === 'settle') await drain!.settled();
  if (command.what === 'track') await drain!.track(command.on);
  if (command.what === 'end') await drain!.stop();
  answer();
}
await manager.close();
