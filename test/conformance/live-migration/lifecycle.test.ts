/** Live migration: every pair of a controller's state and a command, taken from the table of the product and tried over the wire. */
import { expect } from 'chai';
import { LifecycleInput, LifecycleState, lifecycle } from '../../../src/migration/lifecycle.ts';
import { type Manager, managerOf, startManaged } from '../../support/manager.ts';
import type { RawHost } from '../../support/raw-host.ts';
import type { TestTarget } from '../../support/test-target.ts';

type StateName = keyof typeof LifecycleState;
type InputName = keyof typeof LifecycleInput;

/** One controller, its manager, and a state that would fit it. */
interface Bench {
  readonly manager: Manager;
  readonly host: RawHost;
  readonly cntlid: number;
  readonly state: Buffer;
  readonly cdqid: number;
}

/** How each state is reached. */
const REACH: Readonly<Record<StateName, (bench: Bench) => Promise<void>>> = {
  Running: async () => {},
  Suspended: async ({ manager, cntlid }) => {
    expect((await manager.suspend(cntlid)).code).to.equal(0);
  },
  Loading: async (bench) => {
    await REACH.Suspended(bench);
    const { manager, cntlid, state } = bench;
    expect((await manager.setState(cntlid, state.subarray(0, 64), { sequence: 1 })).code).to.equal(0);
  },
  Committed: async (bench) => {
    await REACH.Suspended(bench);
    expect((await bench.manager.setState(bench.cntlid, bench.state)).code).to.equal(0);
  },
  Halted: async (bench) => {
    await REACH.Loading(bench);
    await resetOf(bench.manager.host);
  },
};

async function resetOf(host: RawHost): Promise<number> {
  const { code } = await host.propertySet(0x14, 0);
  await host.enable();
  return code;
}

interface Action {
  /** What it is to the table, one after the other as long as the status is 0. */
  readonly inputs: readonly InputName[];
  run(bench: Bench): Promise<number>;
}

const wrongOf = (state: Buffer): Buffer => {
  const wrong = Buffer.from(state);
  wrong[wrong.length - 1] = wrong[wrong.length - 1]! ^ 0x80;
  return wrong;
};
const set =
  (sequence: number, part: (state: Buffer) => Buffer, offset = 0): Action['run'] =>
  async ({ manager, cntlid, state }) =>
    (await manager.setState(cntlid, part(state), { sequence, offset })).code;

const ACTIONS: Readonly<Record<string, Action>> = {
  'Suspend, STYPE 0': { inputs: ['Notify'], run: async (b) => (await b.manager.suspend(b.cntlid, { stype: 0 })).code },
  'Suspend, STYPE 1': { inputs: ['Suspend'], run: async (b) => (await b.manager.suspend(b.cntlid)).code },
  'Suspend, STYPE 1, DUDMQ': {
    inputs: ['Suspend'],
    run: async (b) => (await b.manager.suspend(b.cntlid, { dudmq: true })).code,
  },
  Resume: { inputs: ['Resume'], run: async (b) => (await b.manager.resume(b.cntlid)).code },
  'Get Controller State': { inputs: ['GetState'], run: async (b) => (await b.manager.getState(b.cntlid)).code },
  'Set 01b': { inputs: ['SetFirst'], run: set(1, (state) => state.subarray(0, 64)) },
  'Set 00b': { inputs: ['SetNext'], run: set(0, (state) => state.subarray(64, 96), 64) },
  'Set 10b, right': { inputs: ['SetNext', 'Commit'], run: set(2, (state) => state.subarray(64), 64) },
  'Set 10b, wrong': { inputs: ['SetNext', 'Reject'], run: set(2, (state) => wrongOf(state).subarray(64), 64) },
  'Set 11b, right': { inputs: ['SetFirst', 'Commit'], run: set(3, (state) => state) },
  'Set 11b, wrong': { inputs: ['SetFirst', 'Reject'], run: set(3, wrongOf) },
  'Track Send start': { inputs: ['TrackSend'], run: async (b) => (await b.manager.track(b.cdqid, 1)).code },
  'Track Send stop': { inputs: ['TrackSend'], run: async (b) => (await b.manager.track(b.cdqid, 0)).code },
  'reset of the controller': { inputs: ['Reset'], run: (b) => resetOf(b.host) },
  'reset of its manager': { inputs: ['ManagerReset'], run: (b) => resetOf(b.manager.host) },
};

