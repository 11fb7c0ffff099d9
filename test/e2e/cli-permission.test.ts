/** What the machine does not permit: one line that names the thing and the remedy, no stack trace. As root the command is run as somebody else. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { cli } from '../support/cli.ts';

const NOBODY = 65_534;
const PORTS_OF_ROOT = '/proc/sys/net/ipv4/ip_unprivileged_port_start';

describe('what is not permitted', function () {
  this.timeout(180_000);
  const asUser = process.getuid?.() === 0 ? { uid: NOBODY } : {};
  let folder: string;

  before(async function () {
    // who may not read the program itself, or run Node, learns nothing about it (a checkout under /root)
    const isRun = cli(['--version'], asUser).then(
      ({ code }) => code === 0,
      (error: NodeJS.ErrnoException) => {
        if (error.code !== 'EACCES') throw error;
        return false;
      },
    );
    if (!(await isRun)) this.skip();
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-permission-'));
    chmodSync(folder, 0o755);
  });
  after(() => {
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  async function expectRefusal(args: string[], code: number, ...says: RegExp[]): Promise<void> {
    const result = await cli(['target', ...args], asUser);
    expect(result.code, result.stderr).to.equal(code);
    for (const pattern of says) expect(result.stderr).to.match(pattern);
    expect(result.stderr.trim().split('\n'), result.stderr).to.have.length(1);
  }
  /** A file that nobody may open but root. */
  function closed(name: string, content: string): string {
    const path = join(folder, name);
    writeFileSync(path, content);
    chmodSync(path, 0);
    return path;
  }

  it('a port below 1024: who may, and why not', async function () {
    if (!existsSync(PORTS_OF_ROOT) || Number(readFileSync(PORTS_OF_ROOT, 'utf8')) < 1024) this.skip();
    await expectRefusal(
      ['--listen', '127.0.0.1:1023', '--discovery', 'off'],
      3,
      /127\.0\.0\.1:1023/,
      /not permitted.*CAP_NET_BIND_SERVICE/,
    );
  });

  it('a configuration file: its name', async () => {
    const path = closed('closed.yaml', 'subsystems: []\n');
    await expectRefusal(['--config', path], 2, /closed\.yaml/, /no permission to read/);
  });

  it('a backing file: its name', async () => {
    const path = closed('closed.img', 'x'.repeat(4096));
    const away = ['--listen', '127.0.0.1:0', '--discovery', 'off'];
    await expectRefusal(['--file', path, ...away], 2, /closed\.img/, /permi/i);
    await expectRefusal(['--file', join(folder, 'new.img,size=1MiB'), ...away], 2, /new\.img/, /permi/i);
  });
});
