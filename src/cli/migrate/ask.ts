/** What to do when copying does not catch up: asked on the terminal. */
import { createInterface } from 'node:readline/promises';
import type { MoveOptions } from '../../orchestrator/move-options.ts';
import type { Teller } from './say.ts';
import { durationText, rateText } from './units.ts';

export function askWhatToDo(teller: Teller): NonNullable<MoveOptions['onStuck']> {
  return async ({ blackoutMs, bytesPerSecond }) => {
    if (!process.stdin.isTTY) return 'refuse';
    const pause = Number.isFinite(blackoutMs) ? durationText(blackoutMs) : 'long';
    teller.line(`copying does not catch up: a cut now is a pause of about ${pause}`, {
      event: 'stuck',
      bytesPerSecond,
    });
    const reader = createInterface({ input: process.stdin, output: process.stderr });
    try {
      const question = `[c]ut now, [t]hrottle writes to ${rateText(bytesPerSecond)}, [a]gain, or give [u]p? `;
      const answer = (await reader.question(question)).trim().toLowerCase();
      if (answer.startsWith('c')) return 'cut';
      if (answer.startsWith('t')) return 'throttle';
      return answer.startsWith('a') ? 'again' : 'refuse';
    } finally {
      reader.close();
    }
  };
}
