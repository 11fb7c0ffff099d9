/**
 * Moves over links that Linux makes bad, all in one guest: its kernel is the host (native multipath, fio with verification), target A, target B and the
 * orchestrator have a network namespace each, and netem delays, loses, repeats and reorders between all of them. Links are cut at steps of the move,
 * and whoever is left goes on: it ends moved or as before, as the journal says, with one side open, and nothing lost. docs/moving.md
 */
import { expect } from 'chai';
import type { JournalEntry } from '../../src/orchestrator/journal.ts';
import { GuestVm } from './support/guest-vm.ts';
import { guestCli, installProduct } from './support/product-in-guest.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:moving';
const uuid = '5d0f7c1e-93a6-4c0f-8a53-1f4e2b7d6c90';
const sizeBytes = 8 << 20;
const HOSTS = 4420;
const MANAGERS = 4421;
const DISCOVERY = 8009;
/** The first 3 MiB are fio's. */
const BLOCK_OF_NOBODY = (6 << 20) / 4096;
const patient = { timeoutMs: 300_000 };
/** The longest cases are left to NVMEFERRY_INTEROP=full: on loopback, test/e2e/migrate-faults.test.ts has the same cuts. */
const isWhole = process.env.NVMEFERRY_INTEROP === 'full';

/** What must not be in the log. That connections end and are made again is what the cuts are for. */
const trouble =
  /I\/O error|critical .* error|Buffer I\/O|WARNING:|BUG:|Call Trace|hung task|Duplicate cntlid|identifiers changed/i;

type Side = 'A' | 'B';
const otherOf: Readonly<Record<Side, Side>> = { A: 'B', B: 'A' };
type Outcome = 'moved' | 'as before';
type Party = 'host' | 'orch';

/** Addresses of a side, by who reaches it there: each pair has a link of its own. The other end of the link is .1. */
const addressOf: Readonly<Record<Side, Readonly<Record<Party, string>>>> = {
  A: { host: '10.7.1.2', orch: '10.7.3.2' },
  B: { host: '10.7.2.2', orch: '10.7.4.2' },
};

/** Between a host and a target, and between them and the orchestrator, which is farther away. Both ends of a link have it. */
const netemOf: Readonly<Record<Party, string>> = {
  host: 'delay 1ms 500us loss 0.3% duplicate 1% reorder 20% 50%',
  orch: 'delay 5ms 2ms loss 0.5% duplicate 2% reorder 20% 50%',
};

/** `said` is for whoever reads the failure. */
interface Ran {
  readonly code: number;
  readonly said: string;
}

