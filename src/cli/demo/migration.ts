/**
 * `nvmeferry demo`: a VM whose SSD is an NVMe controller on a DPU of fabric A goes on with it on a DPU of fabric B, while it writes all the time: its
 * memory, the controller's state and the blocks move. At the end fabric A is switched off, and the proof follows: every acknowledged write is on
 * fabric B, none was lost, none was executed twice. Ends non-zero if anything is off.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostController } from '../../initiator/controller.ts';
import { FabricEnd } from '../../orchestrator/fabric-end.ts';
import { Journal } from '../../orchestrator/journal.ts';
import { Move } from '../../orchestrator/move.ts';
import type { MoveEvent } from '../../orchestrator/move-options.ts';
import { bytesOf, type MoveReport } from '../../orchestrator/move-report.ts';
import { systemClock } from '../../util/clock.ts';
import { Guest } from '../../vm/guest.ts';
import { GuestFront } from '../../vm/guest-front.ts';
import { GuestMemoryCopy } from '../../vm/guest-memory-copy.ts';
import { Dpu, MANAGER_NQN, NSID, VM_NQN } from './dpu.ts';
import { done, must, say } from './say.ts';
import { TargetProcess } from './target-process.ts';
import { BLOCK_BYTES, isRecord, VmWorkload } from './vm-workload.ts';

const STORAGE_NQN = 'nqn.2026-01.io.nvmeferry:demo-storage';
const NAMESPACE_MIB = 128;
const BLOCKS = (NAMESPACE_MIB << 20) / BLOCK_BYTES;
/** Every so many-th block holds data when the move begins. */
const FILL_STEP = 4;
const RAM_BYTES = 16 << 20;
const QUEUES = 2;
const BUDGET_MS = 300;
const SWITCH_MS = 50;
const OPERATIONS_BEFORE = 500;
const OPERATIONS_AFTER = 500;
const SMART_LOG = 0x02;
const HOST_WRITE_COMMANDS = 80;
const CHECK_BLOCKS = 64;

/** A target in a process of its own: what a fabric has of storage. */
class Fabric {
  readonly name: string;
  readonly #process: TargetProcess;
  #port = 0;

  private constructor(name: string, process: TargetProcess) {
    this.name = name;
    this.#process = process;
  }

