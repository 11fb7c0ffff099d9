/** What to do when copying does not catch up: asked on the terminal, until it is answered. */
import { createInterface } from 'node:readline/promises';
import type { MoveOptions } from '../../orchestrator/move-options.ts';
import type { Stuck } from '../../orchestrator/pre-copy.ts';
import type { Teller } from './say.ts';
import { durationText, rateText } from './units.ts';

type Answer = 'cut' | 'throttle' | 'again' | 'refuse';

const ANSWERS: Readonly<Record<string, Answer>> = {
  c: 'cut',
  cut: 'cut',
  t: 'throttle',
  throttle: 'throttle',
  a: 'again',
  again: 'again',
  u: 'refuse',
  up: 'refuse',
};

export interface AskTerminal {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
  /** The move is to end: nobody waits for an answer any more. */
  readonly signal: AbortSignal;
  /** Ctrl-C at the prompt, which the terminal does not make a signal of there. */
  readonly onInterrupt: () => void;
}

export function askWhatToDo(teller: Teller, terminal: AskTerminal): NonNullable<MoveOptions['onStuck']> {
  return async (stuck) => {
    const pause = Number.isFinite(stuck.blackoutMs) ? durationText(stuck.blackoutMs) : 'a time that cannot be told';
    teller.line(`copying does not catch up: a cut now is a pause of about ${pause}`, {
      event: 'stuck',
      bytesPerSecond: stuck.bytesPerSecond,
      blackoutMs: Number.isFinite(stuck.blackoutMs) ? stuck.blackoutMs : null,
    });
    return teller.aside(() => ask(stuck, terminal));
  };
}

/** @throws the signal's reason */
async function ask({ bytesPerSecond }: Stuck, { input, output, signal, onInterrupt }: AskTerminal): Promise<Answer> {
  signal.throwIfAborted();
  const reader = createInterface({ input, output, terminal: true });
  const over = new AbortController();
  const onAbort = (): void => over.abort();
  signal.addEventListener('abort', onAbort, { once: true });
  // nobody can answer any more: give up rather than wait for ever
  reader.once('close', onAbort);
  reader.on('SIGINT', onInterrupt);
  const question = `[c]ut now, [t]hrottle writes to ${rateText(bytesPerSecond)}, [a]gain, or give [u]p? `;
  try {
    for (;;) {
      const text = await reader.question(question, { signal: over.signal });
      const answer = ANSWERS[text.trim().toLowerCase()];
      if (answer !== undefined) return answer;
      output.write('c, t, a or u is needed\n');
    }
  } catch (error) {
    if (!over.signal.aborted) throw error;
    output.write('\n');
    signal.throwIfAborted();
    return 'refuse';
  } finally {
    signal.removeEventListener('abort', onAbort);
    reader.close();
  }
}