const STATES = Object.keys(LifecycleState) as StateName[];
/** A state is sent to a controller, and seen on the wire, as what it does. */
const nameOf = (state: number): StateName => STATES.find((name) => LifecycleState[name] === state)!;

describe('conformance: live migration, every state and command', () => {
  let t: TestTarget;
  before(async () => {
    t = await startManaged();
  });
  after(() => t.close());

  async function bench(): Promise<Bench> {
    const manager = await managerOf(t);
    const host = await t.admin();
    const state = await manager.state(host.cntlid);
    const { result0: cdqid, code } = await manager.create(host.cntlid, 16);
    expect(code).to.equal(0);
    return { manager, host, cntlid: host.cntlid, state, cdqid };
  }
  /** What the controller is, and whether a command that it gets is executed. */
  async function stateOf({ cntlid, manager }: Bench): Promise<StateName> {
    const { state } = t.subsystem.migration!.ward(cntlid)!;
    const { result0, code } = await manager.getState(cntlid);
    expect(code).to.equal(0);
    expect(result0 & 1, 'CSUP').to.equal(state === LifecycleState.Running ? 0 : 1);
    return nameOf(state);
  }

  const tried = new Set<string>();
  for (const from of STATES) {
    for (const [name, { inputs, run }] of Object.entries(ACTIONS)) {
      // what the table says of it
      let next = LifecycleState[from] as number;
      let status = 0;
      for (const input of inputs) {
        const transition = lifecycle(next, LifecycleInput[input]);
        tried.add(`${nameOf(next)} ${input}`);
        expect(transition, `${from}, ${name}`).not.to.equal(undefined);
        next = transition!.next;
        status = transition!.status;
        if (status !== 0) break;
      }
      // a manager's reset ends its queue: then there is nothing to track by
      const hasNoQueue = from === 'Halted' && inputs[0] === 'TrackSend';
      const expected = hasNoQueue ? 0x137 : status & 0x7ff;
      it(`${from}, ${name}: ${expected.toString(16)}h, then ${nameOf(next)}`, async () => {
        const one = await bench();
        await REACH[from](one);
        expect(await stateOf(one)).to.equal(from);
        expect(await run(one)).to.equal(expected);
        expect(await stateOf(one)).to.equal(nameOf(next));
        const isQuiet = next !== LifecycleState.Running;
        const answer = one.host.identify(1);
        let answered = false;
        void answer.then(
          () => {
            answered = true;
          },
          () => {},
        );
        if (isQuiet) {
          // Keep Alive passes, and is answered behind what waits
          expect((await one.host.command({ opcode: 0x18 })).code).to.equal(0);
          expect(answered, 'executed although suspended').to.equal(false);
          await resetOf(one.host);
        } else expect((await answer).code).to.equal(0);
        one.manager.host.destroy();
        one.host.destroy();
        await t.until(() => t.subsystem.controller(one.cntlid) === undefined);
      });
    }
  }

  it('every entry of the table was tried', () => {
    for (const from of STATES) {
      for (const input of Object.keys(LifecycleInput) as InputName[]) {
        // held: only behind PCIe, hold.test.ts
        if (lifecycle(LifecycleState[from], LifecycleInput[input]) === undefined || input.endsWith('Held')) continue;
        expect(tried.has(`${from} ${input}`), `${from}, ${input}`).to.equal(true);
      }
    }
  });
});
