/**
 * Many hosts (200 in `npm run test:load`, fewer in `npm test`) with four I/O queues each connect, work and vanish without disconnecting, again and
 * again: half of them with a reset in the middle of their commands, half of them silently, so that only the keep alive timer ends them. Handles
 * and memory return to where they were.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { pattern, RawHost } from '../support/raw-host.ts';
import { BUFFER_BYTES_MAX, LOAD_NQN, type LoadFigures, type LoadRequest } from './target-process.ts';

const HOSTS = Number(process.env.NVMEFERRY_LOAD_HOSTS ?? 50);
const QUEUES = 4;
const CYCLES = Number(process.env.NVMEFERRY_LOAD_CYCLES ?? 1);
const KATO_MS = 10_000;
/** Hosts that connect at the same time. */
const BATCH = 25;
const DEPTH = 128;
/** A leaked queue of that depth has more than 64 KiB, and there are 250 or more. */
const HEAP_GROWTH_MAX = 4 << 20;

class LoadTarget {
  readonly #child: ChildProcess;

  constructor() {
    const script = fileURLToPath(new URL('./target-process.js', import.meta.url));
    this.#child = fork(script, { execArgv: ['--expose-gc'] });
  }

  figures(request: LoadRequest = {}): Promise<LoadFigures> {
    return new Promise((resolve, reject) => {
      const exited = (code: number | null): void => reject(new Error(`The target ended with ${code}`));
      this.#child.once('exit', exited);
      this.#child.once('message', (figures) => {
        this.#child.off('exit', exited);
        resolve(figures as LoadFigures);
      });
      this.#child.send(request);
    });
  }

  /** Asks until `condition` holds; the case's time limit ends it. */
  async until(condition: (figures: LoadFigures) => boolean, request: LoadRequest = {}): Promise<LoadFigures> {
    for (;;) {
      const figures = await this.figures(request);
      if (condition(figures)) return figures;
    }
  }

  async stop(): Promise<void> {
    const ended = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    this.#child.disconnect();
    await ended;
  }
}

async function connect(port: number): Promise<RawHost[]> {
  const admin = await RawHost.connect(port);
  await admin.icReq();
  expect((await admin.connectQueue({ subnqn: LOAD_NQN, katoMs: KATO_MS })).status).to.equal(0);
  await admin.enable();
  const queues: RawHost[] = [];
  for (let qid = 1; qid <= QUEUES; qid++) {
    const io = await RawHost.connect(port);
    await io.icReq();
    const fields = { subnqn: LOAD_NQN, cntlid: admin.cntlid, qid, sqsize: DEPTH - 1 };
    expect((await io.connectQueue(fields)).status).to.equal(0);
    queues.push(io);
  }
  return [admin, ...queues];
}

/** Some work that ends, and some that never will: a write whose data is owed, reads that are under way. */
async function work(hosts: readonly RawHost[]): Promise<void> {
  const [admin, ...queues] = hosts;
  void admin!.command({ opcode: 0x0c }).catch(() => {});
  for (const io of queues) {
    const data = pattern(4096, io.cntlid);
    expect((await io.write(8 * io.cntlid, data)).status).to.equal(0);
    expect((await io.read(8 * io.cntlid, 8)).data.length).to.equal(4096);
    for (let i = 0; i < 4; i++) void io.write(0, pattern(32_768, i), { by: 'r2t', manual: true }).catch(() => {});
    for (let i = 0; i < 4; i++) void io.read(i, 64).catch(() => {});
  }
}

describe('load: hosts that vanish', () => {
  let target: LoadTarget;
  before(() => {
    target = new LoadTarget();
  });
  after(() => target.stop());

  it(`${HOSTS} hosts x ${QUEUES} I/O queues work and vanish: memory and handles return to base`, async function () {
    this.timeout(60_000 * (1 + CYCLES));
    let base: LoadFigures | undefined;
    // the first cycle fills what is kept for reuse
    for (let cycle = 0; cycle <= CYCLES; cycle++) {
      const { port } = await target.figures();
      const all: RawHost[][] = [];
      for (let i = 0; i < HOSTS; i += BATCH) {
        all.push(...(await Promise.all(Array.from({ length: Math.min(BATCH, HOSTS - i) }, () => connect(port)))));
      }
      await Promise.all(all.map(work));
      const busy = await target.figures();
      expect(busy.connections).to.equal(HOSTS * (1 + QUEUES));
      expect(busy.controllers).to.equal(HOSTS);
      expect(busy.poolBytes, 'buffers while writes are owed').to.be.within(1, HOSTS * QUEUES * BUFFER_BYTES_MAX);

      const rude = all.filter((_, i) => i % 2 === 0).flat();
      for (const host of rude) host.socket.resetAndDestroy();
      await target.until(({ controllers }) => controllers === HOSTS / 2);
      // the others say nothing any more; nothing but time ends them
      const left = await target.until(({ connections }) => connections === 0, { advanceMs: KATO_MS });
      for (const host of all.flat()) host.destroy();
      await Promise.all(all.flat().map((host) => host.untilEnded()));
      expect(left).to.include({ controllers: 0, poolBytes: 0, timers: 0 });
      if (base === undefined) {
        base = left;
        continue;
      }
      expect(left.handles, 'handles of the process').to.equal(base.handles);
      expect(left.heapBytes - base.heapBytes, 'growth of the heap').to.be.below(HEAP_GROWTH_MAX);
      expect(left.buffersBytes - base.buffersBytes, 'growth of the buffers').to.be.below(HEAP_GROWTH_MAX);
    }
  });
});
