/**
 * The discovery service under nvme-cli with a persistent connection, and under the daemons of nvme-stas. The guest reaches the
 * target through address translation, so that what it connects to is what is advertised.
 */
import { expect } from 'chai';
import type { SubsystemInput, TargetConfigInput } from '../../src/config/types.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { TargetProcess } from './support/product.ts';

const discoveryNqn = 'nqn.2026-01.test.nvmeferry:discovery';
const firstNqn = 'nqn.2026-01.test.nvmeferry:first';
const secondNqn = 'nqn.2026-01.test.nvmeferry:second';
const manySubsystems = 300;

describe('Discovery service: nvme-cli and nvme-stas', function () {
  this.timeout(600_000);

  let vm: GuestVm;
  let target: TargetProcess;
  let capture: Capture;
  let ports: [number, number, number];
  /** For scripts in the guest. */
  let where: string;

  /** The configuration with these subsystems on the first port, and those of `alsoOnSecond` on the second one as well. */
  function config(nqns: readonly string[], alsoOnSecond: readonly string[] = []): TargetConfigInput {
    const [port, secondPort, discoveryPort] = ports;
    const subsystem = (nqn: string): SubsystemInput => ({
      nqn,
      namespaces: [{ nsid: 1, backend: { type: 'memory', size: '16MiB', blockSize: 512 } }],
      ports: alsoOnSecond.includes(nqn) ? [1, 2] : [1],
    });
    return {
      subsystems: nqns.map(subsystem),
      ports: [
        { portId: 1, address: '127.0.0.1', service: port, advertise: machineAddress },
        { portId: 2, address: '127.0.0.1', service: secondPort, advertise: machineAddress },
      ],
      discovery: { address: '127.0.0.1', service: discoveryPort, nqn: discoveryNqn, advertise: machineAddress },
      log: { level: 'debug' },
    };
  }

  before(async () => {
    ports = (await freePorts(3)) as [number, number, number];
    const [port, secondPort, discoveryPort] = ports;
    where = `address=${machineAddress} port=${port} second_port=${secondPort} discovery=${discoveryPort} first=${firstNqn} second=${secondNqn} discovery_nqn=${discoveryNqn};`;
    target = await TargetProcess.start(() => config([firstNqn]));
    capture = await Capture.start({ ports });
    vm = await GuestVm.start({ kernel: '6.12', cpus: 2, memoryMiB: 1024 });
    await vm.run('modprobe nvme-tcp; nvme_udevd');
  });

  afterEach(async function () {
    if (this.currentTest?.state === 'failed') {
      const said = await vm.exec('dmesg | tail -n 20; tail -n 30 /run/uevents /run/sta?d.log 2> /dev/null');
      console.error(`The target said:\n${target.output.slice(-3000)}\nThe guest said:\n${said.stdout}`);
    }
  });

  after(async () => {
    await vm?.stop();
    await capture?.discard();
    await target?.discard();
  });

  it('nvme discover finds it by both its names and lists what is advertised', async () => {
    const lists = await vm.run(`${where}
      nvme discover -t tcp -a $address -s $discovery -o json | jq -c '[.records[] | [.subtype, .subnqn, .traddr, .trsvcid]]'
      nvme discover -t tcp -a $address -s $discovery -n $discovery_nqn -o json | jq -c '[.records[] | [.subtype, .subnqn, .traddr, .trsvcid]]'`);
    const [port, , discoveryPort] = ports;
    const expected = [
      ['current discovery subsystem', discoveryNqn, machineAddress, String(discoveryPort)],
      ['nvme subsystem', firstNqn, machineAddress, String(port)],
    ];
    for (const line of lists.trim().split('\n')) expect(JSON.parse(line)).to.deep.equal(expected);
    expect(lists.trim().split('\n')).to.have.length(2);
  });

  it('a persistent connection is told of a change, and connect-all on it connects what is new', async () => {
    await vm.run(`${where}
      nvme connect-all -t tcp -a $address -s $discovery --persistent --keep-alive-tmo=30
      wait_for 90 has_namespace $first 1
      [ "$(discovery_controller_nqn)" = $discovery_nqn ]
      nohup udevadm monitor --kernel --property > /run/uevents 2>&1 &
      wait_for 90 grep -q 'print the received' /run/uevents`);
    target.reload(config([firstNqn, secondNqn]));
    await vm.run(`${where}
      wait_for 90 grep -q '^NVME_AEN=0x70f002' /run/uevents
      pkill udevadm
      nvme connect-all --device=$(discovery_controller) -t tcp -a $address -s $discovery --keep-alive-tmo=30
      wait_for 90 has_namespace $second 1
      has_namespace $first 1
      nvme disconnect-all
      wait_for 90 no_controllers $first
      wait_for 90 no_controllers $discovery_nqn`);
  });

  it(`nvme discover reads ${manySubsystems} entries in pieces`, async () => {
    const many = Array.from({ length: manySubsystems }, (_, i) => `${firstNqn}-${i}`);
    const bare = config(many);
    target.reload({ ...bare, subsystems: many.map((nqn) => ({ nqn })) });
    const counted = await vm.run(`${where}
      listed() { nvme discover -t tcp -a $address -s $discovery -o json > /run/log.json && [ "$(jq '.records | length' /run/log.json)" = ${1 + 2 * manySubsystems} ]; }
      wait_for 90 listed
      jq -r '.records[] | select(.subtype == "nvme subsystem") | .subnqn' /run/log.json | sort -u | wc -l`);
    expect(Number(counted)).to.equal(manySubsystems);
    target.reload(config([firstNqn]));
  });

  it('nvme-stas keeps a connection to it, connects what it lists, and follows what comes and goes', async function () {
    this.timeout(600_000);
    const stas = `${where}
      discovers() { [ "$(discovery_controller_nqn 2> /dev/null)" = $discovery_nqn ]; }
      paths_of_first() { [ "$(controllers_of $first | wc -l)" = $1 ] && all_live $first; };`; // (ends with a semicolon: more follows on its line)
    await vm.run(
      `${stas} start_stas $address $discovery
      wait_for 150 discovers
      wait_for 90 has_namespace $first 1`,
      { timeoutMs: 300_000 },
    );
    // a subsystem comes, then a second port for the first one, then both go
    target.reload(config([firstNqn, secondNqn]));
    await vm.run(`${stas} wait_for 90 has_namespace $second 1; paths_of_first 1`);
    target.reload(config([firstNqn, secondNqn], [firstNqn]));
    await vm.run(`${stas} wait_for 90 paths_of_first 2`);
    target.reload(config([firstNqn]));
    const left = await vm.run(
      `${stas}
      wait_for 90 no_controllers $second
      wait_for 90 paths_of_first 1
      cat /sys/class/nvme/$(controllers_of $first)/address
      stacctl ls
      discovers
      stop_stas
      nvme disconnect-all
      wait_for 90 no_controllers $first`,
      { timeoutMs: 300_000 },
    );
    const [port] = ports;
    const endOfLine = left.indexOf('\n');
    expect(left.slice(0, endOfLine)).to.include(`trsvcid=${port}`);
    expect(left.slice(endOfLine)).to.include(firstNqn).and.not.include(secondNqn);
  });

  it('tshark agrees with every PDU', async () => {
    await vm.stop();
    await target.stop();
    const dissection = await capture.stop();
    expect(dissection.violations).to.deep.equal([]);
  });
});
