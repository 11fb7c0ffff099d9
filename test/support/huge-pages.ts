import { existsSync, readFileSync } from 'node:fs';

const POOL = '/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages';

/** Huge pages of 2 MiB that nobody uses; a kernel without them has none. */
export function freeHugePages(): number {
  return existsSync(POOL) ? Number(readFileSync(POOL, 'latin1')) : 0;
}
