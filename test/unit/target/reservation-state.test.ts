/** Every transition of the reservation state machine, and thousands of random ones against a plain model. */
import { expect } from 'chai';
import { Access } from '../../../src/target/access.ts';
import { reservationImage, reservationState } from '../../../src/target/reservation-image.ts';
import {
  applyReservation,
  forbiddenAccess,
  holds,
  NO_RESERVATION,
  REGISTRANTS_MAX,
  type ReservationCommand,
  type ReservationOutcome,
  type ReservationState,
} from '../../../src/target/reservation-state.ts';
import { type Random, withSeeds } from '../../support/random.ts';
import { ReservationModel } from '../../support/reservation-model.ts';

const CONFLICT = 0x83;
const INVALID_FIELD = 0x02;
const [a, b, c] = ['a'.repeat(32), 'b'.repeat(32), 'c'.repeat(32)];
const name = (host: string): string => host[0]!;

const register = (action: number, currentKey: number, newKey: number, more: object = {}): ReservationCommand => ({
  kind: 'register',
  action,
  ignoreExistingKey: false,
  persistence: 0,
  currentKey: BigInt(currentKey),
  newKey: BigInt(newKey),
  ...more,
});
const acquire = (action: number, type: number, currentKey: number, preemptKey = 0): ReservationCommand => ({
  kind: 'acquire',
  action,
  type,
  currentKey: BigInt(currentKey),
  preemptKey: BigInt(preemptKey),
});
const release = (action: number, type: number, currentKey: number): ReservationCommand => ({
  kind: 'release',
  action,
  type,
  currentKey: BigInt(currentKey),
});

/** Registered hosts with their keys, then who holds what: `a1 b2 | a 3`; `| * 5` where all hold it. */
function parse(text: string): ReservationState {
  const [rows = '', held = ''] = text.split('|').map((part) => part.trim());
  const registrants = new Map(
    rows
      .split(' ')
      .filter((row) => row !== '')
      .map((row) => [row[0]!.repeat(32), BigInt(row.slice(1))] as const),
  );
  const [holder = '', type = '0'] = held.split(' ');
  return {
    ...NO_RESERVATION,
    registrants,
    type: Number(type),
    holder: holder === '' || holder === '*' ? undefined : holder.repeat(32),
  };
}

function print(state: ReservationState): string {
  const rows = [...state.registrants].map(([host, key]) => `${name(host)}${key}`).join(' ');
  return state.type === 0 ? rows : `${rows} | ${state.holder === undefined ? '*' : name(state.holder)} ${state.type}`;
}

interface Case {
  readonly from: string;
  readonly by: string;
  readonly command: ReservationCommand;
  readonly to: string | number;
  /** `b1`: host b is told of type 1. */
  readonly told?: string;
  readonly gen?: 0 | 1;
}
const of = (
  from: string,
  by: string,
  command: ReservationCommand,
  to: string | number,
  told = '',
  gen?: 0 | 1,
): Case => ({
  from,
  by,
  command,
  to,
  told,
  ...(gen === undefined ? {} : { gen }),
});