describe('moves over links of netem that are cut, all in one guest, 6.12', function () {
  this.timeout(600_000);
  let vm: GuestVm;
  let at: Side = 'A';
  let mark: string;

  before(async () => {
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1280,
    });
    await installProduct(vm);
    for (const side of ['A', 'B'] as const) {
      await vm.writeFile(`/run/${side}/target.json`, Buffer.from(JSON.stringify(configuration(side))));
    }
    await vm.writeFile('/run/watch.sh', Buffer.from(watch));
    await vm.run(network, patient);
    await run(`start_target A; start_target B; is_ready A; is_ready B`);
    mark = await vm.markKernelLog();
    await run(`connect A; connect B; wait_for 90 states optimized inaccessible
      dd if=/dev/urandom of=$(namespace_of ${nqn} 1) bs=1M count=5 oflag=direct status=none`);
    await run(`${netem('host')}; ${netem('orch')}; start_load`);
  });

  after(async () => {
    await vm?.stop();
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const said = await vm.exec(
      `dmesg | tail -n 25; tail -n 8 /run/A/log /run/B/log /run/fio.log /run/move.out; cut -c1-120 /run/journal; ip -br addr`,
    );
    console.error(said.stdout);
  });

  const run = (script: string): Promise<string> => vm.run(`${functions} ${script}`, patient);

  /** Both directions of both links of a party. */
  const netem = (party: Party): string =>
    (['A', 'B'] as const).map((side) => `link ${party} ${side} ${netemOf[party]}`).join('; ');

  const mendLink = (party: Party, side: Side): string => `mend ${party} ${side} ${netemOf[party]}`;

  /** `nvmeferry migrate` in the orchestrator's namespace; `act` is run when the line of that step is seen. */
  async function migrate(args: string, step = '', state = '', act = ':'): Promise<Ran> {
    const command = `${guestCli} migrate ${args} --output json --journal /run/journal`;
    const { code, stdout, stderr } = await vm.exec(
      `cat > /run/act.sh << 'END'
${functions}
${act}
END
      ip netns exec orch bash /run/watch.sh '"step":"${step}","state":"${state}"' ${command} | tee /run/move.out`,
      patient,
    );
    return { code, said: `exit status ${code}\n${stdout}\n${stderr}` };
  }

  const uri = (side: Side): string => `'nvme+tcp://${addressOf[side].orch}:${MANAGERS}/${nqn}?keep-alive-tmo=4'`;

  const begin = (step?: string, state?: string, act?: string): Promise<Ran> => {
    const to = otherOf[at];
    const args = `${uri(at)} ${uri(to)} --overwrite --announce ${addressOf[to].host}:${HOSTS} --blackout 10000 --when-stuck cut`;
    // a connection alone takes seconds in a guest that is emulated
    return migrate(`${args} --patience 10`, step, state, act);
  };

  const isCommitted = async (): Promise<boolean> => (await vm.run('cat /run/journal')).includes('"step":"commit"');

  /**
   * The links are back: goes on with the move to its end. An abort after the commit is refused; how far the move was when its link was cut is a race,
   * which the journal decides.
   */
  async function settle(verb: '--abort' | '--resume'): Promise<Outcome> {
    const committed = await isCommitted();
    const first = await migrate(verb);
    if (committed && verb === '--abort') {
      expect(first.code, first.said).to.equal(5);
      const second = await migrate('--resume');
      expect(second.code, second.said).to.equal(0);
    } else expect(first.code, first.said).to.equal(0);
    return committed ? 'moved' : 'as before';
  }

  /** It is where it should be: the journal says so, one side takes a write and the other does not, and the load goes on and is right. */
  async function expectEnd(outcome: Outcome, from: Side): Promise<void> {
    at = outcome === 'moved' ? otherOf[from] : from;
    const last = JSON.parse(await vm.run('tail -n 1 /run/journal')) as JournalEntry;
    expect([last.step, last.state]).to.deep.equal(['move', outcome === 'moved' ? 'done' : 'undone']);
    await run(`wait_for 90 states ${at === 'A' ? 'optimized inaccessible' : 'inaccessible optimized'}
      write_to ${at}
      if write_to ${otherOf[at]}; then echo 'the side that is closed has taken a write'; exit 1; fi
      grep -i inaccessible /run/write.out
      verified_pass`);
  }

  it('delay, loss, repeats, reordering: moved', async () => {
    const { code, said } = await begin();
    expect(code, said).to.equal(0);
    await expectEnd('moved', 'A');
    expect(await vm.run('ip netns exec orch tc -s qdisc show; tc -s qdisc show')).to.match(/qdisc netem .*loss 0.5%/);
  });

  if (isWhole) {
    it('the destination is cut off when the source closes: it opens again without the destination, and abort is the rest', async () => {
      const from = at;
      const to = otherOf[from];
      const { code, said } = await begin('close-source', 'begun', `cut_off ${to}`);
      expect(code, said).to.equal(7);
      // the link is still cut
      if (!(await isCommitted())) await run('goes_on 50');
      await run(mendLink('orch', to));
      await expectEnd(await settle('--abort'), from);
    });

    it('the source is cut off when it is closed: hosts wait until the link is back, and resume undoes', async () => {
      const from = at;
      const { code, said } = await begin('close-source', 'done', `cut_off ${from}`);
      expect([0, 7], said).to.include(code);
      if (!(await isCommitted())) await run('states inaccessible inaccessible');
      await run(mendLink('orch', from));
      await expectEnd(await settle('--resume'), from);
    });
  }

  it('a host loses the source before the move, the orchestrator the destination after the commit: resume ends it, and the host goes on there', async () => {
    const from = at;
    const to = otherOf[from];
    await run(`down host ${from}`);
    const { code, said } = await begin('commit', 'done', `lose orch ${to}`);
    expect([0, 7], said).to.include(code);
    await run(mendLink('orch', to));
    expect(await settle('--resume')).to.equal('moved');
    await run(`goes_on 50; ${mendLink('host', from)}`);
    await expectEnd('moved', from);
  });

  it('no I/O error, everything is there', async () => {
    await run('end_load');
    const [read, stored] = (
      await run(
        `dd if=$(namespace_of ${nqn} 1) bs=1M iflag=direct status=none | sha256sum; sha256sum < /run/${at}/disk`,
      )
    )
      .trim()
      .split('\n');
    expect(read, 'what the host reads is what the target has').to.equal(stored);
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
  });

  function configuration(side: Side): object {
    const { host, orch } = addressOf[side];
    const path = `/run/${side}/disk`;
    return {
      stateDirectory: `/run/${side}/state`,
      subsystems: [
        {
          nqn,
          serial: 'MOVING',
          allowAnyHost: true,
          ...(side === 'A' ? { cntlidMin: 1, cntlidMax: 0x7fff } : { cntlidMin: 0x8000, cntlidMax: 0xffef }),
          migration: { managers: { ports: [2] } },
          namespaces: [
            {
              nsid: 1,
              uuid,
              backend: { type: 'file', path, size: sizeBytes, blockSize: 4096 },
              closed: side === 'B',
            },
          ],
        },
      ],
      ports: [
        { portId: 1, address: host, service: HOSTS },
        { portId: 2, address: orch, service: MANAGERS, advertise: false },
      ],
      discovery: { address: host, service: DISCOVERY },
    };
  }
});

