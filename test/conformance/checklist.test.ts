/** Every case of `nvmeferry conformance` on our target: none may fail, whatever the target is configured to offer. */
import { expect } from 'chai';
import { NullBackend } from '../../src/backend/null.ts';
import { TARGET_CASES } from '../../src/conformance/cases/index.ts';
import type { PeerFacts } from '../../src/conformance/facts.ts';
import { type OperatorAction, Peer, type PeerOptions } from '../../src/conformance/peer.ts';
import { QUIRKS } from '../../src/conformance/quirks.ts';
import { runCases } from '../../src/conformance/runner.ts';
import { selectCases } from '../../src/conformance/selection.ts';
import { AnaState } from '../../src/wire/cold/log-ana.ts';
import { SUBSYSTEM_NQN, settle, TestTarget, type TestTargetOptions } from '../support/test-target.ts';

const HOSTS = [1, 2].map((n) => ({
  hostnqn: `nqn.2026-01.test.nvmeferry:host-${n}`,
  hostid: new Uint8Array(16).fill(n),
})) as unknown as PeerOptions['hosts'];
/** Changed by an operator, and found as it was afterwards. */
const EXTRA_NSID = 900;
const EXTRA_NQN = 'nqn.2026-01.test.nvmeferry:extra';

interface Configuration extends TestTargetOptions {
  /** Tags of the cases to run; default all. */
  readonly tags?: readonly string[];
  /** Cases that apply only here. */
  readonly applies?: readonly string[];
}

const CONFIGURATIONS: Readonly<Record<string, Configuration>> = {
  'as it is': { applies: ['tcp-1', 'tcp-81', 'nvme-1', 'nvme-34', 'nvme-36', 'nvme-48', 'nvme-67', 'nvme-97'] },
  'padding, small pieces, small capsules': {
    tcp: { cpda: 7, maxH2cDataBytes: 4096, inCapsuleBytes: 4096 },
    tags: ['tcp'],
    applies: ['tcp-34', 'tcp-37', 'tcp-87'],
  },
  'hosts by name': {
    subsystem: { allowAnyHost: false, hosts: HOSTS.map(({ hostnqn }) => hostnqn) },
    tags: ['connect', 'reservations'],
    applies: ['nvme-12'],
  },
};

function operator(t: TestTarget, action: OperatorAction): Promise<unknown> {
  const { target, subsystem } = t;
  const actions: Readonly<Record<OperatorAction, () => unknown>> = {
    'add-namespace': () =>
      target.addNamespace(subsystem, {
        nsid: EXTRA_NSID,
        backend: new NullBackend({ blockSize: 512, blockCount: 8 }),
      }),
    'remove-namespace': () => subsystem.namespaces[EXTRA_NSID] && target.removeNamespace(subsystem, EXTRA_NSID),
    'add-subsystem': () => target.addSubsystem({ nqn: EXTRA_NQN, allowAnyHost: true }),
    'remove-subsystem': () => target.removeSubsystem(EXTRA_NQN),
    'ana-inaccessible': () => subsystem.ana.setState(1, 1, AnaState.Inaccessible),
    'ana-optimized': () => subsystem.ana.setState(1, 1, AnaState.Optimized),
  };
  return Promise.resolve(actions[action]());
}

for (const [name, { tags, applies = [], ...options }] of Object.entries(CONFIGURATIONS)) {
  describe(`conformance command on our target, ${name}`, () => {
    let t: TestTarget;
    let facts: PeerFacts;
    let peerOptions: PeerOptions;
    const applied = new Set<string>();

    before(async () => {
      t = await TestTarget.start(options);
      peerOptions = {
        address: '127.0.0.1',
        port: t.port.service,
        subnqn: SUBSYSTEM_NQN,
        hosts: HOSTS,
        nsid: undefined,
        deniedHostnqn: name === 'hosts by name' ? 'nqn.2026-01.test.nvmeferry:stranger' : undefined,
        answerMs: 5000,
        elapse: async (ms) => {
          t.clock.advance(ms);
          await settle();
        },
        operator: async (action) => {
          await operator(t, action);
        },
      };
      const first = new Peer(peerOptions);
      facts = await first.ask();
      await first.close();
    });
    after(() => t.close());

    for (const one of selectCases(TARGET_CASES, tags ?? [], [])) {
      it(`${one.id}: ${one.title}`, async () => {
        const [result] = await runCases([one], {
          subject: () => new Peer(peerOptions, facts),
          timeoutMs: 20_000,
          quirks: QUIRKS.filter(({ peer }) => peer === 'nvmeferry'),
          skip: () => undefined,
        });
        const { verdict, reason } = result!;
        expect(verdict, reason).to.be.oneOf(['pass', 'not-applicable', 'quirk']);
        if (verdict === 'quirk') expect(one.id).to.equal('tcp-110');
        if (verdict !== 'not-applicable') applied.add(one.id);
      });
    }

    it('the cases that this configuration is for applied', () => {
      expect([...applied]).to.include.members(applies);
      // what applies to every target
      if (tags === undefined) expect(applied.size).to.be.greaterThan(110);
    });
  });
}
