/**
 * A Linux guest under QEMU's software emulation, with a channel to run scripts in it.
 *
 * From inside, this machine is 10.0.2.2 and its loopback services are reachable there; from outside, a host forward opens
 * a guest port on 127.0.0.1. Emulation stretches the guest's timers: give generous time-outs, never measure speed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { type FileHandle, open, readdir, readFile, readlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentClient, type ScriptResult } from './agent-client.ts';
import { type GuestKernel, installedPath, projectRoot } from './paths.ts';
import { QmpClient } from './qmp-client.ts';

/** This machine, as the guest sees it. */
export const machineAddress = '10.0.2.2';

export interface HostForward {
  /** A free port of 127.0.0.1. */
  readonly hostPort: number;
  readonly guestPort: number;
}

export interface GuestOptions {
  readonly kernel: GuestKernel;
  /** Default 1; more only where queues are the point. */
  readonly cpus?: number;
  /** Default 768. */
  readonly memoryMiB?: number;
  readonly hostForwards?: readonly HostForward[];
  /** Path in the guest -> its content, or the path of a file on this machine. */
  readonly files?: Readonly<Record<string, Uint8Array | string>>;
  /** Further words of the kernel's command line: parameters of what is built in. */
  readonly kernelArgs?: readonly string[];
  /** Further arguments for QEMU, such as an emulated SSD. */
  readonly qemuArgs?: readonly string[];
  /** The machine: accelerator, processors, memory (shared: vfio-user devices need it). Default: as `cpus` and `memoryMiB` say. */
  readonly machineArgs?: readonly string[];
  /** `reset` is to be used: without it, a reset ends the guest. Default false. */
  readonly resets?: boolean;
}

export interface ExecOptions {
  /** Default 180 s: for what hangs; a guest on a busy machine stands still at times. */
  readonly timeoutMs?: number;
  /** Standard input of the script. */
  readonly input?: Uint8Array;
}

export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const bootTimeoutMs = 300_000;
const killTimeoutMs = 15_000;