const TABLE: Readonly<Record<string, readonly Case[]>> = {
  register: [
    of('', a, register(0, 0, 1), 'a1', '', 1),
    of('a1', a, register(0, 9, 1), 'a1', '', 1),
    of('a1', a, register(0, 1, 2), CONFLICT),
    of('a1', a, register(0, 1, 2, { ignoreExistingKey: true }), CONFLICT),
    of('a1', b, register(0, 0, 1), 'a1 b1', '', 1),
    of('a1 | a 2', b, register(0, 0, 2), 'a1 b2 | a 2', '', 1),
    of('a1 | * 6', b, register(0, 0, 2), 'a1 b2 | * 6', '', 1),
  ],
  unregister: [
    of('', a, register(1, 0, 0), CONFLICT),
    of('', a, register(1, 0, 0, { ignoreExistingKey: true }), CONFLICT),
    of('a1 b2', a, register(1, 2, 0), CONFLICT),
    of('a1 b2', a, register(1, 1, 0), 'b2', '', 1),
    of('a1 b2', a, register(1, 7, 0, { ignoreExistingKey: true }), 'b2', '', 1),
    of('a1 b2 | a 1', a, register(1, 1, 0), 'b2'),
    of('a1 b2 | a 2', a, register(1, 1, 0), 'b2'),
    of('a1 b2 c3 | a 3', a, register(1, 1, 0), 'b2 c3', 'b2 c2'),
    of('a1 b2 c3 | a 4', a, register(1, 1, 0), 'b2 c3', 'b2 c2'),
    of('a1 b2 | a 4', b, register(1, 2, 0), 'a1 | a 4'),
    of('a1 b2 | * 5', a, register(1, 1, 0), 'b2 | * 5'),
    of('b2 | * 5', b, register(1, 2, 0), ''),
    of('b2 | * 6', b, register(1, 2, 0), ''),
  ],
  replace: [
    of('', a, register(2, 0, 2), CONFLICT),
    of('a1', a, register(2, 9, 2), CONFLICT),
    of('a1 | a 2', a, register(2, 1, 2), 'a2 | a 2', '', 1),
    of('a1', a, register(2, 9, 2, { ignoreExistingKey: true }), 'a2', '', 1),
    of('', a, register(2, 9, 2, { ignoreExistingKey: true }), 'a2', '', 1),
  ],
  acquire: [
    of('', a, acquire(0, 1, 0), CONFLICT),
    of('a1', a, acquire(0, 1, 2), CONFLICT),
    of('a1', a, acquire(0, 3, 1), 'a1 | a 3', '', 0),
    of('a1', a, acquire(0, 6, 1), 'a1 | * 6', '', 0),
    of('a1 | a 3', a, acquire(0, 3, 1), 'a1 | a 3', '', 0),
    of('a1 | a 3', a, acquire(0, 1, 1), CONFLICT),
    of('a1 b2 | a 3', b, acquire(0, 3, 2), CONFLICT),
    of('a1 b2 | * 5', b, acquire(0, 5, 2), 'a1 b2 | * 5', '', 0),
    of('a1 b2 | * 5', b, acquire(0, 6, 2), CONFLICT),
  ],
  preempt: [
    of('a1', b, acquire(1, 1, 2, 1), CONFLICT),
    of('a1 b2', b, acquire(1, 1, 9, 1), CONFLICT),
    of('a1 b2', b, acquire(1, 1, 2, 1), 'b2', 'a1', 1),
    of('a1 b2', b, acquire(1, 1, 2, 9), CONFLICT),
    of('a1 b2', b, acquire(1, 1, 2, 0), CONFLICT),
    of('a1 b2', b, acquire(1, 1, 2, 2), 'a1', '', 1),
    of('a1 b1 c1', b, acquire(1, 1, 1, 1), '', 'a1 c1', 1),
    of('a1 b2 | a 1', b, acquire(1, 1, 2, 0), INVALID_FIELD),
    of('a0 b2 | a 1', b, acquire(1, 1, 2, 0), 'b2 | b 1', 'a1', 1),
    of('a1 b2 | a 1', b, acquire(1, 1, 2, 9), CONFLICT),
    of('a1 b2 c3 | a 1', b, acquire(1, 1, 2, 1), 'b2 c3 | b 1', 'a1', 1),
    of('a1 b2 c3 | a 1', b, acquire(1, 3, 2, 1), 'b2 c3 | b 3', 'a1 c2', 1),
    of('a1 b2 c3 | a 4', b, acquire(1, 5, 2, 1), 'b2 c3 | * 5', 'a1 c2', 1),
    of('a1 b1 c1 | a 2', b, acquire(1, 2, 1, 1), 'b1 | b 2', 'a1 c1', 1),
    of('a1 b2 c3 | a 2', b, acquire(1, 1, 2, 3), 'a1 b2 | a 2', 'c1', 1),
    of('a1 b2 c2 | a 2', b, acquire(1, 1, 2, 2), 'a1 | a 2', 'c1', 1),
    of('a1 b2 c3 | a 2', a, acquire(1, 4, 1, 1), 'a1 b2 c3 | a 4', 'b2 c2', 1),
    of('a1 b2 c1 | a 2', a, acquire(1, 2, 1, 1), 'a1 b2 | a 2', 'c1', 1),
    of('a1 b2 c3 | * 5', b, acquire(1, 1, 2, 0), 'b2 | b 1', 'a1 c1', 1),
    of('a1 b2 c3 | * 6', b, acquire(1, 5, 2, 0), 'b2 | * 5', 'a1 c1', 1),
    of('a1 b2 c3 | * 6', b, acquire(1, 1, 2, 3), 'a1 b2 | * 6', 'c1', 1),
    of('a1 b2 c3 | * 6', b, acquire(1, 1, 2, 9), CONFLICT),
    of('a1 b1 | * 5', b, acquire(1, 1, 1, 1), '', 'a1', 1),
  ],
  release: [
    of('a1 | a 1', b, release(0, 1, 0), CONFLICT),
    of('a1 | a 1', a, release(0, 1, 2), CONFLICT),
    of('a1', a, release(0, 1, 1), 'a1', '', 0),
    of('a1 b2 | a 1', b, release(0, 1, 2), 'a1 b2 | a 1', '', 0),
    of('a1 b2 | a 1', b, release(0, 3, 2), 'a1 b2 | a 1', '', 0),
    of('a1 | a 1', a, release(0, 2, 1), INVALID_FIELD),
    of('a1 b2 | a 1', a, release(0, 1, 1), 'a1 b2', '', 0),
    of('a1 b2 | a 2', a, release(0, 2, 1), 'a1 b2', '', 0),
    of('a1 b2 | a 3', a, release(0, 3, 1), 'a1 b2', 'b2', 0),
    of('a1 b2 | a 4', a, release(0, 4, 1), 'a1 b2', 'b2', 0),
    of('a1 b2 c3 | * 5', b, release(0, 5, 2), 'a1 b2 c3', 'a2 c2', 0),
    of('a1 b2 | * 6', b, release(0, 5, 2), INVALID_FIELD),
  ],
  clear: [
    of('a1', b, release(1, 0, 1), CONFLICT),
    of('a1 b2 c3 | a 1', b, release(1, 0, 2), '', 'a3 c3', 1),
    of('a1 b2', a, release(1, 6, 1), '', 'b3', 1),
  ],
};

