/** What a plan finds before anything is touched: refused, or to be known, each with its remedy. */
import { expect } from 'chai';
import type { ControllerFigures, NamespaceFigures } from '../../../src/orchestrator/end.ts';
import { functionDifferences } from '../../../src/orchestrator/function-figures.ts';
import { Move } from '../../../src/orchestrator/move.ts';
import type { MoveOptions } from '../../../src/orchestrator/move-options.ts';
import type { MovePlan, MoveSpec } from '../../../src/orchestrator/move-spec.ts';
import { encodeReservationStatus } from '../../../src/wire/cold/reservation.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import {
  ModelControllerState,
  ModelEnd,
  ModelFront,
  ModelJournal,
  ModelMemory,
  ModelStorage,
  ModelTarget,
  ModelWorld,
} from '../../support/model-end.ts';

const CONTROLLER: ControllerFigures = {
  ...{ serial: 'S1', model: 'M1', oncs: 0x01ff, fuses: 1, mdts: 8, vwc: 0, cmic: 0x0a, ctratt: 1 },
  ...{ awun: 7, awupf: 7, acwu: 7, cntlid: 1, cntlids: [1, 2, 3] },
};
const NAMESPACE: NamespaceFigures = {
  ...{ metadataBytes: 0, protection: 0, nmic: 1, rescap: 0xff, dlfeat: 9, nsattr: 0, nawun: 7, nawupf: 7, nacwu: 7 },
};

type Kind = MoveSpec['kind'];

/** A pair of ends that fit each other, and what is changed of them. */
class Pair {
  readonly world = new ModelWorld();
  readonly a = new ModelTarget(this.world, 'A');
  readonly b = new ModelTarget(this.world, 'B');
  readonly kind: Kind;

  constructor(kind: Kind) {
    this.kind = kind;
    for (const target of [this.a, this.b]) {
      const namespace = target.add(1, new ModelStorage(16), target === this.a);
      namespace.figures = NAMESPACE;
      target.figures = target === this.a ? CONTROLLER : { ...CONTROLLER, cntlid: 0x8000, cntlids: [0x8000] };
      const state = new ModelControllerState();
      if (target === this.a) state.state = 'of the guest';
      target.controllers.set(5, state);
    }
  }

  set controller(figures: Partial<ControllerFigures>) {
    this.b.figures = { ...this.b.figures!, ...figures };
  }

  set namespace(figures: Partial<NamespaceFigures>) {
    this.b.namespaces.get(1)!.figures = { ...NAMESPACE, ...figures };
  }

  plan(more: Partial<MoveSpec> = {}, options: Partial<MoveOptions> = {}): Promise<MovePlan> {
    const controller = this.kind === 'controller' ? { source: 5, destination: 5 } : undefined;
    return new Move({
      source: new ModelEnd(this.a),
      destination: new ModelEnd(this.b),
      clock: new ManualClock(),
      journal: new ModelJournal(),
      spec: { kind: this.kind, controller, ...more },
      ...options,
    }).plan();
  }
}

const messages = (findings: MovePlan['refusals']): string[] => findings.map(({ message }) => message);

async function expectRefused(pair: Pair, says: RegExp): Promise<void> {
  const plan = await pair.plan();
  expect(messages(plan.refusals)).to.have.length(1);
  expect(plan.refusals[0]!.message).to.match(says);
}

async function expectWarned(pair: Pair, says: RegExp): Promise<void> {
  const plan = await pair.plan();
  expect(messages(plan.refusals)).to.deep.equal([]);
  expect(messages(plan.warnings)).to.have.length(1);
  expect(plan.warnings[0]!.message).to.match(says);
}

