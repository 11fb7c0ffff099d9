/**
 * A process that drains a queue, as a mover beside the host does. One argument: `DrainerSetting` as JSON. Each line on stdin starts it or stops it in
 * turn, each is answered by a line: `DrainerReport`.
 */
import { createInterface } from 'node:readline';
import { HostController, parseNvmeUri } from '../../src/initiator.ts';
import { LiveMigration } from '../../src/migration.ts';
import { QueueDrain } from './queue-drain.ts';

export interface DrainerSetting {
  readonly uri: string;
  readonly hostnqn: string;
  /** Whose changes. */
  readonly cntlid: number;
  readonly slots: number;
  readonly blockCount: number;
}

/** Of the time since it was started. */
export interface DrainerReport {
  readonly entries: number;
  readonly drains: number;
  /** CPU microseconds of this process, user and kernel. */
  readonly cpuUs: number;
}

const setting = JSON.parse(process.argv[2]!) as DrainerSetting;
const { nsid: _, subnqn, ...rest } = parseNvmeUri(setting.uri);
const manager = await HostController.connect({ ...rest, subnqn: subnqn!, hostnqn: setting.hostnqn, ioQueues: 0 });
const lm = new LiveMigration(manager);
const answer = (report: DrainerReport): boolean => process.stdout.write(`${JSON.stringify(report)}\n`);
answer({ entries: 0, drains: 0, cpuUs: 0 });
let drain: QueueDrain | undefined;
let before = process.cpuUsage();
for await (const _line of createInterface({ input: process.stdin })) {
  if (drain === undefined) {
    drain = await QueueDrain.start(lm, setting.cntlid, setting.slots, setting.blockCount);
    before = process.cpuUsage();
    answer({ entries: 0, drains: 0, cpuUs: 0 });
  } else {
    await drain.stop();
    const { user, system } = process.cpuUsage(before);
    const { entries, drains } = drain;
    drain = undefined;
    answer({ entries, drains, cpuUs: user + system });
  }
}
await manager.close();
