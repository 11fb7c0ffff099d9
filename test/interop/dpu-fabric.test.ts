/**
 * `nvmeferry dpu` between a running Linux guest and a fabric: two paths to a far target, each cut in its turn; a manager over NVMe/TCP that follows
 * the guest's memory, suspends the controller and resumes it; the reset button. The guest notices nothing of all that.
 */
import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { HostController } from '../../src/initiator.ts';
import { decodeControllerState, LiveMigration } from '../../src/migration.ts';
import { CuttableLink } from './support/cuttable-link.ts';
import { GuestVm } from './support/guest-vm.ts';
import { kernelTrouble } from './support/kernel-trouble.ts';
import { freePorts } from './support/ports.ts';
import { TargetProcess } from './support/product.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:dpu-fabric';
const FAR = 'nqn.2026-01.test.nvmeferry:far';
const MANAGER = 'nqn.2026-01.test.nvmeferry:manager';
/** NSIDs. */
const REMOTE = 1;
const FILE = 2;
const PAGE_BYTES = 4096;
const MEMORY_MIB = 512;
/** Blocks of the file that say who they are, for the guest to read. */
const MARKED_MIB = 8;

const trouble = kernelTrouble();

describe('nvmeferry dpu between a Linux guest and a fabric', function () {
  this.timeout(600_000);

  let far: TargetProcess;
  let dpu: TargetProcess;
  let vm: GuestVm;
  let links: CuttableLink[];
  let manager: HostController;
  let lm: LiveMigration;
  let cntlid: number;
  let folder: string;

  const run = (script: string, timeoutMs = 300_000): Promise<string> =>
    vm.run(`disk() { namespace_of ${NQN} "$1"; }; ${script}`, { timeoutMs });
  const kernelTrouble = async (): Promise<string[]> =>
    (await vm.kernelLog()).filter((line) => trouble.test(line) && !/\bvda\b/.test(line)); // its root disk is not ours
  /** Verified random I/O for some seconds, then everything read back. */
  const load = (nsid: number, seconds: number): Promise<string> =>
    run(
      `fio --name=verify --filename=$(disk ${nsid}) --rw=randrw --bsrange=4k-64k --ba=4k --offset=16m --size=8m --iodepth=8 \
       --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --time_based --runtime=${seconds} \
       --output-format=terse > /run/fio.txt && echo verified`,
    );
  const bound = async (): Promise<void> => {
    await run(`modprobe nvme; for nsid in ${REMOTE} ${FILE}; do wait_for 90 has_namespace ${NQN} $nsid; done`);
  };

  before(async () => {
    const [farPort, listenPort] = (await freePorts(2)) as [number, number];
    far = await TargetProcess.start((made) => ({
      subsystems: [
        { nqn: FAR, namespaces: [{ nsid: 1, backend: { type: 'file', path: `${made}/far`, size: '64MiB' } }] },
      ],
      ports: [{ service: farPort }],
      discovery: 'off',
    }));
    links = [await CuttableLink.to(farPort), await CuttableLink.to(farPort)];
    dpu = await TargetProcess.start((made) => {
      folder = made;
      return {
        subsystems: [
          {
            nqn: NQN,
            hosts: [MANAGER],
            namespaces: [
              {
                nsid: REMOTE,
                backend: {
                  type: 'remote',
                  uri: `nvme+tcp://127.0.0.1:${links[0]!.port}/${FAR}?nsid=1&reconnect-delay=1`,
                  paths: [`127.0.0.1:${links[1]!.port}`],
                },
              },
              { nsid: FILE, backend: { type: 'file', path: `${made}/disk`, size: '64MiB' } },
            ],
            migration: { managers: { hosts: [MANAGER] } },
          },
        ],
        ports: [{ service: listenPort }],
        functions: [{ vfioUser: `${made}/vm.sock` }],
        discovery: 'off',
      };
    }, 'dpu');
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: MEMORY_MIB,
      resets: true,
      qemuArgs: [
        '-device',
        JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path: `${folder}/vm.sock` } }),
      ],
    });
    await bound();
    cntlid = Number(JSON.parse(await run('nvme id-ctrl /dev/nvme0 -o json')).cntlid);
    manager = await HostController.connect({
      address: '127.0.0.1',
      port: listenPort,
      subnqn: NQN,
      hostnqn: MANAGER,
      ioQueues: 0,
    });
    lm = new LiveMigration(manager);
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const said = await vm?.kernelLog().catch(() => ['nothing']);
    console.error(
      `The controller said:\n${dpu?.output.slice(-3000)}\nThe guest's kernel said:\n${said?.slice(-15).join('\n')}`,
    );
  });

  after(async () => {
    await manager?.close();
    await vm?.stop();
    await dpu?.discard();
    for (const link of links ?? []) await link.cut();
    await far?.discard();
  });

  it('each of two paths is cut under I/O and comes back: the guest sees no error', async () => {
    // until it is told to stop: how long losing a path takes depends on the machine
    const verified = run(
      `rm -f /run/stop; while [ ! -e /run/stop ]; do
         fio --name=verify --filename=$(disk ${REMOTE}) --rw=randrw --bsrange=4k-64k --ba=4k --offset=16m --size=4m --iodepth=8 \
           --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output-format=terse > /run/fio.txt || exit 1
       done; echo verified`,
    );
    let over = false;
    void verified.finally(() => (over = true)).catch(() => {});
    const carries = async (link: CuttableLink): Promise<void> => {
      for (const before = link.bytes; link.bytes - before < 256 << 10; await sleep(20)) {
        expect(over, 'the load is over, and did not use the path').to.equal(false);
      }
    };
    try {
      for (const [lost, left] of [
        [links[0]!, links[1]!],
        [links[1]!, links[0]!],
      ] as const) {
        // it is in use, also after the other one was lost
        await carries(lost);
        await lost.cut();
        await carries(left);
        await lost.join();
      }
      await carries(links[1]!);
    } finally {
      await vm.run('touch /run/stop');
    }
    expect(await verified).to.equal('verified\n');
    expect(await kernelTrouble()).to.deep.equal([]);
  });

  it('memory that the controller writes is reported: all of it, and little else', async () => {
    const nonce = randomBytes(16);
    const marked = Buffer.alloc(MARKED_MIB << 20);
    for (let at = 0; at < marked.length; at += 16) nonce.copy(marked, at);
    const file = await open(`${folder}/disk`, 'r+');
    await file.write(marked, 0, marked.length, 0);
    await file.close();
    await lm.trackMemory(cntlid, 0, [{ saddr: 0n, len: (MEMORY_MIB << 20) / PAGE_BYTES }]);
    // straight into dd's own memory: nothing in the guest copies it
    await run(`dd if=$(disk ${FILE}) of=/dev/null bs=${MARKED_MIB}M count=1 iflag=direct status=none`);
    await lm.suspend(cntlid);
    const reported = new Set<number>();
    for (let more = true; more; ) {
      const changes = await lm.memoryChanges(cntlid, 4000);
      expect(changes.suspended).to.equal(true);
      for (const { saddr, len } of changes.changes) {
        const first = Number(saddr) / PAGE_BYTES;
        for (let page = first; page < first + len; page++) reported.add(page);
      }
      more = changes.more;
    }
    const written = await pagesWith(nonce);
    await lm.resume(cntlid);
    await lm.stopTrackingMemory(cntlid);
    expect(written.length, 'pages that hold what was read').to.be.above((MARKED_MIB << 20) / PAGE_BYTES / 4);
    expect(
      written.filter((page) => !reported.has(page)),
      'written and not reported',
    ).to.deep.equal([]);
    expect(reported.size, 'pages reported').to.be.below(2 * ((MARKED_MIB << 20) / PAGE_BYTES));
  });

  /** Pages of the guest's memory that hold nothing but `pattern`. */
  async function pagesWith(pattern: Buffer): Promise<number[]> {
    const memory = await vm.openMemory();
    const found: number[] = [];
    try {
      const chunk = Buffer.alloc(16 << 20);
      const page = Buffer.alloc(PAGE_BYTES, pattern);
      for (let at = 0; at < MEMORY_MIB << 20; at += chunk.length) {
        await memory.read(chunk, 0, chunk.length, at);
        for (let offset = 0; offset < chunk.length; offset += PAGE_BYTES) {
          if (chunk[offset] !== page[0] || page.compare(chunk, offset, offset + PAGE_BYTES) !== 0) continue;
          found.push((at + offset) / PAGE_BYTES);
        }
      }
    } finally {
      await memory.close();
    }
    return found;
  }

  it('suspended and resumed under verified I/O, its state read each time: the guest only waits', async () => {
    const verified = load(REMOTE, 7);
    for (let i = 0; i < 4; i++) {
      await sleep(700);
      await lm.suspend(cntlid);
      const before = links[0]!.bytes + links[1]!.bytes;
      const { bytes, suspended } = await lm.getState(cntlid, { csvi: 1, csuuidi: 1 });
      expect(suspended).to.equal(true);
      const state = decodeControllerState(bytes);
      expect(state.nvme!.submissionQueues, 'a queue per CPU').to.have.length(2);
      await sleep(500);
      expect(links[0]!.bytes + links[1]!.bytes - before, 'nothing but keep alive meanwhile').to.be.below(4096);
      await lm.resume(cntlid);
    }
    expect(await verified).to.equal('verified\n');
    expect(await kernelTrouble()).to.deep.equal([]);
  });

  it('the reset button under I/O: the guest boots anew, with its data intact', async () => {
    await run(`mkfs.ext4 -q -F $(disk ${FILE}) && mount $(disk ${FILE}) /mnt
      dd if=/dev/urandom of=/mnt/random bs=1M count=16 status=none; sha256sum /mnt/random > /mnt/sums; sync`);
    await run(
      `nohup fio --name=load --filename=$(disk ${REMOTE}) --rw=randrw --bs=16k --size=32m --iodepth=16 --ioengine=libaio --direct=1 \
       --time_based --runtime=60 > /dev/null 2>&1 & sleep 1`,
    );
    await vm.reset();
    await bound();
    await run(`mount $(disk ${FILE}) /mnt && sha256sum -c --quiet /mnt/sums && umount /mnt`);
    expect(await load(REMOTE, 1)).to.equal('verified\n');
    expect(await kernelTrouble()).to.deep.equal([]);
  });
});
