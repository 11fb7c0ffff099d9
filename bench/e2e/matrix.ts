/** Which cases are measured. */
import type { Case } from './subject.ts';

const SMALL = 4096;
const LARGE = 128 << 10;
const sides = ['read', 'write'] as const;

function cases(fields: {
  readonly blockBytes: number;
  readonly depths: readonly number[];
  readonly connections?: number;
  readonly digests?: boolean;
  readonly backend?: 'memory' | 'null';
  readonly nvmeOnly?: boolean;
}): Case[] {
  const { blockBytes, depths, connections = 1, digests = false, backend = 'memory', nvmeOnly = false } = fields;
  return sides.flatMap((rw) =>
    depths.map((depth) => ({ rw, blockBytes, depth, connections, digests, backend, nvmeOnly })),
  );
}

/** In a few minutes: every dimension, not every combination. */
export function quickMatrix(): Case[] {
  return [
    ...cases({ blockBytes: SMALL, depths: [1, 32, 128] }),
    ...cases({ blockBytes: SMALL, depths: [8], nvmeOnly: true }),
    ...cases({ blockBytes: SMALL, depths: [32, 128], connections: 4, nvmeOnly: true }),
    ...cases({ blockBytes: LARGE, depths: [8] }),
    ...cases({ blockBytes: LARGE, depths: [32], nvmeOnly: true }),
    ...cases({ blockBytes: SMALL, depths: [32, 128], digests: true }),
    ...cases({ blockBytes: LARGE, depths: [8], digests: true }),
    ...cases({ blockBytes: SMALL, depths: [32, 128], backend: 'null' }),
  ];
}

export function fullMatrix(): Case[] {
  return (['memory', 'null'] as const).flatMap((backend) =>
    [false, true].flatMap((digests) => [
      ...[1, 4].flatMap((connections) =>
        cases({ blockBytes: SMALL, depths: [1, 8, 32, 128], connections, digests, backend }),
      ),
      ...cases({ blockBytes: LARGE, depths: [8, 32], digests, backend }),
    ]),
  );
}

const CONNECTIONS: readonly number[] = [1, 4, 16, 64];
/** In flight in all: with 64 connections, two on each. */
export const SHARED_DEPTH = 128;
/** In flight on each connection. */
export const OWN_DEPTH = 32;

/** More and more connections that share one queue depth; in full, also with a depth of their own each. */
export function scalingMatrix(full: boolean): Case[] {
  return CONNECTIONS.flatMap((connections) => {
    const depths = new Set(full ? [SHARED_DEPTH, OWN_DEPTH * connections] : [SHARED_DEPTH]);
    return cases({ blockBytes: SMALL, depths: [...depths], connections });
  });
}
