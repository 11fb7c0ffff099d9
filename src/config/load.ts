/** Reads a configuration file: YAML, JSON, or what `nvmetcli save` wrote. */
import { readFile, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type Document, isMap, isNode, LineCounter, parseDocument } from 'yaml';
import { ConfigError } from '../util/error.ts';
import { ConfigIssue, formatPath, type Path } from './issue.ts';
import { normalize } from './normalize.ts';
import { fromNvmetcli, isNvmetcli } from './nvmetcli.ts';
import type { TargetConfig } from './types.ts';
import { validateShape } from './validate.ts';

const FILE_BYTES_MAX = 16 * 1024 * 1024;

/**
 * @param path of the file; relative paths in it are relative to its directory
 * @throws ConfigError one line: file, line, place, what was found, what is allowed
 * @public
 */
export async function loadConfig(path: string): Promise<TargetConfig> {
  return parseConfig(await readText(path), { name: path, baseDirectory: dirname(resolve(path)) });
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > FILE_BYTES_MAX)
      throw new ConfigError(`${path}: has ${size} bytes; a configuration has at most ${FILE_BYTES_MAX}`);
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const reasons: Record<string, string> = {
      ENOENT: 'no such file',
      EACCES: 'no permission to read it',
      EISDIR: 'is a directory; give the file in it',
    };
    throw new ConfigError(`${path}: ${reasons[code ?? ''] ?? message}`, { cause: error });
  }
}

/**
 * The same from text. JSON is read as the YAML that it is, so that errors have their line.
 * @public
 */
export function parseConfig(text: string, options: { name: string; baseDirectory: string }): TargetConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const syntax = document.errors[0];
  if (syntax !== undefined) {
    throw new ConfigError(`${options.name}:${lines.linePos(syntax.pos[0]).line}: ${firstLine(syntax.message)}`);
  }
  let translate = (path: Path): Path => path;
  try {
    const value = toValue(document);
    if (!isNvmetcli(value)) {
      validateShape(value);
      return normalize(value, { baseDirectory: options.baseDirectory });
    }
    const imported = fromNvmetcli(value);
    translate = imported.translate;
    return normalize(imported.input, { baseDirectory: options.baseDirectory, strictNqn: false });
  } catch (error) {
    if (!(error instanceof ConfigIssue)) throw error;
    const path = translate(error.path);
    const line = lineOf(document, lines, path);
    const other = error.other === undefined ? '' : ` (by ${formatPath(translate(error.other))})`;
    const place = path.length === 0 ? '' : `${formatPath(path)}: `;
    throw new ConfigError(`${options.name}${line === undefined ? '' : `:${line}`}: ${place}${error.message}${other}`, {
      cause: error,
    });
  }
}

function toValue(document: Document.Parsed): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 }) as unknown;
  } catch (error) {
    throw new ConfigIssue([], firstLine((error as Error).message));
  }
}

function firstLine(message: string): string {
  return message.split('\n')[0]!.replace(/[:.]$/, '');
}

/** The line of the deepest part of `path` that the file has. */
function lineOf(document: Document.Parsed, lines: LineCounter, path: Path): number | undefined {
  for (let depth = path.length; depth > 0; depth--) {
    const parent: unknown = depth === 1 ? document.contents : document.getIn(path.slice(0, depth - 1), true);
    const step = path[depth - 1];
    // a key's own line, also where its value begins further down
    const pair = isMap(parent) ? parent.items.find((item) => String(item.key) === step) : undefined;
    const node: unknown = pair === undefined ? document.getIn(path.slice(0, depth), true) : pair.key;
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return document.contents?.range ? lines.linePos(document.contents.range[0]).line : undefined;
}
