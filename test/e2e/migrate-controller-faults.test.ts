/**
 * A move of a VM's controller between two `nvmeferry dpu`, and kill -9 of every party at every step. What is left is resumed or aborted, and the end is
 * one of two: moved, or as before. The guest goes on: it resets its controller only if the process that ran it was killed, its disk gives no error, and all
 * that it was told is written is there.
 */
import fs from 'node:fs';
import { rm } from 'node:fs/promises';
import { expect } from 'chai';
import type { MoveReport } from '../../src/orchestrator/move-report.ts';
import { ControllerPair, OTHER, type Side } from '../support/controller-pair.ts';
import { GuestWriter } from '../support/guest-writer.ts';
import type { KillAt } from '../support/kill-at.ts';
import { MigrateProcess, type MigrateProcessOptions } from '../support/migrate-process.ts';
import { needNative } from '../support/native.ts';
import { Random, randomSeed } from '../support/random.ts';
import { RemoteVm } from '../support/remote-vm.ts';
import { SteadyGuest } from '../support/steady-guest.ts';

const BYTES = 1 << 20;
const OK = 0;
const REFUSED = 5;
const KILLED = null;
const PATIENCE_S = 10;
const BY_QUEUE = ['--changes', 'queue'];
/** Room for no more than a lane's next write: full again and again. */
const BY_FULL_QUEUE = [...BY_QUEUE, '--queue-entries', '2'];
/** By chance, and then the whole of the tables: NVMEFERRY_KILLS=50. */
const KILLS = Number(process.env.NVMEFERRY_KILLS ?? 0);
const IS_WHOLE = process.env.NVMEFERRY_KILLS !== undefined;
const ALL_CHANGES: Readonly<Record<string, readonly string[]>> = { bitmap: [], queue: BY_QUEUE, full: BY_FULL_QUEUE };
/** One for all: NVMEFERRY_KILLS_BY=queue. */
const BY = ALL_CHANGES[process.env.NVMEFERRY_KILLS_BY ?? ''];
/** In turn, so that every kind of kill meets each. */
const CHANGES: readonly (readonly string[])[] = BY !== undefined ? [BY] : IS_WHOLE ? Object.values(ALL_CHANGES) : [[]];

type Verb = '--resume' | '--abort';

