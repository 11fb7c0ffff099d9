/**
 * `nvmeferry migrate --memory --hypervisor`: a VM of ours moves from one memory file to another, with its controller from one `nvmeferry dpu` to another, while
 * its CPU writes to memory and its SSD does.
 */
import { once } from 'node:events';
import fs from 'node:fs';
import { writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, cli } from '../support/cli.ts';
import { MigrateProcess } from '../support/migrate-process.ts';
import { freePort, MOVER_NQN } from '../support/move-pair.ts';
import { needNative } from '../support/native.ts';
import { Random, randomSeed } from '../support/random.ts';
import { RemoteVm } from '../support/remote-vm.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:vm';
const CNTLID = 5;
const BLOCKS = 512;
const PAGE = 4096;
const SHARED = '/dev/shm';
/** Pages that its CPU works with. */
const WORK_PAGES = 256;

describe('nvmeferry migrate of a VM', function () {
  this.timeout(180_000);
  let folder: string;
  let vm: RemoteVm | undefined;
  let hypervisor: net.Server | undefined;
  const processes: CliTarget[] = [];
  const ports = { a: 0, b: 0 };
  const calls: string[] = [];
  let work: Work | undefined;
  /** What the hypervisor answers with: nothing, or why it cannot. */
  let answer: (call: string) => Promise<string> = async () => '';
  const path = (name: string): string => join(folder, name);
  const uri = (name: 'a' | 'b'): string => `nvme+tcp://127.0.0.1:${ports[name]}/${NQN}?hostnqn=${MOVER_NQN}`;

  beforeEach(async function () {
    needNative(this as unknown as Mocha.Context);
    // the memory of both is where hypervisors have it
    folder = fs.mkdtempSync(join(fs.existsSync(SHARED) ? SHARED : tmpdir(), 'nvmeferry-vm-'));
    calls.length = 0;
    answer = async () => '';
    await startHypervisor();
  });
  afterEach(async () => {
    if (work !== undefined) work.isOver = true;
    work = undefined;
    await vm?.close();
    vm = undefined;
    for (const process of processes.splice(0)) await process.end('SIGKILL');
    hypervisor?.close();
    hypervisor = undefined;
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  /** The program passes its arguments on to us, who have the VM, and fails with what we answer. */
  async function startHypervisor(): Promise<void> {
    hypervisor = net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.setEncoding('utf8').once('data', (call: string) => {
        calls.push(call);
        answer(call).then(
          (said) => socket.end(said),
          (error: Error) => socket.end(error.message),
        );
      });
    });
    await once(hypervisor.listen(path('hypervisor.sock')), 'listening');
    const program = `#!${process.execPath}
const socket = require('node:net').connect(${JSON.stringify(path('hypervisor.sock'))});
let said = '';
socket.write(process.argv.slice(2).join(' '));
socket.setEncoding('utf8').on('data', (text) => { said += text; });
socket.on('end', () => {
  socket.end();
  if (said !== '') console.error(said);
  process.exitCode = said === '' ? 0 : 1;
});
`;
    await writeFile(path('hypervisor.cjs'), program, { mode: 0o755 });
  }

  async function dpu(name: 'a' | 'b'): Promise<void> {
    ports[name] = await freePort();
    const config = {
      subsystems: [
        {
          nqn: NQN,
          serial: 'MOVED0',
          migration: { managers: { hosts: [MOVER_NQN] } },
          namespaces: [
            {
              nsid: 1,
              uuid: '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa',
              closed: name === 'b',
              backend: { type: 'file', path: path(`${name}.img`), size: `${BLOCKS / 2}KiB`, blockSize: 512 },
            },
          ],
        },
      ],
      functions: [{ vfioUser: path(`${name}.sock`), cntlid: CNTLID, vectors: 4 }],
      ports: [{ portId: 1, address: '127.0.0.1', service: ports[name], subsystems: ['*'] }],
      discovery: 'off',
      stateDirectory: path(`state-${name}`),
    };
    await writeFile(path(`${name}.json`), JSON.stringify(config));
    processes.push(await CliTarget.start(['--config', path(`${name}.json`)], { verb: 'dpu' }));
  }

  const memory = (): string[] => ['--memory', `${path('a.ram')}=${path('b.ram')},address=1g`];
  const moveArguments = (): string[] => [
    ...[uri('a'), uri('b'), '--controller', `${CNTLID}`, '--blackout', '20000', '--overwrite'],
    ...['--hypervisor', path('hypervisor.cjs'), '--journal', path('journal')],
  ];
  const migrate = (...args: string[]): ReturnType<typeof cli> => cli(['migrate', ...moveArguments(), ...args]);

  async function startVm(): Promise<RemoteVm> {
    await dpu('a');
    await dpu('b');
    vm = await RemoteVm.connect(path('a.sock'), undefined, path('a.ram'));
    fs.closeSync(fs.openSync(path('b.ram'), 'w'));
    fs.truncateSync(path('b.ram'), vm.guest.ram.lengthBytes);
    await vm.start(2);
    return vm;
  }

  /** A CPU that writes to its memory, and reads and writes its SSD, as long as nobody stops it. */
  class Work {
    readonly #vm: RemoteVm;
    readonly #random: Random;
    readonly #base: number;
    readonly pages = new Map<number, number>();
    readonly blocks = new Map<number, number>();
    isPaused = false;
    isOver = false;
    readonly #lanes: Promise<void>[];

    constructor(running: RemoteVm, seed: number) {
      this.#vm = running;
      this.#random = new Random(seed);
      this.#base = running.guest.ram.allocate(WORK_PAGES * PAGE);
      this.#lanes = [this.#cpu(), this.#io(1), this.#io(2)];
    }

    async #cpu(): Promise<void> {
      while (!this.isOver) {
        for (let i = 0; i < 8 && !this.isPaused; i++) this.touch();
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }

    touch(): void {
      const [page, value] = [this.#random.below(WORK_PAGES), this.#random.below(256)];
      this.#vm.guest.ram.fill(this.#base + page * PAGE, PAGE, value);
      this.pages.set(page, value);
    }

    async #io(qid: number): Promise<void> {
      const { guest } = this.#vm;
      for (let n = qid; !this.isOver; n += 2) {
        const slba = ((n * 37) % (BLOCKS / 2)) * 2 + (qid - 1);
        await guest.write(1, slba, new Uint8Array(512).fill(n % 251), 'prp', guest.queues[qid]!);
        this.blocks.set(slba, n % 251);
        const read = await guest.read(1, slba, 1, 'prp', guest.queues[qid]!);
        expect(
          read.every((byte) => byte === n % 251),
          `block ${slba} as it was written`,
        ).to.equal(true);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }

    async end(): Promise<void> {
      this.isOver = true;
      await Promise.all(this.#lanes);
    }

    async expectAll(): Promise<void> {
      const { guest } = this.#vm;
      for (const [page, value] of this.pages) {
        const found = guest.ram.slice(this.#base + page * PAGE, PAGE);
        expect(
          found.every((byte) => byte === value),
          `page ${page}`,
        ).to.equal(true);
      }
      for (const [slba, byte] of this.blocks) {
        expect((await guest.read(1, slba, 1))[0], `block ${slba}`).to.equal(byte);
      }
      expect(
        guest.queues.map(({ strays }) => strays),
        'no completion twice',
      ).to.deep.equal([0, 0, 0]);
      expect((await this.#vm.readDword(0x1c)) & 3, 'ready, and not failed').to.equal(1);
    }
  }

  async function pause(running: RemoteVm, work: Work): Promise<void> {
    work.isPaused = true;
    running.guest.pause();
    await running.readDword(0x1c); // behind the doorbells
  }

  it('goes to other memory and another controller, with what its CPU and its SSD have written', async () => {
    const running = await startVm();
    const seed = randomSeed();
    const working = new Work(running, seed);
    work = working;
    answer = async (call) => {
      if (call === 'pause') {
        if (!working.isPaused) for (let i = 0; i < 50; i++) working.touch(); // the last moment
        await pause(running, working);
      } else if (call === 'attach destination') await running.moveTo(path('b.sock'), path('b.ram'));
      else if (call === 'resume destination') {
        running.guest.resume();
        working.isPaused = false;
      } else throw new Error(`not expected: ${call}`);
      return '';
    };
    const plan = await migrate(...memory(), '--dry-run');
    expect(plan.stdout, plan.stderr).to.match(/memory of the VM: 16\.0 MiB, \d.* of it in use, copied/);
    expect(calls, 'a dry run touches nothing').to.deep.equal([]);
    // an orchestrator that is killed while it follows memory leaves nothing that is in the way
    const killed = new MigrateProcess([...moveArguments(), ...memory()], {
      killAt: { step: 'pre-copy', state: 'taken' },
    });
    expect(await killed.ended, killed.stderr).to.equal(null);
    const because =
      /^because in step pre-copy: The orchestrator that began it ended in step pre-copy, without saying why/m;
    const status = await cli(['migrate', '--status', '--journal', path('journal')]);
    expect(status.stdout, status.stderr).to.match(because);
    const undone = await cli(['migrate', '--resume', '--journal', path('journal')]);
    expect(undone.stdout, undone.stderr).to.match(because);
    expect(undone.stdout).to.match(/^undone at the source: pre-copy$/m);
    expect(undone.stdout, undone.stderr).to.match(/^as before, at nvme\+tcp:/m);
    expect(calls, 'nothing was stopped').to.deep.equal([]);
    const moved = await migrate(...memory(), '--verify', 'full', '--output', 'json');
    expect(moved.code, `seed ${seed}: ${moved.stderr}${moved.stdout}`).to.equal(0);
    expect(calls).to.deep.equal(['pause', 'pause', 'attach destination', 'resume destination']);
    const report = JSON.parse(moved.stdout.trim().split('\n').at(-1)!) as {
      warnings: string[];
      memory: { allocatedBytes: number; copiedBytes: number; dirtiedBytes: number };
    };
    expect(report.warnings.filter((text) => !/holds data: it will be overwritten$/.test(text))).to.deep.equal([]);
    expect(report.memory.dirtiedBytes, 'changed in the rounds').to.be.greaterThan(0);
    expect(report.memory.allocatedBytes, 'holes are not copied').to.be.below(8 << 20);
    const before = working.blocks.size;
    await new Promise((resolve) => setTimeout(resolve, 100)); // it works on at B
    await working.end();
    expect(before).to.be.greaterThan(0);
    await working.expectAll();
    expect(fs.statSync(path('b.ram')).blocks * 512, 'holes stay holes').to.be.below(8 << 20);
    // A has nothing of it any more: what is written now is in the other memory
    const old = fs.readFileSync(path('a.ram'));
    working.touch();
    await working.expectAll();
    expect(fs.readFileSync(path('a.ram')).equals(old)).to.equal(true);
  });

  it('a hypervisor that cannot: the VM goes on where it was', async () => {
    const running = await startVm();
    const working = new Work(running, randomSeed());
    work = working;
    answer = async (call) => {
      if (call === 'resume source') {
        running.guest.resume();
        working.isPaused = false;
        return '';
      }
      await pause(running, working);
      return 'the domain is locked';
    };
    const refused = await migrate(...memory());
    expect(refused.code, refused.stderr).to.equal(3);
    expect(refused.stderr).to.match(
      /hypervisor\.cjs pause ended with 1: the domain is locked; everything is as before/,
    );
    expect(calls).to.deep.equal(['pause', 'resume source']);
    await working.end();
    await working.expectAll();
  });

  it('says what does not fit, and touches nothing', async () => {
    const running = await startVm();
    fs.writeFileSync(path('short.ram'), new Uint8Array(8192));
    const from = path('a.ram');
    for (const [args, says] of [
      [[], undefined],
      [['--memory', from], /Needed is SOURCE=DESTINATION/],
      [['--memory', `${from}=${path('b.ram')},at=1`], /Needed is SOURCE=DESTINATION/],
      [['--memory', `${from}=${path('none')}`], /none cannot be opened \(ENOENT\); name the file/],
      [['--memory', `${from}=${path('short.ram')}`], /short\.ram has 8192 bytes, .*a\.ram has 16777216; start the VM/],
      [['--front', 'x', '--from-socket', 'y', '--to-socket', 'z'], /--front keeps a VM where it is/],
      [['--hypervisor', path('a.ram')], /a\.ram cannot be run \(EACCES\); name a program/],
    ] as const) {
      if (says === undefined) continue;
      const { code, stderr } = await migrate(...args);
      expect(code, `${args.join(' ')}: ${stderr}`).to.equal(2);
      expect(
        stderr
          .trim()
          .replace(/\n\(--help shows.*\)$/, '')
          .split('\n').length,
        stderr,
      ).to.equal(1);
      expect(stderr).to.match(says);
    }
    const alone = await cli(['migrate', uri('a'), uri('b'), '--controller', `${CNTLID}`, ...memory()]);
    expect(alone.code).to.equal(2);
    expect(alone.stderr).to.match(/--memory without --hypervisor: nothing stops the VM's CPUs/);
    expect(calls).to.deep.equal([]);
    expect(await running.guest.read(1, 0, 1)).to.have.length(512);
  });
});
