import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

/**
 * Which room may import from which: STYLE "Layout". A room may import from itself and from the rooms named; `index.ts` and the other entries
 * beside it, and the CLI, may import from everywhere.
 */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  util: [],
  spec: ['util'],
  native: ['util', 'spec'],
  log: ['util', 'spec'],
  wire: ['util', 'spec'],
  config: ['util', 'spec', 'log', 'wire', 'fabrics', 'backend'],
  transport: ['util', 'spec', 'log', 'wire', 'native'],
  fabrics: ['util', 'spec', 'log', 'wire'],
  migration: ['util', 'spec', 'log', 'wire'],
  backend: ['util', 'spec', 'log', 'wire', 'native'],
  target: ['util', 'spec', 'log', 'wire', 'native', 'transport', 'fabrics', 'migration', 'backend'],
  initiator: ['util', 'spec', 'log', 'wire', 'native', 'transport', 'fabrics', 'migration'],
  // a guest and its driver: it knows a controller by its PCI function alone
  vm: ['util', 'spec', 'wire', 'transport'],
  // peers of its own making, right or wrong: it shares no encoder with the product that it judges
  conformance: ['util', 'spec'],
  // what a running process holds together: configuration to targets, above every room it wires up
  service: [
    'util',
    'spec',
    'log',
    'wire',
    'native',
    'fabrics',
    'config',
    'transport',
    'backend',
    'target',
    'initiator',
  ],
  orchestrator: ['util', 'spec', 'log', 'wire', 'native', 'fabrics', 'migration', 'initiator'],
};
const UNRESTRICTED = ['cli', 'index.ts', 'target.ts', 'initiator.ts', 'migration.ts', 'wire.ts'];
/** Exceptions, each with its reason. */
const EXCEPTIONS: Readonly<Record<string, string>> = {
  'wire/crc32c.ts -> native/load.ts':
    'the instruction for digests is in the addon; native/load imports nothing above util',
  'util/error.ts -> spec/status.ts': 'an NvmeStatusError says the name of its status; spec/status imports nothing',
  ...Object.fromEntries(
    ['completion-queue', 'memory-transport', 'nvme-function', 'queue-set', 'submission-queue'].flatMap((file) =>
      ['controller', 'queue-pair', 'request'].map((type) => [
        `transport/pcie/${file}.ts -> target/${type}.ts`,
        'types only, as for NVMe/TCP; registers are those of the controller',
      ]),
    ),
  ),
  ...Object.fromEntries(
    ['connection', 'pdu-reader', 'pdu-writer'].flatMap((file) =>
      ['queue-pair', 'request'].map((type) => [
        `transport/tcp/target-${file}.ts -> target/${type}.ts`,
        'types only: the core hands the transport its queue pair and the requests that both sides fill',
      ]),
    ),
  ),
};

interface Import {
  readonly from: string;
  /** A path below `src/`, or the name of a package. */
  readonly to: string;
  /** `import type`: it vanishes when compiled. */
  readonly typeOnly: boolean;
}

// compiled to dist-test/test/unit/, two levels below the folder that stands beside src/
const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'src');
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .map((path) => path.split(sep).join('/'))
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'));
const imports = files.flatMap((file) => importsOf(file, readFileSync(join(root, file), 'utf8')));

