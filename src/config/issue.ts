/** Something wrong at one place of a configuration, before the place has its file and line. */

export type Path = readonly (string | number)[];

export class ConfigIssue extends Error {
  override readonly name = 'ConfigIssue';
  readonly path: Path;
  /** The place that it clashes with, if it is wrong only because of another one. */
  readonly other: Path | undefined;
  constructor(path: Path, message: string, other?: Path) {
    super(message);
    this.path = path;
    this.other = other;
  }
}

/** @throws ConfigIssue always: what was found at `path`, and what may stand there */
export function wrong(path: Path, found: unknown, allowed: string): never {
  throw new ConfigIssue(path, `found ${show(found)}; allowed: ${allowed}`);
}

const SHOWN_CHARS_MAX = 80;

/** A value as one short line. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= SHOWN_CHARS_MAX ? text : `${text.slice(0, SHOWN_CHARS_MAX)}...`;
}

/** `subsystems[0].namespaces[1].backend.size` */
export function formatPath(path: Path): string {
  let text = '';
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`;
    else text += text === '' ? step : `.${step}`;
  }
  return text;
}
