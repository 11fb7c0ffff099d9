/** `nvmeferry migrate --controller --front`: a guest of ours keeps its SSD while it moves from one `nvmeferry dpu` to another, and back. */
import fs from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, cli } from '../support/cli.ts';
import { freePort, MOVER_NQN } from '../support/move-pair.ts';
import { needNative } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:vm';
const CNTLID = 5;
const BLOCKS = 512;

describe('nvmeferry migrate of a controller', function () {
  this.timeout(180_000);
  let folder: string;
  let vm: RemoteVm | undefined;
  const processes: CliTarget[] = [];
  const ports = { a: 0, b: 0 };
  const socket = (name: string): string => join(folder, `${name}.sock`);
  const uri = (name: 'a' | 'b'): string => `nvme+tcp://127.0.0.1:${ports[name]}/${NQN}?hostnqn=${MOVER_NQN}`;

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-migrate-'));
  });
  afterEach(async () => {
    await vm?.close();
    vm = undefined;
    for (const process of processes.splice(0)) await process.end('SIGKILL');
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

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
              backend: { type: 'file', path: join(folder, `${name}.img`), size: `${BLOCKS / 2}KiB`, blockSize: 512 },
            },
          ],
        },
      ],
      functions: [{ vfioUser: socket(name), cntlid: CNTLID, vectors: 4 }],
      ports: [{ portId: 1, address: '127.0.0.1', service: ports[name], subsystems: ['*'] }],
      discovery: 'off',
      stateDirectory: join(folder, `state-${name}`),
    };
    const path = join(folder, `${name}.json`);
    await writeFile(path, JSON.stringify(config));
    processes.push(await CliTarget.start(['--config', path], { verb: 'dpu' }));
  }

  const migrate = (from: 'a' | 'b', to: 'a' | 'b', ...args: string[]): ReturnType<typeof cli> =>
    cli(
      [
        ...[
          'migrate',
          uri(from),
          uri(to),
          '--controller',
          `${CNTLID}`,
          '--front',
          socket('control'),
          '--blackout',
          '20000',
        ],
        ...['--from-socket', socket(from), '--to-socket', socket(to), '--journal', join(folder, 'journal'), ...args],
      ],
      {},
    );

  it('goes there and back under a guest that writes', async () => {
    await dpu('a');
    await dpu('b');
    const args = [
      '--vfio-user',
      socket('vm'),
      '--dpu',
      socket('a'),
      '--control',
      socket('control'),
      '--patience',
      '30000',
    ];
    processes.push(await CliTarget.start(args, { verb: 'front' }));
    vm = await RemoteVm.connect(socket('vm'));
    await vm.start(2);
    const { guest } = vm;
    const written = new Map<number, number>();
    let stop = false;
    const lanes = [1, 2].map(async (qid) => {
      for (let n = qid; !stop; n += 2) {
        const slba = ((n * 37) % (BLOCKS / 2)) * 2 + (qid - 1);
        await guest.write(1, slba, new Uint8Array(512).fill(n % 251), 'prp', guest.queues[qid]!);
        written.set(slba, n % 251);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    });
    const there = await migrate('a', 'b', '--verify', 'sampled', '--output', 'json');
    expect(there.code, there.stderr + there.stdout).to.equal(0);
    const report = JSON.parse(there.stdout.trim().split('\n').at(-1)!) as {
      steps: { step: string }[];
      warnings: string[];
    };
    expect(report.steps.map(({ step }) => step)).to.deep.equal([
      ...['close-destination', 'pre-copy', 'suspend', 'close-source', 'last-copy', 'state'],
      ...['attach', 'open-destination', 'resume', 'release', 'clean-up'],
    ]);
    expect(report.warnings).to.deep.equal([]);
    const atB = written.size;
    const back = await migrate('b', 'a', '--overwrite');
    expect(back.code, back.stderr + back.stdout).to.equal(0);
    stop = true;
    await Promise.all(lanes);
    expect(atB).to.be.greaterThan(0);
    expect(
      guest.queues.map(({ strays }) => strays),
      'no completion twice',
    ).to.deep.equal([0, 0, 0]);
    const data = new Uint8Array(BLOCKS * 512);
    for (let at = 0; at < BLOCKS; at += 64) data.set(await guest.read(1, at, 64), at * 512);
    for (const [slba, byte] of written) expect(data[slba * 512], `block ${slba}`).to.equal(byte);
    expect((await vm.readDword(0x1c)) & 3, 'ready, and not failed').to.equal(1);
  });

  it('refuses what does not go together', async () => {
    for (const [args, says] of [
      [['--front', 'x'], /--front, --hypervisor and --memory belong to a move of a controller/],
      [['--controller', '1', '--front', 'x'], /--from-socket and --to-socket belong together/],
      [
        ['--controller', '1', '--front', 'x', '--from-socket', 'y', '--to-socket', 'z'],
        /ECONNREFUSED|refused|Front at x/,
      ],
      [['--abort', '--resume'], /allowed is one of them/],
    ] as const) {
      const { code, stderr } = await cli([
        'migrate',
        'nvme+tcp://127.0.0.1:1/nqn.x',
        'nvme+tcp://127.0.0.1:1/nqn.x',
        ...args,
      ]);
      expect(code, stderr).to.be.oneOf([2, 3]);
      expect(stderr).to.match(says);
    }
  });
});
