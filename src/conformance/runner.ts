/** Runs cases one after another and gives each its verdict. */
import type { CaseResult, ConformanceCase, Verdict } from './case.ts';
import { CheckFailure, Inconclusive, NotApplicable } from './check.ts';
import { type Quirk, quirkOf } from './quirks.ts';
import { ConnectionEnded } from './raw-host.ts';

/** What a case is run on, made anew for each. */
export interface Subject {
  readonly notes: readonly string[];
  close(): Promise<void>;
}

export interface RunOptions<S extends Subject> {
  readonly subject: () => S;
  /** For a case that names none. */
  readonly timeoutMs: number;
  readonly quirks: readonly Quirk[];
  /** `undefined`: run it; else why not. */
  readonly skip: (one: ConformanceCase<S>) => string | undefined;
  readonly onResult?: (result: CaseResult) => void;
  readonly signal?: AbortSignal;
}

interface Outcome {
  readonly verdict: Verdict;
  readonly reason?: string;
  readonly because?: string;
}

/** @returns the results so far when the signal ends it */
export async function runCases<S extends Subject>(
  cases: readonly ConformanceCase<S>[],
  options: RunOptions<S>,
): Promise<CaseResult[]> {
  const results: CaseResult[] = [];
  for (const one of cases) {
    if (options.signal?.aborted === true) break;
    const why = options.skip(one);
    const startMs = performance.now();
    const subject = why === undefined ? options.subject() : undefined;
    const outcome: Outcome =
      subject === undefined ? { verdict: 'skipped', reason: why! } : await judge(one, subject, options);
    const { id, title, requirement, tags } = one;
    const { verdict, reason, because } = outcome;
    const durationMs = Math.round(performance.now() - startMs);
    const result = { id, title, requirement, tags, verdict, reason, because, notes: subject?.notes ?? [], durationMs };
    results.push(result);
    options.onResult?.(result);
  }
  return results;
}

async function judge<S extends Subject>(one: ConformanceCase<S>, subject: S, options: RunOptions<S>): Promise<Outcome> {
  const timeoutMs = one.timeoutMs ?? options.timeoutMs;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CheckFailure(`the case did not end within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    const run = one.run(subject);
    run.catch(() => {}); // a case that is late ends when its connections do
    await Promise.race([run, late]);
    return { verdict: 'pass' };
  } catch (error) {
    return outcomeOf(error, one, options.quirks);
  } finally {
    clearTimeout(timer);
    await subject.close();
  }
}

function outcomeOf(error: unknown, one: { readonly id: string }, quirks: readonly Quirk[]): Outcome {
  if (error instanceof NotApplicable) return { verdict: 'not-applicable', reason: error.message };
  if (error instanceof Inconclusive) return { verdict: 'inconclusive', reason: error.message };
  const isVerdict = error instanceof CheckFailure || error instanceof ConnectionEnded;
  const code = (error as NodeJS.ErrnoException).code;
  if (!isVerdict && code === undefined) {
    // neither the peer's doing nor the network's: a bug in the case
    return { verdict: 'inconclusive', reason: `internal error: ${(error as Error).stack ?? String(error)}` };
  }
  const reason = isVerdict ? (error as Error).message : `the connection failed: ${code}`;
  const quirk = quirkOf(quirks, one.id, reason);
  return quirk === undefined ? { verdict: 'fail', reason } : { verdict: 'quirk', reason, because: quirk.because };
}

/** How often each verdict was given. */
export function summarize(results: readonly CaseResult[]): Record<Verdict, number> {
  const counts: Record<Verdict, number> = {
    pass: 0,
    fail: 0,
    quirk: 0,
    'not-applicable': 0,
    inconclusive: 0,
    skipped: 0,
  };
  for (const { verdict } of results) counts[verdict]++;
  return counts;
}
