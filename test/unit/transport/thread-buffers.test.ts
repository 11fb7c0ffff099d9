import { expect } from 'chai';
import { Batch, GATHER_MAX, ThreadBuffers } from '../../../src/transport/tcp/thread-buffers.ts';
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
