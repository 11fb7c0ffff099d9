/** A guest on a controller behind PCIe: the in-process VM's driver, which resets a controller that has lost its state and repeats what it had. */
import { IoOpcode } from '../../src/spec/opcode.ts';
import { Cc, Property } from '../../src/spec/property.ts';
import { Guest, type GuestCommand } from '../../src/vm/guest.ts';
import { GUEST_PAGE_BYTES } from '../../src/vm/guest-ram.ts';
import type { CoreFront } from './core-front.ts';
import { blocksOf } from './core-host.ts';
import { BLOCK_SIZE, valuesIn } from './sim-disk.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { Violation } from './violation.ts';

/** Commands that it has under way at most. */
const SLOTS = 8;
const QUEUE_ENTRIES = 16;
/** Pages that only its CPU knows. */
const WORK_PAGES = 3;
const RAM_BYTES = 40 * GUEST_PAGE_BYTES;
const DEAC = 0x0200_0000;
const FUA = 0x4000_0000;

const OPCODES: Readonly<Record<HostCommand['opcode'], number>> = {
  read: IoOpcode.Read,
  write: IoOpcode.Write,
  deallocate: IoOpcode.WriteZeroes,
  flush: IoOpcode.Flush,
};

interface Outstanding {
  readonly command: HostCommand;
  /** Address of the page that it reads into, or writes from. */
  readonly page: number;
  readonly done: (answer: HostAnswer) => void;
}

export class CoreGuest {
  readonly machine: Guest = new Guest({ ramBytes: RAM_BYTES });
  /** Addresses. */
  readonly #readPages: number[] = [];
  readonly #writePages: number[] = [];
  readonly #devicePages = new Set<number>();
  readonly #outstanding = new Set<Outstanding>();
  #front!: CoreFront;
  /** Resets so far. */
  #generation = 0;
  #isResetting = false;
  /** Memory that only the CPU knows: addresses, and what it has left there. */
  readonly #workPages: number[] = [];
  readonly #expected: number[] = [];
  #works = 0;
  onViolation: (violation: Violation) => void = () => {};
  #isStarted = false;
  onReset: () => void = () => {};

  constructor() {
    const { ram } = this.machine;
    for (let i = 0; i < SLOTS; i++) {
      const page = ram.allocate(GUEST_PAGE_BYTES);
      this.#readPages.push(page);
      this.#devicePages.add(this.#number(page));
      this.#writePages.push(ram.allocate(GUEST_PAGE_BYTES));
    }
    for (let i = 0; i < WORK_PAGES; i++) {
      this.#workPages.push(ram.allocate(GUEST_PAGE_BYTES));
      this.#expected.push(0);
    }
  }

  #number(address: number): number {
    return this.machine.ram.at(address) / GUEST_PAGE_BYTES;
  }

  /** Not one of those that only the controller writes to. */
  isOfCpu(page: number): boolean {
    if (this.#devicePages.has(page)) return false;
    // made anew by the CPU, when it was made
    if (this.#isResetting) return true;
    return !this.machine.queues.some((queue) => queue !== undefined && this.#number(queue.cqAddress) === page);
  }

  /** Completions for no command of its own. */
  get strays(): number {
    return this.machine.queues.reduce((sum, queue) => sum + (queue?.strays ?? 0), 0);
  }

  get isEnabled(): boolean {
    return (this.machine.readDword(Property.CC) & Cc.EN) !== 0;
  }

  async start(front: CoreFront): Promise<void> {
    this.#front = front;
    front.onRun = () => this.#look();
    front.onReboot = () => this.#reboot();
    await front.runs();
    await this.machine.start(1, QUEUE_ENTRIES);
    this.#isStarted = true;
  }

  /** Its memory is new, as far as it knows. */
  #reboot(): void {
    this.#mustReset = true;
    for (const queue of this.machine.queues) queue?.release();
    this.machine.queues.length = 0;
    const { source, destination } = this.#front.memories;
    for (const bytes of [source, destination]) {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      this.#workPages.forEach((page, i) => {
        view.setUint32(this.machine.ram.at(page), this.#expected[i]!, true);
      });
    }
  }

  #mustReset = false;

  /** A controller that is not enabled has lost what it was told. */
  #look(): void {
    if (this.#isStarted && (this.#mustReset || !this.isEnabled)) void this.#reset();
  }

  async #reset(): Promise<void> {
    const generation = ++this.#generation;
    this.#isResetting = true;
    this.#mustReset = false;
    this.onReset();
    const { machine } = this;
    for (const queue of machine.queues) queue?.release();
    machine.queues.length = 0;
    await machine.start(1, QUEUE_ENTRIES);
    if (generation !== this.#generation) return;
    this.#isResetting = false;
    for (const one of this.#outstanding) void this.#issue(one);
  }

  /** Its CPU finds what it has left in its memory, and leaves something else. */
  #work(): void {
    const { ram } = this.machine;
    const i = ++this.#works % WORK_PAGES;
    const at = ram.at(this.#workPages[i]!);
    const found = ram.view.getUint32(at, true);
    if (found !== this.#expected[i]) {
      this.onViolation(new Violation(`The guest's memory holds ${found} where it left ${this.#expected[i]}`));
    }
    ram.view.setUint32(at, this.#works, true);
    this.#expected[i] = this.#works;
  }

  submit(command: HostCommand): Promise<HostAnswer> {
    const pages = command.opcode === 'write' ? this.#writePages : this.#readPages;
    const page = pages.pop()!;
    return new Promise((resolve) => {
      const one: Outstanding = {
        command,
        page,
        done: (answer) => {
          pages.push(page);
          this.#outstanding.delete(one);
          resolve(answer);
        },
      };
      this.#outstanding.add(one);
      if (!this.#isResetting) void this.#issue(one);
    });
  }

  async #issue(one: Outstanding): Promise<void> {
    const generation = this.#generation;
    await this.#front.runs();
    if (generation !== this.#generation) return;
    this.#work();
    const { machine } = this;
    const { opcode, blockCount, value } = one.command;
    if (opcode === 'write') machine.ram.write(one.page, blocksOf(value, blockCount));
    const { status } = await machine.command(machine.queues[1]!, this.#sqe(one));
    if (generation !== this.#generation) return;
    const isRead = opcode === 'read' && status === 0;
    one.done({ status, values: isRead ? valuesIn(machine.ram.slice(one.page, blockCount * BLOCK_SIZE)) : [] });
  }

  #sqe({ command, page }: Outstanding): GuestCommand {
    const { opcode, nsid, slba, blockCount, fua } = command;
    if (opcode === 'flush') return { opcode: OPCODES.flush, nsid };
    const flags = (fua ? FUA : 0) | (opcode === 'deallocate' ? DEAC : 0);
    const data = opcode === 'deallocate' ? {} : { prp1: page };
    return { opcode: OPCODES[opcode], nsid, ...data, cdw10: slba, cdw12: flags | (blockCount - 1) };
  }
}
