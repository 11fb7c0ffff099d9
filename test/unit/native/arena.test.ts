import { expect } from 'chai';
import { HUGE_PAGE_BYTES, MemoryArena } from '../../../src/native/arena.ts';
import type { NativeBinding } from '../../../src/native/binding.ts';
import { needNative } from '../../support/native.ts';

/** Makes huge pages when told. */
class Collapses {
  readonly begun: [number, number][] = [];
  readonly #done: ((result: number) => void)[] = [];
  #ids = 0;
  readonly binding = {
    arenaMap: (length: number) => [new ArrayBuffer(length), ++this.#ids],
    arenaCollapse: (
      _memory: ArrayBuffer,
      id: number,
      offset: number,
      _length: number,
      done: (result: number) => void,
    ) => {
      this.begun.push([id, offset / HUGE_PAGE_BYTES]);
      this.#done.push(done);
      return 0;
    },
  } as unknown as NativeBinding;

  end(): void {
    this.#done.shift()!(0);
  }
  endAll(): void {
    while (this.#done.length > 0) this.end();
  }
}

describe('MemoryArena', () => {
  it('asks for huge pages one after the other, and for each that waits once', () => {
    const collapses = new Collapses();
    const arena = new MemoryArena(4 * HUGE_PAGE_BYTES, collapses.binding);
    for (let i = 0; i < 100; i++) for (const page of [0, 1, 2]) arena.collapse(page * HUGE_PAGE_BYTES);
    expect(collapses.begun).to.deep.equal([[1, 0]]);
    collapses.end();
    expect(collapses.begun).to.deep.equal([
      [1, 0],
      [1, 1],
    ]);
    collapses.endAll();
    expect(collapses.begun.length).to.equal(3);
    // one that is done may be asked for again
    arena.collapse(0);
    expect(collapses.begun.length).to.equal(4);
    collapses.endAll();
  });

  it('makes none for memory that nobody needs any more, and goes on with the others', () => {
    const collapses = new Collapses();
    const gone = new MemoryArena(4 * HUGE_PAGE_BYTES, collapses.binding);
    const kept = new MemoryArena(4 * HUGE_PAGE_BYTES, collapses.binding);
    for (const page of [0, 1, 2]) gone.collapse(page * HUGE_PAGE_BYTES);
    kept.collapse(HUGE_PAGE_BYTES);
    gone.abandoned = true;
    collapses.endAll();
    expect(collapses.begun).to.deep.equal([
      [1, 0],
      [2, 1],
    ]);
  });

  it('keeps its bytes when they move, and reads zero where it was discarded', async function () {
    const native = needNative(this);
    const arena = new MemoryArena(2 * HUGE_PAGE_BYTES);
    arena.bytes.fill(7);
    const result = await new Promise<number>((resolve) =>
      native.arenaCollapse(arena.bytes.buffer as ArrayBuffer, arena.id, 0, HUGE_PAGE_BYTES, resolve),
    );
    // a system may have none to give, or not know the call
    expect([0, -11, -12, -16, -22]).to.include(result);
    arena.discard(4096, 8192);
    expect([arena.bytes[4095], arena.bytes[4096], arena.bytes[12_287], arena.bytes[12_288]]).to.deep.equal([
      7, 0, 0, 7,
    ]);
    expect(arena.bytes.subarray(HUGE_PAGE_BYTES).every((byte) => byte === 7)).to.equal(true);
  });

  it('without the addon it is memory of the heap that nobody finds by number', () => {
    const arena = new MemoryArena(8192, { arenaMap: () => -12 } as unknown as NativeBinding);
    expect(arena.id).to.equal(0);
    arena.bytes.fill(1);
    arena.discard(0, 4096);
    arena.collapse(0);
    expect([arena.bytes[0], arena.bytes[4096]]).to.deep.equal([0, 1]);
  });
});
