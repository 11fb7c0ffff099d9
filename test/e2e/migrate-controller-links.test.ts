/**
 * A move of a VM's controller while a link of the orchestrator fails at exactly one command: before that has its effect, after it, or so that it comes when
 * nobody waits any more; or the link is stalled, or swallows everything until the move has given up. The outcome of the command is unknown, and must not matter: the
 * end is moved, or as before, by what the journal and the fences say. The guest has seen a pause, nothing more; of the two controllers one is its own,
 * and the other nobody's.
 */
import { rm } from 'node:fs/promises';
import { expect } from 'chai';
import type { MoveReport } from '../../src/orchestrator/move-report.ts';
import { ControllerPair, OTHER, type Side } from '../support/controller-pair.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { GuestWriter } from '../support/guest-writer.ts';
import type { KillAt } from '../support/kill-at.ts';
import { COMMAND_FAULTS, commandsIn, type Fate, type MoveCommand } from '../support/link-faults.ts';
import { MigrateProcess } from '../support/migrate-process.ts';
import { needNative } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';
import { SteadyGuest } from '../support/steady-guest.ts';

const BYTES = 1 << 20;
const OK = 0;
const REFUSED = 5;
const UNFINISHED = 7;
const INTERRUPTED = 130;
const STALL_MS = 300;
/** The whole table takes minutes: NVMEFERRY_KILLS=0. */
const IS_WHOLE = process.env.NVMEFERRY_KILLS !== undefined;

type End = 'source' | 'destination';

/** A command to one end: the first of its kind, or the first after another one. */
interface Point {
  readonly to: End;
  readonly command: MoveCommand;
  readonly after?: { readonly to: End; readonly command: MoveCommand };
}

interface Case extends Point {
  readonly name: string;
  /** `undone`: the operator interrupts the move once the destination has the state. */
  readonly when: 'before the commit' | 'after the commit' | 'undone';
}

const STATE_IS_SET = { to: 'destination', command: 'set state' } as const;

const CLOSE_UNDONE = 'close-source undone at the destination';

const CASES: readonly Case[] = [
  { name: 'close-destination', to: 'destination', command: 'close', when: 'before the commit' },
  { name: 'suspend', to: 'source', command: 'suspend', when: 'before the commit' },
  { name: 'close-source', to: 'source', command: 'close', when: 'before the commit' },
  {
    ...{ name: 'state, get', to: 'source', command: 'get state', when: 'before the commit' },
    after: { to: 'source', command: 'close' },
  },
  { name: 'state, suspend', to: 'destination', command: 'suspend', when: 'before the commit' },
  { name: 'state, set', ...STATE_IS_SET, when: 'before the commit' },
  { name: 'attach', to: 'destination', command: 'get state', when: 'after the commit', after: STATE_IS_SET },
  { name: 'open-destination', to: 'destination', command: 'open', when: 'after the commit' },
  { name: 'resume', to: 'destination', command: 'resume', when: 'after the commit' },
  { name: 'clean-up', to: 'source', command: 'reset', when: 'after the commit' },
  {
    name: CLOSE_UNDONE,
    to: 'destination',
    command: 'close',
    when: 'undone',
    after: STATE_IS_SET,
  },
  { name: 'close-source undone', to: 'source', command: 'open', when: 'undone' },
  { name: 'suspend undone', to: 'source', command: 'resume', when: 'undone' },
  { name: 'state undone', to: 'destination', command: 'reset', when: 'undone' },
];

const GIVES_UP = 'swallowed on every connection until the move has given up';
/** Of the whole link, which is mended when the move's process has ended. */
const LINK_FAULTS: Readonly<Record<string, (proxy: FaultProxy) => Fate>> = {
  'stalled for a while': (proxy) => {
    proxy.mode = 'stall';
    setTimeout(() => proxy.heal(), STALL_MS);
    return { kept: false };
  },
  [GIVES_UP]: (proxy) => {
    proxy.mode = 'blackhole';
    return { kept: true };
  },
};
const HELD = 'held back until the move is over';
const IS_TOLD = /^(reset|half closed)/;
const KATO_S = 15;

/** Those that `npm test` has time for. */
const FEW: readonly (readonly [name: string, fault: string])[] = [
  ['state, set', 'reset before its answer arrives'],
  ['resume', 'reset before it arrives'],
];

const warningsOf = ({ report }: MigrateProcess): readonly string[] =>
  ((report ?? {}) as Partial<Pick<MoveReport, 'warnings'>>).warnings ?? [];

