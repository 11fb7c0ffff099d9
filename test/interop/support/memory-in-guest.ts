/**
 * Runs in a guest that has free huge pages of 2 MiB, bundled: maps, writes and unmaps them, from a memfd and from a file. Prints a line of JSON.
 * Argument: a file to make, on a hugetlbfs.
 */
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { requireNative } from '../../../src/native/load.ts';
import { createMemfd, MappedMemory } from '../../../src/native/mapped-memory.ts';

const PAGE_BYTES = 2 << 20;

/** What was found. */
export interface HugeMemoryResult {
  /** KernelPageSize of the mappings of memfd and file, kB. */
  readonly pageKb: number[];
  /** Huge pages that were free: at first, with everything mapped and written, at the end. */
  readonly free: number[];
  /** A second mapping, of half a page at its start, has what was written by the first. */
  readonly shared: boolean[];
  /** Mappings of this process that are left. */
  readonly left: number;
  /** Lines of the process's map that are left. */
  readonly leftInKernel: number;
}

const [path] = process.argv.slice(2) as [string];

function freePages(): number {
  return Number(/HugePages_Free: +(\d+)/.exec(readFileSync('/proc/meminfo', 'latin1'))![1]);
}

/** Page sizes of the mappings whose name has `name`. */
function pagesOf(name: string): number[] {
  const smaps = readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const mine = smaps.filter((each) => each.split('\n')[0]!.includes(name));
  return mine.map((each) => Number(/KernelPageSize: +(\d+) kB/.exec(each)![1]));
}

const free = [freePages()];
const memfd = createMemfd({ name: 'huge', lengthBytes: 2 * PAGE_BYTES, hugePageBytes: PAGE_BYTES });
const file = openSync(path, 'w+');
ftruncateSync(file, PAGE_BYTES);
const memories: MappedMemory[] = [];
const map = (fd: number, offsetBytes: number, lengthBytes: number): Uint8Array => {
  const memory = MappedMemory.map({ fd, offsetBytes, lengthBytes });
  memories.push(memory);
  return new Uint8Array(memory.buffer);
};
const whole = [map(memfd, 0, 2 * PAGE_BYTES), map(file, 0, PAGE_BYTES)];
for (const [i, view] of whole.entries())
  for (let at = 0; at < view.length; at++) view[at] = (at * 7 + (at >> 8) + i) & 0xff;
free.push(freePages());
const pageKb = [...pagesOf('memfd:huge'), ...pagesOf(path)];
const halves = [map(memfd, PAGE_BYTES, PAGE_BYTES / 2), map(file, 0, PAGE_BYTES / 2)];
const shared = halves.map((half, i) => {
  const from = i === 0 ? PAGE_BYTES : 0;
  return Buffer.compare(half, whole[i]!.subarray(from, from + half.length)) === 0;
});
for (const memory of memories) memory.unmapNow();
closeSync(memfd);
ftruncateSync(file, 0);
closeSync(file);
free.push(freePages());
const result: HugeMemoryResult = {
  pageKb,
  free,
  shared,
  left: requireNative('Mapped memory').mappingCount(),
  leftInKernel: [...pagesOf('memfd:huge'), ...pagesOf(path)].length,
};
console.log(JSON.stringify(result));