// ---- scripts for the guest; functions from guest-lib.sh

/** Links end in interfaces that are named by the other end; the host is the namespace of process 1. */
const network = `
modprobe -a veth sch_netem nvme-tcp
for name in A B orch; do ip netns add $name; ip -n $name link set lo up; done
ip netns attach host 1
pair() { # PARTY SIDE NETWORK
  ip -n $1 link add to-$2 type veth peer name to-$1 netns $2
  ip -n $1 addr add $3.1/30 dev to-$2
  ip -n $2 addr add $3.2/30 dev to-$1
  ip -n $1 link set to-$2 up
  ip -n $2 link set to-$1 up
}
pair host A 10.7.1
pair host B 10.7.2
pair orch A 10.7.3
pair orch B 10.7.4
`;

/** Passes on the lines of a command; at the first that contains EVENT, act.sh is run: watch.sh EVENT COMMAND... */
const watch = `
event=$1
shift
"$@" | {
  seen=
  while IFS= read -r line; do
    if [ -z "$seen" ] && [[ $line == *"$event"* ]]; then seen=1; . /run/act.sh > /dev/null; fi
    printf '%s\\n' "$line"
  done
}
exit \${PIPESTATUS[0]}
`;

const functions = `
declare -A address=([A]=${addressOf.A.host} [B]=${addressOf.B.host})
link() { # PARTY SIDE NETEM...: at both ends
  local party=$1 side=$2
  shift 2
  tc -n $party qdisc replace dev to-$side root netem $*
  tc -n $side qdisc replace dev to-$party root netem $*
}
lose() { link $1 $2 loss 100%; }
cut_off() { echo 0x1002 > /sys/class/net/to-$1/flags; } # in the orchestrator's namespace; at once: no process is started
down() { ip -n $2 link set to-$1 down; }
mend() { # PARTY SIDE NETEM...
  link $*
  ip -n $1 link set to-$2 up
  ip -n $2 link set to-$1 up
}
start_target() { # SIDE
  mkfifo /run/$1/out
  setsid ip netns exec $1 ${guestCli} target --config /run/$1/target.json --output json < /dev/null 1<> /run/$1/out 2> /run/$1/log &
}
is_ready() {
  timeout 200 grep -q -m 1 '"ready"' /run/$1/out || { cat /run/$1/log >&2; return 1; }
}
connect() { # SIDE
  quietly nvme connect -t tcp -a \${address[$1]} -s ${HOSTS} -n ${nqn} -i 2 --keep-alive-tmo=5 --reconnect-delay=1 --ctrl-loss-tmo=600
  wait_for 90 has_namespace ${nqn} 1
}
controller_to() { # SIDE
  local folder
  for folder in /sys/class/nvme/nvme*; do
    if grep -q "traddr=\${address[$1]}," $folder/address; then echo \${folder##*/}; fi
  done
}
ana_state() { cat /sys/class/nvme/$(controller_to $1)/nvme*c*n*/ana_state 2> /dev/null || echo none; }
states() { [ "$(ana_state A) $(ana_state B)" = "$1 $2" ]; }
write_to() { # SIDE: by that path, whatever the kernel takes it for
  head -c 4096 /dev/urandom > /run/block
  nvme io-passthru /dev/$(controller_to $1) --opcode=1 --namespace-id=1 --cdw10=${BLOCK_OF_NOBODY} --cdw12=0 --data-len=4096 --write \\
      --input-file=/run/block --timeout=20000 > /run/write.out 2>&1
}
start_load() { # verified passes over the same blocks, each with other data, until it is told to stop
  local device=$(namespace_of ${nqn} 1)
  { status=0
    while [ ! -e /run/stop ] && [ $status = 0 ]; do
      fio --name=load --filename=$device --size=3m --rw=randrw --rwmixwrite=70 --bs=4k --iodepth=8 --verify=crc32c --verify_fatal=1 --randrepeat=0 \\
        --verify_backlog=256 --ioengine=libaio --direct=1 > /run/fio.log 2>&1 || status=$?
      echo $status >> /run/passes
    done
    touch /run/load.ended; } < /dev/null > /dev/null 2>&1 &
}
passes() { [ "$(wc -l < /run/passes)" -ge $1 ]; }
passes_ok() { ! grep -qv '^0$' /run/passes || { cat /run/fio.log >&2; return 1; }; }
verified_pass() { # the one under way
  touch /run/passes
  wait_for 120 passes $(($(wc -l < /run/passes) + 1))
  passes_ok
}
end_load() {
  touch /run/stop
  wait_for 120 [ -e /run/load.ended ]
  passes_ok
}
done_io() { awk '{ print $1 + $5 }' /sys/class/block/$(basename $(namespace_of ${nqn} 1))/stat; }
more_io() { [ $(done_io) -ge $1 ]; }
goes_on() { wait_for 90 more_io $(($(done_io) + $1)); }
`;
