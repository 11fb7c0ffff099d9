/**
 * Several paths, both ways round: the Linux host's native multipath on two ports of our target, and our initiator's on two ports of the Linux
 * target, with ANA changes and lost ports under verified I/O. (The ANA log of 1,024 namespaces of ours: namespaces.test.ts.)
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { AnaGroupInput, TargetConfigInput } from '../../src/config/types.ts';
import { HostController, MultipathSubsystem, readAnaLog } from '../../src/initiator.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { cliJson, TargetProcess } from './support/product.ts';
import { verifiedLoad } from './support/verified-load.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:ana';
const linuxNqn = 'nqn.2026-01.test.linux:ana';
/** Its configfs takes its time for each, and it gives the log in one piece however long it is. */
const namespacesOfLinux = 128;
/** For scripts in a guest on a busy machine. */
const patient = { timeoutMs: 300_000 };

/** Lost I/O, and what the kernel says when something is broken; lost and made connections are what the test does. */
const trouble =
  /I\/O error|critical .* error|Buffer I\/O|WARNING:|BUG:|Call Trace|hung task|nvme.*(ANA log|ANATT|identifiers changed|duplicate|unusual)/i;

describe('Several paths and ANA, Linux 6.12', function () {
  this.timeout(600_000);

  let vm: GuestVm;
  let target: TargetProcess;
  /** Of our target on this machine. */
  let ports: [number, number];
  /** Of the Linux target in the guest. */
  let linuxPorts: [number, number];
  let where: string;

  const config = (states: AnaGroupInput['states'] = {}, portIds: readonly number[] = [1, 2]): TargetConfigInput => ({
    subsystems: [
      {
        nqn,
        allowAnyHost: true,
        anaGroups: [
          {
            anagrpid: 1,
            states: Object.fromEntries(Object.entries(states).filter(([id]) => portIds.includes(Number(id)))),
          },
        ],
        namespaces: [
          {
            nsid: 1,
            backend: { type: 'memory', size: '64MiB', blockSize: 4096 },
            uuid: '0d3f9c60-54c7-4f7e-9a0e-0f2f3d6f8a01',
          },
        ],
      },
    ],
    ports: portIds.map((portId) => ({ portId, address: '127.0.0.1', service: ports[portId - 1]!, subsystems: ['*'] })),
    discovery: 'off',
  });

  before(async () => {
    const free = await freePorts(4);
    ports = [free[0]!, free[1]!];
    linuxPorts = [free[2]!, free[3]!];
    where = `address=${machineAddress} port1=${ports[0]} port2=${ports[1]};`;
    target = await TargetProcess.start(() => config());
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      hostForwards: linuxPorts.map((port) => ({ hostPort: port, guestPort: port })),
    });
  });
  after(async () => {
    await vm?.stop();
    await target?.discard();
  });

  it('Linux host on two ports of ours: ANA changes and lost ports under fio verify, no I/O error, every state is known', async () => {
    const mark = await vm.markKernelLog();
    await vm.run(`${where} ${connectBoth}`, patient);
    expect(await anaStates()).to.deep.equal(['optimized', 'optimized']);
    const listed = await vm.run(`nvme list-subsys -o json`);
    expect(listed).to.include(`trsvcid=${ports[0]}`).and.to.include(`trsvcid=${ports[1]}`);
    await vm.run(startFio);
    for (const states of [
      { 1: 'inaccessible' },
      { 1: 'inaccessible', 2: 'non-optimized' },
      { 1: 'non-optimized', 2: 'inaccessible' },
    ] as AnaGroupInput['states'][]) {
      target.reload(config(states));
      await known(states[1] ?? 'optimized', states[2] ?? 'optimized');
      await sleep(1000);
    }
    // from one port to the other through a transition, in which no path is usable
    target.reload(config({ 1: 'change', 2: 'inaccessible' }));
    await sleep(1500);
    target.reload(config({ 1: 'inaccessible' }));
    await known('inaccessible', 'optimized');
    target.reload(config());
    await known('optimized', 'optimized');
    // each port goes and comes back
    for (const left of [2, 1]) {
      target.reload(config({}, [left]));
      await vm.run(`not_live() { ! all_live ${nqn}; }; wait_for 90 not_live`);
      await sleep(1500);
      target.reload(config());
      await vm.run(`wait_for 120 all_live ${nqn}`, patient);
      await known('optimized', 'optimized');
    }
    expect(await vm.run(endFio, patient)).to.include('fio verified');
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
    await vm.run(`disconnect_from ${nqn}`);
  });

  // ---- the other way round: our initiator on the Linux target in the same guest

  for (const policy of ['round-robin', 'queue-depth'] as const) {
    it(`our initiator, ${policy}, on two ports of nvmet: ANA changed by configfs, each port taken away, under verified load`, async () => {
      await vm.run(linuxTarget(linuxPorts), patient);
      const subsystem = await MultipathSubsystem.connect({
        policy,
        paths: linuxPorts.map((port) => ({
          address: '127.0.0.1',
          port,
          subnqn: linuxNqn,
          ioQueues: 2,
          katoMs: 30_000,
          reconnectDelayMs: 500,
        })),
      });
      const end = new AbortController();
      try {
        const namespace = await subsystem.namespace(1);
        const options = { workers: 8, blocksPerWorker: 64, flushEvery: 50, signal: end.signal };
        const load = verifiedLoad(namespace, options);
        load.catch(() => end.abort()); // told by the await below
        const states = (): string[] => subsystem.paths.map((path) => String(path.anaState(1)));
        const known = (...wanted: number[]): Promise<void> =>
          until(() => states().join() === wanted.join(), `states ${wanted} (now ${states()})`);
        await known(1, 1);
        for (const [first, second, ...wanted] of [
          ['inaccessible', 'optimized', 3, 1],
          ['inaccessible', 'non-optimized', 3, 2],
          ['non-optimized', 'inaccessible', 2, 3],
          ['optimized', 'optimized', 1, 1],
        ] as const) {
          await vm.run(`${anaFunction} ana 1 ${first}; ana 2 ${second}`);
          await known(...wanted);
          await sleep(500);
        }
        // no path for a moment: I/O waits
        await vm.run(`${anaFunction} ana 1 change; ana 2 change; sleep 1; ana 1 optimized; ana 2 optimized`);
        await known(1, 1);
        for (const id of [1, 2]) {
          await vm.run(`rm ${nvmetPath}/ports/${id}/subsystems/${linuxNqn}`);
          await until(() => !subsystem.paths[id - 1]!.ready, `path ${id} is lost`);
          await sleep(1000);
          await vm.run(`ln -s ${nvmetPath}/subsystems/${linuxNqn} ${nvmetPath}/ports/${id}/subsystems/${linuxNqn}`);
          await until(() => subsystem.paths[id - 1]!.has(1), `path ${id} is back`);
          await sleep(500);
        }
        end.abort();
        expect(await load).to.be.greaterThan(500);
        expect(subsystem.io.resentCount, 'commands that were sent again').to.be.greaterThan(0);
      } finally {
        end.abort();
        await subsystem.close();
      }
    });
  }

  it('list-subsys and ana-log say what the target has', async () => {
    await vm.run(`${anaFunction} ana 2 inaccessible`);
    const [host] = await cliJson<{ Subsystems: { Paths: { ANAState: string }[] }[] }[]>([
      'list-subsys',
      `nvme+tcp://127.0.0.1:${linuxPorts[1]}/${linuxNqn}?nsid=1`,
    ]);
    expect(host!.Subsystems[0]!.Paths[0]!.ANAState).to.equal('inaccessible');
    await vm.run(`${anaFunction} ana 2 optimized`);
  });

  it(`the ANA log of ${namespacesOfLinux} namespaces of nvmet`, async () => {
    await vm.run(manyLinuxNamespaces, patient);
    const controller = await HostController.connect({
      address: '127.0.0.1',
      port: linuxPorts[0],
      subnqn: linuxNqn,
      ioQueues: 0,
      katoMs: 30_000,
    });
    try {
      const { groups } = await readAnaLog(controller);
      const nsids = groups.flatMap((group) => group.nsids);
      expect(nsids.length).to.equal(namespacesOfLinux);
      expect(groups.find(({ grpid }) => grpid === 2)!.nsids.length).to.equal(namespacesOfLinux / 2);
    } finally {
      await controller.close();
    }
  });

  it('gave the kernel nothing to complain about', async () => {
    const said = (await vm.kernelLog()).filter((line) =>
      /nvmet.*(error|fail|invalid|unexpected|bad|fatal)|WARNING:|BUG:|Call Trace/i.test(line),
    );
    // what was under way when a port was taken away, and a Connect that came when the subsystem had left the port and
    // the port had not closed yet
    const taken = ['nvmet_tcp: failed cmd', `nvmet: connect request for invalid subsystem ${linuxNqn}!`];
    expect(said.filter((line) => !taken.some((text) => line.includes(text)))).to.deep.equal([]);
  });

  async function anaStates(): Promise<string[]> {
    return (await vm.run(`${where} ana_states() { ${anaStatesScript} }; ana_states`)).trim().split('\n');
  }

  async function known(first: string, second: string): Promise<void> {
    const script = `${where} ana_states() { ${anaStatesScript} }; is() { [ "$(ana_states | tr '\\n' ' ')" = "$1 $2 " ]; }; wait_for 90 is ${first} ${second} || { ana_states >&2; exit 1; }`;
    await vm.run(script, patient);
  }
});

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 40_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`Not within 40 s: ${what}`);
    await sleep(20);
  }
}

