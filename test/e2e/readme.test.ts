/**
 * Runs what the README shows. Its fenced blocks carry a word for it: `target` and `config` start a target, `run` is executed against it, `guest`
 * is run by the interop suite inside a Linux guest.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FrontControl } from '../../src/orchestrator/front-control.ts';
import { MAIN, PACKAGE_ROOT } from '../support/cli.ts';
import { needNative } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';

interface Block {
  readonly language: string;
  readonly word: string;
  readonly text: string;
}

const README = readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8');

function blocks(): Block[] {
  return [...README.matchAll(/^```(\w+) ?(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, word, text]) => ({
    language: language!,
    word: word!,
    text: text!,
  }));
}

const block = (language: string, word: string): string => {
  const found = blocks().filter((item) => item.language === language && item.word === word);
  expect(found, `blocks '${language} ${word}' of the README`).to.have.length(1);
  return found[0]!.text;
};

describe('README', function () {
  this.timeout(180_000);
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-readme-'));
    const command = join(directory, 'nvmeferry');
    await writeFile(command, `#!/bin/sh\nexec "${process.execPath}" "${MAIN}" "$@"\n`);
    await chmod(command, 0o755);
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const shell = (text: string): ReturnType<typeof spawn> =>
    spawn('bash', ['-euo', 'pipefail', '-c', text], {
      cwd: directory,
      env: { ...process.env, XDG_STATE_HOME: join(directory, 'state'), PATH: `${directory}:${process.env.PATH}` },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });

  async function runToEnd(text: string): Promise<string> {
    const child = shell(text);
    let output = '';
    child.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr!.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const [code] = (await once(child, 'close')) as [number];
    expect(code, output).to.equal(0);
    return output;
  }

  /** Starts the target of a block, runs `body` while it serves, and ends it as a user would. `connected`: a host has a controller. */
  async function whileServing(text: string, body: (connected: Promise<void>) => Promise<void>): Promise<string> {
    const child = shell(`exec ${text.trim()}`);
    let output = '';
    let log = '';
    const connected = new Promise<void>((resolve) => {
      child.stderr!.on('data', (chunk: Buffer) => {
        log += chunk.toString();
        if (log.includes('Controller connected')) resolve();
      });
    });
    await new Promise<void>((resolve, reject) => {
      child.stdout!.on('data', (chunk: Buffer) => {
        output += chunk.toString();
        if (/^ready$/m.test(output)) resolve();
      });
      child.once('close', () => reject(new Error(`The target ended: ${output}`)));
    });
    child.removeAllListeners('close');
    try {
      await body(connected);
    } finally {
      const closed = once(child, 'close');
      child.kill('SIGTERM');
      await closed;
    }
    return output;
  }

  it('has no block that nothing runs', () => {
    // guest, ssd, dpu and qemu: test/interop/readme.test.ts
    const known = ['sh ', 'sh target', 'sh run', 'ts run', 'yaml config', 'sh config', 'sh guest', 'sh ssd'].concat([
      'sh dpu',
      'sh qemu',
      'yaml dpu',
      'yaml lm',
      'sh lmhost',
      'sh lm',
      'sh front',
      'yaml east',
      'yaml west',
      'sh migrate',
    ]);
    for (const { language, word } of blocks()) expect(known).to.include(`${language} ${word}`);
    // the two commands of the gates are what runs this test, and the demo of the next case
    expect(
      blocks()
        .filter(({ language, word }) => language === 'sh' && word === '')
        .map(({ text }) => text.trim()),
    ).to.deep.equal(['npm ci && npm run demo', 'npm ci && npm test']);
  });

  it('npm run demo', async () => {
    await runToEnd('nvmeferry demo');
  });

  it('nvmeferry demo --basics', () => runToEnd('nvmeferry demo --basics'));

  it('namespaces move from target to target and back', async () => {
    for (const name of ['east', 'west']) await writeFile(join(directory, `${name}.yaml`), block('yaml', name));
    await whileServing('nvmeferry target --config east.yaml', async () => {
      await whileServing('nvmeferry target --config west.yaml', async () => {
        // a machine that tests are run on may be slow
        await runToEnd(block('sh', 'migrate').replaceAll('" --', '" --blackout 20000 --'));
      });
    });
    expect(readFileSync(join(directory, 'move.html'), 'utf8')).to.match(/<h1>Moved<\/h1>/);
  });

  it('target in one line, used by our initiator and from a program', async () => {
    const output = await whileServing(block('sh', 'target'), async () => {
      await runToEnd(block('sh', 'run'));
      // inside the package, so that it can import itself by name
      const program = join(PACKAGE_ROOT, 'dist-test', `readme-${process.pid}.mjs`);
      await writeFile(program, block('ts', 'run'));
      try {
        await runToEnd(`"${process.execPath}" "${program}"`);
      } finally {
        await rm(program);
      }
    });
    const promised = /^ {4}(nvme connect .*)$/m.exec(README)![1]!;
    expect(output).to.include(promised);
  });

  it('a front with a controller behind it', async function () {
    needNative(this as unknown as Mocha.Context);
    // whatever else is at the end of the line, the two stay until they are ended
    const child = shell(`${block('sh', 'front')}trap 'kill $(jobs -p); wait' TERM; wait`);
    let output = '';
    child.stdout!.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr!.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const closed = once(child, 'close');
    try {
      while (output.match(/^ready$/gm)?.length !== 2) {
        expect(child.exitCode, output).to.equal(null);
        await once(child.stdout!, 'data');
      }
      expect(output).to.include('"path":"vm0.sock"');
      const vm = await RemoteVm.connect(join(directory, 'vm0.sock'));
      await vm.start(1);
      await vm.guest.flush(1);
      await vm.close();
      const control = await FrontControl.connect(join(directory, 'front0.sock'), { source: '', destination: '' });
      expect((await control.status()).controller).to.deep.include({ socket: 'dpuA.sock' });
      await control.close();
    } finally {
      child.kill('SIGTERM');
      await closed;
    }
  });

  it('the commands of live migration, on a controller at work', async () => {
    await writeFile(join(directory, 'lm.yaml'), block('yaml', 'lm'));
    await whileServing('nvmeferry target --config lm.yaml', async (connected) => {
      const host = shell(`exec ${block('sh', 'lmhost').trim()}`);
      const ended = once(host, 'close');
      try {
        await connected;
        const output = await runToEnd(block('sh', 'lm'));
        expect(output)
          .to.match(/suspend of controller 1/)
          .and.to.match(/resume of controller 1/)
          .and.to.match(/^Block 12: namespaces/m);
        expect(host.exitCode, 'the host goes on').to.equal(null);
      } finally {
        host.kill('SIGTERM');
        await ended;
      }
    });
  });

  it('configuration file', async () => {
    await writeFile(join(directory, 'target.yaml'), block('yaml', 'config'));
    const output = await whileServing(block('sh', 'config'), async () => {});
    expect(output)
      .to.match(/file, 10 GiB/)
      .and.to.match(/memory, 1 GiB, 512-byte/);
  });
});
