import { expect } from 'chai';
import type { ConformanceCase } from '../../../src/conformance/case.ts';
import { CheckFailure, check, checkStatus, Inconclusive, NotApplicable } from '../../../src/conformance/check.ts';
import { peerOf, type Quirk } from '../../../src/conformance/quirks.ts';
import { ConnectionEnded } from '../../../src/conformance/raw-host.ts';
import { runCases, type Subject, summarize } from '../../../src/conformance/runner.ts';

interface Probe extends Subject {
  readonly notes: string[];
}

function caseOf(
  id: string,
  run: (probe: Probe) => Promise<void>,
  more: Partial<ConformanceCase<Probe>> = {},
): ConformanceCase<Probe> {
  return { id, title: `title of ${id}`, requirement: 'section', tags: ['probe'], run, ...more };
}

describe('conformance: verdicts', () => {
  let closed = 0;
  const run = (
    cases: ConformanceCase<Probe>[],
    more: { quirks?: Quirk[]; skip?: string } = {},
  ): ReturnType<typeof runCases<Probe>> =>
    runCases(cases, {
      subject: () => ({
        notes: [],
        close: async () => {
          closed++;
        },
      }),
      timeoutMs: 5000,
      quirks: more.quirks ?? [],
      skip: () => more.skip,
    });
  beforeEach(() => {
    closed = 0;
  });

  const throwing = (error: unknown): ConformanceCase<Probe> => caseOf('tcp-1', () => Promise.reject(error));
  for (const [name, error, verdict, reason] of [
    ['a check that does not hold', new CheckFailure('PFV: found 1, needed 0'), 'fail', /PFV: found 1/],
    [
      'a connection that ends',
      new ConnectionEnded('the target closed the connection'),
      'fail',
      /closed the connection/,
    ],
    ['a refused connection', Object.assign(new Error('connect'), { code: 'ECONNREFUSED' }), 'fail', /ECONNREFUSED/],
    ['what is not offered', new NotApplicable('no Compare (ONCS bit 0)'), 'not-applicable', /ONCS/],
    ['what proves nothing', new Inconclusive('still open'), 'inconclusive', /still open/],
    ['a bug in the case', new TypeError('x is not a function'), 'inconclusive', /internal error.*x is not a function/],
  ] as const) {
    it(`${name}: ${verdict}`, async () => {
      const [result] = await run([throwing(error)]);
      expect(result).to.include({ id: 'tcp-1', verdict });
      expect(result!.reason).to.match(reason);
      expect(closed).to.equal(1);
    });
  }

  it('a case that returns: pass, with its notes', async () => {
    const [result] = await run([
      caseOf('tcp-1', async (probe) => {
        probe.notes.push('seen');
      }),
    ]);
    expect(result).to.deep.include({ verdict: 'pass', reason: undefined, notes: ['seen'] });
  });

  it('a case that does not end: fail after its own time, and its subject is closed', async () => {
    const [result] = await run([caseOf('tcp-1', () => new Promise(() => {}), { timeoutMs: 5 })]);
    expect(result).to.include({ verdict: 'fail', reason: 'the case did not end within 5 ms' });
    expect(closed).to.equal(1);
  });

  it('a case that is left out: skipped, and nothing is opened', async () => {
    const [result] = await run([throwing(new Error('it ran'))], { skip: 'writes' });
    expect(result).to.include({ verdict: 'skipped', reason: 'writes' });
    expect(closed).to.equal(0);
  });

  const quirk: Quirk = { peer: 'nvmet', cases: ['tcp-1'], says: /^closed without/, because: 'it never says why' };
  it('a failure that the peer is known for: quirk; another failure, or another case, is not', async () => {
    const known = new CheckFailure('closed without C2HTermReq');
    const results = await run(
      [throwing(known), throwing(new CheckFailure('wrong: closed without')), { ...throwing(known), id: 'tcp-2' }],
      { quirks: [quirk] },
    );
    expect(results.map(({ verdict }) => verdict)).to.deep.equal(['quirk', 'fail', 'fail']);
    expect(results[0]!.because).to.equal('it never says why');
    expect(summarize(results)).to.deep.include({ quirk: 1, fail: 2, pass: 0 });
  });

  it('a quirk does not excuse what is inconclusive', async () => {
    const any: Quirk = { ...quirk, cases: ['*'], says: /.*/ };
    expect((await run([throwing(new Inconclusive('x'))], { quirks: [any] }))[0]!.verdict).to.equal('inconclusive');
  });

  it('a signal ends the run behind the case that runs', async () => {
    const abort = new AbortController();
    const cases = [caseOf('tcp-1', async () => abort.abort()), throwing(new Error('it ran'))];
    const results = await runCases(cases, {
      subject: () => ({ notes: [], close: async () => {} }),
      timeoutMs: 5000,
      quirks: [],
      skip: () => undefined,
      signal: abort.signal,
    });
    expect(results.map(({ id }) => id)).to.deep.equal(['tcp-1']);
  });

  it('knows peers by their model numbers', () => {
    expect(['Linux', 'SPDK bdev Controller', 'nvmeferry', 'ACME'].map(peerOf)).to.deep.equal([
      'nvmet',
      'spdk',
      'nvmeferry',
      undefined,
    ]);
  });
});

describe('conformance: checks', () => {
  const message = (body: () => void): string => {
    try {
      body();
    } catch (error) {
      expect(error).to.be.instanceOf(CheckFailure);
      return (error as Error).message;
    }
    return '';
  };

  it('say what was found and what is needed', () => {
    expect(message(() => check.equal(1, 2, 'CPDA'))).to.equal('CPDA: found 1, needed 2');
    expect(message(() => check.oneOf(3, [1, 2], 'SUBTYPE'))).to.equal('SUBTYPE: found 3, needed one of 1, 2');
    expect(message(() => check.bytes(Buffer.from([1, 2, 3]), Buffer.from([1, 9, 3]), 'block'))).to.equal(
      'block: byte 1 is 2, needed 9',
    );
    expect(message(() => check.bytes(Buffer.alloc(2), Buffer.alloc(3), 'block'))).to.match(/found 2 bytes, needed 3/);
    expect(message(() => check.zeroes(Buffer.from([0, 5]), 'PAD'))).to.equal('PAD: byte 1 is 5, needed 0');
    expect(message(() => checkStatus({ code: 0x02 }, [0x0f, 0x16], 'Write', 'io'))).to.match(
      /^Write: found 0x002 Invalid Field.*, needed 0x00f Data SGL Length Invalid or 0x016 SGL Offset Invalid$/,
    );
  });

  it('hold when they hold', () => {
    expect(message(() => check.equal([1, 'a'], [1, 'a'], 'x'))).to.equal('');
    expect(message(() => check.bytes(Buffer.from([1]), new Uint8Array([1]), 'x'))).to.equal('');
    expect(message(() => checkStatus({ code: 0 }, 0, 'x'))).to.equal('');
  });
});
