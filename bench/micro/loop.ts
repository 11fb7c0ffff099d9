/** The whole initiator and the whole target over a link in memory, at full depth. */
import { MemoryBackend } from '../../src/backend/memory.ts';
import { NullBackend } from '../../src/backend/null.ts';
import { HostController, type HostNamespace } from '../../src/initiator.ts';
import type { Controller } from '../../src/target/controller.ts';
import type { Namespace } from '../../src/target/namespace.ts';
import { Target } from '../../src/target/target.ts';
import { type LinkTimes, LoopLink } from './loop-link.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:loop';
const BYTES = 16 << 20;

export interface Setting {
  readonly rw: 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
  readonly backend: 'memory' | 'null';
  readonly digests: boolean;
}

export class Loop {
  readonly times: LinkTimes = { hostMs: 0, targetMs: 0 };
  readonly links: LoopLink[] = [];
  readonly #target = new Target();
  #controller!: HostController;
  #namespace!: HostNamespace;
  #pump: NodeJS.Immediate | undefined;
  /** The target's. */
  targetNamespace!: Namespace;
  targetController!: Controller;

  static async open(setting: Setting): Promise<Loop> {
    const loop = new Loop();
    const target = loop.#target;
    const shape = { blockSize: setting.blockBytes, blockCount: BYTES / setting.blockBytes };
    const subsystem = target.addSubsystem({ nqn: NQN, allowAnyHost: true });
    const backend = setting.backend === 'memory' ? new MemoryBackend(shape) : new NullBackend(shape);
    target.addNamespace(subsystem, { nsid: 1, backend });
    loop.targetNamespace = subsystem.namespaces[1]!;
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
    loop.targetController = subsystem.controller(loop.#controller.cntlid)!;
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
