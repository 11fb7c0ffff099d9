/**
 * All JavaScript of one I/O behind PCIe, from the doorbell to the consumed completion: guest driver and controller in one thread, over the in-process
 * machine. The null backend shows the path alone.
 */
import { MemoryBackend } from '../../src/backend/memory.ts';
import { NullBackend } from '../../src/backend/null.ts';
import { IoOpcode } from '../../src/spec/opcode.ts';
import { Target } from '../../src/target/target.ts';
import { Guest } from '../../src/vm/guest.ts';
import type { GuestQueue } from '../../src/vm/guest-queue.ts';
import { bench } from './harness.ts';

const BYTES = 64 << 20;
const PAGE = 4096;

interface Setting {
  readonly opcode: number;
  readonly blockBytes: number;
  readonly depth: number;
  readonly backend: 'memory' | 'null';
}

class Machine {
  readonly #guest: Guest;
  readonly #queue: GuestQueue;
  readonly #setting: Setting;
  readonly #buffers: number;
  readonly #list: number;
  readonly #blocks: number;

  private constructor(setting: Setting, guest: Guest, queue: GuestQueue) {
    this.#setting = setting;
    this.#guest = guest;
    this.#queue = queue;
    this.#blocks = BYTES / setting.blockBytes;
    this.#buffers = guest.ram.allocate(setting.depth * Math.max(PAGE, setting.blockBytes));
    this.#list = guest.ram.allocate(PAGE);
  }

  static async start(setting: Setting): Promise<Machine> {
    const target = new Target();
    const subsystem = target.addSubsystem({ nqn: 'nqn.2026-01.io.nvmeferry:pcie', allowAnyHost: true });
    const shape = { blockSize: 512, blockCount: BYTES / 512 };
    const backend = setting.backend === 'memory' ? new MemoryBackend(shape) : new NullBackend(shape);
    target.addNamespace(subsystem, { nsid: 1, backend });
    const { function: pci } = target.addFunction(subsystem, { vectorCount: 2 });
    const guest = new Guest({ runsItself: false });
    guest.plug(pci);
    const started = guest.start(1, 256);
    let isStarted = false;
    void started.then(() => {
      isStarted = true;
    });
    while (!isStarted) {
      guest.run();
      await new Promise(setImmediate);
    }
    return new Machine(setting, guest, guest.queues[1]!);
  }

  /** Rings once for each `depth` commands. */
  run(count: number): void {
    const { opcode, blockBytes, depth } = this.#setting;
    const guest = this.#guest;
    const queue = this.#queue;
    const done = this.#done;
    const command = { opcode, nsid: 1, prp1: 0, prp2: 0, cdw10: 0, cdw12: blockBytes / 512 - 1 };
    for (let i = 0; i < count; ) {
      for (let n = 0; n < depth && i < count; n++, i++) {
        command.cdw10 = ((i * 7919) % this.#blocks) * (blockBytes / 512);
        command.prp1 = this.#buffers + n * Math.max(PAGE, blockBytes);
        command.prp2 = blockBytes <= PAGE ? 0 : command.prp1 + PAGE;
        if (blockBytes > 2 * PAGE) command.prp2 = guest.prps(command.prp1, blockBytes, this.#list).prp2;
        guest.put(queue, command, done);
      }
      guest.ring(queue);
      guest.run();
    }
    if (queue.outstanding > 0) throw new Error('Commands are left');
  }

  readonly #done = (cqe: DataView, at: number): void => {
    if (cqe.getUint16(at + 14, true) >>> 1 !== 0) throw new Error('A command failed');
  };
}

const SETTINGS: readonly Setting[] = [
  { opcode: IoOpcode.Read, blockBytes: 512, depth: 32, backend: 'null' },
  { opcode: IoOpcode.Read, blockBytes: 4096, depth: 1, backend: 'null' },
  { opcode: IoOpcode.Read, blockBytes: 4096, depth: 32, backend: 'null' },
  { opcode: IoOpcode.Write, blockBytes: 4096, depth: 1, backend: 'null' },
  { opcode: IoOpcode.Write, blockBytes: 4096, depth: 32, backend: 'null' },
  { opcode: IoOpcode.Read, blockBytes: 131072, depth: 8, backend: 'null' },
  { opcode: IoOpcode.Read, blockBytes: 4096, depth: 32, backend: 'memory' },
  { opcode: IoOpcode.Write, blockBytes: 4096, depth: 32, backend: 'memory' },
];

for (const setting of SETTINGS) {
  const { opcode, blockBytes, depth, backend } = setting;
  const machine = await Machine.start(setting);
  const name = `${opcode === IoOpcode.Read ? 'read' : 'write'} ${blockBytes}, depth ${depth}, ${backend}`;
  bench(name, (count) => machine.run(count));
}
