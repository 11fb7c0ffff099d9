/** Thrown by `assert`: a bug in this program, not bad input. Only the connection boundary catches it. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** States what must hold; on in production. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}