/** The imports of a source text, static, re-exported and dynamic. */
function importsOf(from: string, source: string): Import[] {
  const code = source.replaceAll(/^\s*(?:\/\*\*?|\*|\/\/).*$/gm, '');
  const found: Import[] = [];
  for (const [, typeOnly, specifier] of code.matchAll(
    /(?:^|[;\n])\s*(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"]/g,
  )) {
    found.push({ from, to: resolve(from, specifier!), typeOnly: typeOnly !== undefined });
  }
  for (const [, specifier] of code.matchAll(/\b(?:import|require|createRequire\([^)]*\))\(\s*['"]([^'"]+)['"]/g)) {
    found.push({ from, to: resolve(from, specifier!), typeOnly: false });
  }
  return found;
}

function resolve(from: string, specifier: string): string {
  return specifier.startsWith('.') ? posix.join(posix.dirname(from), specifier) : specifier;
}

const roomOf = (path: string): string => path.split('/')[0]!;
const isInternal = (item: Import): boolean => files.includes(item.to);

function violations(list: readonly Import[]): string[] {
  const found: string[] = [];
  for (const item of list) {
    const from = roomOf(item.from);
    const to = roomOf(item.to);
    if (UNRESTRICTED.includes(from) || from === to || `${item.from} -> ${item.to}` in EXCEPTIONS) continue;
    if (!ALLOWED[from]?.includes(to)) found.push(`${item.from} -> ${item.to}`);
  }
  return found;
}

/** A chain of imports that comes back to where it started, or undefined. */
function cycle(list: readonly Import[]): string[] | undefined {
  const edges = new Map<string, string[]>();
  for (const { from, to, typeOnly } of list) if (!typeOnly) edges.set(from, [...(edges.get(from) ?? []), to]);
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string[] | undefined => {
    const at = path.indexOf(file);
    if (at >= 0) return [...path.slice(at), file];
    if (done.has(file)) return undefined;
    path.push(file);
    for (const next of edges.get(file) ?? []) {
      const found = visit(next);
      if (found !== undefined) return found;
    }
    path.pop();
    done.add(file);
    return undefined;
  };
  for (const file of edges.keys()) {
    const found = visit(file);
    if (found !== undefined) return found;
  }
  return undefined;
}

describe('architecture', () => {
  it('sees the imports', () => {
    expect(files).to.include('wire/cold/table.ts');
    expect(imports.map(({ from, to }) => `${from} -> ${to}`)).to.include.members([
      'wire/cold/table.ts -> bufferpack',
      'wire/cold/table.ts -> wire/cold/wire-error.ts',
      'wire/pdu.ts -> spec/pdu.ts',
      'wire.ts -> wire/cold/ic.ts',
      'util/error.ts -> spec/status.ts',
    ]);
    const sample = `import type { A } from './a.ts';\nimport {\n  b,\n} from '../b.ts';\nexport * from './c.ts';\nimport './d.ts';
      // import './no.ts';\n * import './no.ts';\nconst e = await import('./e.ts'); createRequire(import.meta.url)('f');`;
    expect(importsOf('x/y.ts', sample)).to.deep.equal([
      { from: 'x/y.ts', to: 'x/a.ts', typeOnly: true },
      { from: 'x/y.ts', to: 'b.ts', typeOnly: false },
      { from: 'x/y.ts', to: 'x/c.ts', typeOnly: false },
      { from: 'x/y.ts', to: 'x/d.ts', typeOnly: false },
      { from: 'x/y.ts', to: 'x/e.ts', typeOnly: false },
      { from: 'x/y.ts', to: 'f', typeOnly: false },
    ]);
  });

  it('has a place for every room', () => {
    const known = [...Object.keys(ALLOWED), ...UNRESTRICTED];
    const homeless = files.filter((file) => !known.includes(roomOf(file)));
    expect(homeless.join('\n')).to.equal('');
  });

  it('imports files that exist, by their .ts name', () => {
    const missing = imports.filter((item) => !isInternal(item) && item.to.includes('/') && /^[a-z-]+\//.test(item.to));
    expect(missing.map(({ from, to }) => `${from} -> ${to}`).join('\n')).to.equal('');
  });

  it('imports one way', () => {
    expect(violations(imports.filter(isInternal)).join('\n')).to.equal('');
  });

  it('notices an import the wrong way', () => {
    const wrong = (from: string, to: string): Import => ({ from, to, typeOnly: true });
    expect(violations([wrong('wire/sqe.ts', 'target/request.ts')])).to.have.length(1);
    expect(violations([wrong('util/error.ts', 'spec/pdu.ts')])).to.have.length(1);
    expect(violations([wrong('orchestrator/plan.ts', 'target/controller.ts')])).to.have.length(1);
    expect(violations([wrong('target/port.ts', 'cli/main.ts')])).to.have.length(1);
    expect(violations([wrong('initiator/path.ts', 'target/request.ts')])).to.have.length(1);
  });

  it('has no cycles', () => {
    expect(cycle(imports.filter(isInternal))?.join(' -> ')).to.equal(undefined);
  });

  it('notices a cycle', () => {
    const edge = (from: string, to: string): Import => ({ from, to, typeOnly: false });
    expect(cycle([edge('a', 'b'), edge('b', 'c'), edge('c', 'b')])).to.deep.equal(['b', 'c', 'b']);
    expect(cycle([edge('a', 'b'), edge('a', 'c'), edge('b', 'c')])).to.equal(undefined);
  });

  it('has one importer of bufferpack', () => {
    expect(imports.filter(({ to }) => to === 'bufferpack').map(({ from }) => from)).to.deep.equal([
      'wire/cold/table.ts',
    ]);
  });

  it('keeps hot files free of what does not belong in them', () => {
    const slow = /^(bufferpack|p-queue|pino|ajv|yaml|commander)$|^wire\/cold\/|^log\//;
    for (const file of files) {
      if (!readFileSync(join(root, file), 'utf8').startsWith('// @hot')) continue;
      const bad = imports.filter(({ from, to, typeOnly }) => from === file && !typeOnly && slow.test(to));
      expect(
        bad.map(({ to }) => to),
        file,
      ).to.deep.equal([]);
    }
  });
});
