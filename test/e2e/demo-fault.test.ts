/** The demo ends non-zero if anything is off: here, blocks that are written behind its back. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { MAIN } from '../support/cli.ts';

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
});
