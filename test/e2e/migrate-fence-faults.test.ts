/**
 * The fence of a namespace, set over a connection that fails at exactly that command: before it has its effect, after it, or so that it comes when nobody waits any
 * more. Its outcome is unknown to the move, and must not matter: one side is open in the end, and what is late is too old.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { LiveMigration } from '../../src/initiator/live-migration.ts';
import type { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { HostWriter } from '../support/host-writer.ts';
import { COMMAND_FAULTS, commandsIn, type MoveCommand } from '../support/link-faults.ts';
import { MigrateProcess } from '../support/migrate-process.ts';
import { MOVED_NQN, MOVER_NQN, MovePair } from '../support/move-pair.ts';

type Side = 'a' | 'b';
const OTHER: Readonly<Record<Side, Side>> = { a: 'b', b: 'a' };
const OK = 0;

/** A command that sets a fence: of which side, and how many of that kind came there before. */
interface Fencing {
  readonly name: string;
  readonly who: 'source' | 'destination';
  readonly action: MoveCommand;
  readonly nth: number;
  /** By an operator who interrupts it in the last copy. */
  readonly isUndone?: true;
}

const FENCINGS: readonly Fencing[] = [
  { name: 'close-destination', who: 'destination', action: 'close', nth: 0 },
  { name: 'close-source', who: 'source', action: 'close', nth: 0 },
  { name: 'open-destination', who: 'destination', action: 'open', nth: 0 },
  // closed before by its step, and once more when copying began
  {
    name: 'the rollback closes the destination',
    who: 'destination',
    action: 'close',
    nth: 2,
    isUndone: true,
  },
  { name: 'the rollback opens the source', who: 'source', action: 'open', nth: 0, isUndone: true },
];

/** They take minutes: NVMEFERRY_KILLS=0. */
const suite = process.env.NVMEFERRY_KILLS === undefined ? (): void => {} : describe;

suite('nvmeferry migrate, and a fence whose outcome is unknown', function (this: Mocha.Suite) {
  this.timeout(120_000);
  let pair: MovePair;
  let proxies: Record<Side, FaultProxy>;
  let host: MultipathSubsystem;
  let writer: HostWriter;
  let at: Side = 'a';

  before(async () => {
    pair = await MovePair.start({ sizeMiB: 16 });
    proxies = { a: await FaultProxy.start(pair.ports.a), b: await FaultProxy.start(pair.ports.b) };
    host = await pair.host();
    writer = new HostWriter(await host.namespace(1));
    await writer.goesOn();
  });
  after(async () => {
    await host?.close();
    for (const proxy of Object.values(proxies ?? {})) await proxy.close();
    await pair?.close();
  });

  const journal = (): string => join(pair.folder, 'journal');
  const uri = (side: Side, katoS: number): string =>
    `nvme+tcp://127.0.0.1:${proxies[side].port}/${MOVED_NQN}?hostnqn=${MOVER_NQN}&keep-alive-tmo=${katoS}`;

  async function open(): Promise<readonly Side[]> {
    const found: Side[] = [];
    for (const side of ['a', 'b'] as const) {
      const options = { address: '127.0.0.1', port: pair.ports[side], subnqn: MOVED_NQN, hostnqn: MOVER_NQN };
      const controller = await HostController.connect(options);
      if ((await new LiveMigration(controller).fence(1)).isOpen) found.push(side);
      await controller.close();
    }
    return found;
  }

  for (const fencing of FENCINGS) {
    for (const [fault, act] of Object.entries(COMMAND_FAULTS)) {
      // without Keep Alive hosts would wait for as long as a command's time-out; and an open that is late opens nothing new
      if (fault.startsWith('held') && fencing.action === 'open') continue;
      it(`${fencing.name}: ${fault}`, async () => {
        const from = at;
        const proxy = proxies[fencing.who === 'source' ? from : OTHER[from]];
        let seen = 0;
        let late: (() => Promise<void>) | undefined;
        let isDone = false;
        proxy.tap = (data, link) => {
          if (isDone || !commandsIn(data).includes(fencing.action) || seen++ !== fencing.nth) return 'passed';
          isDone = true;
          const { kept, late: later } = act(data, link);
          late = later;
          return kept ? 'kept' : 'passed';
        };
        const args = ['--overwrite', '--blackout', '20000', '--announce', 'off', '--patience', '20'];
        // a target without time-out keeps the connection for what is late
        const katoS = fault.startsWith('held') ? 0 : 2;
        const migrate = new MigrateProcess(
          [uri(from, katoS), uri(OTHER[from], katoS), ...args, '--journal', journal()],
          {
            onEvent: ({ step, state }) => {
              if (fencing.isUndone && step === 'close-source' && state === 'begun') migrate.signal('SIGINT');
            },
          },
        );
        let code = await migrate.ended;
        proxy.tap = undefined;
        expect(isDone, `the command was there: ${migrate.stderr}`).to.equal(true);
        for (let attempt = 0; code === 7 && attempt < 3; attempt++) {
          code = await new MigrateProcess(['--resume', '--journal', journal()]).ended;
        }
        const where = await open();
        expect(where, `open, exit ${code}: ${migrate.stderr}`).to.deep.equal([code === OK ? OTHER[from] : from]);
        if (fencing.isUndone) expect(code, migrate.stderr).to.equal(130);
        at = where[0]!;
        await late?.();
        await writer.goesOn();
        expect(await open()).to.deep.equal(where);
        await rm(journal());
      });
    }
  }

  it('in the end the host was told no error, and finds all that was acknowledged', async () => {
    await writer.end();
  });
});
