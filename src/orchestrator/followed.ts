import { assert } from '../util/assert.ts';
import type { EndNamespace, FollowedByQueue } from './end.ts';
import type { MoveOptions } from './move-options.ts';
import type { MoveRecord } from './move-spec.ts';

/** Our targets take 32,768 slots, one of which is always empty. */
export const QUEUE_ENTRIES_MAX = 32_767;
/** Fewer are full before they are looked at. */
export const QUEUE_ENTRIES_MIN = 2;

/** Namespaces of the source with their changes as the plan has decided: of their own log, or of the queue of the controller that moves. */
export function followed(
  { source, tuning }: MoveOptions,
  { changes, spec }: MoveRecord,
  namespaces: readonly EndNamespace[],
): FollowedByQueue {
  if (changes !== 'queue') return { sources: namespaces.map((one) => one.source), overflows: 0 };
  const queue = spec.controller === undefined ? undefined : source.controller(spec.controller.source).changes;
  assert(queue !== undefined, 'The plan has looked whether there is a queue');
  return queue.follow(namespaces, tuning?.queueEntries ?? QUEUE_ENTRIES_MAX);
}
