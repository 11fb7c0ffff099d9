/**
 * What the orchestrator learns of memory that a controller writes: a guest of ours on `nvmeferry dpu`, its RAM shared by descriptor, and the manager's
 * connection over NVMe/TCP. Base 2.1 sections 5.1.26, 5.1.27.
 */
import fs from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { MemoryRun } from '../../src/orchestrator/end.ts';
import { FabricController } from '../../src/orchestrator/fabric-controller.ts';
import { FabricEnd } from '../../src/orchestrator/fabric-end.ts';
import { IoOpcode } from '../../src/spec/opcode.ts';
import { CliTarget } from '../support/cli.ts';
import { freePort, MOVER_NQN } from '../support/move-pair.ts';
import { needNative } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:vm';
const CNTLID = 5;
const PAGE = 4096;
const BLOCKS_OF_PAGE = PAGE / 512;

describe('memory that a controller writes, as the orchestrator follows it', function () {
  this.timeout(180_000);
  let folder: string;
  let dpu: CliTarget;
  let vm: RemoteVm;
  let port: number;
  const ends: FabricEnd[] = [];
  let controller: FabricController;
  let ram: MemoryRun;

  beforeEach(async function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-memory-'));
    port = await freePort();
    const config = {
      subsystems: [
        {
          nqn: NQN,
          migration: { managers: { hosts: [MOVER_NQN, `${MOVER_NQN}2`] } },
          namespaces: [{ nsid: 1, backend: { type: 'memory', size: '1MiB', blockSize: 512 } }],
        },
      ],
      functions: [{ vfioUser: join(folder, 'sock'), cntlid: CNTLID, vectors: 2 }],
      ports: [{ portId: 1, address: '127.0.0.1', service: port, subsystems: ['*'] }],
      discovery: 'off',
    };
    const path = join(folder, 'dpu.json');
    await writeFile(path, JSON.stringify(config));
    dpu = await CliTarget.start(['--config', path], { verb: 'dpu' });
    vm = await RemoteVm.connect(join(folder, 'sock'));
    await vm.start(1);
    const { base, lengthBytes } = vm.guest.ram;
    ram = { address: base, lengthBytes };
    controller = new FabricController(await connect(MOVER_NQN), CNTLID);
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) await end.close();
    await vm?.close();
    await dpu?.end('SIGKILL');
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  async function connect(hostnqn: string): Promise<FabricEnd> {
    const end = await FabricEnd.connect({ address: '127.0.0.1', port, subnqn: NQN, hostnqn, ioQueues: 1 });
    ends.push(end);
    return end;
  }

  /** The controller writes `pages` pages from `address` on. */
  async function reads(address: number, pages = 1): Promise<void> {
    for (let done = 0; done < pages; done++) {
      const { status } = await vm.guest.command(vm.guest.queues[1]!, {
        opcode: IoOpcode.Read,
        nsid: 1,
        prp1: address + done * PAGE,
        cdw12: BLOCKS_OF_PAGE - 1,
      });
      expect(status).to.equal(0);
    }
  }

  /** Pages of a report, by number from the beginning of RAM. */
  const pagesOf = (runs: readonly MemoryRun[]): number[] =>
    runs.flatMap(({ address, lengthBytes }) =>
      Array.from({ length: lengthBytes / PAGE }, (_, i) => (address - ram.address) / PAGE + i),
    );
  const changed = async (): Promise<number[]> => pagesOf((await controller.memoryChanges()).runs);
  /** Far from what the driver has allocated. */
  const page = (n: number): number => ram.address + n * PAGE;
  const completions = (): number => (vm.guest.queues[1]!.cqAddress - ram.address) / PAGE;

  it('data and completions, each once, and no other page; the last report says so', async () => {
    await controller.trackMemory([ram]);
    expect(await changed()).to.deep.equal([]);
    await reads(page(1000), 2);
    await reads(page(3000));
    expect(await changed()).to.deep.equal([completions(), 1000, 1001, 3000]);
    expect(await controller.memoryChanges()).to.deep.equal({ runs: [], isFinal: false });
    await vm.guest.write(1, 0, new Uint8Array(PAGE).fill(7));
    expect(await changed(), 'what it reads is no change').to.deep.equal([completions()]);
    await reads(page(2000));
    await controller.suspend();
    const last = await controller.memoryChanges();
    expect(pagesOf(last.runs)).to.deep.equal([completions(), 2000]);
    expect((await controller.memoryChanges()).isFinal).to.equal(true);
    await controller.resume();
    await controller.stopTrackingMemory();
  });

  it('several ranges, also within a page: nothing of what is beside them', async () => {
    const ranges = [
      { address: page(1000) + 512, lengthBytes: 1024 },
      { address: page(2000), lengthBytes: 2 * PAGE },
      { address: page(3000), lengthBytes: PAGE },
    ];
    await controller.trackMemory(ranges);
    await reads(page(1000), 2);
    await reads(page(1999), 4);
    await reads(page(2500));
    expect((await controller.memoryChanges()).runs).to.deep.equal([ranges[0], ranges[1]]);
  });

  it('more ranges than the controller has descriptors for: the nearest go together', async () => {
    const ranges = Array.from({ length: 400 }, (_, i) => ({ address: page(500 + 3 * i), lengthBytes: PAGE }));
    await controller.trackMemory(ranges);
    await reads(page(500));
    await reads(page(501), 2); // between two
    await reads(page(500 + 3 * 399));
    expect(await changed()).to.deep.equal([500, 500 + 3 * 399]);
  });

  it('more memory than it follows in pages: coarser, and nothing of what is not the VM’s', async () => {
    // 2 TiB, of which the VM uses the beginning, and something else before it
    await controller.trackMemory([{ address: page(1001), lengthBytes: 2 ** 41 }]);
    await reads(page(1000));
    await reads(page(1001));
    await reads(page(2002));
    // units of 16 KiB: 1000 to 1003 and 2000 to 2003
    expect(await changed()).to.deep.equal([1001, 1002, 1003, 2000, 2001, 2002, 2003]);
  });

  it('begins anew, with nothing changed, when it is asked for again', async () => {
    await controller.trackMemory([ram]);
    await reads(page(1000));
    await controller.trackMemory([ram]);
    await reads(page(1001));
    expect(await changed()).to.deep.equal([completions(), 1001]);
  });

  const codeOf = (promise: Promise<unknown>): Promise<string | undefined> =>
    promise.then(
      () => undefined,
      (error: { code?: string }) => error.code,
    );

  it('what was stopped, or has ended with its connection, is a failure and not "nothing changed"', async () => {
    await controller.trackMemory([ram]);
    await controller.stopTrackingMemory();
    expect(await codeOf(controller.memoryChanges())).to.equal('NVMEOF_ERR_TRACKING_LOST');

    await controller.trackMemory([ram]);
    const other = new FabricController(await connect(`${MOVER_NQN}2`), CNTLID);
    expect(await codeOf(other.memoryChanges()), 'another manager does not have it').to.equal('NVMEOF_ERR_PATH');
    await other.stopTrackingMemory();
    await reads(page(1000));
    expect(await changed()).to.deep.equal([completions(), 1000]);

    const { controller: connection } = await ends[0]!.link();
    connection.reset();
    expect(await codeOf(controller.memoryChanges())).to.equal('NVMEOF_ERR_PATH');
    await controller.trackMemory([ram]);
    await reads(page(1001));
    expect(await changed(), 'the new connection follows it').to.deep.equal([completions(), 1001]);
  });

  it('goes on when the guest resets its controller', async () => {
    await controller.trackMemory([ram]);
    await reads(page(1000));
    await vm.start(1);
    await reads(page(1001));
    const found = await changed();
    expect(found).to.include.members([1000, 1001, completions()]);
  });
});
