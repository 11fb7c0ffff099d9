/** How an operator ends what serves. */

/** @returns the first SIGTERM or SIGINT; the second ends at once */
export function endSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        resolve(signal);
        process.on(signal, () => process.exit(130));
      });
    }
  });
}
