/**
 * What an operator does to a move under way: interrupts it, before and after its commit, once and twice; bounds its rate; and says what becomes of it when
 * the host writes as fast as it copies.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import type { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../src/initiator/namespace.ts';
import { cli, MAIN } from '../support/cli.ts';
import type { KillAt } from '../support/kill-at.ts';
import { MigrateProcess, type MigrateProcessOptions } from '../support/migrate-process.ts';
import { MOVED_NQN, MOVER_NQN, MovePair } from '../support/move-pair.ts';

type Side = 'a' | 'b';
const OTHER: Readonly<Record<Side, Side>> = { a: 'b', b: 'a' };
const OK = 0;
const USAGE = 2;
const BUDGET = 6;
const INTERRUPTED = 130;
const CHUNK = 64 << 10;
/** Rewritten all the time: with `RATE` a pause of half a second, whatever the rounds. */
const HOT_CHUNKS = 16;
const RATE = 2 << 20;
const BUDGET_MS = 300;
/** Two of them: what was not used before, and a chunk that has begun. */
const BURST_S = 0.2;

/** Writes the same MiB again and again, each chunk with a number that grows. */
class HotWriter {
  readonly #namespace: HostNamespace;
  readonly #acknowledged = new Uint32Array(HOT_CHUNKS);
  #count = 0;
  #stop = false;
  readonly #lanes: Promise<unknown>;

  constructor(namespace: HostNamespace) {
    this.#namespace = namespace;
    this.#lanes = Promise.all([0, 1].map((lane) => this.#lane(lane)));
    this.#lanes.catch(() => {});
  }

