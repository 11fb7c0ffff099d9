/** Ids of controllers: those that hosts get in turn, and those that functions behind PCIe hold among them. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import type { Controller } from '../../../src/target/controller.ts';
import type { Subsystem } from '../../../src/target/subsystem.ts';
import { Target } from '../../../src/target/target.ts';
import { ConfigError } from '../../../src/util/error.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { type Random, withSeeds } from '../../support/random.ts';

const DYNAMIC = 0xffff;

interface Made {
  readonly target: Target;
  readonly subsystem: Subsystem;
  connect(): Controller | string;
}

function make(cntlidMin: number, cntlidMax: number): Made {
  const target = new Target({ clock: new ManualClock() });
  const subsystem = target.addSubsystem({
    nqn: 'nqn.2024-01.org.example:ids',
    allowAnyHost: true,
    cntlidMin,
    cntlidMax,
  });
  target.addNamespace(subsystem, { nsid: 1, backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }) });
  const connect = (): Controller | string => {
    const admission = subsystem.admit(DYNAMIC, {
      ...{ hostnqn: 'nqn.2024-01.org.example:host', hostid: new Uint8Array(16), katoMs: 0 },
      ...{ queueEntriesMax: 128, ioQueuesMax: 1, inCapsuleBytes: 8192, portId: 1 },
    });
    return 'refused' in admission ? admission.refused : admission.controller;
  };
  return { target, subsystem, connect };
}

const idOf = (made: Controller | string): number | string => (typeof made === 'string' ? made : made.cntlid);

describe('CNTLIDs of a subsystem', () => {
  it('a function within the range of the hosts: its id is passed over, again and again', async () => {
    const { target, subsystem, connect } = make(64, 80);
    target.addFunction(subsystem, { cntlid: 77 });
    const found: (number | string)[] = [];
    for (let i = 0; i < 40; i++) {
      const made = connect();
      found.push(idOf(made));
      (made as Controller).close('over');
    }
    const turn = [64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 78, 79, 80];
    expect(found).to.deep.equal([...turn, ...turn, ...turn.slice(0, 8)]);
    await target.close();
  });

  it('full: busy, not for ever; and a function gets none that is taken', async () => {
    const { target, subsystem, connect } = make(76, 78);
    target.addFunction(subsystem, { cntlid: 77 });
    const [first, second] = [connect(), connect()];
    expect([idOf(first), idOf(second), idOf(connect())]).to.deep.equal([76, 78, 'busy']);
    expect(() => target.addFunction(subsystem, { cntlid: 76 })).to.throw(ConfigError, /id 76 .*a free one of 76 to 78/);
    expect(() => target.addFunction(subsystem, { cntlid: 79 })).to.throw(ConfigError, /a free one of 76 to 78/);
    expect(() => target.addFunction(subsystem, {})).to.throw(ConfigError, /no controller id left/);
    (first as Controller).close('over');
    expect(idOf(connect())).to.equal(76);
    await target.close();
  });

  it('whatever comes and goes, no id is given twice, none outside, and busy means full', async () => {
    const targets: Target[] = [];
    withSeeds(30, (random: Random) => {
      const [first, span] = [1 + random.below(200), 1 + random.below(12)];
      const { target, subsystem, connect } = make(first, first + span - 1);
      targets.push(target);
      const held = new Map<number, Controller>();
      for (let i = 0; i < 200; i++) {
        if (random.oneIn(3) && held.size > 0) {
          const id = random.pick([...held.keys()]);
          held.get(id)!.close('over');
          held.delete(id);
          continue;
        }
        const made = connect();
        if (typeof made === 'string') {
          expect(held.size, 'busy').to.equal(span);
          continue;
        }
        expect(held.has(made.cntlid), `${made.cntlid} twice`).to.equal(false);
        expect(made.cntlid).to.be.within(first, first + span - 1);
        expect(subsystem.controller(made.cntlid)).to.equal(made);
        held.set(made.cntlid, made);
      }
    });
    for (const target of targets) await target.close();
  });
});