// ---- scripts for the guest; functions from guest-lib.sh

const connectBoth = `
modprobe nvme-tcp
[ "$(cat /sys/module/nvme_core/parameters/multipath)" = Y ]
for port in $port1 $port2; do
  quietly nvme connect -t tcp -a $address -s $port -n ${nqn} -i 2 --keep-alive-tmo=30 --reconnect-delay=1 --ctrl-loss-tmo=120
done
wait_for 90 has_namespace ${nqn} 1
two_paths() { [ "$(ls -d /sys/class/nvme/nvme*/nvme*c*n* | wc -l)" = 2 ]; }
wait_for 90 two_paths
`;

/** The state of each path, that by the first port first. */
const anaStatesScript = `
for port in $port1 $port2; do
  for controller in /sys/class/nvme/nvme*; do
    grep -q "trsvcid=$port" $controller/address || continue
    cat $controller/nvme*c*n*/ana_state 2> /dev/null || echo none
  done
done
`;

/** One verified pass after the other, until it is told to stop. */
const startFio = `
device=$(namespace_of ${nqn} 1)
rm -f /run/stop /run/fio.result
{ status=0
  while [ ! -e /run/stop ] && [ $status = 0 ]; do
    fio --name=load --filename=$device --size=4m --rw=randrw --bs=4k --iodepth=16 --verify=crc32c --verify_fatal=1 \\
      --ioengine=libaio --direct=1 > /run/fio.log 2>&1 || status=$?
  done
  echo $status > /run/fio.result; } &
sleep 1
`;