describe('reservation state', () => {
  for (const [title, cases] of Object.entries(TABLE)) {
    describe(title, () => {
      for (const { from, by, command, to, told, gen } of cases) {
        const detail = JSON.stringify(command, (_, value: unknown) =>
          typeof value === 'bigint' ? Number(value) : value,
        );
        it(`${from || 'nobody'}: ${name(by)} ${detail} -> ${to === '' ? 'nobody' : to}`, () => {
          const before = parse(from);
          const { status, state, notices, preempted } = applyReservation(before, by, command);
          const texts = notices.map(({ host, type }) => `${name(host)}${type}`);
          if (typeof to === 'number') {
            expect([status, state, texts, preempted]).to.deep.equal([to, before, [], []]);
            return;
          }
          expect([status, print(state)]).to.deep.equal([0, to]);
          expect(texts.sort().join(' '), 'told').to.equal(told);
          expect(preempted.map(name).sort()).to.deep.equal(
            texts.filter((text) => text.endsWith('1')).map((text) => text[0]),
          );
          if (gen !== undefined) expect(state.generation).to.equal(gen);
          expect(print(before), 'the state before is untouched').to.equal(from);
        });
      }
    });
  }

  it('preempt and abort changes what preempt changes', () => {
    for (const { from, by, command } of TABLE.preempt!) {
      const abort = { ...command, action: 2 } as ReservationCommand;
      expect(applyReservation(parse(from), by, abort)).to.deep.equal(applyReservation(parse(from), by, command));
    }
  });

  it('CPTPL: only with success; 0 leaves it', () => {
    const set = applyReservation(parse(''), a, register(0, 0, 1, { persistence: 3 })).state;
    expect(set.persistent).to.equal(true);
    expect(applyReservation(set, a, register(0, 0, 1)).state.persistent).to.equal(true);
    expect(applyReservation(set, a, register(0, 0, 9, { persistence: 2 })).state.persistent).to.equal(true);
    expect(applyReservation(set, a, register(0, 0, 1, { persistence: 2 })).state.persistent).to.equal(false);
  });

  it('GEN wraps after FFFFFFFFh', () => {
    const full = { ...parse('a1'), generation: 0xffff_ffff };
    expect(applyReservation(full, a, register(0, 0, 1)).state.generation).to.equal(0);
  });

  it(`more than ${REGISTRANTS_MAX} registrants: Internal Error, by register and by replace`, () => {
    const registrants = new Map(Array.from({ length: REGISTRANTS_MAX }, (_, i) => [String(i).padStart(32, '0'), 1n]));
    const full = { ...NO_RESERVATION, registrants };
    expect(applyReservation(full, a, register(0, 0, 1)).status).to.equal(0x06);
    expect(applyReservation(full, a, register(2, 0, 1, { ignoreExistingKey: true })).status).to.equal(0x06);
    expect(applyReservation(full, '0'.repeat(32), register(2, 1, 5)).status).to.equal(0);
  });

  it('what a reservation never forbids: to reserve, and to know that the namespace is there', () => {
    for (let type = 1; type <= 6; type++) {
      const state = parse(type >= 5 ? `a1 b2 | * ${type}` : `a1 b2 | a ${type}`);
      for (const host of [a, b, c]) {
        expect(forbiddenAccess(state, host) & (Access.Attached | Access.Reserve)).to.equal(0);
      }
    }
  });

  it('agrees with the plain model through thousands of random commands', () => {
    withSeeds(20, (random) => {
      const steps = new RandomSteps(random);
      for (let step = 0; step < 1000; step++) steps.step(step);
    });
  });

  describe('image', () => {
    const good = reservationImage(applyReservation(parse('a1 b2 | a 3'), a, register(0, 0, 1)).state);

    it('is versioned JSON', () => {
      expect(good).to.deep.equal({
        version: 1,
        generation: 1,
        type: 3,
        holder: a,
        persistThroughPowerLoss: false,
        registrants: [
          { hostid: a, key: '0x1' },
          { hostid: b, key: '0x2' },
        ],
      });
    });

    const bad: Readonly<Record<string, [unknown, RegExp]>> = {
      nothing: [null, /object/],
      'another version': [{ ...good, version: 2 }, /version is 2/],
      'a generation of 33 bits': [{ ...good, generation: 2 ** 32 }, /generation/],
      'type 7': [{ ...good, type: 7 }, /type/],
      'a holder that is not registered': [{ ...good, holder: c }, /holder/],
      'a holder of what all hold': [{ ...good, type: 5 }, /holder/],
      'all hold it, nobody is registered': [{ ...good, type: 5, holder: null, registrants: [] }, /registrant/],
      'a host twice': [{ ...good, registrants: [good.registrants[0], good.registrants[0]] }, /hostid/],
      'a key of 65 bits': [{ ...good, registrants: [{ hostid: a, key: `0x1${'0'.repeat(16)}` }] }, /key/],
      'persistence that is no boolean': [{ ...good, persistThroughPowerLoss: 1 }, /persistThroughPowerLoss/],
      'registrants that are no list': [{ ...good, registrants: {} }, /registrants/],
      'a registrant that is null': [{ ...good, registrants: [null] }, /hostid/],
    };
    for (const [title, [image, message]] of Object.entries(bad)) {
      it(`refuses ${title}`, () => {
        expect(() => reservationState(image, 'the image'))
          .to.throw(message)
          .with.property('code', 'NVMEOF_ERR_RESERVATION_IMAGE');
      });
    }
  });
});

