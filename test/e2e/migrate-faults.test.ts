/**
 * A move of a namespace between two targets under real faults: each party is killed at a step, links are stalled, swallowed, half closed and reset. What
 * is left is resumed or aborted, and the end is always one of two: moved, or as before; the host sees no error, and all that it was told is written is
 * there.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { LiveMigration } from '../../src/initiator/live-migration.ts';
import type { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { HostWriter } from '../support/host-writer.ts';
import { type MigrateEvent, MigrateProcess } from '../support/migrate-process.ts';
import { MOVED_NQN, MOVER_NQN, MovePair } from '../support/move-pair.ts';

type Side = 'a' | 'b';
const OTHER: Readonly<Record<Side, Side>> = { a: 'b', b: 'a' };
const SIZE_MIB = 16;
/** Slow enough that a fault meets the copying. */
const RATE = '32m';
const OK = 0;
const UNFINISHED = 7;
/** What takes long, too: NVMEFERRY_KILLS=0. */
const IS_WHOLE = process.env.NVMEFERRY_KILLS !== undefined;

describe('nvmeferry migrate, and everything that can go wrong', function () {
  this.timeout(120_000);
  let pair: MovePair;
  let proxies: Record<Side, FaultProxy>;
  let host: MultipathSubsystem;
  let writer: HostWriter;
  /** Where the namespace is. */
  let at: Side;

  before(async () => {
    pair = await MovePair.start({ sizeMiB: SIZE_MIB });
    proxies = { a: await FaultProxy.start(pair.ports.a), b: await FaultProxy.start(pair.ports.b) };
    host = await pair.host();
    writer = new HostWriter(await host.namespace(1));
    at = 'a';
    await writer.goesOn();
  });
  after(async () => {
    await host?.close();
    for (const proxy of Object.values(proxies ?? {})) await proxy.close();
    await pair?.close();
  });

  const journal = (): string => join(pair.folder, 'journal');
  const uri = (side: Side): string =>
    `nvme+tcp://127.0.0.1:${proxies[side].port}/${MOVED_NQN}?hostnqn=${MOVER_NQN}&keep-alive-tmo=2`;

  async function isOpen(side: Side): Promise<boolean> {
    const options = { address: '127.0.0.1', port: pair.ports[side], subnqn: MOVED_NQN, hostnqn: MOVER_NQN };
    const controller = await HostController.connect(options);
    try {
      return (await new LiveMigration(controller).fence(1)).isOpen;
    } finally {
      await controller.close();
    }
  }

  function begin(onEvent: (event: MigrateEvent) => void, ...more: readonly string[]): MigrateProcess {
    const args = ['--overwrite', '--blackout', '20000', '--rate', RATE, '--announce', 'off', '--patience', '5'];
    return new MigrateProcess([uri(at), uri(OTHER[at]), ...args, ...more, '--journal', journal()], { onEvent });
  }

  /** The operator goes on until nothing is left to do. */
  async function settle(code: number | null, verb: '--resume' | '--abort'): Promise<void> {
    let last = code;
    for (let attempt = 0; last !== OK && attempt < 6; attempt++) {
      const { ended } = new MigrateProcess([
        attempt === 0 ? verb : '--resume',
        '--journal',
        journal(),
        '--patience',
        '5',
      ]);
      last = await ended;
    }
    expect(last, 'something is left to do').to.equal(OK);
    const open = { a: await isOpen('a'), b: await isOpen('b') };
    expect(open.a !== open.b, `open: ${JSON.stringify(open)}`).to.equal(true);
    at = open.a ? 'a' : 'b';
    await rm(journal());
    await writer.goesOn();
  }

  /** Once, when the step is seen. */
  function when(step: string, state: string, act: () => void): (event: MigrateEvent) => void {
    let isDone = false;
    return (event) => {
      if (isDone || event.event !== 'step' || event.step !== step || event.state !== state) return;
      isDone = true;
      act();
    };
  }

  it('without any', async () => {
    const from = at;
    await settle(await begin(() => {}).ended, '--resume');
    expect(at).to.equal(OTHER[from]);
  });

  const STEPS = [
    'close-destination',
    'pre-copy',
    'close-source',
    'last-copy',
    'commit',
    'open-destination',
    'clean-up',
  ];
  STEPS.forEach((step, i) => {
    const verb = i % 2 === 0 ? '--resume' : '--abort';
    it(`kill -9 of the orchestrator at ${step}, then ${verb}`, async () => {
      const from = at;
      const migrate = begin(when(step, step === 'commit' ? 'done' : 'begun', () => migrate.signal('SIGKILL')));
      const code = await migrate.ended;
      await settle(code, verb);
      // an abort after the commit is refused, and resume then ends it
      const isCommitted = ['commit', 'open-destination', 'clean-up'].includes(step);
      if (!isCommitted) expect(at, 'as before').to.equal(from);
      else expect(at, 'moved').to.equal(OTHER[from]);
    });
  });

  for (const step of ['pre-copy', 'close-source', 'open-destination']) {
    for (const who of ['source', 'destination'] as const) {
      it(`kill -9 of the ${who} at ${step}`, async () => {
        const side = who === 'source' ? at : OTHER[at];
        let restarted: Promise<void> | undefined;
        const migrate = begin(
          when(step, 'begun', () => {
            restarted = pair
              .target(side)
              .end('SIGKILL')
              .then(() => pair.startTarget(side));
          }),
        );
        const code = await migrate.ended;
        await restarted;
        await settle(code, '--resume');
      });
    }
  }

  const FAULTS: Readonly<Record<string, (proxy: FaultProxy) => void>> = {
    reset: (proxy) => proxy.reset(),
    'half close': (proxy) => proxy.halfClose(),
    'stall of 300 ms': (proxy) => {
      proxy.mode = 'stall';
      setTimeout(() => proxy.heal(), 300);
    },
    delay: (proxy) => {
      proxy.delayMs = 5;
      setTimeout(() => proxy.heal(), 500);
    },
    blackhole: (proxy) => {
      proxy.mode = 'blackhole';
      proxy.refuses = true;
      setTimeout(() => proxy.heal(), 1500);
    },
  };
  for (const [name, act] of Object.entries(FAULTS)) {
    for (const [i, step] of ['pre-copy', 'last-copy'].entries()) {
      const who = (Object.keys(FAULTS).indexOf(name) + i) % 2 === 0 ? 'source' : 'destination';
      it(`${name} of the way to the ${who} at ${step}`, async () => {
        const proxy = proxies[who === 'source' ? at : OTHER[at]];
        const code = await begin(when(step, 'begun', () => act(proxy))).ended;
        proxy.heal();
        await settle(code, '--resume');
      });
    }
  }

  interface Cut {
    readonly who: readonly ('source' | 'destination')[];
    readonly step: string;
    readonly state: 'begun' | 'done';
    readonly end: 'moved' | 'as before';
    /** Hosts go on while it lasts. */
    readonly goesOn: boolean;
  }
  const CUTS: readonly Cut[] = [
    { who: ['destination'], step: 'last-copy', state: 'begun', end: 'as before', goesOn: true },
    ...(IS_WHOLE
      ? ([
          { who: ['destination'], step: 'pre-copy', state: 'begun', end: 'as before', goesOn: true },
          { who: ['source'], step: 'last-copy', state: 'begun', end: 'as before', goesOn: false },
          { who: ['source', 'destination'], step: 'last-copy', state: 'begun', end: 'as before', goesOn: false },
          { who: ['destination'], step: 'commit', state: 'done', end: 'moved', goesOn: false },
          { who: ['source', 'destination'], step: 'commit', state: 'done', end: 'moved', goesOn: false },
        ] as const)
      : []),
  ];
  for (const { who, step, state, end, goesOn } of CUTS) {
    it(`the way to the ${who.join(' and the ')} is cut at ${step} ${state}, for longer than its patience: ${end}, once it is mended`, async () => {
      const from = at;
      const cut = who.map((one) => proxies[one === 'source' ? at : OTHER[at]]);
      const migrate = begin(
        when(step, state, () => {
          for (const proxy of cut) proxy.mode = 'blackhole';
        }),
        ...['--blackout-limit', '500', '--patience', '1'],
      );
      expect(await migrate.ended, migrate.stderr).to.equal(UNFINISHED);
      expect(migrate.stderr).to.match(end === 'moved' ? /journal is kept.*--resume/ : /journal is kept.*--abort/);
      if (goesOn) await writer.goesOn();
      for (const proxy of cut) proxy.heal();
      const recovery = new MigrateProcess([end === 'moved' ? '--resume' : '--abort', '--journal', journal()]);
      expect(await recovery.ended, recovery.stderr).to.equal(OK);
      await settle(OK, '--resume');
      expect(at).to.equal(end === 'moved' ? OTHER[from] : from);
    });
  }

  it('in the end the host was told no error, and finds all that was acknowledged', async () => {
    await writer.end();
  });
});
