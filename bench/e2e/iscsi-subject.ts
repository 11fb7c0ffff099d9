/** The user-space iSCSI target tgt under libiscsi's perf tool, which reads only and reports no latencies. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Child,
  cpuTimeOf,
  findProgram,
  LOAD_CORE,
  machineCpuTime,
  pinned,
  run,
  SERVER_CORE,
  start,
  stop,
} from '../lib/machine.ts';
import { freePort, listening, memoryFile } from './nbd-subject.ts';
import { type Case, HOW_TO_INSTALL, type Sample, type Subject } from './subject.ts';

const tgtd = findProgram('tgtd');
const tgtadm = findProgram('tgtadm');
const iscsiPerf = findProgram('iscsi-perf');

const IQN = 'iqn.2026-01.io.nvmeferry:bench';
const BLOCK_BYTES = 4096;
const CONTROL_PORT_MAX = 32_000;

export class TgtSubject implements Subject {
  readonly name = 'tgt, file in memory (iscsi-perf)';
  readonly missing: string | undefined;
  #child: Child | undefined;
  #file: ReturnType<typeof memoryFile> | undefined;
  #port = 0;

  constructor() {
    const all = tgtd !== undefined && tgtadm !== undefined && iscsiPerf !== undefined;
    const isRoot = process.getuid?.() === 0;
    this.missing = !all ? HOW_TO_INSTALL : isRoot ? undefined : 'not measured: tgtd needs root';
  }

  takes(test: Case): boolean {
    if (test.nvmeOnly === true || test.digests || test.backend !== 'memory') return false;
    return test.rw === 'read' && test.connections === 1;
  }

  async start(): Promise<void> {
    this.#file = memoryFile();
    await run(['dd', 'if=/dev/zero', `of=${this.#file.path}`, 'bs=1M', 'count=512', 'conv=notrunc', 'status=none']);
    this.#port = await freePort();
    // names its control socket, which no other instance may have
    const control = String((process.pid % CONTROL_PORT_MAX) + 1);
    this.#child = start(pinned(SERVER_CORE, [tgtd!, '-f', '-C', control, '--iscsi', `portal=127.0.0.1:${this.#port}`]));
    await listening(this.#port, this.#child);
    const adm = (...flags: string[]): Promise<string> => run([tgtadm!, '-C', control, '--lld', 'iscsi', ...flags]);
    for (let tries = 0; ; tries++) {
      try {
        await adm('--op', 'new', '--mode', 'target', '--tid', '1', '-T', IQN);
        break;
      } catch (error) {
        if (tries === 20) throw error;
        await sleep(100);
      }
    }
    const unit = ['--tid', '1', '--lun', '1', '-b', this.#file.path, '--bstype', 'rdwr'];
    await adm('--op', 'new', '--mode', 'logicalunit', ...unit, '--blocksize', String(BLOCK_BYTES));
    await adm('--op', 'bind', '--mode', 'target', '--tid', '1', '-I', 'ALL');
  }

  async measure(test: Case, seconds: number): Promise<Sample> {
    const pid = this.#child!.pid!;
    const cpuBefore = cpuTimeOf(pid);
    const machineBefore = machineCpuTime();
    const startMs = performance.now();
    // whole seconds only
    const runSeconds = Math.max(1, Math.round(seconds));
    const output = await run(
      pinned(LOAD_CORE, [
        iscsiPerf!,
        ...['-m', String(test.depth), '-b', String(test.blockBytes / BLOCK_BYTES), '-t', String(runSeconds), '-r'],
        `iscsi://127.0.0.1:${this.#port}/${IQN}/1`,
      ]),
    );
    const wallSeconds = (performance.now() - startMs) / 1000;
    const cpu = cpuTimeOf(pid);
    const machine = machineCpuTime();
    const averages = [...output.matchAll(/iops average (\d+)/g)];
    const iops = Number(averages.at(-1)?.[1] ?? Number.NaN);
    const ios = iops * runSeconds;
    const user = cpu.user - cpuBefore.user;
    const system = cpu.system - cpuBefore.system;
    const others = machine.busy - machineBefore.busy - user - system + machine.stolen - machineBefore.stolen;
    return {
      iops,
      bytesPerSecond: iops * test.blockBytes,
      latencyUs: [Number.NaN, Number.NaN, Number.NaN, Number.NaN],
      serverUserUs: (user / ios) * 1e6,
      serverSystemUs: (system / ios) * 1e6,
      loadCores: Number.NaN,
      // the generator's own share cannot be told apart; what is beyond its one core is others'
      otherCores: Math.max(0, others / wallSeconds - 1),
    };
  }

  async stop(): Promise<void> {
    if (this.#child !== undefined) await stop(this.#child);
    this.#file?.remove();
  }
}