const HOSTS = [a, b, c, 'd'.repeat(32)];

/** The state machine and the model, side by side. */
class RandomSteps {
  #state = NO_RESERVATION;
  readonly #model = new ReservationModel();
  readonly #random: Random;
  readonly #history: string[] = [];

  constructor(random: Random) {
    this.#random = random;
  }

  /** One random command, in three of four cases with the right key. */
  #command(host: string): [command: ReservationCommand, expected: number] {
    const random = this.#random;
    const model = this.#model;
    const mine = this.#state.registrants.get(host) ?? 0n;
    const currentKey = random.oneIn(4) ? BigInt(random.below(4)) : mine;
    const otherKey = BigInt(random.below(4));
    switch (random.below(4)) {
      case 0:
      case 1: {
        const action = random.below(3);
        const ignore = random.oneIn(4);
        const persistence = random.pick([0, 0, 2, 3]);
        const expected = model.register(host, action, ignore, persistence, currentKey, otherKey);
        const fields = { action, ignoreExistingKey: ignore, persistence, currentKey, newKey: otherKey };
        return [{ kind: 'register', ...fields }, expected];
      }
      case 2: {
        const action = random.below(3);
        const type = random.below(6) + 1;
        const expected = model.acquire(host, action, type, currentKey, otherKey);
        return [{ kind: 'acquire', action, type, currentKey, preemptKey: otherKey }, expected];
      }
      default: {
        const action = random.oneIn(8) ? 1 : 0;
        const type = random.oneIn(3) ? random.below(7) : this.#state.type;
        const expected = model.release(host, action, type, currentKey);
        return [{ kind: 'release', action, type, currentKey }, expected];
      }
    }
  }

  step(step: number): void {
    const host = this.#random.pick(HOSTS);
    const [command, expected] = this.#command(host);
    this.#history.push(`${name(host)} ${command.kind} ${command.action}`);
    const outcome = applyReservation(this.#state, host, command);
    this.#state = outcome.state;
    expect(ofMachine(outcome), `step ${step}: ${this.#history.slice(-6).join('; ')}`).to.equal(
      ofModel(this.#model, expected),
    );
    // what is kept through power loss, or moved to another target, is all of it
    const image = JSON.stringify(reservationImage(this.#state));
    expect(JSON.stringify(reservationImage(reservationState(JSON.parse(image), 'image')))).to.equal(image);
  }
}

const flags = (read: boolean, write: boolean, flush: boolean, holder: boolean): string =>
  [read ? 'r' : '-', write ? 'w' : '-', flush ? 'f' : '-', holder ? 'h' : '-'].join('');
const lines = (told: readonly { host: string; type: number }[]): string =>
  told
    .map(({ host, type }) => `${name(host)}${type}`)
    .sort()
    .join(' ');

function ofMachine({ status, state, notices }: ReservationOutcome): string {
  const rows = [...state.registrants].map(([host, key]) => `${name(host)}${key}`).sort();
  const may = HOSTS.map((host) => {
    const forbidden = forbiddenAccess(state, host);
    const can = (bit: number): boolean => (forbidden & bit) === 0;
    return flags(can(Access.Read), can(Access.Write), can(Access.Flush), holds(state, host));
  });
  return [status, state.generation, state.type, state.persistent, rows, may, lines(notices)].join('|');
}

function ofModel(model: ReservationModel, status: number): string {
  const rows = model.rows.map(({ host, key }) => `${name(host)}${key}`).sort();
  const may = HOSTS.map((host) =>
    flags(model.mayRead(host), model.mayWrite(host), model.mayWrite(host), model.isHolder(host)),
  );
  const told = status === 0 ? lines(model.told) : '';
  return [status, model.gen, model.rtype, model.ptpl, rows, may, told].join('|');
}