const endFio = `
touch /run/stop
wait_for 240 [ -e /run/fio.result ]
[ $(cat /run/fio.result) = 0 ] || { cat /run/fio.log >&2; exit 1; }
echo 'fio verified'
`;

const nvmetPath = '/sys/kernel/config/nvmet';
const anaFunction = `ana() { echo $2 > ${nvmetPath}/ports/$1/ana_groups/1/ana_state; };`;

const linuxTarget = (ports: readonly number[]): string => `
[ -e ${nvmetPath}/ports/1 ] && exit 0
modprobe brd rd_nr=1 rd_size=65536
nvmet_subsystem ${linuxNqn} /dev/ram0
nvmet_port 1 0.0.0.0 ${ports[0]} ${linuxNqn}
nvmet_port 2 0.0.0.0 ${ports[1]} ${linuxNqn}
`;

/** Every other namespace in ANA group 2. */
const manyLinuxNamespaces = `
modprobe null_blk nr_devices=0
folder=/sys/kernel/config/nullb/nullb0
mkdir $folder
echo 4 > $folder/size
echo 1 > $folder/power
mkdir ${nvmetPath}/ports/1/ana_groups/2
for nsid in $(seq 2 ${namespacesOfLinux}); do
  folder=${nvmetPath}/subsystems/${linuxNqn}/namespaces/$nsid
  mkdir $folder
  echo -n /dev/nullb0 > $folder/device_path
  echo $((nsid % 2 == 0 ? 2 : 1)) > $folder/ana_grpid
  echo 1 > $folder/enable
done
`;
