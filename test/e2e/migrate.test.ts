/** `nvmeferry migrate` between two targets while a host writes: it sees a pause and never an error, and everything it was told is written is there. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../src/initiator/namespace.ts';
import { cli } from '../support/cli.ts';
import { MovePair } from '../support/move-pair.ts';

const BLOCK = 4096;

/** Writes blocks of a number that grows, one after the other in each lane, and knows which was acknowledged last. */
class Writer {
  readonly #namespace: HostNamespace;
  readonly #blocks: number;
  readonly acknowledged = new Map<number, number>();
  readonly issued = new Map<number, number>();
  #stop = false;
  #count = 0;
  #lanes: Promise<void>[] = [];
  longestMs = 0;

  constructor(namespace: HostNamespace, blocks: number) {
    this.#namespace = namespace;
    this.#blocks = blocks;
  }

  begin(lanes = 4): void {
    this.#lanes = Array.from({ length: lanes }, (_, lane) => this.#lane(lane, lanes));
  }

  async #lane(lane: number, lanes: number): Promise<void> {
    const data = Buffer.alloc(BLOCK);
    const blockSize = this.#namespace.blockSize;
    while (!this.#stop) {
      const number = ++this.#count;
      const place = ((number * 7919) % Math.floor(this.#blocks / lanes)) * lanes + lane;
      data.fill(number & 0xff);
      data.writeUInt32LE(number, 0);
      this.issued.set(place, number);
      const startMs = performance.now();
      await this.#namespace.write((place * BLOCK) / blockSize, data);
      this.longestMs = Math.max(this.longestMs, performance.now() - startMs);
      this.acknowledged.set(place, number);
      await new Promise((resolve) => setTimeout(resolve, 5)); // a guest that thinks, too
    }
  }

  /** @throws what the host was told */
  async end(): Promise<void> {
    this.#stop = true;
    await Promise.all(this.#lanes);
  }

  async expectAll(namespace: HostNamespace, what: string): Promise<void> {
    for (const [place, number] of this.acknowledged) {
      const block = Buffer.from(
        await namespace.read((place * BLOCK) / namespace.blockSize, BLOCK / namespace.blockSize),
      );
      expect(block.readUInt32LE(0), `${what}: block ${place}`).to.equal(number);
      expect(block[BLOCK - 1], `${what}: end of block ${place}`).to.equal(number & 0xff);
    }
  }
}

describe('nvmeferry migrate', function () {
  this.timeout(180_000);
  let pair: MovePair;
  let host: MultipathSubsystem | undefined;

  afterEach(async () => {
    await host?.close();
    host = undefined;
    await pair?.close();
  });

  const migrate = (...args: string[]): ReturnType<typeof cli> =>
    cli(['migrate', '--blackout', '20000', ...args], { env: { XDG_STATE_HOME: pair.folder } });
  const events = (stdout: string): Record<string, unknown>[] =>
    stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  it('moves a namespace under a host that writes, and back', async () => {
    pair = await MovePair.start();
    host = await pair.host();
    const namespace = await host.namespace(1);
    // sparse: a sixteenth is allocated
    const blocks = (4 << 20) / BLOCK;
    const writer = new Writer(namespace, blocks);
    writer.begin();
    const report = join(pair.folder, 'report.html');
    const there = await migrate(
      pair.uri('a'),
      pair.uri('b'),
      '--output',
      'json',
      '--verify',
      'full',
      '--report',
      report,
    );
    expect(there.code, there.stderr + there.stdout).to.equal(0);
    const said = events(there.stdout);
    expect(
      said.filter(({ event, state }) => event === 'step' && state === 'done').map(({ step }) => step),
    ).to.deep.equal([
      ...[
        'close-destination',
        'announce',
        'pre-copy',
        'close-source',
        'last-copy',
        'commit',
        'open-destination',
        'clean-up',
      ],
    ]);
    const { bytes, blackoutMs, outcome } = said.at(-1) as {
      bytes: { moved: number; minimum: number };
      blackoutMs: number;
      outcome: string;
    };
    expect(outcome).to.equal('moved');
    expect(blackoutMs).to.be.greaterThan(0);
    expect(bytes.moved, 'bytes moved').to.be.at.most(1.1 * bytes.minimum);
    expect(bytes.moved, 'holes are not copied').to.be.below(64 << 20);
    expect(await readFile(report, 'utf8')).to.match(/<svg[\s\S]*<polyline/);
    const atMove = writer.acknowledged.size;
    await writer.end();
    expect(atMove).to.be.greaterThan(0);
    await pair.managed('b', (moved) => writer.expectAll(moved, 'at B'));

    const again = new Writer(namespace, blocks);
    again.begin();
    const back = await migrate(pair.uri('b'), pair.uri('a'), '--overwrite');
    expect(back.code, back.stderr).to.equal(0);
    expect(back.stdout)
      .to.match(/moved to nvme\+tcp:\/\/127\.0\.0\.1:\d+\//)
      .and.to.match(/pause .* ms/);
    await again.end();
    await pair.managed('a', (moved) => again.expectAll(moved, 'back at A'));
  });

  it('a dry run tells what would be, and touches nothing', async () => {
    pair = await MovePair.start();
    await pair.managed('a', (namespace) => namespace.write(0, new Uint8Array(1 << 20).fill(7)));
    const plan = await migrate(pair.uri('a'), pair.uri('b'), '--dry-run');
    expect(plan.code, plan.stderr).to.equal(0);
    expect(plan.stdout)
      .to.match(/namespace 1: 64\.0 MiB, copied/)
      .and.to.match(/to copy: 1\.0 MiB; epoch \d+/);
    expect(plan.stdout)
      .to.match(/with a pause of about [\d.]+ ms/)
      .and.to.match(/nothing stands against it/);
    expect((await stat(join(pair.folder, 'b.img'))).blocks).to.equal(0);
    host = await pair.host();
    await (await host.namespace(1)).write(0, new Uint8Array(4096));
  });

  it('refuses what would lose data or cannot be, by name and remedy', async () => {
    pair = await MovePair.start({ destinationSize: 32, destinationUuid: '11111111-2222-3333-4444-555555555555' });
    const refused = await migrate(pair.uri('a'), pair.uri('b'));
    expect(refused.code, refused.stdout).to.equal(5);
    expect(refused.stderr).to.match(/has \d+ blocks of \d+ bytes, the source has \d+ of \d+: make it the same/);
    expect(refused.stderr).to.match(
      /has UUID 1{8}2{4}.*, the source has 0c9d7a52.*: give it the identity of the source/,
    );
    await pair.close();

    pair = await MovePair.start();
    await pair.managed('b', (namespace) => namespace.write(0, new Uint8Array(4096).fill(1)));
    const holding = await migrate(pair.uri('a'), pair.uri('b'), '--dry-run');
    expect(holding.code).to.equal(5);
    expect(holding.stdout).to.match(
      /refused: Namespace 1 at .* holds data: empty it, or say that it may be overwritten/,
    );
  });

  it('says who is not there, and who does not let it manage', async () => {
    pair = await MovePair.start();
    await pair.target('b').end();
    const gone = await migrate(pair.uri('a'), pair.uri('b'));
    expect(gone.code, gone.stderr).to.equal(3);
    expect(gone.stderr).to.match(/refused th/);
    await pair.startTarget('b');
    const stranger = await migrate(pair.uri('a').replace('mover', 'stranger'), pair.uri('b'));
    expect(stranger.code).to.equal(2);
    expect(stranger.stderr).to.match(/host .*:stranger manages no migration there: add it to the managers/);
    const journal = join(pair.folder, 'none.journal');
    for (const verb of ['--status', '--abort', '--resume']) {
      const none = await migrate(verb, '--journal', journal);
      expect(none.code).to.equal(2);
      expect(none.stderr).to.match(/none\.journal cannot be read/);
    }
    expect((await migrate(pair.uri('a'))).stderr).to.match(/no destination is named/);
    const unwritable = await migrate(pair.uri('a'), pair.uri('b'), '--report', join(pair.folder, 'none', 'move.html'));
    expect(unwritable).to.include({ code: 2, stdout: '' });
    expect(unwritable.stderr).to.match(/--report: .*move\.html cannot be written/);
    await writeFile(journal, 'not a journal\n');
    expect((await migrate('--status', '--journal', journal)).code).to.equal(3);
  });
});
