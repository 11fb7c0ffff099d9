/** The demo ends non-zero if anything is off: here, blocks that are written behind its back. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect } from 'chai';
import type { TargetProcess } from '../../src/cli/demo/target-process.ts';
import { HostController } from '../../src/initiator/controller.ts';
import { MAIN, PACKAGE_ROOT } from '../support/cli.ts';

const STORAGE_NQN = 'nqn.2026-01.io.nvmeferry:demo-storage';
const BLOCKS = 256;

describe('demo with a fault', function () {
  this.timeout(240_000); // seconds on an idle machine
  const running = new Set<ChildProcess>();
  after(() => {
    for (const child of running) child.kill('SIGKILL');
  });

  /** Runs it; `at` is called with each line and the port of fabric B's target. */
  async function demo(at: (line: string, port: number) => Promise<void>): Promise<{ code: number; text: string }> {
    const child = spawn(process.execPath, [MAIN, 'demo'], { stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    let text = '';
    let port = 0;
    let acting = Promise.resolve();
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    createInterface({ input: child.stdout }).on('line', (line) => {
      text += `${line}\n`;
      port = Number(/fabric B: (\d+)/.exec(line)?.[1] ?? port);
      acting = acting.then(() => at(line, port));
    });
    const [code] = (await once(child, 'close')) as [number];
    running.delete(child);
    await acting;
    return { code, text };
  }

  it('without one: passes', async () => {
    const { code, text } = await demo(async () => {});
    expect(code, text).to.equal(0);
    expect(text).to.match(/demo passed\s*$/);
  });

  it('a block of fabric B that somebody else has written: it is told which, and the exit status is not 0', async () => {
    let hasTampered = false;
    const { code, text } = await demo(async (line, port) => {
      if (!line.startsWith('4. ')) return;
      const host = await HostController.connect({ address: '127.0.0.1', port, subnqn: STORAGE_NQN });
      try {
        const namespace = await host.namespace(1);
        await namespace.write(0, new Uint8Array(BLOCKS * namespace.blockSize).fill(0xee));
        hasTampered = true;
      } finally {
        await host.close();
      }
    });
    expect(hasTampered).to.equal(true);
    expect(code, text).to.be.a('number').and.not.equal(0);
    expect(text)
      .to.match(/block \d+/i)
      .and.not.match(/demo passed/);
    expect(text, 'no stack trace').not.to.match(/\bat .*:\d+:\d+/);
  });

  it('a target that does not come up: fails, and leaves no process behind', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-demo-'));
    try {
      // nobody writes the configuration that it waits for
      const path = join(folder, 'config.json');
      execFileSync('mkfifo', [path]);
      // the compiled one: it starts the command beside it
      const compiled = (await import(`${PACKAGE_ROOT}dist/cli/demo/target-process.js`)) as {
        TargetProcess: typeof TargetProcess;
      };
      const target = new compiled.TargetProcess(path, 1000);
      const error = await target.start().catch((reason: Error) => reason);
      expect(error).to.include({ message: "Demo: the target did not say 'ready' within 1 s" });
      const isThere = (): boolean => process.kill(target.pid!, 0);
      expect(isThere).to.throw(/ESRCH/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
