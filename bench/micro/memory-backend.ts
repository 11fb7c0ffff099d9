/** The memory backend without anything around it: 4 KiB at random places of 64 MiB. */
import type { BlockIo } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import type { Arena } from '../../src/util/arena.ts';
import { bench, sink } from './harness.ts';

const BLOCK_BYTES = 4096;
const BLOCKS = (64 << 20) / BLOCK_BYTES;

class Io implements BlockIo {
  offsetBytes = 0;
  lengthBytes: number = BLOCK_BYTES;
  fua = false;
  readonly segments: Uint8Array[] = [new Uint8Array(new ArrayBuffer(BLOCK_BYTES)).fill(7)];
  segmentCount = 1;
  status = -1;

  retain(): void {}
  lend(view: Uint8Array): void {
    this.segments[this.segmentCount++] = view;
  }
  lendAt(arena: Arena, offsetBytes: number): void {
    this.status = arena.id + offsetBytes;
  }
  provide(): Uint8Array {
    throw new Error('The memory backend lends its own');
  }
  complete(status: number): void {
    this.status = status;
  }
}

const backend = new MemoryBackend({ blockSize: BLOCK_BYTES, blockCount: BLOCKS });
const io = new Io();
const random = new Int32Array([12345]);

function place(): number {
  let x = random[0]!;
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  random[0] = x;
  return (x >>> 1) % BLOCKS;
}

for (let block = 0; block < BLOCKS; block++) {
  io.offsetBytes = block * BLOCK_BYTES;
  backend.write(io);
}

bench('(the loop and the random number alone)', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += place();
  sink[0] = sum;
});

bench('write 4 KiB', (count) => {
  for (let i = 0; i < count; i++) {
    io.offsetBytes = place() * BLOCK_BYTES;
    backend.write(io);
  }
  sink[0] = io.status;
});

const read = (count: number): void => {
  for (let i = 0; i < count; i++) {
    io.offsetBytes = place() * BLOCK_BYTES;
    io.segmentCount = 0;
    backend.read(io);
  }
  sink[0] = io.status;
};
bench('read 4 KiB (lent, not copied)', read);
