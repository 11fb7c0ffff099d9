import { expect } from 'chai';
import { MemoryArena } from '../../../src/native/arena.ts';
import { Batch, GATHER_MAX, ThreadBuffers } from '../../../src/transport/tcp/thread-buffers.ts';
import { needNative } from '../../support/native.ts';
import { pattern, referenceCrc32c } from '../../support/raw-host.ts';

/** What is left when nothing is sent yet: all. */
function sent(batch: Batch): Buffer {
  const pieces: Uint8Array[] = [];
  batch.takeRest(0, pieces, new Uint8Array(batch.restBytes(0)));
  return Buffer.concat(pieces);
}

describe('Batch', () => {
  it('sends headers and payloads in the order in which they were added, adjacent headers as one buffer', () => {
    const batch = new Batch();
    const put = (text: string): void => {
      const at = batch.reserve(text.length);
      batch.bytes.set(Buffer.from(text), at);
    };
    put('one-');
    put('two-');
    batch.endRun();
    batch.add(Buffer.from('payload-'), 8);
    batch.add(Buffer.from('more-'), 5);
    put('three');
    batch.endRun();
    batch.endRun(); // nothing new
    expect(sent(batch).toString()).to.equal('one-two-payload-more-three');
    expect(batch.bufferCount).to.equal(4);
    batch.clear();
    put('again');
    batch.endRun();
    expect(sent(batch).toString()).to.equal('again');
  });

  it('what goes last is behind all payloads, and again in the next batch', () => {
    const batch = new Batch();
    for (let round = 0; round < 2; round++) {
      for (const text of ['a', 'b', 'c']) {
        batch.bytes[batch.reserve(1)] = text.charCodeAt(0);
        batch.bytes[batch.reserveLast(1)] = text.toUpperCase().charCodeAt(0);
        if (text === 'c') break;
        batch.endRun();
        batch.add(Buffer.from('-data-'), 6);
      }
      batch.end();
      batch.end(); // nothing new
      expect(sent(batch).toString()).to.equal('a-data-b-data-cABC');
      expect(batch.totalBytes).to.equal(18);
      batch.clear();
    }
    batch.bytes[batch.reserveLast(1)] = 0x5a;
    batch.end();
    expect(sent(batch).toString()).to.equal('Z');
    batch.clear();
    batch.end();
    expect(batch.bufferCount).to.equal(0);
  });

  it('digests are those of the payload when it leaves', () => {
    const batch = new Batch();
    const first = pattern(4096, 1);
    const second = pattern(512, 2);
    const third = pattern(20, 3);
    batch.reserve(24);
    batch.endRun();
    batch.add(first, first.length);
    batch.add(second, second.length);
    batch.addDigest(2);
    batch.reserve(24);
    batch.endRun();
    batch.add(third, third.length);
    batch.addDigest(1);
    batch.endRun();
    first.fill(0x77); // changed while it waited: header and data must agree all the same
    batch.sealDigests();
    const bytes = sent(batch);
    expect(bytes.readUInt32LE(24 + 4608)).to.equal(referenceCrc32c(Buffer.concat([first, second])));
    expect(bytes.readUInt32LE(bytes.length - 4)).to.equal(referenceCrc32c(third));
    expect(batch.digestCount).to.equal(0);
  });

  it('digests of payloads in arenas, in views, and in both', () => {
    const arena = new MemoryArena(64 << 10);
    arena.bytes.set(pattern(64 << 10, 4));
    const batch = new Batch();
    const expected: number[] = [];
    for (const [offset, length] of [
      [0, 4096],
      [5, 1],
      [12_288, 1537],
      [60 << 10, 4096],
    ] as const) {
      batch.reserve(24);
      batch.endRun();
      const view = pattern(100 + offset, 1);
      batch.add(view, view.length);
      const place = arena.bytes.slice(offset, offset + length);
      if (arena.id === 0) batch.add(place, length);
      else batch.addPlace(arena, offset, length);
      batch.addDigest(2);
      expected.push(referenceCrc32c(Buffer.concat([view, place])));
    }
    batch.end();
    batch.sealDigests();
    const bytes = sent(batch);
    let at = 0;
    for (const [i, [offset, length]] of [
      [0, 4096],
      [5, 1],
      [12_288, 1537],
      [60 << 10, 4096],
    ].entries()) {
      at += 24 + 100 + offset! + length!;
      expect(bytes.readUInt32LE(at), `digest ${i}`).to.equal(expected[i]);
      at += 4;
    }
  });

  it('the addon refuses digests of pieces, and places for them, that are not there', function () {
    const seal = needNative(this).sealDigests;
    if (seal === undefined) return this.skip(); // a processor without the instruction
    const arena = new MemoryArena(4096);
    const call = (row: number[], run: number[], digests = 1): number =>
      seal(Uint32Array.from(row), [undefined], Int32Array.from(run), digests, arena.id);
    const good = [arena.id, 0, 100];
    const EINVAL = -22;
    expect(call(good, [0, 1, 4092])).to.equal(0);
    expect(call(good, [0, 1, 4093])).to.equal(EINVAL);
    expect(call(good, [0, 2, 0])).to.equal(EINVAL);
    expect(call(good, [2, 1, 0])).to.equal(EINVAL);
    expect(call(good, [-1, 1, 0])).to.equal(EINVAL);
    expect(call(good, [0, 1, 0], 2)).to.equal(EINVAL);
    expect(call([arena.id, 4000, 100], [0, 1, 0])).to.equal(EINVAL);
    expect(call([arena.id + 1000, 0, 100], [0, 1, 0])).to.equal(EINVAL);
    expect(call([0, 0, 0], [0, 1, 0]), 'no view').to.equal(EINVAL);
  });

  it('is full by headers, by buffers, and by payload', () => {
    const headers = new Batch();
    while (!headers.isFull(192, 1)) headers.reserve(192);
    const last = new Batch();
    while (!last.isFull(192, 1)) last.reserveLast(24);
    // what goes behind is behind the headers in the slab, too, and neither reaches into the other
    const firstOfLast = new Batch().reserveLast(24);
    expect(headers.reserve(0)).to.be.within(firstOfLast - 191, firstOfLast);
    expect(last.reserveLast(0)).to.be.within(last.bytes.length - 191, last.bytes.length);
    const buffers = new Batch();
    while (!buffers.isFull(192, 9)) {
      buffers.reserve(24);
      buffers.endRun();
      for (let i = 0; i < 9; i++) buffers.add(Buffer.alloc(0), 0);
    }
    expect(buffers.bufferCount + 1).to.be.at.most(GATHER_MAX);
    const payload = new Batch();
    expect(payload.isFull(192, 1)).to.equal(false);
    payload.add(new Uint8Array(256 << 10), 256 << 10);
    expect(payload.isFull(192, 1)).to.equal(true);
    payload.clear();
    expect(payload.isFull(192, 1)).to.equal(false);
  });
});

describe('ThreadBuffers', () => {
  it('gives batches out once, and takes some back for reuse', () => {
    const buffers = new ThreadBuffers();
    const taken = Array.from({ length: 12 }, () => buffers.takeBatch());
    expect(new Set(taken).size).to.equal(12);
    for (const batch of taken) buffers.giveBatch(batch);
    const again = Array.from({ length: 12 }, () => buffers.takeBatch());
    expect(new Set(again).size).to.equal(12);
    expect(again.filter((batch) => taken.includes(batch)).length).to.be.within(1, 11);
  });
});
