import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HypervisorProgram } from '../../../src/orchestrator/hypervisor-program.ts';
import { NvmeofError } from '../../../src/util/error.ts';

describe("a program of the operator's, for the hypervisors", function () {
  this.timeout(120_000);
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-hypervisor-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function program(text: string, options?: { callMs: number }): HypervisorProgram {
    writeFileSync(join(folder, 'vm'), text, { mode: 0o755 });
    return new HypervisorProgram(join(folder, 'vm'), options);
  }

  const script = (text: string, options?: { callMs: number }): HypervisorProgram =>
    program(`#!/bin/sh\n${text}\n`, options);

  async function failureOf(act: Promise<void>): Promise<NvmeofError> {
    const error = await act.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).to.be.instanceOf(NvmeofError);
    return error as NvmeofError;
  }

  it('is called with what is to be done, and where', async () => {
    const made = script(`echo "$@" >> ${folder}/calls`);
    await made.pause();
    await made.attach('destination');
    await made.resume('source');
    expect(readFileSync(join(folder, 'calls'), 'utf8')).to.equal('pause\nattach destination\nresume source\n');
  });

  it('whatever it prints is not ours to print, and it may print a lot', async () => {
    const made = script('head -c 300000 /dev/zero; head -c 300000 /dev/urandom >&2; exit 0');
    await made.pause();
  });

  it('one that fails is quoted: its last line, and nothing that a terminal would obey', async () => {
    const cases: readonly (readonly [string, RegExp])[] = [
      ['echo first >&2; echo "the domain is locked" >&2; exit 7', /vm pause ended with 7: the domain is locked$/],
      ['exit 3', /vm pause ended with 3$/],
      ['kill -9 $$', /vm pause was ended by SIGKILL$/],
      ["printf '\\033[31mred\\033[0m\\007 alert\\r\\n\\n' >&2; exit 1", /ended with 1: red alert$/],
      ["head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", /ended with 1: x{300}\.\.\.$/],
      // what it says is heard even if it ends at once, and what it has started keeps the pipe open
      ['sleep 30 & echo "no such domain" >&2; exit 1', /ended with 1: no such domain$/],
    ];
    for (const [text, message] of cases) {
      const error = await failureOf(script(text).pause());
      expect(error.code, text).to.equal('NVMEOF_ERR_HYPERVISOR');
      expect(error.message, text).to.match(message);
      expect(error.message).to.not.match(/\n/);
    }
    const binary = await failureOf(script('head -c 3000 /dev/urandom >&2; exit 1').pause());
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none of these must be there
    expect(binary.message).to.not.match(/[\x00-\x1f\x7f-\x9f]/);
  });

  it('one that does not end is ended, with what it has started', async () => {
    const made = script(`sleep 1000 & echo $! > ${folder}/child; echo "waiting for a lock" >&2; wait`, {
      callMs: 1000,
    });
    const error = await failureOf(made.attach('destination'));
    expect(error.message).to.match(
      /vm attach destination took longer than 1000 ms: it has to end soon, hosts wait: waiting for a lock$/,
    );
    const child = readFileSync(join(folder, 'child'), 'utf8').trim();
    const state = spawnSync('sh', ['-c', `cut -d' ' -f3 /proc/${child}/stat`])
      .stdout.toString()
      .trim();
    expect(state === '' || state === 'Z', `child is ${state}`).to.equal(true);
  });

  it('one that cannot be run is said to be that, before and in the move', async () => {
    const gone = new HypervisorProgram(join(folder, 'none'));
    expect((await failureOf(gone.check())).message).to.match(
      /none cannot be run \(ENOENT\); name a program or script$/,
    );
    expect((await failureOf(gone.pause())).message).to.match(/none pause cannot be run \(ENOENT\)$/);
    mkdirSync(join(folder, 'folder'));
    expect((await failureOf(new HypervisorProgram(join(folder, 'folder')).check())).message).to.match(/\(EISDIR\)/);
    const nothing = program('\x00\x01 no program'); // which the shell gets, and makes nothing of
    expect((await failureOf(nothing.pause())).message).to.match(/vm pause (ended with 12\d|cannot be run \(ENOEXEC\))/);
    chmodSync(join(folder, 'vm'), 0o644);
    expect((await failureOf(nothing.check())).message).to.match(/vm cannot be run \(EACCES\)/);
    expect(existsSync(join(folder, 'vm'))).to.equal(true);
  });
});
