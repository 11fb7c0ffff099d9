import { expect } from 'chai';
import { type ConfigDiff, diffConfig } from '../../../src/config/diff.ts';
import { parseConfig } from '../../../src/config/load.ts';
import type { SubsystemInput, TargetConfig, TargetConfigInput } from '../../../src/config/types.ts';
import { ConfigError } from '../../../src/util/error.ts';

const A = 'nqn.2026-01.io.nvmeferry:a';
const B = 'nqn.2026-01.io.nvmeferry:b';
const HOST = 'nqn.2026-01.io.nvmeferry:host';

const config = (input: TargetConfigInput): TargetConfig =>
  parseConfig(JSON.stringify(input), { name: 'test', baseDirectory: '/' });

const memory = (nsid: number, size: string): NonNullable<SubsystemInput['namespaces']>[number] => ({
  nsid,
  backend: { type: 'memory', size },
});

function base(): TargetConfigInput & { ports: object[]; subsystems: [SubsystemInput, SubsystemInput] } {
  return {
    subsystems: [
      { nqn: A, namespaces: [memory(1, '1GiB'), { nsid: 2, backend: { type: 'file', path: '/srv/f' } }] },
      { nqn: B, hosts: [HOST] },
    ],
    ports: [{ portId: 1 }, { portId: 2, address: '10.0.0.1' }],
  };
}

function diff(change: (input: ReturnType<typeof base>) => void): ConfigDiff {
  const after = base();
  change(after);
  return diffConfig(config(base()), config(after));
}

const NOTHING = {
  removeSubsystems: [],
  addSubsystems: [],
  changeSubsystems: [],
  removePorts: [],
  addPorts: [],
  changePorts: [],
  restart: [],
};