describe('nvmeferry migrate of a controller, and a command whose outcome is unknown', function () {
  this.timeout(120_000);
  let pair: ControllerPair | undefined;
  let proxies: Record<Side, FaultProxy>;
  let vm: RemoteVm | undefined;
  let guest: SteadyGuest;
  let writer: GuestWriter;
  /** Where the controller is. */
  let at: Side = 'a';

  before(async function () {
    needNative(this as unknown as Mocha.Context);
    pair = await ControllerPair.start(BYTES);
    proxies = { a: await FaultProxy.start(pair.port('a')), b: await FaultProxy.start(pair.port('b')) };
    vm = await RemoteVm.connect(pair.socket('vm'));
    guest = await SteadyGuest.start(vm, 2);
    writer = new GuestWriter(guest, BYTES);
    await writer.goesOn();
  });
  after(async () => {
    writer?.stop();
    await (guest ?? vm)?.close();
    for (const proxy of Object.values(proxies ?? {})) await proxy.close();
    await pair?.close();
  });

  const proxyOf = (end: End, from: Side): FaultProxy => proxies[end === 'source' ? from : OTHER[from]];

  /** Calls `act` when the command comes, once. @returns whether it has come */
  function whenSeen(
    point: Point,
    from: Side,
    act: (...args: Parameters<NonNullable<FaultProxy['tap']>>) => Fate,
  ): () => boolean {
    let isArmed = point.after === undefined;
    let isDone = false;
    for (const end of ['source', 'destination'] as const) {
      proxyOf(end, from).tap = (data, link) => {
        if (isDone) return 'passed';
        const commands = commandsIn(data);
        if (!isArmed) {
          isArmed = end === point.after!.to && commands.includes(point.after!.command);
          return 'passed';
        }
        if (end !== point.to || !commands.includes(point.command)) return 'passed';
        isDone = true;
        return act(data, link).kept ? 'kept' : 'passed';
      };
    }
    return () => isDone;
  }

  function begin(
    from: Side,
    { isUndone, katoS, patienceS }: { isUndone: boolean; katoS: number; patienceS: number },
  ): MigrateProcess {
    const ports = { a: proxies.a.port, b: proxies.b.port };
    const limits = ['--overwrite', '--blackout', '20000', '--patience', `${patienceS}`];
    const killAt: KillAt = { step: 'state', state: 'taken', signal: 'SIGINT' };
    return new MigrateProcess([...pair!.arguments(from, { ports, katoS }), ...limits], isUndone ? { killAt } : {});
  }

  /** What it has left is done by others; an abort is refused after the commit. @returns what they warn of */
  async function settle(code: number | null, verb: '--resume' | '--abort'): Promise<readonly string[]> {
    let last = code;
    const said: string[] = [];
    const warnings: string[] = [];
    for (let attempt = 0; [UNFINISHED, REFUSED].includes(last!) && attempt < 3; attempt++) {
      const recovery = new MigrateProcess([attempt === 0 ? verb : '--resume', '--journal', pair!.journal]);
      last = await recovery.ended;
      said.push(recovery.stderr);
      warnings.push(...warningsOf(recovery));
    }
    expect(last, `something is left to do: ${said.join('')}`).to.not.be.oneOf([UNFINISHED, REFUSED]);
    return warnings;
  }

  /** The guest has its device at one end; the controller of the other is as it was when its process began, or the move said that it is not. */
  async function expectServed(warnings: readonly string[], isSuspendedLate: boolean): Promise<void> {
    const isLeft = warnings.some((warning) =>
      /could not be reset, and stays suspended.*start its process anew/.test(warning),
    );
    at = await pair!.openSide();
    await writer.goesOn();
    await writer.checkAll();
    await pair!.expectJoined(at);
    expect(await pair!.controller(at)).to.deep.equal({ isSuspended: false, isEnabled: true });
    expect([guest.resets, guest.strays], 'the guest has seen a pause, nothing more').to.deep.equal([0, 0]);
    const other = await pair!.controller(OTHER[at]);
    expect(other, warnings.join('\n')).to.deep.equal({ isSuspended: isLeft || isSuspendedLate, isEnabled: isLeft });
    if (!isLeft) return;
    // as the warning says
    await pair!.dpu(OTHER[at]).end('SIGKILL');
    await pair!.startDpu(OTHER[at]);
  }

  for (const one of CASES) {
    for (const fault of [...Object.keys(COMMAND_FAULTS), ...Object.keys(LINK_FAULTS)]) {
      if (!IS_WHOLE && !FEW.some(([name, few]) => name === one.name && few === fault)) continue;
      it(`${one.name}, ${one.when}: ${fault}`, async () => {
        const from = at;
        const proxy = proxyOf(one.to, from);
        let late: (() => Promise<void>) | undefined;
        const isSeen = whenSeen(one, from, (data, link) => {
          const fate = COMMAND_FAULTS[fault]?.(data, link) ?? LINK_FAULTS[fault]!(proxy);
          late = fate.late;
          return fate;
        });
        const givesUp = fault === GIVES_UP;
        // a target without time-out keeps the connection for what is late; and who is told needs none
        const katoS = fault === HELD ? 0 : IS_TOLD.test(fault) ? KATO_S : 2;
        const migrate = begin(from, { isUndone: one.when === 'undone', katoS, patienceS: givesUp ? 1 : 20 });
        const code = await migrate.ended;
        const outcome = migrate.outcome;
        for (const other of Object.values(proxies)) other.tap = undefined;
        expect(isSeen(), `the command was there: ${migrate.stderr}`).to.equal(true);
        proxy.heal();
        const warnings = await settle(code, one.when === 'after the commit' ? '--resume' : '--abort');
        await late?.();
        // behind what is held waits the Suspend for the reset of "state undone": nobody uses that controller, and the next move takes it as it is
        const isSuspendedLate = fault === HELD && one.name === CLOSE_UNDONE;
        await expectServed([...warningsOf(migrate), ...warnings], isSuspendedLate);
        const isMoved = at !== from;
        if (one.when === 'after the commit') expect(isMoved, `exit ${code}: ${migrate.stderr}`).to.equal(true);
        else expect(isMoved, `exit ${code}: ${migrate.stderr}`).to.equal(code === OK);
        if (one.when === 'undone' && !givesUp) expect(code, migrate.stderr).to.equal(INTERRUPTED);
        if (code !== UNFINISHED) expect(outcome).to.equal(isMoved ? 'moved' : 'as-before');
        await rm(pair!.journal);
      });
    }
  }

  it('in the end its disk has given no error, and has all that was acknowledged', async () => {
    await writer.checkAll();
    await writer.end();
  });
});
