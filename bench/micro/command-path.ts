/**
 * All JavaScript that runs for one I/O, on the host and on the target, without the kernel: the whole initiator and the whole target over a link in
 * memory. Blocks of 512 bytes show the path nearly without its payload copies (the host copies what it reads; the target what it is written).
 */
import { MemoryBackend } from '../../src/backend/memory.ts';
import { NullBackend } from '../../src/backend/null.ts';
import { HostController, type HostNamespace } from '../../src/initiator.ts';
import { Target } from '../../src/target/target.ts';
import { garbage, report } from './harness.ts';
import { type LinkTimes, LoopLink } from './loop-link.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:loop';
const BYTES = 16 << 20;
const COUNT = process.argv.includes('--full') ? 400_000 : 100_000;
const SAMPLES = 7;

interface Setting {
  readonly rw: 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
  readonly backend: 'memory' | 'null';
  readonly digests: boolean;
}

class Loop {
  readonly times: LinkTimes = { hostMs: 0, targetMs: 0 };
  readonly links: LoopLink[] = [];
  readonly #target = new Target();
  #controller!: HostController;
  #namespace!: HostNamespace;
  #pump: NodeJS.Immediate | undefined;

  static async open(setting: Setting): Promise<Loop> {
    const loop = new Loop();
    const target = loop.#target;
    const shape = { blockSize: setting.blockBytes, blockCount: BYTES / setting.blockBytes };
    const subsystem = target.addSubsystem({ nqn: NQN, allowAnyHost: true });
    const backend = setting.backend === 'memory' ? new MemoryBackend(shape) : new NullBackend(shape);
    target.addNamespace(subsystem, { nsid: 1, backend });
    const port = await target.addPort({ portId: 1, address: '127.0.0.1', service: 0, subsystems: ['*'] });
    loop.#keepPumping();
    loop.#controller = await HostController.connect({
      address: '127.0.0.1',
      port: port.service,
      subnqn: NQN,
      queueSize: setting.depth + 1,
      katoMs: 0,
      headerDigest: setting.digests,
      dataDigest: setting.digests,
      connectSocket: (options) => {
        const link = new LoopLink(options, port, target, loop.times);
        loop.links.push(link);
        return link.socket;
      },
    });
    loop.#namespace = await loop.#controller.namespace(1);
    return loop;
  }

  /** While connecting: every turn. */
  #keepPumping(): void {
    this.#pump = setImmediate(() => {
      for (const link of this.links) link.exchange();
      this.#keepPumping();
    });
  }

  /** A function that runs `count` I/Os; the queue is full from its first call on. */
  runner(setting: Setting): (count: number) => void {
    clearImmediate(this.#pump);
    const { depth, rw, blockBytes } = setting;
    const namespace = this.#namespace;
    const places = BYTES / blockBytes;
    const buffers = Array.from({ length: depth }, (_, slot) => new Uint8Array(blockBytes).fill(slot));
    const ints = new Int32Array([7, 0, 0]); // random state, left to submit, done
    const random = (): number => {
      let x = ints[0]!;
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      ints[0] = x;
      return (x >>> 1) % places;
    };
    const submit = (slot: number): void => {
      if (rw === 'read') namespace.submitRead(random(), 1, buffers[slot]!, onDone, slot);
      else namespace.submitWrite(random(), 1, buffers[slot]!, onDone, slot);
    };
    const onDone = (status: number, _result: number, context: unknown): void => {
      if (status !== 0) throw new Error(`Status 0x${status.toString(16)}`);
      ints[2]!++;
      submit(context as number);
    };
    for (let slot = 0; slot < depth; slot++) submit(slot);
    const link = this.links.at(-1)!;
    return (count) => {
      ints[2] = 0;
      while (ints[2]! < count) if (!link.exchange()) throw new Error('Nothing is on its way');
    };
  }

  async fill(): Promise<void> {
    const { blockCount, blockSize } = this.#namespace;
    const step = (128 << 10) / blockSize;
    for (let slba = 0; slba < blockCount; slba += step) {
      await this.#namespace.write(slba, new Uint8Array(step * blockSize).fill(1));
    }
  }
}

async function measure(setting: Setting): Promise<void> {
  const { rw, blockBytes, depth, backend, digests } = setting;
  const loop = await Loop.open(setting);
  if (backend === 'memory') await loop.fill();
  const run = loop.runner(setting);
  // the host's submits wait for the next turn once; from then on they leave with what they answer
  await new Promise((resolve) => setImmediate(resolve));
  run(COUNT);
  const host: number[] = [];
  const target: number[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    loop.times.hostMs = 0;
    loop.times.targetMs = 0;
    run(COUNT);
    host.push((loop.times.hostMs * 1e6) / COUNT);
    target.push((loop.times.targetMs * 1e6) / COUNT);
  }
  const bytesPerOp = garbage(run, 20_000);
  const what = `${rw} ${blockBytes} bytes, depth ${depth}, ${backend}${digests ? ', digests' : ''}`;
  report({ name: `target: ${what}`, nsPerOp: target, bytesPerOp: Number.NaN });
  report({ name: `host:   ${what}`, nsPerOp: host, bytesPerOp: Number.NaN });
  report({ name: `both:   ${what}`, nsPerOp: host.map((ns, i) => ns + target[i]!), bytesPerOp });
}

const settings: Setting[] = [];
for (const rw of ['read', 'write'] as const) {
  for (const backend of ['memory', 'null'] as const) {
    settings.push({ rw, blockBytes: 4096, depth: 32, backend, digests: false });
    settings.push({ rw, blockBytes: 4096, depth: 128, backend, digests: false });
  }
  settings.push({ rw, blockBytes: 512, depth: 128, backend: 'memory', digests: false });
  settings.push({ rw, blockBytes: 4096, depth: 128, backend: 'memory', digests: true });
}
const index = process.argv.indexOf('--setting');
if (index < 0) {
  // each in a process of its own, as the compiler would otherwise see them all at once
  const { spawnSync } = await import('node:child_process');
  for (let i = 0; i < settings.length; i++) {
    const flags = [...process.execArgv, process.argv[1]!, ...process.argv.slice(2), '--setting', String(i)];
    const { status } = spawnSync(process.execPath, flags, { stdio: 'inherit' });
    if (status !== 0) process.exit(1);
  }
} else {
  await measure(settings[Number(process.argv[index + 1])]!);
}
process.exit(0);
