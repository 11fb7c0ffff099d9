/** The simulator itself: a run that makes no progress fails, and says what waits. */
import { spawnSync } from 'node:child_process';
import { expect } from 'chai';
import { modelStage } from './model-stage.ts';
import { scenarioOf } from './scenario.ts';
import { SimClock } from './sim-clock.ts';
import { type Drive, World } from './world.ts';

const quiet = { ...scenarioOf(1, 'namespaces'), faults: [] };

const waitsFor = async (drive: Drive): Promise<string> => {
  const { violation } = await new World(quiet, drive, modelStage).run();
  return violation?.message ?? 'nothing';
};

describe('simulator: progress', function () {
  this.timeout(60_000);

  it('a drive that waits for what never comes fails when its time is over, and says for what', async () => {
    const message = await waitsFor(async (_, { journal }) => {
      const never = (): Promise<never> => new Promise(() => {});
      await journal.note({ step: 'plan', state: 'done' });
      return never();
    });
    expect(message).to.match(/does not come to an end: the move \(its time is over, after \d+ events, at \d/);
    expect(message).to.include('the orchestrator has under way: nothing');
  });

  it('a step that gets no answer is named', async () => {
    const message = await waitsFor(async (_, { source }) => {
      const [namespace] = await source.namespaces();
      // hosts are turned away, and nobody lets them in again
      await namespace!.setFence(false, 9n);
      return new Promise(() => {});
    });
    expect(message).to.match(/hosts wait for: (read|write|deallocate|flush) \d+:\d+ \(command \d+, since/);
  });

  it('who asks again and again at one moment is found out', async () => {
    const clock = new SimClock();
    const again = (): void => void clock.setTimer(again, 0);
    again();
    expect(await clock.run(() => false, 1000)).to.equal('restless');
    expect(clock.nowMs()).to.equal(0);
    expect(clock.picture).to.match(/^1 at 0\.00 ms: again /);
  });

  it('and one for whom nothing comes any more', async () => {
    expect(await new SimClock().run(() => false, 1000)).to.equal('idle');
  });

  it('promises that go round for ever end the program, which says where', () => {
    const program = `
      import { watched } from ${JSON.stringify(new URL('./watchdog.js', import.meta.url).href)};
      async function roundAndRound() { for (;;) await undefined; }
      await watched(async () => roundAndRound(), { looks: 3, lookMs: 50 });
    `;
    const { signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      timeout: 50_000,
      killSignal: 'SIGTERM',
    });
    expect(signal).to.equal('SIGKILL');
    expect(stderr).to.include('The simulator stands still').and.to.include('at roundAndRound');
  });
});