describe('nvmeferry migrate of a controller, and kill -9', function () {
  this.timeout(180_000);
  let pair: ControllerPair | undefined;
  let vm: RemoteVm | undefined;
  let guest: SteadyGuest;
  let writer: GuestWriter;
  /** Where the controller is. */
  let at: Side = 'a';

  before(async function () {
    needNative(this as unknown as Mocha.Context);
    pair = await ControllerPair.start(BYTES);
    vm = await RemoteVm.connect(pair.socket('vm'));
    guest = await SteadyGuest.start(vm, 2);
    writer = new GuestWriter(guest, BYTES);
    await writer.goesOn();
  });
  after(async () => {
    writer?.stop();
    await (guest ?? vm)?.close();
    await pair?.close();
  });

  let moves = 0;
  const begin = ({
    patience = PATIENCE_S,
    changes = CHANGES[moves++ % CHANGES.length]!,
    ...options
  }: MigrateProcessOptions & { patience?: number; changes?: readonly string[] }): MigrateProcess =>
    new MigrateProcess(
      [...pair!.arguments(at), ...changes, '--overwrite', '--blackout', '20000', '--patience', `${patience}`],
      options,
    );
  const recover = (verb: Verb, options: MigrateProcessOptions = {}): MigrateProcess =>
    new MigrateProcess([verb, '--journal', pair!.journal, '--patience', `${PATIENCE_S}`], options);

  /** The operator goes on until nothing is left to do. @returns where the controller is */
  async function settle(code: number | null, verb: Verb): Promise<void> {
    const said: string[] = [];
    let last = code;
    for (let attempt = 0; last !== OK && attempt < 4; attempt++) {
      const process = recover(attempt === 0 ? verb : '--resume');
      last = await process.ended;
      said.push(process.stderr);
    }
    expect(last, `something is left to do: ${said.join('')}`).to.equal(OK);
    await expectServed();
    await rm(pair!.journal);
  }

  async function expectServed(): Promise<void> {
    at = await pair!.openSide();
    await writer.goesOn();
    await writer.checkAll();
    await pair!.expectJoined(at);
    expect(guest.strays, 'no completion twice').to.equal(0);
  }

  for (const [by, changes] of Object.entries({
    bitmap: [],
    queue: BY_QUEUE,
    'queue that becomes full': BY_FULL_QUEUE,
  })) {
    it(`nobody is killed, by the ${by}`, async () => {
      const from = at;
      const process = begin({ changes });
      expect(await process.ended, process.stderr).to.equal(OK);
      const report = process.report as unknown as MoveReport;
      expect(report.record?.changes).to.equal(by.split(' ')[0]);
      if (changes === BY_FULL_QUEUE) expect(report.queueOverflows).to.be.greaterThan(0);
      else expect(report.queueOverflows).to.equal(0);
      await settle(OK, '--resume');
      expect([at, guest.resets]).to.deep.equal([OTHER[from], 0]);
    });
  }

  describe('of the orchestrator', () => {
    const BEFORE = ['close-destination', 'pre-copy', 'suspend', 'close-source', 'last-copy', 'state'];
    const AFTER = ['attach', 'open-destination', 'resume', 'release', 'clean-up'];
    type Point = readonly [step: string, state: KillAt['state']];
    const taken = (step: string): Point => [step, 'taken'];
    const begun = (step: string): Point => [step, 'begun'];
    const CASES: readonly (readonly [points: readonly Point[], end: 'moved' | 'as before'])[] = [
      [[...['suspend', 'state'].map(begun), ...[...BEFORE, 'commit'].map(taken), ['commit', 'torn']], 'as before'],
      [[['commit', 'done'], begun('open-destination'), ...AFTER.map(taken)], 'moved'],
    ];
    if (IS_WHOLE) {
      (CASES[0]![0] as Point[]).push(...BEFORE.map(begun), ...BEFORE.map((step): Point => [step, 'done']));
      (CASES[1]![0] as Point[]).push(...AFTER.map(begun), ...AFTER.map((step): Point => [step, 'done']));
    }
    let turn = 0;
    for (const [points, end] of CASES) {
      for (const [step, state] of points) {
        const verb: Verb = turn++ % 2 === 0 ? '--resume' : '--abort';
        it(`${step} ${state}, then ${verb}: ${end}`, async () => {
          const from = at;
          const { resets } = guest;
          const killed = begin({ killAt: { step, state } });
          expect(await killed.ended, `killed: ${killed.stderr}`).to.equal(KILLED);
          if (verb === '--abort' && end === 'moved') {
            const refused = recover('--abort');
            expect(await refused.ended, refused.stderr).to.equal(REFUSED);
          }
          await settle(KILLED, end === 'moved' ? '--resume' : verb);
          expect(at).to.equal(end === 'moved' ? OTHER[from] : from);
          expect(guest.resets - resets, 'the guest has seen a pause, nothing more').to.equal(0);
        });
      }
    }

    const AGAIN: readonly (readonly [first: Point, verb: Verb, second: Point, end: 'moved' | 'as before'])[] = [
      [['state', 'done'], '--resume', ['close-source', 'undone'], 'as before'],
      [['state', 'taken'], '--abort', ['suspend', 'undone'], 'as before'],
      [['commit', 'done'], '--resume', ['attach', 'taken'], 'moved'],
      [['attach', 'done'], '--resume', ['resume', 'taken'], 'moved'],
    ];
    for (const [first, verb, second, end] of AGAIN) {
      it(`${first.join(' ')}, then of ${verb}: ${second.join(' ')}: ${end}`, async () => {
        const from = at;
        const { resets } = guest;
        const killed = begin({ killAt: { step: first[0], state: first[1] } });
        expect(await killed.ended, `killed: ${killed.stderr}`).to.equal(KILLED);
        const again = recover(verb, { killAt: { step: second[0], state: second[1] } });
        expect(await again.ended, `killed again: ${again.stderr}`).to.equal(KILLED);
        await settle(KILLED, verb);
        expect(at).to.equal(end === 'moved' ? OTHER[from] : from);
        expect(guest.resets - resets).to.equal(0);
      });
    }
  });

  describe('of a dpu, which is started again', () => {
    type Loss = 'goes on' | 'resets';
    /** When it comes back: while the move waits; when its process has given up; the orchestrator is killed first, and this one then. */
    type Back = 'at once' | 'later' | 'orchestrator too';
    interface Case {
      readonly who: 'source' | 'destination';
      readonly step: string;
      readonly state: 'begun' | 'done';
      readonly back: Back;
      /** Default: both are right. */
      readonly end?: 'moved' | 'as before';
      readonly guest: Loss;
      /** With the whole table only: another shows nearly the same. */
      readonly more?: true;
    }
    const CASES: readonly Case[] = [
      { who: 'source', step: 'pre-copy', state: 'begun', back: 'at once', guest: 'resets' },
      { who: 'source', step: 'suspend', state: 'begun', back: 'at once', guest: 'resets' },
      { who: 'source', step: 'close-source', state: 'begun', back: 'at once', guest: 'resets', more: true },
      { who: 'source', step: 'last-copy', state: 'begun', back: 'at once', guest: 'resets' },
      { who: 'source', step: 'state', state: 'done', back: 'at once', guest: 'goes on' },
      { who: 'source', step: 'commit', state: 'done', back: 'at once', end: 'moved', guest: 'goes on', more: true },
      { who: 'source', step: 'commit', state: 'done', back: 'later', end: 'moved', guest: 'goes on' },
      { who: 'source', step: 'last-copy', state: 'done', back: 'orchestrator too', end: 'as before', guest: 'resets' },
      { who: 'destination', step: 'pre-copy', state: 'begun', back: 'at once', guest: 'goes on' },
      { who: 'destination', step: 'last-copy', state: 'begun', back: 'at once', guest: 'goes on', more: true },
      { who: 'destination', step: 'state', state: 'done', back: 'at once', guest: 'goes on' },
      {
        who: 'destination',
        step: 'commit',
        state: 'done',
        back: 'at once',
        end: 'moved',
        guest: 'goes on',
        more: true,
      },
      { who: 'destination', step: 'commit', state: 'done', back: 'later', end: 'moved', guest: 'goes on' },
      { who: 'destination', step: 'commit', state: 'done', back: 'orchestrator too', end: 'moved', guest: 'goes on' },
      {
        who: 'destination',
        step: 'open-destination',
        state: 'begun',
        back: 'at once',
        end: 'moved',
        guest: 'resets',
        more: true,
      },
      { who: 'destination', step: 'resume', state: 'begun', back: 'orchestrator too', end: 'moved', guest: 'resets' },
      { who: 'destination', step: 'release', state: 'done', back: 'at once', end: 'moved', guest: 'resets' },
    ];
    for (const { who, step, state, back, end, guest: loss, more } of CASES) {
      if (more === true && !IS_WHOLE) continue;
      it(`${who}, ${step} ${state}, back ${back}: ${end ?? 'moved or as before'}, the guest ${loss}`, async () => {
        const from = at;
        const side = who === 'source' ? from : OTHER[from];
        const { resets } = guest;
        let restarted: Promise<void> | undefined;
        const restart = async (): Promise<void> => {
          await pair!.dpu(side).end('SIGKILL');
          await pair!.startDpu(side);
        };
        const process = begin({
          killAt: { step, state, ...(back === 'orchestrator too' ? {} : { pid: pair!.dpu(side).pid }) },
          onEvent: (event) => {
            if (back === 'at once' && event.step === step && event.state === state) restarted ??= restart();
          },
          ...(back === 'later' ? { patience: 1 } : {}),
        });
        const code = await process.ended;
        expect(restarted !== undefined, `killed while the move went on: ${process.stderr}`).to.equal(
          back === 'at once',
        );
        await (restarted ?? restart());
        await settle(code, '--resume');
        if (end !== undefined) expect(at, process.stderr).to.equal(end === 'moved' ? OTHER[from] : from);
        const lost = guest.resets - resets;
        if (loss === 'goes on') expect(lost, 'the guest has seen a pause, nothing more').to.equal(0);
        else expect(lost, 'its controller was lost').to.be.greaterThan(0);
      });
    }
  });

  describe('by chance', () => {
    const seed = randomSeed();
    for (let round = 0; round < KILLS; round++) {
      it(`NVMEFERRY_SEED=${seed}, round ${round}`, async () => {
        const random = new Random(seed + round);
        const parties = ['orchestrator', 'source', 'destination'] as const;
        const first = random.below(3);
        const victims = Array.from({ length: 1 + random.below(2) }, (_, i) => ({
          who: parties[(first + i * (1 + random.below(2))) % 3]!,
          // the first half of it is set-up and plan
          afterMs: 300 + random.below(900),
          backMs: random.below(800),
        }));
        const from = at;
        const process = begin({ patience: 4 });
        const done = victims.map(async ({ who, afterMs, backMs }) => {
          await new Promise((resolve) => setTimeout(resolve, afterMs));
          if (who === 'orchestrator') {
            process.signal('SIGKILL');
            return;
          }
          const side = who === 'source' ? from : OTHER[from];
          await pair!.dpu(side).end('SIGKILL');
          await new Promise((resolve) => setTimeout(resolve, backMs));
          await pair!.startDpu(side);
        });
        const code = await process.ended;
        await Promise.all(done);
        const verb = random.pick(['--resume', '--abort'] as const);
        const isBegun = fs.existsSync(pair!.journal) && fs.statSync(pair!.journal).size > 0;
        if (isBegun) await settle(code, verb);
        else await expectServed();
      });
    }
  });

  describe('in the end', () => {
    it('its disk has given no error, and has all that was acknowledged', async () => {
      await writer.checkAll();
      await writer.end();
    });
  });
});
