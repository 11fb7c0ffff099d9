/** A controller behind PCIe must not run while a namespace of it is closed: its guest has no other path. docs/live-migration-over-tcp.md, feature CAh */
import { expect } from 'chai';
import { LifecycleInput, LifecycleState, lifecycle } from '../../../src/migration/lifecycle.ts';
import { Guest } from '../../../src/vm/guest.ts';
import { MANAGER_NQN, type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { CopyBackend, settle, type TestTarget } from '../../support/test-target.ts';

type StateName = keyof typeof LifecycleState;
const STATES = Object.keys(LifecycleState) as StateName[];
const nameOf = (state: number): StateName => STATES.find((name) => LifecycleState[name] === state)!;
const SEQUENCE = 0x00c;
const NOT_SUSPENDED = 0x13a;

describe('conformance: live migration, a controller behind PCIe with a closed namespace is held', () => {
  let t: TestTarget;
  let guest: Guest;
  let cntlid: number;
  /** The one that suspends, and goes; and another one. */
  let manager: Manager;
  let other: Manager;
  let state: Buffer;

  beforeEach(async () => {
    t = await startManaged();
    const made = t.target.addFunction(t.subsystem, { vectorCount: 4 });
    cntlid = made.controller.cntlid;
    guest = new Guest();
    guest.plug(made.function);
    manager = await managerOf(t);
    other = await managerOf(t);
    state = await manager.state(cntlid);
  });
  afterEach(() => t.close());

  const stateNow = (): StateName => nameOf(t.subsystem.migration!.ward(cntlid)!.state);
  const leave = async ({ host }: Manager): Promise<void> => {
    host.destroy();
    await t.until(() => t.subsystem.controller(host.cntlid) === undefined);
  };
  const succeeds = async (command: Promise<{ code: number }>): Promise<void> => {
    expect((await command).code).to.equal(0);
  };

  const REACH: Readonly<Record<StateName, () => Promise<void>>> = {
    Running: async () => {},
    Suspended: () => succeeds(manager.suspend(cntlid)),
    Loading: async () => {
      await REACH.Suspended();
      await succeeds(manager.setState(cntlid, state.subarray(0, 64), { sequence: 1 }));
    },
    Committed: async () => {
      await REACH.Suspended();
      await succeeds(manager.setState(cntlid, state));
    },
    Halted: async () => {
      await REACH.Loading();
      await leave(manager);
      manager = await managerOf(t);
    },
  };

  for (const from of STATES) {
    const resumed = lifecycle(LifecycleState[from], LifecycleInput.ResumeHeld)!;
    it(`${from}, Resume: ${resumed.status.toString(16)}h, then ${nameOf(resumed.next)}`, async () => {
      await REACH[from]();
      await succeeds(other.setFence(1, true, 1n));
      expect((await manager.resume(cntlid)).code).to.equal(resumed.status);
      expect(stateNow()).to.equal(nameOf(resumed.next));
    });

    const left = lifecycle(LifecycleState[from], LifecycleInput.ManagerResetHeld)!;
    it(`${from}, its manager goes: ${nameOf(left.next)}`, async () => {
      await REACH[from]();
      await succeeds(other.setFence(1, true, 1n));
      await leave(manager);
      expect(stateNow()).to.equal(nameOf(left.next));
      expect((await other.getState(cntlid)).result0 & 1, 'CSUP').to.equal(left.next === LifecycleState.Running ? 0 : 1);
      expect((await other.resume(cntlid)).code).to.equal(from === 'Running' ? NOT_SUSPENDED : SEQUENCE);
    });
  }

  it('a source whose guest works: its write waits until the namespace is open again, and is done', async () => {
    await guest.start(1);
    await guest.write(1, 0, new Uint8Array(512).fill(1));
    await succeeds(manager.suspend(cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    await leave(manager);
    let written = false;
    const write = guest.write(1, 0, new Uint8Array(512).fill(2)).then(() => {
      written = true;
    });
    guest.run();
    await settle();
    expect(written).to.equal(false);
    // the next manager undoes it
    expect((await other.resume(cntlid)).code, 'still closed').to.equal(SEQUENCE);
    await succeeds(other.setFence(1, false, 2n));
    expect(stateNow(), 'opening does not resume').to.equal('Suspended');
    await succeeds(other.resume(cntlid));
    guest.run();
    await write;
    expect((await guest.read(1, 0, 1))[0]).to.equal(2);
  });

  it('with open namespaces it runs when its manager goes; also when it was held, and the one that opened goes', async () => {
    await succeeds(manager.suspend(cntlid));
    await leave(manager);
    expect(stateNow()).to.equal('Running');
    manager = await managerOf(t);
    await succeeds(manager.suspend(cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    await leave(manager);
    expect(stateNow()).to.equal('Suspended');
    await succeeds(other.setFence(1, false, 2n));
    await leave(other);
    expect(stateNow()).to.equal('Running');
  });

  it('another manager that suspends it again answers for it', async () => {
    await succeeds(manager.suspend(cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    await leave(manager);
    await succeeds(other.suspend(cntlid));
    const third = await managerOf(t);
    await succeeds(third.setFence(1, false, 2n));
    await leave(third);
    expect(stateNow(), 'not suspended by that one').to.equal('Suspended');
    await leave(other);
    expect(stateNow()).to.equal('Running');
  });

  it('a closed namespace that is not attached to it does not matter', async () => {
    const elsewhere = await t.association();
    t.target.setNamespaceHosts(t.subsystem, 1, [elsewhere.controller.hostnqn, MANAGER_NQN]);
    await succeeds(manager.suspend(cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    await leave(manager);
    expect(stateNow()).to.equal('Running');
  });

  it('a controller of a fabric is not held: its host has other paths', async () => {
    const { admin } = await t.association();
    await succeeds(manager.suspend(admin.cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    await leave(manager);
    expect((await admin.identify(1)).code).to.equal(0);
  });

  it('its own reset ends the suspension all the same; and so does feature CEh', async () => {
    await guest.start(1);
    await succeeds(manager.suspend(cntlid));
    await succeeds(manager.setFence(1, true, 1n));
    guest.function!.reset();
    expect(stateNow()).to.equal('Running');

    expect((await manager.resetController(cntlid)).code, 'it runs').to.equal(NOT_SUSPENDED);
    await REACH.Committed();
    await succeeds(manager.resetController(cntlid));
    expect(stateNow()).to.equal('Running');
    expect(t.subsystem.controller(cntlid)!.cc & 1, 'CC.EN').to.equal(0);
    for (const wrong of [manager.host.cntlid, 0xffff, 0x1_0001]) {
      expect((await manager.resetController(wrong)).code).to.equal(0x11f);
    }
  });

  it('feature CEh resets a suspended controller of a fabric: what had waited is dropped', async () => {
    const { admin, io } = await t.association();
    await succeeds(manager.suspend(admin.cntlid));
    void io.command({ opcode: 0, nsid: 1 }).catch(() => {});
    await settle();
    await succeeds(manager.resetController(admin.cntlid));
    expect((await admin.propertyGet(0x1c)).result0 & 1, 'CSTS.RDY').to.equal(0);
    await admin.enable();
    expect((await admin.identify(1)).code).to.equal(0);
  });

  it('a manager that goes before the suspension is complete leaves it to complete', async () => {
    const backend = new CopyBackend();
    t.target.addNamespace(t.subsystem, { nsid: 2, backend });
    await guest.start(1);
    backend.hold = true;
    const write = guest.write(2, 0, new Uint8Array(512).fill(1));
    guest.run();
    await t.until(() => backend.held.length === 1);
    await succeeds(other.setFence(1, true, 1n));
    void manager.suspend(cntlid).catch(() => {});
    await t.until(() => stateNow() === 'Suspended');
    await leave(manager);
    expect(stateNow()).to.equal('Suspended');
    const isSuspended = async (): Promise<number> => (await other.getState(cntlid)).result0 & 1;
    expect(await isSuspended(), 'CSUP: a write is in flight').to.equal(0);
    backend.hold = false;
    backend.release();
    guest.run();
    await write;
    expect(await isSuspended()).to.equal(1);
    await succeeds(other.suspend(cntlid));
    await succeeds(other.setFence(1, false, 1n));
    await succeeds(other.resume(cntlid));
  });
});
