import { spawnSync } from 'node:child_process';
import { expect } from 'chai';
import { createLogger, type Logger } from '../../../src/log/logger.ts';
import { rateLimitedWarn } from '../../../src/log/rate-limited.ts';
import { ConfigError } from '../../../src/util/error.ts';
import { ManualClock } from '../../support/manual-clock.ts';

type Line = Record<string, unknown>;

function capture(level?: string, env: NodeJS.ProcessEnv = {}): { logger: Logger; lines: Line[]; text: () => string } {
  const raw: string[] = [];
  const lines: Line[] = [];
  const destination = {
    write(line: string): void {
      raw.push(line);
      lines.push(JSON.parse(line) as Line);
    },
  };
  return { logger: createLogger({ level, env, destination }), lines, text: () => raw.join('') };
}

describe('log', () => {
  it('hides secrets, at the top, one level down and in bindings', () => {
    const { logger, lines, text } = capture();
    for (const key of ['psk', 'dhchapKey', 'dhchapCtrlKey', 'tlsKey']) {
      logger.info({ [key]: 'geheim', host: { [key]: 'geheim', nqn: 'a' } }, 'connect');
      logger.child({ [key]: 'geheim' }).info({}, 'child');
    }
    expect(text()).to.not.contain('geheim');
    expect(lines).to.have.length(8);
    expect(lines[0]).to.deep.include({ psk: '[redacted]', host: { psk: '[redacted]', nqn: 'a' }, msg: 'connect' });
  });

  it('writes no payload, only its size', () => {
    const { logger, lines, text } = capture();
    const payload = Buffer.from('SECRETBLOCK'.repeat(10));
    const view = new Uint8Array(payload);
    logger.info({ data: payload, io: { view, segments: [view, view], cid: 3 }, ranges: [1, 2] }, 'write');
    logger.child({ cntlid: 1 }).warn({ data: view }, 'again');
    expect(text()).to.not.contain('SECRETBLOCK');
    expect(text(), 'as numbers').to.not.contain('83,69,67').and.not.contain('"0":83');
    expect(lines[0]).to.deep.include({
      data: '[110 bytes]',
      io: { view: '[110 bytes]', segments: ['[110 bytes]', '[110 bytes]'], cid: 3 },
      ranges: [1, 2],
    });
    expect(lines[1]).to.include({ data: '[110 bytes]' });
  });

  it('does not change the object logged', () => {
    const { logger } = capture();
    const object = { psk: 'x', data: new Uint8Array(3), host: { psk: 'y' } };
    logger.info(object, 'connect');
    expect(object).to.deep.equal({ psk: 'x', data: new Uint8Array(3), host: { psk: 'y' } });
  });

  it('keeps the message, stack and code of errors', () => {
    const { logger, lines } = capture();
    logger.error({ err: new ConfigError('File is gone') }, 'open');
    expect(lines[0]!.err).to.include({ message: 'File is gone', code: 'NVMEOF_ERR_CONFIG' });
    expect(lines[0]).to.include({ level: 'error' });
  });

  it('has its level from the option, else the environment, else info', () => {
    expect(capture('debug', { NVMEFERRY_LOG_LEVEL: 'warn' }).logger.level).to.equal('debug');
    expect(capture(undefined, { NVMEFERRY_LOG_LEVEL: 'warn' }).logger.level).to.equal('warn');
    expect(capture(undefined, { NVMEFERRY_LOG_LEVEL: '' }).logger.level).to.equal('info');
    expect(capture().logger.level).to.equal('info');
    expect(() => capture('loud')).to.throw(ConfigError, 'Log level: found "loud"; allowed: fatal, error');
    expect(() => capture(undefined, { NVMEFERRY_LOG_LEVEL: 'x' })).to.throw(
      ConfigError,
      /^NVMEFERRY_LOG_LEVEL: found "x"/,
    );
  });

  it('goes to stderr, leaving stdout to the command', () => {
    const module = new URL('../../../src/log/logger.js', import.meta.url).href;
    const script = `import { createLogger } from ${JSON.stringify(module)}; createLogger({ env: {} }).info({ a: 1 }, 'hello'); process.exit(0);`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    expect(stdout).to.equal('');
    expect(JSON.parse(stderr)).to.include({ a: 1, msg: 'hello', level: 'info' });
  });

  describe('rate-limited warnings', () => {
    it('a few of each kind, then a count in the next interval', () => {
      const { logger, lines } = capture();
      const clock = new ManualClock();
      const warn = rateLimitedWarn(logger, { clock, intervalMs: 1000, burst: 2 });
      for (let i = 0; i < 10; i++) warn('bad-pdu', { i }, 'Bad PDU');
      warn('no-host', {}, 'Host is not allowed');
      expect(lines.map(({ msg, i }) => [msg, i])).to.deep.equal([
        ['Bad PDU', 0],
        ['Bad PDU', 1],
        ['Host is not allowed', undefined],
      ]);
      clock.advance(999);
      warn('bad-pdu', { i: 10 }, 'Bad PDU');
      expect(lines).to.have.length(3);
      clock.advance(1);
      warn('bad-pdu', { i: 11 }, 'Bad PDU');
      warn('bad-pdu', { i: 12 }, 'Bad PDU');
      expect(lines.slice(3).map(({ i, suppressed }) => [i, suppressed])).to.deep.equal([
        [11, 9],
        [12, undefined],
      ]);
    });

    it('remembers a bounded number of kinds', () => {
      const { logger, lines } = capture();
      const warn = rateLimitedWarn(logger, { clock: new ManualClock(), burst: 1 });
      warn('first', {}, 'first');
      for (let i = 0; i < 1023; i++) warn(`kind ${i}`, {}, 'x');
      warn('first', {}, 'first');
      expect(lines).to.have.length(1024);
      warn('one more', {}, 'x');
      warn('first', {}, 'first');
      expect(lines.at(-1)).to.include({ msg: 'first' });
    });
  });
});
