/** What is measured, and by what: one interface for nvmeferry, external NVMe/TCP targets and other network block servers. */

/** One row of the matrix. */
export interface Case {
  readonly rw: 'read' | 'write';
  readonly blockBytes: number;
  /** Commands in flight in all, over all connections. */
  readonly depth: number;
  readonly connections: number;
  readonly digests: boolean;
  readonly backend: 'memory' | 'null';
  /** Left out for servers of other protocols, to save time. */
  readonly nvmeOnly?: boolean;
}

/** One measurement of one case; NaN where a tool does not say. */
export interface Sample {
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Percentiles 50, 90, 99, 99.9. */
  readonly latencyUs: readonly number[];
  /** CPU time of the server for one I/O. */
  readonly serverUserUs: number;
  readonly serverSystemUs: number;
  /** Cores that the load generator used: near 1, it was the limit. */
  readonly loadCores: number;
  /** Cores that were busy with something else. */
  readonly otherCores: number;
  /** Commands in flight, where the server's queues were too short for what was asked. */
  readonly depth?: number;
}

export interface Subject {
  readonly name: string;
  /** Why it cannot be measured here, said in the table; undefined if it can. */
  readonly missing: string | undefined;
  /** Whether the case means anything to it. */
  takes(test: Case): boolean;
  /** Starts it and writes all of its memory once. */
  start(): Promise<void>;
  measure(test: Case, seconds: number): Promise<Sample>;
  stop(): Promise<void>;
}

export const HOW_TO_INSTALL = 'not measured: run tools/install-bench.sh';
/** Written once before anything is measured. */
export const MEMORY_BYTES: number = 512 << 20;

const sizeName = (bytes: number): string => (bytes >= 1024 ? `${bytes / 1024}k` : String(bytes));

/** `4k read qd32 c1 memory`: what `--only` is matched against. */
export function caseName(test: Case): string {
  const name = `${sizeName(test.blockBytes)} ${test.rw} qd${test.depth} c${test.connections} ${test.backend}`;
  return test.digests ? `${name} digests` : name;
}
