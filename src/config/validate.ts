/** Checks a value against the schema, and turns the schema's complaint into one that a person can act on. */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { ConfigIssue, type Path, wrong } from './issue.ts';
import { CONFIG_SCHEMA } from './schema.ts';
import type { TargetConfigInput } from './types.ts';

let compiled: ValidateFunction | undefined;

/** @throws ConfigIssue the first thing that does not fit */
export function validateShape(value: unknown): asserts value is TargetConfigInput {
  compiled ??= new Ajv({ discriminator: true, verbose: true, allowUnionTypes: true, strictTypes: false }).compile(
    CONFIG_SCHEMA,
  );
  if (compiled(value)) return;
  const errors = compiled.errors ?? [];
  // `if` only says that a branch failed; the branch's own complaint comes before it
  complain(errors.find((error) => error.keyword !== 'if') ?? errors[0]!, value);
}

/** `/subsystems/0/nqn` as steps; digits are indexes where the value is an array. */
function pathOf(pointer: string, root: unknown): (string | number)[] {
  const path: (string | number)[] = [];
  let at: unknown = root;
  for (const part of pointer.split('/').slice(1)) {
    const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
    const step = Array.isArray(at) ? Number(key) : key;
    path.push(step);
    at = (at as Record<string | number, unknown> | undefined)?.[step];
  }
  return path;
}

function complain(error: ErrorObject, root: unknown): never {
  const path = pathOf(error.instancePath, root);
  const found = error.data;
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case 'additionalProperties':
      return unknownKey(String(params.additionalProperty), knownKeys(error), path);
    case 'required':
      throw new ConfigIssue(path, `the key "${String(params.missingProperty)}" is missing`);
    case 'type':
      return wrong(path, found, typeNames(error.schema));
    case 'enum':
      return wrong(path, found, (error.schema as unknown[]).join(', '));
    case 'minimum':
    case 'maximum': {
      const { minimum, maximum } = error.parentSchema as { minimum: number; maximum: number };
      return wrong(path, found, `${minimum} to ${maximum}`);
    }
    case 'minLength':
      return wrong(path, found, 'some text');
    case 'discriminator':
      if (params.tagValue === undefined) throw new ConfigIssue(path, 'the key "type" is missing');
      return wrong([...path, 'type'], params.tagValue, 'memory, file, null');
    default:
      throw new ConfigIssue(path, `${error.message ?? error.keyword}, found ${JSON.stringify(found)}`);
  }
}

function knownKeys(error: ErrorObject): string[] {
  return Object.keys((error.parentSchema as { properties?: object } | undefined)?.properties ?? {});
}

function unknownKey(key: string, known: string[], path: Path): never {
  const close = known.find((other) => distance(key.toLowerCase(), other.toLowerCase()) <= 2);
  const hint = close === undefined ? `known keys: ${known.join(', ')}` : `did you mean "${close}"?`;
  throw new ConfigIssue([...path, key], `this key is not known; ${hint}`);
}

const TYPE_NAMES: Record<string, string> = {
  object: 'a mapping of keys',
  array: 'a list',
  string: 'text',
  integer: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
};

function typeNames(schema: unknown): string {
  const types = Array.isArray(schema) ? schema : [schema];
  return types.map((type) => TYPE_NAMES[String(type)] ?? String(type)).join(' or ');
}

/** Edits from one word to the other (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
