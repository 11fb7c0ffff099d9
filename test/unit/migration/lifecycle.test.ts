import { expect } from 'chai';
import { isQuiet, LifecycleInput, LifecycleState, lifecycle } from '../../../src/migration/lifecycle.ts';

/** Every pair of state and input: what it leads to and the status, written from the rules and not from the table. */
const EXPECTED = `
  Running   Notify       Running   000
  Running   Suspend      Suspended 000
  Running   Resume       Running   13a
  Running   GetState     Running   000
  Running   SetFirst     Running   11f
  Running   SetNext      Running   11f
  Running   Commit       -
  Running   Reject       -
  Running   TrackSend    Running   000
  Running   Reset        Running   000
  Running   ManagerReset Running   000
  Running   ResumeHeld   Running   13a
  Running   ManagerResetHeld Running   000
  Suspended Notify       Suspended 000
  Suspended Suspend      Suspended 000
  Suspended Resume       Running   000
  Suspended GetState     Suspended 000
  Suspended SetFirst     Loading   000
  Suspended SetNext      Suspended 00c
  Suspended Commit       -
  Suspended Reject       -
  Suspended TrackSend    Suspended 139
  Suspended Reset        Running   000
  Suspended ManagerReset Running   000
  Suspended ResumeHeld   Suspended 00c
  Suspended ManagerResetHeld Suspended 000
  Loading   Notify       Loading   000
  Loading   Suspend      Loading   000
  Loading   Resume       Loading   00c
  Loading   GetState     Loading   000
  Loading   SetFirst     Loading   000
  Loading   SetNext      Loading   000
  Loading   Commit       Committed 000
  Loading   Reject       Loading   002
  Loading   TrackSend    Loading   139
  Loading   Reset        Running   000
  Loading   ManagerReset Halted    000
  Loading   ResumeHeld   Loading   00c
  Loading   ManagerResetHeld Halted    000
  Committed Notify       Committed 000
  Committed Suspend      Committed 000
  Committed Resume       Running   000
  Committed GetState     Committed 000
  Committed SetFirst     Loading   000
  Committed SetNext      Committed 00c
  Committed Commit       -
  Committed Reject       -
  Committed TrackSend    Committed 139
  Committed Reset        Running   000
  Committed ManagerReset Running   000
  Committed ResumeHeld   Committed 00c
  Committed ManagerResetHeld Committed 000
  Halted    Notify       Halted    000
  Halted    Suspend      Suspended 000
  Halted    Resume       Halted    00c
  Halted    GetState     Halted    000
  Halted    SetFirst     Halted    11f
  Halted    SetNext      Halted    00c
  Halted    Commit       -
  Halted    Reject       -
  Halted    TrackSend    Halted    139
  Halted    Reset        Running   000
  Halted    ManagerReset Halted    000
  Halted    ResumeHeld   Halted    00c
  Halted    ManagerResetHeld Halted    000
`;

describe('Lifecycle of a Migratable Controller (Base 2.1 sections 5.1.16, 5.1.17)', () => {
  const rows = EXPECTED.trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));

  it('has every pair of state and input', () => {
    expect(rows).to.have.length(Object.keys(LifecycleState).length * Object.keys(LifecycleInput).length);
  });

  for (const [state, input, next, status] of rows) {
    it(`${state}, ${input}: ${next === '-' ? 'cannot occur' : `${next}, ${status}h`}`, () => {
      const found = lifecycle(
        LifecycleState[state as keyof typeof LifecycleState],
        LifecycleInput[input as keyof typeof LifecycleInput],
      );
      if (next === '-') expect(found).to.equal(undefined);
      else {
        expect(found).to.deep.equal({
          next: LifecycleState[next as keyof typeof LifecycleState],
          status: Number.parseInt(status!, 16),
        });
      }
    });
  }

  it('only a running controller is not quiet', () => {
    expect(Object.values(LifecycleState).filter((state) => !isQuiet(state))).to.deep.equal([LifecycleState.Running]);
  });
});
