#!/usr/bin/env node
/**
 * Builds the addon into native/build/Release. With `--optional` (what `npm ci` runs) a machine without a compiler gets one line that names what
 * is missing and what works without it, and exit status 0. `--sanitize`: AddressSanitizer and UndefinedBehaviorSanitizer, into build/Debug.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const optional = process.argv.includes('--optional');
const sanitize = process.argv.includes('--sanitize');
const configuration = sanitize ? 'Debug' : 'Release';
const built = join(here, 'build', configuration, 'nvmeferry.node');

const WITHOUT =
  'Without the native addon nvmeferry works, but has no local SSDs (backend nvme, /dev/nvme0), no io_uring, no block devices and no VM memory';

function stop(reason, detail) {
  if (detail !== undefined) process.stderr.write(`${detail.trimEnd()}\n`);
  process.stderr.write(`nvmeferry: ${reason}. ${WITHOUT}. To build it: npm run build:native\n`);
  process.exit(optional ? 0 : 1);
}

/** What the result depends on: the sources, the Node ABI, and where Node's headers are. */
function fingerprint() {
  const hash = createHash('sha256').update(`${process.version} ${process.arch} ${sanitize}`);
  hash.update(readFileSync(join(here, 'binding.gyp')));
  for (const name of readdirSync(join(here, 'src')).sort())
    hash.update(name).update(readFileSync(join(here, 'src', name)));
  return hash.digest('hex');
}

function nodeGyp() {
  // npm says where its own is; else one on the path
  const named = process.env.npm_config_node_gyp;
  if (named !== undefined && existsSync(named)) return [process.execPath, named];
  const beside = resolve(dirname(process.execPath), '../lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js');
  return existsSync(beside) ? [process.execPath, beside] : ['node-gyp'];
}

if (process.platform !== 'linux') stop(`the native addon is for Linux, this is ${process.platform}`);
const wanted = fingerprint();
const stamp = join(here, 'build', `${configuration}.stamp`);
if (existsSync(built) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) process.exit(0);

for (const [tool, name] of [
  [process.env.CXX ?? 'c++', 'a C++ compiler (Debian: g++; Alpine: g++; Fedora: gcc-c++)'],
  ['make', 'make'],
  ['python3', 'python3'],
]) {
  if (spawnSync(tool.split(' ')[0], ['--version'], { stdio: 'ignore' }).status !== 0) {
    stop(`the native addon was not built, because ${name} is missing`);
  }
}

// headers that came with this Node, that npm's configuration names, or that node-gyp has already, need no download
const hasHeaders = (folder) => folder !== undefined && existsSync(join(folder, 'include/node/node_api.h'));
const headers = [process.env.npm_config_nodedir, resolve(dirname(process.execPath), '..')].find(hasHeaders);
const cache =
  process.env.npm_config_devdir ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'node-gyp');
if (optional && headers === undefined && !hasHeaders(join(cache, process.versions.node))) {
  // npm ci fetches packages and nothing else
  stop(
    'the native addon was not built, because the headers of this Node are missing, which npm run build:native fetches',
  );
}

const [command, ...first] = nodeGyp();
const type = sanitize ? '--debug' : '--release';
const from = headers === undefined ? [] : [`--nodedir=${headers}`];
mkdirSync(join(here, 'build'), { recursive: true });
for (const step of [
  ['configure', type, ...from, '--', `-Dsanitize=${sanitize ? 1 : 0}`],
  ['build', type],
]) {
  const run = spawnSync(command, [...first, ...step], {
    cwd: here,
    encoding: 'utf8',
    env: { ...process.env, JOBS: '2' },
  });
  if (run.status !== 0) {
    const output = run.error === undefined ? `${run.stdout}${run.stderr}` : run.error.message;
    stop('the native addon could not be built', output);
  }
  if (step[0] === 'build' && /warning:/.test(run.stderr)) process.stderr.write(run.stderr);
}
writeFileSync(stamp, wanted);