describe('config: diff', () => {
  it('of equal configurations is empty', () => {
    expect(diff(() => {})).to.deep.equal({ ...NOTHING, isEmpty: true });
  });

  it('of the same in another order is empty', () => {
    const result = diff((input) => {
      input.subsystems.reverse();
      input.subsystems[1]!.namespaces!.reverse();
    });
    expect(result).to.deep.equal({ ...NOTHING, isEmpty: true });
  });

  it('what is passed through changes under connected hosts, and ends', () => {
    const adminPassthrough = { opcodes: [0xc0], logPages: [] };
    const given = diff((input) => {
      input.subsystems[0]!.adminPassthrough = adminPassthrough;
    });
    expect(given.changeSubsystems).to.have.length(1);
    expect(given.changeSubsystems[0]).to.deep.include({ nqn: A, passthrough: adminPassthrough });
    expect([given.restart, given.isEmpty]).to.deep.equal([[], false]);
    const before = base();
    before.subsystems[0]!.adminPassthrough = adminPassthrough;
    const [change] = diffConfig(config(before), config(base())).changeSubsystems;
    expect(change).to.include({ nqn: A, passthrough: 'nothing' });
  });

  it('whether a namespace begins closed changes nothing of one that is there', () => {
    const managed = (closed: boolean): ReturnType<typeof config> => {
      const input = base();
      input.subsystems[0]!.migration = { managers: { ports: [1] } };
      input.subsystems[0]!.namespaces![0] = { ...memory(1, '1GiB'), closed };
      return config(input);
    };
    expect(diffConfig(managed(false), managed(true)).isEmpty).to.equal(true);
    expect(diffConfig(managed(true), managed(false)).isEmpty).to.equal(true);
  });

  it('subsystems come and go', () => {
    const result = diff((input) => {
      input.subsystems[1]!.nqn = 'nqn.2026-01.io.nvmeferry:c';
    });
    expect(result.removeSubsystems).to.deep.equal([B]);
    expect(result.addSubsystems.map(({ nqn }) => nqn)).to.deep.equal(['nqn.2026-01.io.nvmeferry:c']);
    expect(result.changeSubsystems).to.deep.equal([]);
    expect(result.isEmpty).to.equal(false);
  });

  it('namespaces come, go and grow; other changes replace them', () => {
    const only = (change: (input: ReturnType<typeof base>) => void): ConfigDiff['changeSubsystems'][number] => {
      const { changeSubsystems, ...rest } = diff(change);
      expect(rest).to.deep.equal({ ...withoutChanges(), isEmpty: false });
      expect(changeSubsystems).to.have.length(1);
      return changeSubsystems[0]!;
    };
    const withoutChanges = (): object => {
      const { changeSubsystems: _, ...rest } = NOTHING;
      return rest;
    };
    const added = only((input) => input.subsystems[0].namespaces!.push(memory(3, '1MiB')));
    expect(added.addNamespaces.map(({ nsid }) => nsid)).to.deep.equal([3]);
    expect([added.nqn, added.hosts, added.removeNamespaces, added.growNamespaces]).to.deep.equal([
      A,
      undefined,
      [],
      [],
    ]);

    const removed = only((input) => input.subsystems[0].namespaces!.pop());
    expect([removed.removeNamespaces, removed.addNamespaces]).to.deep.equal([[2], []]);

    const grown = only((input) => {
      input.subsystems[0].namespaces![0] = memory(1, '2GiB');
    });
    expect(grown.growNamespaces).to.deep.equal([{ nsid: 1, sizeBytes: 2 ** 31 }]);
    expect([grown.removeNamespaces, grown.addNamespaces]).to.deep.equal([[], []]);

    expect(() => only((input) => input.subsystems[0].namespaces!.splice(0, 1, memory(1, '512MiB')))).to.throw(
      ConfigError,
      /namespace 1 .*allowShrink: true/,
    );
    const shrunk = only((input) => {
      input.subsystems[0].namespaces![0] = { ...memory(1, '512MiB'), allowShrink: true };
    });
    expect(shrunk.shrinkNamespaces).to.deep.equal([{ nsid: 1, sizeBytes: 2 ** 29 }]);
    expect([shrunk.growNamespaces, shrunk.removeNamespaces]).to.deep.equal([[], []]);

    const hosts = ['nqn.2026-01.io.nvmeferry:host'];
    const masked = only((input) => {
      input.subsystems[0].namespaces![0] = { ...memory(1, '2GiB'), hosts };
    });
    expect(masked.maskNamespaces).to.deep.equal([{ nsid: 1, hosts }]);
    expect(masked.growNamespaces, 'both at once').to.deep.equal([{ nsid: 1, sizeBytes: 2 ** 31 }]);
    expect(masked.removeNamespaces).to.deep.equal([]);

    for (const replacement of [
      { ...memory(1, '2GiB'), readOnly: true },
      { ...memory(1, '1GiB'), uuid: '8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31' },
      { nsid: 1, backend: { type: 'null', size: '2GiB' } as const },
    ]) {
      const replaced = only((input) => {
        input.subsystems[0].namespaces![0] = replacement;
      });
      expect(replaced.removeNamespaces, JSON.stringify(replacement)).to.deep.equal([1]);
      expect(replaced.addNamespaces.map(({ nsid }) => nsid)).to.deep.equal([1]);
      expect(replaced.growNamespaces).to.deep.equal([]);
    }
  });

  it('the allow-list changes alone', () => {
    const result = diff((input) => {
      input.subsystems[1].hosts = [HOST, `${HOST}2`];
    });
    expect(result.changeSubsystems).to.deep.equal([
      {
        nqn: B,
        hosts: { allowAnyHost: false, hosts: [HOST, `${HOST}2`] },
        removeNamespaces: [],
        addNamespaces: [],
        growNamespaces: [],
        moveNamespaces: [],
        anaStates: [],
        shrinkNamespaces: [],
        maskNamespaces: [],
      },
    ]);
    const opened = diff((input) => {
      delete input.subsystems[1].hosts;
    });
    expect(opened.changeSubsystems[0]!.hosts).to.deep.equal({ allowAnyHost: true, hosts: [] });
  });

  it('ANA states change in place, what is not written is optimized; a namespace moves to another group and grows', () => {
    const before = base();
    before.subsystems[0].anaGroups = [
      { anagrpid: 2, states: { 1: 'inaccessible', 2: 'non-optimized' } },
      { anagrpid: 3, states: { 1: 'persistent-loss' } },
    ];
    const after = base();
    after.subsystems[0].anaGroups = [
      { anagrpid: 2, states: { 2: 'non-optimized' } },
      { anagrpid: 4, states: { 2: 'change', 1: 'optimized' } },
    ];
    after.subsystems[0].namespaces![0] = { ...memory(1, '2GiB'), anagrpid: 4 };
    const result = diffConfig(config(before), config(after));
    const change = result.changeSubsystems[0]!;
    expect(change.anaStates).to.deep.equal([
      { anagrpid: 2, portId: 1, state: 'optimized' },
      { anagrpid: 4, portId: 2, state: 'change' },
    ]);
    expect([change.moveNamespaces, change.growNamespaces]).to.deep.equal([
      [{ nsid: 1, anagrpid: 4 }],
      [{ nsid: 1, sizeBytes: 2 ** 31 }],
    ]);
    expect([change.removeNamespaces, change.addNamespaces]).to.deep.equal([[], []]);
    expect(result.restart).to.deep.equal([
      `subsystem ${A}: ANA group 3 on port 1 persistent-loss (final) -> optimized`,
    ]);
  });

  it('a port that moves is taken away and added; what it shows changes in place', () => {
    const moved = diff((input) => {
      input.ports[1] = { portId: 2, address: '10.0.0.2' };
    });
    expect(moved.removePorts).to.deep.equal([2]);
    expect(moved.addPorts.map(({ portId, address }) => [portId, address])).to.deep.equal([[2, '10.0.0.2']]);
    const shown = diff((input) => {
      input.ports[1] = { portId: 2, address: '10.0.0.1', subsystems: [A] };
    });
    expect(shown.changePorts).to.deep.equal([{ portId: 2, subsystems: [A] }]);
    expect([shown.removePorts, shown.addPorts]).to.deep.equal([[], []]);
    const gone = diff((input) => input.ports.pop());
    expect([gone.removePorts, gone.addPorts]).to.deep.equal([[2], []]);
  });

  it('what connected hosts hold on to waits for a restart', () => {
    const result = diff((input) => {
      input.subsystems[0].serial = 'NEW';
      input.subsystems[1].maxQueues = 1;
      input.ports[0] = { portId: 1, maxQueueSize: 16 };
      input.limits = { setupTimeoutMs: 500 };
      input.stateDirectory = '/state';
    });
    expect(result.restart).to.deep.equal([
      `subsystem ${A}: serial default -> NEW`,
      `subsystem ${B}: maxQueues 128 -> 1`,
      'port 1: maxQueueSize 1024 -> 16',
      'limits: setupTimeoutMs 30000 -> 500',
      'stateDirectory none -> /state',
    ]);
    expect({ ...result, restart: [] }).to.deep.equal({ ...NOTHING, isEmpty: false });
  });

  it('advertisement and the ports of a subsystem change under connected hosts', () => {
    const result = diff((input) => {
      input.ports[1] = { portId: 2, address: '10.0.0.1', advertise: '203.0.113.5:4421' };
      input.subsystems[0].ports = [1];
    });
    const change = {
      removeNamespaces: [],
      addNamespaces: [],
      growNamespaces: [],
      shrinkNamespaces: [],
      maskNamespaces: [],
      moveNamespaces: [],
      anaStates: [],
    };
    expect(result).to.deep.equal({
      ...NOTHING,
      changeSubsystems: [{ nqn: A, ports: [1], ...change }],
      changePorts: [{ portId: 2, subsystems: ['*'], advertise: { address: '203.0.113.5', service: 4421 } }],
      isEmpty: false,
    });
    const before = config({ ...base(), subsystems: [{ ...base().subsystems[0], ports: [2] }, base().subsystems[1]] });
    expect(diffConfig(before, config(base())).changeSubsystems).to.deep.equal([{ nqn: A, ports: 'all', ...change }]);
  });

  it('a discovery NQN waits for a restart, the rest of discovery does not', () => {
    const nqn = 'nqn.2026-01.io.nvmeferry:discovery';
    const renamed = diff((input) => {
      input.discovery = { nqn };
    });
    expect(renamed).to.deep.equal({ ...NOTHING, restart: [`discovery: nqn default -> ${nqn}`], isEmpty: false });
    const published = diff((input) => {
      input.discovery = { mdns: true, allSubsystemsFor: [HOST] };
    });
    expect(published.restart).to.deep.equal([]);
    expect(published.discovery).to.deep.include({ mdns: true, allSubsystemsFor: [HOST] });
  });

  it('discovery, referrals and log level', () => {
    const referral = { portId: 1, address: '10.0.0.9', service: 8009 };
    const result = diff((input) => {
      input.discovery = 'off';
      input.referrals = [referral];
      input.log = { level: 'debug' };
    });
    expect(result).to.deep.equal({
      ...NOTHING,
      discovery: 'off',
      referrals: [{ ...referral, nqn: undefined }],
      logLevel: 'debug',
      isEmpty: false,
    });
    const before = config({ ...base(), referrals: [referral] });
    const cleared = diffConfig(before, config(base()));
    expect(cleared.referrals).to.deep.equal([]);
    expect(cleared.isEmpty).to.equal(false);
  });
});
