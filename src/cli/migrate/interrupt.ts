/**
 * SIGINT and SIGTERM while a move goes on: the first one asks for its end (rolled back before the commit; after it, it is finished), the second ends the
 * process as it is, and the journal says the rest.
 */
import { ExitCode } from '../exit.ts';

export async function interruptible<T>(onFirst: () => void, act: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  const onSignal = (): void => {
    if (abort.signal.aborted) process.exit(ExitCode.Interrupted);
    onFirst();
    abort.abort(new Error('Interrupted'));
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  try {
    return await act(abort.signal);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
