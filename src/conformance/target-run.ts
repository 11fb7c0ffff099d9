/** A run of cases against a target: what is asked first, which cases run, whose quirks are accepted. */

import type { CaseResult, ConformanceCase } from './case.ts';
import { TARGET_CASES } from './cases/index.ts';
import type { PeerFacts } from './facts.ts';
import { Peer, type PeerOptions } from './peer.ts';
import { type PeerName, peerOf, QUIRKS } from './quirks.ts';
import type { Report } from './report.ts';
import { runCases } from './runner.ts';
import { selectCases } from './selection.ts';

export interface TargetRunOptions extends PeerOptions {
  readonly only: readonly string[];
  readonly skip: readonly string[];
  /** Cases may change blocks of the namespace under test. */
  readonly allowWrites: boolean;
  /** Cases may make and destroy namespaces, format and sanitize. */
  readonly allowDestroy: boolean;
  /** Cases may wait for time-outs. */
  readonly slow: boolean;
  readonly caseTimeoutMs: number;
  /** Whose quirks are accepted; undefined: found out by the model number; `none`. */
  readonly peer: PeerName | 'none' | undefined;
  readonly onFacts?: (facts: PeerFacts) => void;
  readonly onResult?: (result: CaseResult) => void;
  readonly signal?: AbortSignal;
}

/** Why a case does not run though it is selected. */
export function reasonToSkip(
  one: Pick<ConformanceCase, 'writes' | 'slow'>,
  { allowWrites, allowDestroy, slow }: Pick<TargetRunOptions, 'allowWrites' | 'allowDestroy' | 'slow'>,
): string | undefined {
  if (one.writes === 'subsystem' && !allowDestroy)
    return 'changes the subsystem and destroys data; give --allow-destroy';
  if (one.writes === 'namespace' && !allowWrites) return 'writes to the namespace; give --allow-writes';
  if (one.slow === true && !slow) return 'waits for time-outs of the target; give --slow';
  return undefined;
}

/** The name of a target in reports: `model, firmware, NVMe version`. */
export const describeFacts = (facts: PeerFacts): string =>
  `${facts.model || 'no model number'}, firmware ${facts.firmware || 'unnamed'}, NVMe ${facts.version}`;

/** @throws what the first connection throws; ConfigError for a selection that means nothing */
export async function runTargetCases(options: TargetRunOptions): Promise<Report> {
  const cases = selectCases(TARGET_CASES, options.only, options.skip);
  const first = new Peer(options);
  let facts: PeerFacts;
  try {
    facts = await first.ask();
  } finally {
    await first.close();
  }
  options.onFacts?.(facts);
  const peer = options.peer ?? peerOf(facts.model);
  const results = await runCases(cases, {
    subject: () => new Peer(options, facts),
    timeoutMs: options.caseTimeoutMs,
    quirks: QUIRKS.filter((quirk) => quirk.peer === peer),
    skip: (one) => reasonToSkip(one, options),
    ...(options.onResult === undefined ? {} : { onResult: options.onResult }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  const { address, port, subnqn } = options;
  const name = `nvme+tcp://${address.includes(':') ? `[${address}]` : address}:${port}/${subnqn}`;
  return {
    subject: { kind: 'target', name, says: describeFacts(facts), peer: peer === 'none' ? undefined : peer },
    results,
  };
}
