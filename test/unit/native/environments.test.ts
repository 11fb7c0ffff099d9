/** The addon in worker threads, and when an environment ends before its I/O does. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { ENGINE_MODES, needNative } from '../../support/native.ts';

/** With two ways of I/O, a hundred in all. */
const WORKERS = Number(process.env.NVMEFERRY_WORKERS ?? 52);
const modules = new URL('../../../src/native/', import.meta.url).href;

/** Reads for ever, 16 at once, and says when the first one came. */
const BUSY = `
  const { parentPort, workerData } = require('node:worker_threads');
  (async () => {
    const { IoEngine } = await import(workerData.modules + 'io-engine.js');
    const { nativeBinding } = await import(workerData.modules + 'load.js');
    const engine = new IoEngine(nativeBinding(), { mode: workerData.mode, depth: 32 });
    const file = require('node:fs').openSync(workerData.path, 'r');
    let told = false;
    const next = () => {
      const buffer = new Uint8Array(65536);
      engine.read(file, buffer, 0, 65536, 65536 * Math.floor(Math.random() * 15), (error, bytes) => {
        if (!told) { told = true; parentPort.postMessage(error?.code ?? bytes); }
        next();
      });
    };
    for (let i = 0; i < 16; i++) next();
  })().catch((error) => parentPort.postMessage(error.message));
`;

describe('the addon and its environments', () => {
  let folder: string;
  let path: string;

  before(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-worker-'));
    path = join(folder, 'data');
    fs.writeFileSync(path, new Uint8Array(1 << 20));
  });
  after(() => {
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  for (const mode of ENGINE_MODES) {
    it(`starts and ends ${WORKERS} workers in the middle of their I/O (${mode})`, async function () {
      this.timeout(120_000);
      const before = anonymousInodes();
      const one = async (): Promise<void> => {
        const worker = new Worker(BUSY, {
          eval: true,
          workerData: { modules, mode: mode, path },
        });
        const first = await new Promise((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        });
        if (typeof first === 'string' && first.includes('no io_uring')) {
          await worker.terminate();
          this.skip();
        }
        expect(first).to.equal(65_536);
        await worker.terminate();
      };
      for (let i = 0; i < WORKERS / 4; i++) await Promise.all([one(), one(), one(), one()]);
      // the workers' data files are not the addon's to close
      expect(anonymousInodes()).to.deep.equal(before);
    });

    it(`lets a process end in the middle of its I/O (${mode})`, () => {
      const script = BUSY.replace(
        "const { parentPort, workerData } = require('node:worker_threads');",
        `
        const { createRequire } = await import('node:module');
        const require = createRequire(import.meta.url);
        const workerData = ${JSON.stringify({ modules, mode, path })};
        const parentPort = { postMessage: (first) => { console.log(first); process.exit(7); } };`,
      );
      const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      if (run.stdout.toString().includes('no io_uring')) return;
      expect(run.signal, 'killed by').to.equal(null);
      expect(run.status).to.equal(7);
      expect(run.stdout.toString().trim()).to.equal('65536');
    });
  }

  it('keeps the process alive while something is in flight, and not longer', () => {
    const script = `
      const { IoEngine } = await import('${modules}io-engine.js');
      const { nativeBinding } = await import('${modules}load.js');
      const fs = await import('node:fs');
      for (const mode of ['auto', 'thread-pool']) {
        const engine = new IoEngine(nativeBinding(), { mode, depth: 4 });
        const file = fs.openSync(${JSON.stringify(path)}, 'r');
        engine.read(file, new Uint8Array(512), 0, 512, 0, (error, bytes) => {
          console.log(mode, bytes);
          engine.fdatasync(file, () => console.log('synced'));
        });
      }`;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: 20_000,
    });
    expect(run.status).to.equal(0);
    const lines = run.stdout.toString().trim().split('\n').sort();
    expect(lines).to.deep.equal(['auto 512', 'synced', 'synced', 'thread-pool 512']);
  });

  it('does without the addon when told so, and says what is missing', () => {
    const script = `
      const { nativeBinding, requireNative } = await import('${modules}load.js');
      console.log(nativeBinding());
      try { requireNative('Backend nvme'); } catch (error) { console.log(error.code, error.message); }`;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, NVMEFERRY_NATIVE: 'off' },
    });
    expect(run.stdout.toString()).to.match(
      /^undefined\nNVMEOF_ERR_NATIVE Backend nvme needs the native addon, .*npm run build:native/,
    );
    const wrong = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      env: { ...process.env, NVMEFERRY_NATIVE: fileURLToPath(import.meta.url) },
    });
    expect(wrong.stdout.toString()).to.match(/^undefined\n/);
  });
});

/** Rings, eventfds and epoll instances that are open. */
function anonymousInodes(): string[] {
  return fs
    .readdirSync('/proc/self/fd')
    .map(linkOf)
    .filter((link) => link.startsWith('anon_inode:'))
    .sort();
}

function linkOf(fd: string): string {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