/** Guests die with the test run, however it ends. */
const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export class GuestVm {
  readonly kernel: GuestKernel;
  readonly #folder: string;
  readonly #qemu: ChildProcess;
  readonly #exited: Promise<void>;
  /** Rejects when QEMU ends. */
  readonly #died: Promise<never>;
  #agent: AgentClient | undefined;
  #qmp: QmpClient | undefined;
  #stopping = false;
  #marks = 0;

  private constructor(options: GuestOptions) {
    this.kernel = options.kernel;
    this.#folder = mkdtempSync(join(tmpdir(), 'nvmeferry-guest-'));
    const log = openSync(join(this.#folder, 'qemu.log'), 'w');
    this.#qemu = spawn(installedPath('bin', 'qemu-system-x86_64'), qemuArguments(options, this.#folder), {
      stdio: ['ignore', log, log],
      env: { ...process.env, TMPDIR: this.#folder }, // where QEMU keeps what the guest writes to its disk
    });
    closeSync(log);
    running.add(this.#qemu);
    this.#exited = new Promise((resolve) => {
      this.#qemu.once('error', () => resolve());
      this.#qemu.once('exit', () => resolve());
    });
    this.#died = this.#exited.then(() => {
      throw new Error(this.#obituary());
    });
    this.#died.catch(() => {});
    void this.#exited.then(() => {
      running.delete(this.#qemu);
      this.#agent?.fail(new Error(this.#obituary()));
    });
  }

  /** Boots a guest; resolves when it runs scripts. */
  static async start(options: GuestOptions): Promise<GuestVm> {
    const vm = new GuestVm(options);
    try {
      vm.#agent = await Promise.race([AgentClient.connect(join(vm.#folder, 'agent'), 10_000), vm.#died]);
      await vm.#boot(options);
      return vm;
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  /**
   * Runs a bash script in the guest, with the functions of guest-lib.sh at hand, under `set -euo pipefail`.
   * Several may run at once. Rejects when the script takes longer than `timeoutMs` (it is killed) or the guest dies.
   */
  async exec(script: string, options: ExecOptions = {}): Promise<ExecResult> {
    const result = await this.#execute(`set -euo pipefail; . /run/guest-lib.sh; ${script}`, options);
    return { code: result.code, stdout: result.stdout.toString(), stderr: result.stderr.toString() };
  }

  /** As `exec`, for scripts that must succeed: resolves with their standard output, rejects with all they said. */
  async run(script: string, options: ExecOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.exec(script, options);
    if (code !== 0)
      throw new Error(`Exit status ${code} in the guest of:\n${script}\n${tail(stdout)}\n${tail(stderr)}`);
    return stdout;
  }

  async readFile(path: string): Promise<Buffer> {
    const { code, stdout, stderr } = await this.#execute(`cat -- ${shellQuote(path)}`, {});
    if (code !== 0) throw new Error(`Cannot read ${path} in the guest: ${stderr}`);
    return stdout;
  }

  async writeFile(path: string, content: Uint8Array): Promise<void> {
    const quoted = shellQuote(path);
    const { code, stderr } = await this.#execute(`mkdir -p -- "$(dirname -- ${quoted})" && cat > ${quoted}`, {
      input: content,
    });
    if (code !== 0) throw new Error(`Cannot write ${path} in the guest: ${stderr}`);
  }

  /** Notes this moment in the guest's kernel log, for `kernelLog`. */
  async markKernelLog(): Promise<string> {
    const mark = `nvmeferry mark ${++this.#marks}`;
    await this.run(`echo '${mark}' > /dev/kmsg`);
    return mark;
  }

  /** The guest's kernel log, or the part after a mark. */
  async kernelLog(since?: string): Promise<string[]> {
    const lines = (await this.run('dmesg')).trimEnd().split('\n');
    if (since === undefined) return lines;
    const index = lines.findIndex((line) => line.endsWith(since));
    if (index < 0) throw new Error(`No "${since}" in the kernel log: it was overwritten`);
    return lines.slice(index + 1);
  }

  /** The reset button: the guest boots anew, with its disk as it was left; resolves when it runs scripts again. */
  async reset(options: Pick<GuestOptions, 'files'> = {}): Promise<void> {
    await this.qmp('query-status');
    const done = this.#qmp!.event('RESET');
    await this.qmp('system_reset');
    await Promise.race([done, this.#died]);
    await this.#boot(options);
  }

  /** The guest's memory, as a file: what is at which offset is the machine's affair; below 2 GiB it is the physical address. */
  async openMemory(): Promise<FileHandle> {
    const folder = `/proc/${this.#qemu.pid}/fd`;
    for (const name of await readdir(folder)) {
      const target = await readlink(join(folder, name)).catch(() => '');
      if (target.includes('memfd:')) return await open(join(folder, name), 'r');
    }
    throw new Error('QEMU has no descriptor of the guest memory');
  }

  /** One QMP command; resolves with what it returns. */
  async qmp(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    this.#qmp ??= await QmpClient.connect(join(this.#folder, 'qmp'), 5000);
    return this.#qmp.execute(command, args);
  }

  /** Ends the guest as by pulling its plug, and forgets its disk. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#agent?.close();
    this.#qmp?.close();
    this.#qemu.kill('SIGKILL');
    await this.#exited;
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #boot(options: Pick<GuestOptions, 'files'>): Promise<void> {
    // The first answer comes when the guest is up.
    await Promise.race([this.#execute('true', { timeoutMs: bootTimeoutMs }), this.#died]);
    await this.writeFile('/run/guest-lib.sh', await readFile(join(projectRoot, 'test/interop/support/guest-lib.sh')));
    for (const [path, source] of Object.entries(options.files ?? {})) {
      await this.writeFile(path, typeof source === 'string' ? await readFile(source) : source);
    }
  }

  async #execute(
    script: string,
    { timeoutMs = 180_000, input = new Uint8Array() }: ExecOptions,
  ): Promise<ScriptResult> {
    if (!this.#agent) throw new Error('The guest is not up');
    const { id, result } = this.#agent.start(script, input);
    const inTime = await withinTime(result, timeoutMs);
    if (inTime) return inTime;
    // Kill the script's whole session and see what it had said. What hangs in the kernel stays.
    void this.#agent.start(`kill -KILL -- "-$(cat /run/agent/${id}.pid)"`, new Uint8Array()).result.catch(() => {});
    const killed = await withinTime(result, killTimeoutMs);
    const said = killed
      ? `${tail(killed.stdout.toString())}\n${tail(killed.stderr.toString())}`
      : '(it could not be killed)';
    throw new Error(`More than ${timeoutMs} ms in the guest for:\n${script}\n${said}\n${this.#consoleTail()}`);
  }

  #obituary(): string {
    if (this.#stopping) return 'The guest was stopped';
    const qemuLog = join(this.#folder, 'qemu.log');
    const complaints = existsSync(qemuLog) ? readFileSync(qemuLog, 'utf8') : '';
    return `The guest (kernel ${this.kernel}) died\n${tail(complaints)}\n${this.#consoleTail()}`;
  }

  #consoleTail(): string {
    const path = join(this.#folder, 'console.log');
    return existsSync(path) ? tail(readFileSync(path, 'utf8')) : '';
  }
}

function qemuArguments(options: GuestOptions, folder: string): string[] {
  const memory = options.memoryMiB ?? 768;
  const forwards = (options.hostForwards ?? [])
    .map((f) => `,hostfwd=tcp:127.0.0.1:${f.hostPort}-:${f.guestPort}`)
    .join('');
  const kernelCommandLine = [
    'console=ttyS0 quiet panic=-1', // a panic ends QEMU, through -no-reboot
    'nokaslr mitigations=off audit=0 lsm=capability init_on_alloc=0 cryptomgr.notests', // faster
    'nosoftlockup rcupdate.rcu_cpu_stall_suppress=1', // a guest on a busy machine stands still at times: no news
    'tsc=reliable no_timer_check nmi_watchdog=0', // clocks are uneven under emulation
    'log_buf_len=4M random.trust_cpu=on rcupdate.rcu_expedited=1',
    ...(options.kernelArgs ?? []),
  ].join(' ');
  return [
    ...(options.machineArgs ?? [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(options.cpus ?? 1)],
      ...['-M', 'q35,memory-backend=ram0', '-m', String(memory)],
      ...['-object', `memory-backend-memfd,id=ram0,size=${memory}M,share=on`],
    ]),
    ...['-nodefaults', '-display', 'none', '-no-user-config', ...(options.resets === true ? [] : ['-no-reboot'])],
    ...['-kernel', installedPath('guest', options.kernel, 'vmlinux')],
    ...['-initrd', installedPath('guest', options.kernel, 'initrd.cpio')],
    ...['-append', kernelCommandLine],
    ...['-drive', `file=${installedPath('guest', 'root.ext4')},format=raw,if=none,id=root,snapshot=on,cache=unsafe`],
    ...['-device', 'virtio-blk-pci,drive=root'],
    ...['-netdev', `user,id=net0${forwards}`, '-device', 'virtio-net-pci,netdev=net0,romfile='],
    ...['-device', 'virtio-rng-pci'],
    ...['-chardev', `file,id=console,path=${join(folder, 'console.log')}`, '-serial', 'chardev:console'],
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,path=${join(folder, 'agent')},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=agent,name=nvmeferry.agent'],
    ...['-qmp', `unix:${join(folder, 'qmp')},server=on,wait=off`],
    ...(options.qemuArgs ?? []),
  ];
}

async function withinTime<T>(promise: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  const done = new AbortController();
  try {
    return await Promise.race([promise, sleep(timeoutMs, undefined, { signal: done.signal })]);
  } finally {
    done.abort();
  }
}

export function shellQuote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function tail(text: string, lines = 40): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}
