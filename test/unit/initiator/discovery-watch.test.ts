/** Following Discovery controllers and the subsystems that they name, against our own target, which has a clock of its own. */
import { expect } from 'chai';
import {
  DiscoveredControllers,
  type SubsystemPlace,
  subsystemPlace,
} from '../../../src/initiator/discovered-controllers.ts';
import { DiscoveryController, discover } from '../../../src/initiator/discovery.ts';
import { DiscoveryWatch } from '../../../src/initiator/discovery-watch.ts';
import type { DiscoveryLogEntry } from '../../../src/wire/cold/discovery-log.ts';
import type { ExtendedDiscoveryLogEntry } from '../../../src/wire/cold/discovery-log-extended.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { SUBSYSTEM_NQN, TestTarget, UNIQUE_DISCOVERY_NQN } from '../../support/test-target.ts';
import { advance, rejection, until } from './support.ts';

const OTHER = 'nqn.2024-01.org.example:other';
const HOST = 'nqn.2024-01.org.example:host';

describe('discovery against a target', () => {
  let t: TestTarget;
  let clock: ManualClock;
  beforeEach(async () => {
    t = await TestTarget.start();
    clock = new ManualClock();
  });
  afterEach(async () => {
    await t.close();
    expect(clock.timerCount, 'timers of the host').to.equal(0);
  });

  const at = (target: TestTarget = t): { address: string; port: number; clock: ManualClock; hostnqn: string } => ({
    address: '127.0.0.1',
    port: target.port.service,
    clock,
    hostnqn: HOST,
  });
  const shown = (entries: readonly DiscoveryLogEntry[]): string[] =>
    entries.map(({ subtype, portid, subnqn }) => `${subtype} ${portid} ${subnqn}`);

  describe('options of the log', () => {
    it('port local and extended entries are read as they are asked for', async () => {
      await t.target.addPort({ portId: 2, address: '127.0.0.2', service: 0, subsystems: ['*'] });
      const all = [`3 1 ${UNIQUE_DISCOVERY_NQN}`, `2 1 ${SUBSYSTEM_NQN}`, `2 2 ${SUBSYSTEM_NQN}`];
      expect(shown((await discover(at())).entries)).to.deep.equal(all);
      expect(shown((await discover({ ...at(), portLocal: true })).entries)).to.deep.equal(all.slice(0, 2));
      const extended = await discover({ ...at(), extended: true });
      expect(shown(extended.entries)).to.deep.equal(all);
      expect((extended.entries as ExtendedDiscoveryLogEntry[]).map(({ attributes }) => attributes)).to.deep.equal([
        [],
        [],
        [],
      ]);
    });

    it('what the controller does not offer this host is refused before it is asked, with everything closed', async () => {
      expect(await rejection(discover({ ...at(), allSubsystems: true }))).to.include({
        code: 'NVMEOF_ERR_NOT_SUPPORTED',
      });
      await t.until(() => t.connectionCount === 0);
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: false });
      t.target.setDiscoveryAllSubsystemsFor([HOST]);
      expect(shown((await discover({ ...at(), allSubsystems: true })).entries)).to.include(`2 1 ${OTHER}`);
      expect(shown((await discover(at())).entries)).to.not.include(`2 1 ${OTHER}`);
    });

    it('several hundred entries, read through while they change', async () => {
      for (let i = 0; i < 400; i++) t.target.addSubsystem({ nqn: `${OTHER}${i}`, allowAnyHost: true });
      await using discovery = await DiscoveryController.connect(at());
      const reading = discovery.readLog();
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      const { entries, genctr } = await reading;
      expect(genctr).to.equal(BigInt(t.target.discoveryGeneration));
      expect(new Set(entries.map(({ subnqn }) => subnqn)).size).to.equal(403);
    });
  });

  describe('DiscoveryWatch', () => {
    let watch: DiscoveryWatch;
    let said: string[];
    beforeEach(() => {
      said = [];
      watch = new DiscoveryWatch({ followReferrals: true });
      watch.on('log', ({ port }, _log, added, removed) => {
        for (const entry of shown(added)) said.push(`${port} + ${entry}`);
        for (const entry of shown(removed)) said.push(`${port} - ${entry}`);
      });
      watch.on('failed', ({ port }, error) => said.push(`${port} failed ${(error as { code?: string }).code}`));
      watch.on('ended', ({ port }) => said.push(`${port} ended`));
    });
    afterEach(() => watch.close());
    const heard = (line: string): Promise<void> => until(() => said.includes(line), `${line} in ${said.join('\n')}`);

    it('tells what is there, then what comes and goes', async () => {
      await watch.add(at());
      const { port } = at();
      expect(said).to.deep.equal([`${port} + 3 1 ${UNIQUE_DISCOVERY_NQN}`, `${port} + 2 1 ${SUBSYSTEM_NQN}`]);
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      await heard(`${port} + 2 1 ${OTHER}`);
      await t.target.removeSubsystem(SUBSYSTEM_NQN);
      await heard(`${port} - 2 1 ${SUBSYSTEM_NQN}`);
      expect(said).to.have.length(4);
    });

    it('follows a referral while it is there; what it led to goes with it', async () => {
      const second = await TestTarget.start();
      try {
        await watch.add(at());
        const { port } = at(second);
        t.target.setReferrals([{ portId: 9, address: '127.0.0.1', service: port }]);
        await heard(`${port} + 2 1 ${SUBSYSTEM_NQN}`);
        expect(watch.sources.map((source) => source.port)).to.deep.equal([t.port.service, port]);
        t.target.setReferrals([]);
        await heard(`${port} ended`);
        expect(said).to.include(`${port} - 2 1 ${SUBSYSTEM_NQN}`);
        expect(watch.sources.map((source) => source.port)).to.deep.equal([t.port.service]);
        await second.until(() => second.connectionCount === 0);
      } finally {
        await second.close();
      }
    });

    it('two that refer to each other are watched once each; a referral to nowhere is told', async () => {
      const second = await TestTarget.start();
      const dead = await TestTarget.start();
      await dead.close();
      try {
        const nowhere = dead.port.options.service || 1;
        second.target.setReferrals([{ portId: 9, address: '127.0.0.1', service: t.port.service }]);
        t.target.setReferrals([
          { portId: 8, address: '127.0.0.1', service: nowhere },
          { portId: 9, address: '127.0.0.1', service: second.port.service },
        ]);
        await watch.add(at());
        await heard(`${nowhere} failed ECONNREFUSED`);
        await heard(`${second.port.service} + 2 1 ${SUBSYSTEM_NQN}`);
        expect(watch.sources).to.have.length(2);
        await watch.close();
        await second.until(() => second.connectionCount === 0);
      } finally {
        await second.close();
      }
    });

    it('keeps the entries over a lost connection, and tells what changed meanwhile', async () => {
      await watch.add({ ...at(), reconnectDelayMs: 1000 });
      const { port } = at();
      const states: string[] = [];
      watch.on('lost', () => states.push('lost'));
      watch.on('restored', () => states.push('restored'));
      for (const controller of [...t.target.discovery.controllers]) controller.close('test');
      await until(() => states.includes('lost'), 'the loss');
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      await advance(clock, 1100, 100);
      await heard(`${port} + 2 1 ${OTHER}`);
      expect(states).to.deep.equal(['lost', 'restored']);
      expect(said.filter((line) => line.includes(' - '))).to.deep.equal([]);
    });

    it('the first one must be reachable; closing while it connects leaves nothing', async () => {
      const dead = await TestTarget.start();
      const options = at(dead);
      await dead.close();
      expect((await rejection(watch.add(options))).message).to.contain('refused');
      expect(watch.sources).to.deep.equal([]);
      const adding = watch.add(at()).catch(() => {});
      await watch.close();
      await adding;
      await t.until(() => t.connectionCount === 0);
    });
  });

  describe('DiscoveredControllers', () => {
    let controllers: DiscoveredControllers;
    let said: string[];
    let place: SubsystemPlace;
    beforeEach(() => {
      said = [];
      place = { subnqn: SUBSYSTEM_NQN, address: '127.0.0.1', port: t.port.service };
      controllers = new DiscoveredControllers({ clock, hostnqn: HOST, reconnectDelayMs: 1000, ctrlLossTimeoutMs: 0 });
      controllers.on('connected', ({ subnqn }, { state }) => said.push(`${subnqn} ${state}`));
      controllers.on('failed', ({ subnqn }, error) =>
        said.push(`${subnqn} failed ${(error as { code?: string }).code}`),
      );
      controllers.on('disconnected', ({ subnqn }) => said.push(`${subnqn} disconnected`));
    });
    afterEach(() => controllers.close());
    const heard = (line: string): Promise<void> => until(() => said.includes(line), `${line} in ${said.join('\n')}`);

    it('connects once per place, and disconnects with the last entry of it', async () => {
      controllers.add(place);
      controllers.add({ ...place });
      await heard(`${SUBSYSTEM_NQN} live`);
      expect([...t.subsystem.controllers]).to.have.length(1);
      controllers.remove(place);
      expect([...t.subsystem.controllers]).to.have.length(1);
      controllers.remove(place);
      await heard(`${SUBSYSTEM_NQN} disconnected`);
      await t.until(() => t.connectionCount === 0);
      controllers.remove(place); // not there: nothing
      expect(said).to.have.length(2);
    });

    it('tries again what fails, until it is removed', async () => {
      const other = { ...place, subnqn: OTHER };
      controllers.add(other);
      await until(() => said.length === 1, 'the failure');
      expect(said[0]).to.match(/failed/);
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      await advance(clock, 1000, 100);
      await heard(`${OTHER} live`);
      controllers.add({ ...place, subnqn: `${OTHER}2` });
      await until(() => said.length === 3, 'the second failure');
      controllers.remove({ ...place, subnqn: `${OTHER}2` });
      await heard(`${OTHER}2 disconnected`);
      await advance(clock, 5000, 1000);
      expect(said).to.have.length(4);
    });

    it('connects again after a controller was given up', async () => {
      controllers.add(place);
      await heard(`${SUBSYSTEM_NQN} live`);
      for (const controller of [...t.subsystem.controllers]) controller.close('test');
      await until(() => {
        clock.advance(1); // the loss time-out of 0 ms runs from when the loss is noticed
        return said.includes(`${SUBSYSTEM_NQN} disconnected`);
      }, 'the end of the first connection');
      await advance(clock, 1000, 100);
      await until(() => said.filter((line) => line.endsWith(' live')).length === 2, 'the second connection');
    });

    it('closed while it connects: nothing is left', async () => {
      controllers.add(place);
      await controllers.close();
      controllers.add(place);
      await t.until(() => t.connectionCount === 0);
      expect(said).to.deep.equal([]);
    });
  });

  it('only NVM subsystems on TCP have a place', () => {
    const entry = { trtype: 3, subtype: 2, subnqn: OTHER, traddr: '192.0.2.1', trsvcid: '4420' } as DiscoveryLogEntry;
    expect(subsystemPlace(entry)).to.deep.equal({ subnqn: OTHER, address: '192.0.2.1', port: 4420 });
    for (const other of [{ trtype: 1 }, { subtype: 1 }, { subtype: 3 }, { trsvcid: 'x' }]) {
      expect(subsystemPlace({ ...entry, ...other })).to.equal(undefined);
    }
  });
});