  async #lane(lane: number): Promise<void> {
    for (let i = 0; !this.#stop; i++) {
      const chunk = ((i * 2) % HOT_CHUNKS) + lane;
      const number = this.#acknowledged[chunk]! + 1;
      const data = Buffer.alloc(CHUNK, number & 0xff);
      data.writeUInt32LE(number, 0);
      await this.#namespace.write((chunk * CHUNK) / this.#namespace.blockSize, data);
      this.#acknowledged[chunk] = number;
      this.#count++;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  async goesOn(): Promise<void> {
    const enough = this.#count + 2 * HOT_CHUNKS;
    const wait = async (): Promise<void> => {
      while (this.#count < enough) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    await Promise.race([wait(), this.#lanes]);
  }

  /** @throws what the host was told, and what it finds */
  async end(): Promise<void> {
    this.#stop = true;
    await this.#lanes;
    const blocks = CHUNK / this.#namespace.blockSize;
    for (let chunk = 0; chunk < HOT_CHUNKS; chunk++) {
      const found = Buffer.from(await this.#namespace.read(chunk * blocks, blocks));
      const number = this.#acknowledged[chunk]!;
      expect([found.readUInt32LE(0), found[CHUNK - 1]], `chunk ${chunk}`).to.deep.equal([number, number & 0xff]);
    }
  }
}

describe('nvmeferry migrate, and its operator', function () {
  this.timeout(180_000);
  let pair: MovePair;
  let host: MultipathSubsystem;
  let writer: HotWriter;
  /** Where the namespace is. */
  let at: Side = 'a';

  before(async () => {
    pair = await MovePair.start({ sizeMiB: 8 });
    host = await pair.host();
    writer = new HotWriter(await host.namespace(1));
    await writer.goesOn();
  });
  after(async () => {
    try {
      await writer?.end();
    } finally {
      await host?.close();
      await pair?.close();
    }
  });
  afterEach(() => rm(journal(), { force: true }));

  const journal = (): string => join(pair.folder, 'journal');
  const common = (): string[] => ['--overwrite', '--announce', 'off', '--journal', journal()];
  const begin = (args: readonly string[], options: MigrateProcessOptions = {}): MigrateProcess =>
    new MigrateProcess([pair.uri(at), pair.uri(OTHER[at]), ...common(), ...args], options);
  const stepsOf = (process: MigrateProcess, state: string): unknown[] =>
    process.events.filter((event) => event.event === 'step' && event.state === state).map(({ step }) => step);
  const saysInterrupted = (process: MigrateProcess): boolean =>
    process.events.some(({ event }) => event === 'interrupted');

  describe('SIGINT', () => {
    const interruptAt = (step: string, state: KillAt['state']): MigrateProcessOptions => ({
      killAt: { step, state, signal: 'SIGINT' },
    });

    // the ends take theirs back side by side
    for (const [step, undone] of [
      ['pre-copy', ['pre-copy', 'announce', 'close-destination']],
      ['last-copy', ['close-source', 'last-copy', 'pre-copy', 'announce', 'close-destination']],
    ] as const) {
      it(`before the commit, at ${step}: it is undone`, async () => {
        const process = begin(['--blackout', '20000'], interruptAt(step, 'begun'));
        expect(await process.ended, process.stderr).to.equal(INTERRUPTED);
        expect(process.stderr.trim()).to.match(/^[^\n]*Interrupted; everything is as before$/);
        expect([saysInterrupted(process), process.outcome]).to.deep.equal([true, 'as-before']);
        const steps = stepsOf(process, 'undone');
        expect(steps).to.have.members(undone);
        const reopened = steps.indexOf('close-source');
        expect(reopened, 'the source is open before the destination may be used').to.be.below(
          steps.indexOf('close-destination'),
        );
        await writer.goesOn();
      });
    }

    it('after the commit: it is finished', async () => {
      const process = begin(['--blackout', '20000'], interruptAt('commit', 'done'));
      expect(await process.ended, process.stderr).to.equal(OK);
      expect([saysInterrupted(process), process.outcome]).to.deep.equal([true, 'moved']);
      at = OTHER[at];
      await writer.goesOn();
    });

    it('twice: it ends as it is, and the journal says the rest', async () => {
      const destination = pair.target(OTHER[at]);
      const process = begin(['--blackout', '20000'], {
        // which stands still: the move cannot be finished
        killAt: { step: 'commit', state: 'done', signal: 'SIGSTOP', pid: destination.pid },
        onEvent: ({ event, step, state }) => {
          if (event === 'interrupted' || (step === 'commit' && state === 'done')) process.signal('SIGINT');
        },
      });
      try {
        expect(await process.ended, process.stderr).to.equal(INTERRUPTED);
        expect(process.outcome).to.equal(undefined);
      } finally {
        destination.signal('SIGCONT');
      }
      const status = new MigrateProcess(['--status', '--journal', journal()]);
      expect(await status.ended, status.stderr).to.equal(OK);
      expect(status.events.at(-1)).to.include({ event: 'status', phase: 'committed' });
      const resumed = new MigrateProcess(['--resume', '--journal', journal()]);
      expect(await resumed.ended, resumed.stderr).to.equal(OK);
      at = OTHER[at];
      await writer.goesOn();
    });

    it('while an end does not answer: at once, and nothing was touched', async () => {
      const sockets: Socket[] = [];
      let process: MigrateProcess | undefined;
      const silent = createServer((socket) => {
        sockets.push(socket);
        process?.signal('SIGINT');
      });
      await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
      try {
        const { port } = silent.address() as AddressInfo;
        const uri = `nvme+tcp://127.0.0.1:${port}/${MOVED_NQN}?hostnqn=${MOVER_NQN}`;
        process = new MigrateProcess([pair.uri(at), uri, ...common()]);
        expect(await process.ended, process.stderr).to.equal(INTERRUPTED);
        expect(process.stderr.trim().split('\n').length, process.stderr).to.equal(1);
      } finally {
        for (const socket of sockets) socket.destroy();
        await new Promise((resolve) => silent.close(resolve));
      }
    });
  });

  describe('a host that writes as fast as it copies', () => {
    const limits = ['--rate', `${RATE}`, '--blackout', `${BUDGET_MS}`];

    it('--when-stuck refuse, as by default: as before', async () => {
      const process = begin(limits);
      expect(await process.ended, process.stderr).to.equal(BUDGET);
      expect(process.outcome).to.equal('as-before');
      await writer.goesOn();
    });

    it('--when-stuck ask without a terminal: refused before anything is touched, not waited for', async () => {
      const { code, stdout, stderr } = await cli([
        ...['migrate', 'nvme+tcp://127.0.0.1:9/nqn.none:a', 'nvme+tcp://127.0.0.1:9/nqn.none:a'],
        ...['--when-stuck', 'ask', '--journal', journal()],
      ]);
      expect(code, 'no end was looked for').to.equal(USAGE);
      expect(stdout).to.equal('');
      expect(stderr).to.match(
        /^.*migrate: --when-stuck ask: stdin is no terminal, so nobody could answer; say refuse, throttle or cut\n(?:\(--help.*\n)?$/,
      );
      expect(existsSync(journal())).to.equal(false);
    });

    it('--when-stuck ask on a terminal: asked until it is answered', async function () {
      if (spawnSync('script', ['--version']).status !== 0) this.skip();
      const args = [MAIN, 'migrate', pair.uri(at), pair.uri(OTHER[at]), ...common(), ...limits, '--when-stuck', 'ask'];
      const line = [process.execPath, ...args].map((word) => `'${word}'`).join(' ');
      // `script` makes the terminal, and writes to it what we write to it
      const terminal = spawn('script', ['-qec', line, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
      let said = '';
      const answers = ['x\r', 'u\r'];
      terminal.stdout.setEncoding('utf8').on('data', (text: string) => {
        said += text;
        const asked = said.split('or give [u]p? ').length - 1;
        if (asked > 2 - answers.length) terminal.stdin.write(answers.shift()!);
      });
      const [code] = (await once(terminal, 'close')) as [number];
      expect(code, said).to.equal(BUDGET);
      expect(answers, said).to.deep.equal([]);
      expect(said).to.match(/copying does not catch up: a cut now is a pause of about [^\n]*\r?\n/);
      expect(said)
        .to.match(/c, t, a or u is needed/)
        .and.match(/everything is as before/);
      await writer.goesOn();
    });

    it('--when-stuck cut: the longer pause is taken, as forecast; and --rate is kept', async () => {
      const process = begin([...limits, '--when-stuck', 'cut']);
      expect(await process.ended, process.stderr).to.equal(OK);
      const { outcome, blackoutForecastMs, rounds } = process.report as unknown as {
        outcome: string;
        blackoutForecastMs: number;
        rounds: { bytes: number; durationMs: number; atMs: number }[];
      };
      expect(outcome).to.equal('moved');
      expect(blackoutForecastMs).to.be.greaterThan(BUDGET_MS);
      const bytes = rounds.reduce((sum, round) => sum + round.bytes, 0);
      const first = rounds[0]!;
      const seconds = (rounds.at(-1)!.atMs - first.atMs + first.durationMs) / 1000;
      expect(bytes, `in ${seconds} s`).to.be.at.most(RATE * (seconds + BURST_S));
      at = OTHER[at];
      await writer.goesOn();
    });

    it('--throttle: its writes are held back until the pause is short enough', async () => {
      const process = begin([...limits, '--throttle']);
      expect(await process.ended, process.stderr).to.equal(OK);
      const { outcome, throttledTo, blackoutForecastMs } = process.report!;
      expect(outcome).to.equal('moved');
      expect(throttledTo).to.be.within(1, RATE);
      expect(blackoutForecastMs).to.be.at.most(BUDGET_MS);
      at = OTHER[at];
      await writer.goesOn();
    });
  });
});
