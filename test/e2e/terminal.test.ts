/** What takes over a second tells how far it is, on a terminal and nowhere else. The terminal is one that util-linux' `script` makes. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { expect } from 'chai';
import { CliTarget, cli, MAIN } from '../support/cli.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:demo';
/** Clears the line, and begins it again. */
const REDRAW = '\r\x1b[K';

describe('progress', function () {
  this.timeout(180_000);
  let target: CliTarget;
  let uri: string;

  before(async function () {
    if (spawnSync('script', ['--version']).status !== 0) this.skip();
    target = await CliTarget.start(['--listen', '127.0.0.1:0', '--discovery', 'off', '--memory', '16MiB']);
    const [port] = (target.ready as unknown as { ports: { service: number }[] }).ports;
    uri = `nvme+tcp://127.0.0.1:${port!.service}/${NQN}?nsid=1`;
  });
  after(async () => {
    await target?.end();
  });

  async function onTerminal(args: readonly string[]): Promise<{ code: number; output: string }> {
    const line = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(' ');
    const child = spawn('script', ['-qec', line, '/dev/null'], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    const [code] = (await once(child, 'close')) as [number];
    return { code, output };
  }
  const bench = (seconds: number): string[] => ['bench', uri, '--rw', 'randread', '--time', String(seconds)];

  it('on a terminal: what, how far, how long; gone when the result is there', async () => {
    const { code, output } = await onTerminal(bench(2));
    expect(code).to.equal(0);
    expect(output)
      .to.include(`${REDRAW}randread on namespace 1 `)
      .and.match(/\(1 s\)/);
    const last = output.slice(output.lastIndexOf(REDRAW) + REDRAW.length);
    expect(last, 'the line is cleared before the result').to.match(/IOPS/i);
  });

  it('not for what is done within a second', async () => {
    const { code, output } = await onTerminal(['id-ctrl', uri]);
    expect(code).to.equal(0);
    expect(output).not.to.include(REDRAW);
    expect(output).to.match(/^sn\b/m);
  });

  it('not where nobody looks', async () => {
    const { code, stdout, stderr } = await cli(bench(2));
    expect(code).to.equal(0);
    expect(stderr).to.equal('');
    expect(stdout).not.to.include('\x1b');
  });
});