describe('makePlan', () => {
  for (const kind of ['namespaces', 'controller'] as const) {
    it(`ends that fit: nothing stands against a move of ${kind}`, async () => {
      const plan = await new Pair(kind).plan();
      expect([...messages(plan.refusals), ...messages(plan.warnings)]).to.deep.equal([]);
    });
  }

  describe('controllers that are less at the destination', () => {
    const refused: readonly (readonly [string, Kind, Partial<ControllerFigures>, RegExp])[] = [
      [
        'no Compare',
        'controller',
        { oncs: 0x01fe },
        /B lacks optional commands .*\(Compare, ONCS 0x1\): use a backend/,
      ],
      ['no Write Zeroes', 'namespaces', { oncs: 0x01f7 }, /\(Write Zeroes, ONCS 0x8\)/],
      ['no Compare and Write', 'namespaces', { fuses: 0 }, /lacks fused commands .*FUSES 0x1/],
      ['shorter transfers', 'controller', { mdts: 5 }, /of 2\^5 pages, the source of 2\^8 pages: raise its MDTS/],
      ['a volatile cache', 'controller', { vwc: 1 }, /volatile write cache and the source has none/],
      ['AWUPF', 'controller', { awupf: 3 }, /8\/4\/8, the source 8\/8\/8/],
      ['no ANA', 'namespaces', { cmic: 2 }, /asymmetric access both \(CMIC bit 3\)/],
      ['one controller only', 'namespaces', { cmic: 8 }, /several controllers both \(CMIC bit 1\)/],
    ];
    for (const [what, kind, figures, says] of refused) {
      it(`${what}: a move of ${kind} is refused, unless that is accepted`, async () => {
        const pair = new Pair(kind);
        pair.controller = figures;
        await expectRefused(pair, says);
        const accepted = await pair.plan({ acceptLess: true });
        expect(messages(accepted.refusals)).to.deep.equal([]);
        expect(messages(accepted.warnings)[0]).to.match(says);
      });
    }

    const warned: readonly (readonly [string, Kind, Partial<ControllerFigures>, RegExp])[] = [
      ['shorter transfers', 'namespaces', { mdts: 5 }, /raise its MDTS/],
      ['a volatile cache', 'namespaces', { vwc: 1 }, /volatile write cache/],
      ['longer atomic writes', 'namespaces', { awupf: 15 }, /Linux 6\.16 and later wants the same/],
      ['AWUN', 'namespaces', { awun: 0 }, /AWUN\/AWUPF\/ACWU 1\/8\/8, the source 8\/8\/8/],
      ['ACWU', 'controller', { acwu: 0 }, /8\/8\/1, the source 8\/8\/8/],
      ['short host identifiers', 'controller', { ctratt: 0 }, /128-bit host identifiers/],
      ['another serial', 'controller', { serial: 'S2' }, /B is M1 S2, the source M1 S1/],
      ['CNTLIDs of the source', 'namespaces', { cntlid: 2 }, /source are 1 to 3, B has 2: .*cntlidMin, cntlidMax/],
    ];
    for (const [what, kind, figures, says] of warned) {
      it(`${what}: to be known for a move of ${kind}`, async () => {
        const pair = new Pair(kind);
        pair.controller = figures;
        await expectWarned(pair, says);
      });
    }

    it('what is more is no obstacle, nor what matters to the other kind alone', async () => {
      const guest = new Pair('controller');
      guest.controller = { oncs: 0xffff, fuses: 3, mdts: 0, awun: 15, awupf: 15, acwu: 15, cmic: 0, cntlid: 2 };
      expect(messages((await guest.plan()).warnings)).to.deep.equal([]);
      const hosts = new Pair('namespaces');
      hosts.controller = { serial: 'S2', oncs: 0xffff, mdts: 0 };
      expect(messages((await hosts.plan()).warnings)).to.deep.equal([]);
    });
  });

  describe('namespaces that are less at the destination', () => {
    const refused: readonly (readonly [string, Partial<NamespaceFigures>, RegExp])[] = [
      ['NAWUPF', { nawupf: 0 }, /8\/1\/8/],
      ['metadata', { metadataBytes: 8 }, /8 bytes of metadata and protection type 0, the source 0 bytes/],
      ['protection', { protection: 1 }, /format it as the source is/],
      ['private', { nmic: 0 }, /shared both \(NMIC bit 0\)/],
      ['write protected', { nsattr: 1 }, /is write protected: end that/],
    ];
    for (const [what, figures, says] of refused) {
      it(`${what}: refused`, async () => {
        const pair = new Pair('namespaces');
        pair.namespace = figures;
        await expectRefused(pair, says);
      });
    }

    it('shorter atomic writes without a loss of power, deallocated blocks that read anything, fewer reservations, protection that stays behind: to be known', async () => {
      for (const [figures, says] of [
        [{ nawun: 0 }, /Namespace 1 at B .*NAWUN\/NAWUPF\/NACWU 1\/8\/8, the source 8\/8\/8/],
        [{ nacwu: 0 }, /8\/8\/1/],
        [{ dlfeat: 0 }, /does not promise that deallocated blocks read zero/],
        [{ rescap: 0x7f }, /lacks RESCAP 0x80/],
      ] as const) {
        const pair = new Pair('controller');
        pair.namespace = figures;
        await expectWarned(pair, says);
      }
      const pair = new Pair('namespaces');
      pair.a.namespaces.get(1)!.figures = { ...NAMESPACE, nsattr: 1 };
      await expectWarned(pair, /will not be write protected, the source is/);
    });
  });

  describe('reservations that are held', () => {
    const EXCLUSIVE_ACCESS = 2;
    const held = (rtype: number, ptpls: number): Uint8Array => {
      const hostid = new Uint8Array(16).fill(7);
      return encodeReservationStatus(
        { gen: 4, rtype, ptpls, registrants: [{ cntlid: 1, rcsts: 1, hostid, rkey: 9n }] },
        true,
      );
    };

    it('of a type that the destination has not', async () => {
      const pair = new Pair('namespaces');
      pair.a.namespaces.get(1)!.reservations = held(EXCLUSIVE_ACCESS, 0);
      pair.namespace = { rescap: 0xff & ~(1 << EXCLUSIVE_ACCESS) };
      await expectRefused(pair, /cannot hold the reservation of the source \(Exclusive Access, RESCAP 0xfb\)/);
      pair.namespace = { rescap: 0xff };
      expect(messages((await pair.plan()).refusals)).to.deep.equal([]);
    });

    it('that persist, where nothing does', async () => {
      const pair = new Pair('namespaces');
      pair.a.namespaces.get(1)!.reservations = held(EXCLUSIVE_ACCESS, 1);
      pair.namespace = { rescap: 0xfe };
      await expectRefused(pair, /no PTPL\), and those of the source persist: configure a state directory there/);
      pair.a.namespaces.get(1)!.reservations = held(EXCLUSIVE_ACCESS, 0);
      expect(messages((await pair.plan()).refusals)).to.deep.equal([]);
    });

    it('where there are none at all', async () => {
      const pair = new Pair('namespaces');
      pair.namespace = { rescap: 0 };
      await expectWarned(pair, /lacks RESCAP/);
      pair.a.namespaces.get(1)!.reservations = held(0, 0);
      await expectRefused(pair, /has no reservations \(RESCAP 0\), and 1 hosts have registered/);
    });
  });

  describe('ends that forget', () => {
    it('a source would come back beside the destination: refused, unless it is said that it does not', async () => {
      const pair = new Pair('namespaces');
      pair.a.isDurable = false;
      await expectRefused(
        pair,
        /fence of namespace 1 at A is not durable: .*beside the destination; configure a state directory there, or .*--accept-forgetful/,
      );
      const accepted = await pair.plan({ acceptForgetful: true });
      expect(messages(accepted.refusals)).to.deep.equal([]);
      expect(messages(accepted.warnings)).to.have.length(1);
      expect(messages(accepted.warnings)[0]).to.match(/switch it off, or take the namespace out/);
    });

    it('a destination is closed then: to be known', async () => {
      const pair = new Pair('namespaces');
      pair.b.isDurable = false;
      await expectWarned(pair, /at B is not durable: restarted it forgets that it is open, and its reservations/);
    });
  });

  it('memory of a VM that nobody stops is refused', async () => {
    const pair = new Pair('controller');
    const alone = await pair.plan({}, { memory: new ModelMemory() });
    expect(messages(alone.refusals)).to.have.length(1);
    expect(alone.refusals[0]!.message).to.match(/nothing that stops its CPUs/);
    const held = await pair.plan({}, { memory: new ModelMemory(), front: new ModelFront(pair.world) });
    expect(messages(held.refusals)).to.deep.equal([]);
    expect(held.memoryBytes).to.equal(64 << 12);
    expect(held.memoryUsedBytes, 'nothing is known of holes').to.equal(64 << 12);
    expect(held.allocatedBytes).to.equal(64 << 12);
  });

  it('a function of another shape, or in use, cannot take the place of one', () => {
    const ours = { isEnabled: true, configBytes: 4096, vectors: 4, ioQueuesMax: 3 };
    const theirs = { ...ours, isEnabled: false };
    expect(functionDifferences(ours, theirs, 'X')).to.deep.equal([]);
    expect(functionDifferences(undefined, undefined, 'X')).to.deep.equal([]);
    for (const [other, says] of [
      [{ ...theirs, isEnabled: true }, /X is enabled, a guest uses it: shut that down first/],
      [
        { ...theirs, isEnabled: true, isSuspended: true },
        /X is enabled, suspended, as a move leaves it .*start its process anew/,
      ],
      [{ ...theirs, vectors: 2 }, /X has 2 vectors .*, the source's 4 vectors/],
      [{ ...theirs, configBytes: 256 }, /256 bytes of config space.*same --vectors and --queues/],
      [{ ...theirs, ioQueuesMax: 1 }, /X has 1 I\/O queues, the source's 3/],
      [undefined, /X is none behind PCIe, the source's is one/],
    ] as const) {
      const found = functionDifferences(ours, other, 'X');
      expect(found).to.have.length(1);
      expect(found[0]!.message).to.match(says);
      expect(found[0]!.severity).to.equal('refused');
    }
    expect(functionDifferences(ours, { ...theirs, ioQueuesMax: 9 }, 'X'), 'more').to.deep.equal([]);
  });
});
