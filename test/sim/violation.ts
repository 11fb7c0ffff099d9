/** What a run must never do. The first one ends it. */
export class Violation extends Error {
  override readonly name = 'Violation';
}
