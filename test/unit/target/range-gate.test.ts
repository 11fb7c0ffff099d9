import { expect } from 'chai';
import { type GateEntry, GateState, RangeGate } from '../../../src/target/range-gate.ts';

class Entry implements GateEntry {
  readonly name: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  gateState: number = GateState.Outside;
  gateExclusive = false;
  gateNext: GateEntry | undefined = undefined;
  gatePrevious: GateEntry | undefined = undefined;
  readonly #opened: (entry: Entry) => void;

  constructor(name: string, offset: number, length: number, opened: (entry: Entry) => void) {
    this.name = name;
    this.offsetBytes = offset;
    this.lengthBytes = length;
    this.#opened = opened;
  }

  gateOpened(): void {
    this.#opened(this);
  }
}

describe('target/range-gate', () => {
  let opened: string[];
  const note = (entry: Entry): void => {
    opened.push(entry.name);
  };
  const entry = (name: string, offset: number, length: number): Entry => new Entry(name, offset, length, note);
  beforeEach(() => {
    opened = [];
  });

  it('plain ones share, whatever they overlap', () => {
    const gate = new RangeGate();
    const entries = [entry('a', 0, 10), entry('b', 5, 10), entry('c', 0, 100)];
    for (const one of entries) expect(gate.enter(one, false)).to.equal(true);
    for (const one of entries) gate.leave(one);
    expect([gate.isEmpty, opened]).to.deep.equal([true, []]);
  });

  it('an exclusive one waits for what overlaps it, and only for that', () => {
    const gate = new RangeGate();
    const [plain, beside, both] = [entry('plain', 0, 10), entry('beside', 10, 10), entry('exclusive', 5, 10)];
    gate.enter(plain, false);
    gate.enter(beside, false);
    expect(gate.enter(both, true)).to.equal(false);
    gate.leave(beside);
    expect(opened).to.deep.equal([]);
    gate.leave(plain);
    expect(opened).to.deep.equal(['exclusive']);
    const apart = entry('apart', 15, 5);
    expect(gate.enter(apart, true)).to.equal(true);
  });

  it('nobody starves: who comes later and overlaps a waiting one waits behind it', () => {
    const gate = new RangeGate();
    const first = entry('first', 0, 10);
    gate.enter(first, false);
    expect(gate.enter(entry('exclusive', 0, 10), true)).to.equal(false);
    const later = Array.from({ length: 5 }, (_, i) => entry(`later ${i}`, i, 1));
    for (const one of later) expect(gate.enter(one, false), one.name).to.equal(false);
    expect(gate.enter(entry('elsewhere', 50, 1), false)).to.equal(true);
    gate.leave(first);
    expect(opened).to.deep.equal(['exclusive']);
  });

  it('after it, all that waited behind come in, in their order', () => {
    const gate = new RangeGate();
    const exclusive = entry('exclusive', 0, 10);
    gate.enter(exclusive, true);
    for (const name of ['a', 'b']) gate.enter(entry(name, 0, 10), false);
    const second = entry('second', 0, 10);
    gate.enter(second, true);
    gate.enter(entry('c', 0, 10), false);
    gate.leave(exclusive);
    expect(opened).to.deep.equal(['a', 'b']);
  });

  it('one that waits may leave: those behind it go on', () => {
    const gate = new RangeGate();
    const first = entry('first', 0, 10);
    gate.enter(first, false);
    const exclusive = entry('exclusive', 0, 10);
    gate.enter(exclusive, true);
    gate.enter(entry('behind', 0, 5), false);
    gate.leave(exclusive);
    expect(opened).to.deep.equal(['behind']);
    expect(gate.waitingCount).to.equal(0);
  });

  it('entries that are done as soon as they are let in do not recurse', () => {
    const gate = new RangeGate();
    const first = entry('first', 0, 10);
    gate.enter(first, true);
    let done = 0;
    for (let i = 0; i < 20_000; i++) {
      const one = new Entry(`${i}`, 0, 10, (self) => {
        done++;
        gate.leave(self);
      });
      gate.enter(one, i % 3 === 0);
    }
    gate.leave(first);
    expect(done).to.equal(20_000);
    expect(gate.isEmpty).to.equal(true);
  });

  it('never lets overlap in what must not, and lets everyone in (seed 11)', () => {
    let state = 11;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const gate = new RangeGate();
    const inside = new Set<Entry>();
    const check = (one: Entry): void => {
      for (const other of inside) {
        const overlap =
          one.offsetBytes < other.offsetBytes + other.lengthBytes &&
          other.offsetBytes < one.offsetBytes + one.lengthBytes;
        expect(overlap && (one.gateExclusive || other.gateExclusive), `${one.name} beside ${other.name}`).to.equal(
          false,
        );
      }
      inside.add(one);
    };
    let entered = 0;
    const count = (one: Entry): void => {
      entered++;
      check(one);
    };
    for (let i = 0; i < 5000; i++) {
      const one = new Entry(`${i}`, random(40), 1 + random(8), count);
      if (gate.enter(one, random(3) === 0)) count(one);
      while (inside.size > 0 && random(3) > 0) {
        const leaver = [...inside][random(inside.size)]!;
        inside.delete(leaver);
        gate.leave(leaver);
      }
    }
    while (inside.size > 0) {
      const [leaver] = inside;
      inside.delete(leaver!);
      gate.leave(leaver!);
    }
    expect(entered).to.equal(5000);
    expect(gate.isEmpty).to.equal(true);
  });
});
