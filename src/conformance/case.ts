/** What a case and its verdict are. */
import type { Peer } from './peer.ts';

/**
 * `pass`: the requirement holds as far as the case can see. `fail`: it does not. `quirk`: it does not, in a way that this peer is known for.
 * `not-applicable`: the peer does not advertise what the case is about. `inconclusive`: what was seen proves nothing. `skipped`: not run,
 * because it writes or takes long and was not asked for.
 */
export const VERDICTS = ['pass', 'fail', 'quirk', 'not-applicable', 'inconclusive', 'skipped'] as const;
export type Verdict = (typeof VERDICTS)[number];

/** One line of a checklist, as code. */
export interface ConformanceCase<Subject = Peer> {
  /** `tcp-28`, `nvme-45`, `host-72`: the checklist and the number of its line. */
  readonly id: string;
  /** Stimulus and required reaction. */
  readonly title: string;
  /** Document and section. */
  readonly requirement: string;
  /** For `--only` and `--skip`. */
  readonly tags: readonly string[];
  /** `namespace`: changes blocks of the namespace under test. `subsystem`: makes or destroys namespaces, formats, sanitizes. */
  readonly writes?: 'namespace' | 'subsystem';
  /** Waits for time-outs of the peer. */
  readonly slow?: true;
  /** For the whole case; default is the runner's. */
  readonly timeoutMs?: number;
  /** Returns if the requirement holds; throws `CheckFailure`, `NotApplicable` or `Inconclusive` if not. */
  run(subject: Subject): Promise<void>;
}

export interface CaseResult {
  readonly id: string;
  readonly title: string;
  readonly requirement: string;
  readonly tags: readonly string[];
  readonly verdict: Verdict;
  /** Why, unless it passed. */
  readonly reason: string | undefined;
  /** Of a quirk: why it is accepted. */
  readonly because: string | undefined;
  /** What the case saw that is worth telling. */
  readonly notes: readonly string[];
  readonly durationMs: number;
}

type Common<Subject> = Pick<ConformanceCase<Subject>, 'requirement' | 'tags' | 'writes'>;

/** One case of a list, with what it does not share with the others. Its tags are added to theirs. */
export type CaseRow<Subject = Peer> = readonly [
  number: number,
  title: string,
  run: (subject: Subject) => Promise<void>,
  own?: Partial<Omit<ConformanceCase<Subject>, 'id' | 'title' | 'run'>>,
];

/** The cases of one part of a checklist. @param common what all have unless they say otherwise */
export function casesOf<Subject = Peer>(
  prefix: string,
  common: Common<Subject>,
  rows: readonly CaseRow<Subject>[],
): ConformanceCase<Subject>[] {
  return rows.map(([number, title, run, own = {}]) => ({
    ...common,
    ...own,
    id: `${prefix}-${number}`,
    title,
    tags: [...common.tags, ...(own.tags ?? [])],
    run,
  }));
}
