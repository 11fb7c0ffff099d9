/**
 * kill -9 of the `nvmeferry front` while its VM's controller moves. The VM has lost its device for ever, but the move ends as any other: moved, or as
 * before; and a VM that is started again with another front, where the controller is by then, has all that it was told is written.
 */
import { rm } from 'node:fs/promises';
import { expect } from 'chai';
import { ControllerPair, OTHER, type Side } from '../support/controller-pair.ts';
import type { KillAt } from '../support/kill-at.ts';
import { MigrateProcess } from '../support/migrate-process.ts';
import { needNative } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';

const BYTES = 1 << 20;
const BLOCK = 4096;
const LBAS = BLOCK / 512;
const PLACES = BYTES / BLOCK;
const OK = 0;
const LOST = 3;
const PATIENCE_S = 10;

/** A VM that writes numbers that grow until it has no device any more, and what it was told. */
class Life {
  readonly vm: RemoteVm;
  readonly #over: Promise<void>;
  readonly #acknowledged: Uint32Array;

  private constructor(vm: RemoteVm, over: Promise<void>, acknowledged: Uint32Array) {
    this.vm = vm;
    this.#over = over;
    this.#acknowledged = acknowledged;
  }

  static async begin(path: string, acknowledged: Uint32Array): Promise<Life> {
    let end = (): void => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    const vm = await RemoteVm.connect(path, end);
    await vm.start(1);
    const life = new Life(vm, over, acknowledged);
    await life.checkAll();
    return life;
  }

  async checkAll(): Promise<void> {
    for (let place = 0; place < PLACES; place++) {
      const found = await this.vm.guest.read(1, place * LBAS, LBAS);
      const number = new DataView(found.buffer, found.byteOffset).getUint32(0, true);
      expect(number, `place ${place}`).to.be.at.least(this.#acknowledged[place]!);
    }
  }

  /** Until the device is gone. */
  async write(): Promise<void> {
    const isOver = this.#over.then(() => true);
    const data = Buffer.alloc(BLOCK);
    for (let n = 1; ; n++) {
      const place = (n * 37) % PLACES;
      const number = this.#acknowledged[place]! + 1;
      data.writeUInt32LE(number, 0);
      const written = this.vm.guest.write(1, place * LBAS, data).then(() => false);
      written.catch(() => {});
      if (await Promise.race([written, isOver])) return;
      this.#acknowledged[place] = number;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  close(): Promise<void> {
    return this.vm.close();
  }
}

describe('nvmeferry migrate of a controller, and kill -9 of its front', function () {
  this.timeout(180_000);
  let pair: ControllerPair | undefined;
  let life: Life | undefined;
  let at: Side = 'a';
  const acknowledged = new Uint32Array(PLACES);

  before(async function () {
    needNative(this as unknown as Mocha.Context);
    pair = await ControllerPair.start(BYTES);
    life = await Life.begin(pair.socket('vm'), acknowledged);
  });
  after(async () => {
    await life?.close();
    await pair?.close();
  });

  const begin = (killAt: KillAt): MigrateProcess =>
    new MigrateProcess([...pair!.arguments(at), '--overwrite', '--blackout', '20000', '--patience', `${PATIENCE_S}`], {
      killAt,
    });

  /** The machine is started again: another front, where the controller is. */
  async function startAgain(): Promise<void> {
    const open = { a: await pair!.open('a'), b: await pair!.open('b') };
    const side = open.a[0] === true ? 'a' : 'b';
    expect(open).to.deep.equal({ [side]: [true, true], [OTHER[side]]: [false, false] });
    at = side;
    await life!.close();
    life = undefined;
    await pair!.frontProcess.end('SIGKILL');
    await pair!.startFront(side);
    life = await Life.begin(pair!.socket('vm'), acknowledged);
    await rm(pair!.journal, { force: true });
  }

  const CASES: readonly (readonly [step: string, state: 'begun' | 'done', end: 'moved' | 'as-before'])[] = [
    ['pre-copy', 'begun', 'as-before'],
    ['suspend', 'done', 'moved'],
    ['state', 'done', 'moved'],
    ['attach', 'done', 'moved'],
    ['open-destination', 'done', 'moved'],
  ];
  for (const [step, state, end] of CASES) {
    it(`${step} ${state}: ${end}`, async () => {
      const from = at;
      const writing = life!.write();
      const move = begin({ step, state, pid: pair!.frontProcess.pid });
      const code = await move.ended;
      await writing;
      expect(move.outcome, move.stderr).to.equal(end);
      expect(code, move.stderr).to.equal(end === 'moved' ? OK : LOST);
      const { warnings } = move.report as unknown as { warnings: string[] };
      expect(
        warnings.filter((text) => /is gone .*and with it the device of its VM: start another front/.test(text)),
      ).to.have.length(1);
      if (end === 'as-before') {
        expect(move.stderr.trim()).to.match(/^nvmeferry: .*Front at .*control\.sock: .*; everything is as before$/);
      }
      await startAgain();
      expect(at).to.equal(end === 'moved' ? OTHER[from] : from);
    });
  }

  for (const [step, verb, end] of [
    ['suspend', '--abort', 'as-before'],
    ['commit', '--resume', 'moved'],
  ] as const) {
    it(`of the orchestrator as well, ${step} done, then ${verb}: ${end}`, async () => {
      const from = at;
      const writing = life!.write();
      const move = begin({ step, state: 'done' });
      expect(await move.ended, 'killed').to.equal(null);
      await pair!.frontProcess.end('SIGKILL');
      await writing;
      const recovered = new MigrateProcess([verb, '--journal', pair!.journal, '--patience', `${PATIENCE_S}`]);
      expect(await recovered.ended, recovered.stderr).to.equal(OK);
      expect(recovered.outcome).to.equal(end);
      await startAgain();
      expect(at).to.equal(end === 'moved' ? OTHER[from] : from);
    });
  }
});