  static async start(name: string, directory: string): Promise<Fabric> {
    const configPath = join(directory, `fabric-${name}.json`);
    const config = {
      subsystems: [
        {
          nqn: STORAGE_NQN,
          allowAnyHost: true,
          namespaces: [
            { nsid: NSID, backend: { type: 'memory', size: `${NAMESPACE_MIB}MiB`, blockSize: BLOCK_BYTES } },
          ],
        },
      ],
      ports: [{ portId: 1, address: '127.0.0.1', service: 0, subsystems: ['*'] }],
      discovery: 'off',
    };
    await writeFile(configPath, JSON.stringify(config));
    const fabric = new Fabric(name, new TargetProcess(configPath));
    const { ports } = (await fabric.#process.start()) as { ports: readonly { service: number }[] };
    fabric.#port = ports[0]!.service;
    return fabric;
  }

  get port(): number {
    return this.#port;
  }

  get uri(): string {
    return `nvme+tcp://127.0.0.1:${this.#port}/${STORAGE_NQN}?nsid=${NSID}`;
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  end(signal: NodeJS.Signals): Promise<void> {
    return this.#process.end(signal);
  }
}

/** Whatever is open, closed in reverse order. */
class Open {
  readonly #closes: (() => Promise<unknown>)[] = [];

  add<T>(thing: T, close: (thing: T) => Promise<unknown>): T {
    this.#closes.push(() => close(thing));
    return thing;
  }

  async closeAll(): Promise<void> {
    for (const close of this.#closes.splice(0).reverse()) await close().catch(() => {});
  }
}

/** @throws NvmeofError NVMEOF_ERR_DEMO if anything is off */
export async function runMigrationDemo(): Promise<void> {
  const open = new Open();
  const directory = await mkdtemp(join(tmpdir(), 'nvmeferry-demo-'));
  open.add(directory, (path) => rm(path, { recursive: true, force: true }));
  try {
    await tell(open, directory);
  } finally {
    await open.closeAll();
  }
}

async function tell(open: Open, directory: string): Promise<void> {
  say(
    '1. Two fabrics on loopback, a target process each; on each a DPU with an NVMe SSD for a VM, its blocks on the target',
  );
  const a = open.add(await Fabric.start('A', directory), (fabric) => fabric.end('SIGKILL'));
  const b = open.add(await Fabric.start('B', directory), (fabric) => fabric.end('SIGKILL'));
  const from = open.add(await startDpu(a, directory, false), (dpu) => dpu.close());
  const to = open.add(await startDpu(b, directory, true), (dpu) => dpu.close());
  done(`fabric A: port ${a.port}, manager of its DPU on ${from.port}; fabric B: ${b.port}, ${to.port}`);

  say(
    `2. A VM with ${RAM_BYTES >> 20} MiB of memory starts on A: PCIe controller, ${QUEUES} I/O queue pairs, and writes`,
  );
  const guest = new Guest({ ramBytes: RAM_BYTES });
  guest.plug(from.function);
  await guest.start(QUEUES);
  const workload = open.add(new VmWorkload(guest, BLOCKS), async (one) => one.halt());
  await workload.fill(FILL_STEP);
  workload.start();
  await workload.until(workload.operations + OPERATIONS_BEFORE);
  done(`${workload.writes} writes, ${workload.reads} reads so far; 3 of 4 commands write, and they do not stop`);

  say(
    `3. The VM moves to B with its memory, its controller and its blocks; a pause of up to ${BUDGET_MS} ms is planned for`,
  );
  workload.longestGapMs = 0;
  const report = await move(open, directory, guest, from, to);
  const { moved, minimum } = bytesOf(report);
  done(
    `${mib(moved)} moved (at least ${mib(minimum)} had to be), ${report.rounds.length} rounds, ${seconds(report.totalMs)}`,
  );
  done(`pause ${ms(report.blackoutMs ?? Number.NaN)}, forecast ${ms(report.blackoutForecastMs ?? Number.NaN)}`);
  must(guest.isPlugged && guest.function === to.function, 'the VM has not the controller of B');

  say('4. Fabric A is switched off: kill -9 of its target; its DPU is closed. The VM goes on');
  await a.end('SIGKILL');
  await from.close();
  await workload.until(workload.operations + OPERATIONS_AFTER);
  await workload.stop();
  await guest.flush(NSID);
  done(
    `${OPERATIONS_AFTER} more commands on B; ${workload.writes} writes, ${workload.reads} reads in all, every read compared`,
  );

  say('5. The proof');
  await prove(guest, workload, b);
  say(`\nNothing lost, nothing repeated; the VM stood still for ${ms(workload.longestGapMs)}: demo passed`);
}

function startDpu({ name, uri }: Fabric, directory: string, closed: boolean): Promise<Dpu> {
  return Dpu.start({ uri, stateDirectory: join(directory, `dpu-${name}`), closed });
}

async function move(open: Open, directory: string, guest: Guest, from: Dpu, to: Dpu): Promise<MoveReport> {
  const there = new Uint8Array(new SharedArrayBuffer(RAM_BYTES));
  const front = new GuestFront(
    guest,
    { source: from.function, destination: to.function },
    { source: guest.ram.bytes, destination: there },
  );
  const source = open.add(await end(from), (one) => one.close());
  const destination = open.add(await end(to), (one) => one.close());
  const journal = open.add(await Journal.open(join(directory, 'journal')), (one) => one.close());
  const orchestrator = new Move({
    source,
    destination,
    front,
    memory: new GuestMemoryCopy(guest.ram, there),
    journal,
    clock: systemClock,
    spec: { kind: 'controller', controller: { source: from.cntlid, destination: to.cntlid } },
    // on a machine with much else to do the pause may be longer: it is told, and the data are right all the same
    tuning: { blackoutBudgetMs: BUDGET_MS, switchMs: SWITCH_MS, whenStuck: 'cut', verification: 'sampled' },
    onEvent: tellEvent,
  });
  const report = await orchestrator.run();
  await source.close();
  await destination.close();
  return report;
}

/** What the orchestrator has of a DPU: its manager, over NVMe/TCP. */
const end = ({ port }: Dpu): Promise<FabricEnd> =>
  FabricEnd.connect({ address: '127.0.0.1', port, subnqn: VM_NQN, hostnqn: MANAGER_NQN });

/** The steps that say something to who watches. */
const STEPS: Readonly<Record<string, string>> = {
  'close-destination': 'B is closed to guests',
  suspend: 'the VM stands still, its controller at A has finished what it had begun',
  'close-source': 'A is closed to guests: nobody writes',
  'last-copy': 'what was changed last is copied, and durable',
  state: 'the state of the controller is loaded at B',
  commit: 'commit: from here there is no way back',
  'open-destination': 'B is open',
  resume: 'the controller at B has the memory of the VM, and runs',
};

function tellEvent(event: MoveEvent): void {
  if (event.event === 'round') {
    const { bytes, durationMs, dirtiedBytes, blackoutMs } = event.round;
    say(
      `       copied ${mib(bytes)} in ${ms(durationMs)}, changed meanwhile ${mib(dirtiedBytes)}: a pause now: ${ms(blackoutMs)}`,
    );
  } else if (event.event === 'step' && event.state === 'done') {
    const text = STEPS[event.step];
    if (text !== undefined) say(`       ${text}`);
  } else if (event.event === 'warning') say(`       ${event.message}`);
}

async function prove(guest: Guest, workload: VmWorkload, b: Fabric): Promise<void> {
  const host = await HostController.connect({ address: '127.0.0.1', port: b.port, subnqn: STORAGE_NQN });
  try {
    const namespace = await host.namespace(NSID);
    let records = 0;
    for (let at = 0; at < BLOCKS; at += CHECK_BLOCKS) {
      const found = await namespace.read(at, CHECK_BLOCKS);
      for (let block = at; block < at + CHECK_BLOCKS; block++) {
        const count = workload.acknowledged[block]!;
        const from = (block - at) * BLOCK_BYTES;
        must(
          isRecord(found.subarray(from, from + BLOCK_BYTES), block, count),
          `block ${block} lost its write ${count}`,
        );
        if (count > 0) records++;
      }
    }
    done(`every acknowledged write is on fabric B: ${records} blocks hold their newest record, the others are zero`);
  } finally {
    await host.close();
  }
  const strays = guest.queues.reduce((sum, queue) => sum + queue.strays, 0);
  must(strays === 0, `the VM got ${strays} completions that it did not wait for`);
  const executed = await writesExecuted(guest);
  must(executed === workload.writes, `${executed} writes were executed, the VM sent ${workload.writes}`);
  done(`the controller counts ${executed} writes over both fabrics, as many as the VM sent; each was completed once`);
}

/** Host Write Commands of the SMART log: it moved with the controller. */
async function writesExecuted(guest: Guest): Promise<number> {
  const bytes = 512;
  const address = guest.ram.allocate(bytes);
  const { status } = await guest.command(guest.admin, {
    opcode: 0x02,
    nsid: 0xffff_ffff,
    prp1: address,
    cdw10: SMART_LOG | ((bytes / 4 - 1) << 16),
  });
  must(status === 0, `the SMART log is refused: status ${status.toString(16)}h`);
  return Number(Buffer.from(guest.ram.slice(address, bytes)).readBigUInt64LE(HOST_WRITE_COMMANDS));
}

const mib = (bytes: number): string => `${(bytes / (1 << 20)).toFixed(1)} MiB`;
const ms = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} ms`;
const seconds = (value: number): string => `${(value / 1000).toFixed(1)} s`;
