/** Moves of several namespaces of different shapes on real targets: block sizes, 1 TiB with little in it, and sizes that change meanwhile. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { HostController } from '../../../src/initiator/controller.ts';
import type { DeviceFront, End } from '../../../src/orchestrator/end.ts';
import { FabricEnd } from '../../../src/orchestrator/fabric-end.ts';
import { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import type { MoveEvent } from '../../../src/orchestrator/move-options.ts';
import { bytesOf, type MoveReport } from '../../../src/orchestrator/move-report.ts';
import type { MoveTuning } from '../../../src/orchestrator/move-spec.ts';
import { IoOpcode } from '../../../src/spec/opcode.ts';
import type { PciFunction } from '../../../src/transport/pcie/pci-function.ts';
import { systemClock } from '../../../src/util/clock.ts';
import { Guest, type GuestCommand } from '../../../src/vm/guest.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import { ModelJournal } from '../../support/model-end.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const CNTLID = 77;
const TEBIBYTE = 2 ** 40;
/** By NSID - 1. */
const SHAPES = [
  { blockSize: 512, blockCount: 16_384 },
  { blockSize: 4096, blockCount: 2048 },
  { blockSize: 4096, blockCount: TEBIBYTE / 4096 },
] as const;
const uuidOf = (nsid: number): string => `0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1a${nsid}`;

class Side {
  readonly target: TestTarget;
  readonly end: FabricEnd;
  readonly function: PciFunction;

  private constructor(target: TestTarget) {
    this.target = target;
    this.end = new FabricEnd({
      address: '127.0.0.1',
      port: target.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: MANAGER_NQN,
      katoMs: 0,
    });
    this.function = target.target.addFunction(target.subsystem, { vectorCount: 4, cntlid: CNTLID }).function;
  }

  static async start(closed: boolean): Promise<Side> {
    const target = await startManaged({ empty: true, state: new MemoryStateStore() });
    for (const [i, shape] of SHAPES.entries()) {
      const nsid = i + 1;
      target.target.addNamespace(target.subsystem, {
        nsid,
        backend: new MemoryBackend(shape),
        uuid: uuidOf(nsid),
        closed,
      });
    }
    return new Side(target);
  }

  resize(nsid: number, blockCount: number): Promise<void> {
    const sizeBytes = blockCount * SHAPES[nsid - 1]!.blockSize;
    return this.target.target.resizeNamespace(this.target.subsystem, nsid, sizeBytes);
  }

  isOpen(nsid: number): boolean {
    return this.target.subsystem.namespaces.find((one) => one?.nsid === nsid)?.fence.isClosed === false;
  }

  async close(): Promise<void> {
    await this.end.close();
    await this.target.close();
  }
}

/** That object, but for one method. */
function but<T extends object>(object: T, name: keyof T, method: unknown): T {
  return new Proxy(object, {
    get(target, asked): unknown {
      if (asked === name) return method;
      const value: unknown = Reflect.get(target, asked, target);
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value;
    },
  });
}

/** A target that has the queue only. */
const withoutBitmap = (end: End): End =>
  but(end, 'namespaces', async () =>
    (await end.namespaces()).map((namespace) => but(namespace, 'followsChanges', async () => false)),
  );

const messageOf = (move: Promise<unknown>): Promise<string> =>
  move.then(
    () => 'no failure',
    (error: Error) => error.message,
  );

describe('moves of namespaces of different shapes', function () {
  this.timeout(120_000);
  let a: Side;
  let b: Side;
  let guest: Guest;
  /** Value of the newest write of each block. */
  let written: Map<string, number>;
  let page: number;
  let gate: Promise<void> | undefined;
  let openGate: (() => void) | undefined;

  beforeEach(async () => {
    a = await Side.start(false);
    b = await Side.start(true);
    guest = new Guest();
    guest.plug(a.function);
    await guest.start(1, 64);
    page = guest.ram.allocate(4096);
    written = new Map();
  });
  afterEach(async () => {
    await a.close();
    await b.close();
    expect([...a.target.fatal, ...b.target.fatal]).to.deep.equal([]);
  });

  const front: DeviceFront = {
    pause: async () => {
      let open = (): void => {};
      gate ??= new Promise((resolve) => {
        open = resolve;
      });
      openGate ??= open;
    },
    attach: async (at) => {
      const to = (at === 'source' ? a : b).function;
      if (guest.function === to) return;
      guest.unplug();
      guest.plug(to);
    },
    resume: async () => {
      gate = undefined;
      openGate?.();
      openGate = undefined;
    },
    close: async () => {},
  };

  /** Its accesses wait while the device is between two ends. */
  async function command(fields: GuestCommand): Promise<void> {
    while (gate !== undefined) await gate;
    const { status } = await guest.command(guest.queues[1]!, fields);
    expect(status).to.equal(0);
  }

  /** One block, by the guest. */
  async function write(nsid: number, slba: number, value: number): Promise<void> {
    const { blockSize } = SHAPES[nsid - 1]!;
    guest.ram.fill(page, blockSize, value);
    await command({ opcode: IoOpcode.Write, nsid, prp1: page, cdw10: slba >>> 0, cdw11: Math.floor(slba / 2 ** 32) });
    written.set(`${nsid}/${slba}`, value);
  }

  async function deallocate(nsid: number, slba: number, blockCount: number): Promise<void> {
    await command({
      ...{ opcode: IoOpcode.WriteZeroes, nsid, cdw10: slba >>> 0, cdw11: Math.floor(slba / 2 ** 32) },
      cdw12: 0x0200_0000 | (blockCount - 1),
    });
    for (let at = slba; at < slba + blockCount; at++) written.set(`${nsid}/${at}`, 0);
  }

  /** A few MiB in each, in the last one at both ends and in between. */
  async function fill(): Promise<void> {
    for (let i = 0; i < 256; i++) {
      await write(1, i * 24, 1 + (i % 250));
      await write(2, i * 7, 1 + (i % 249));
      const { blockCount } = SHAPES[2];
      await write(3, [0, blockCount / 2, blockCount - 256][i % 3]! + i, 1 + (i % 248));
    }
  }

  async function changeSome(round: number): Promise<void> {
    for (let i = 0; i < 12; i++) {
      await write(1, 5 * i + round, 200 + i);
      await write(2, 2047 - 9 * i - round, 201 + i);
      await write(3, SHAPES[2].blockCount - 1 - 3 * i, 202 + i);
    }
    await deallocate(2, 16 * round, 16);
    await deallocate(3, SHAPES[2].blockCount / 2, 64);
  }

  function move(
    tuning: MoveTuning,
    onEvent: (event: MoveEvent) => void = () => {},
    source: End = a.end,
  ): Promise<MoveReport> {
    return new Move({
      source,
      destination: b.end,
      front,
      journal: new ModelJournal(),
      clock: systemClock,
      spec: { kind: 'controller', controller: { source: CNTLID, destination: CNTLID } },
      tuning: { blackoutBudgetMs: 60_000, retryMs: 1, ...tuning },
      onEvent,
    }).run();
  }

  async function expectAll(side: Side): Promise<void> {
    const controller = await HostController.connect({
      address: '127.0.0.1',
      port: side.target.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: MANAGER_NQN,
      katoMs: 0,
    });
    try {
      for (const [place, value] of written) {
        const [nsid, slba] = place.split('/').map(Number) as [number, number];
        const data = await (await controller.namespace(nsid)).read(slba, 1);
        expect([data[0], data.at(-1)], `namespace ${nsid}, block ${slba}`).to.deep.equal([value, value]);
      }
    } finally {
      await controller.close();
    }
  }

  for (const changes of ['bitmap', 'queue'] as const) {
    for (const queueEntries of changes === 'queue' ? [undefined, 2] : [undefined]) {
      const how = queueEntries === undefined ? changes : `a queue of ${queueEntries} entries`;
      it(`512 B and 4 KiB blocks, and 1 TiB with a MiB in it, by ${how}: no more than that is moved`, async () => {
        await fill();
        const work: Promise<void>[] = [];
        const report = await move({ changes, queueEntries }, (event) => {
          if (event.event === 'step' && event.step === 'pre-copy' && event.state === 'begun') work.push(changeSome(0));
        });
        await Promise.all(work);
        expect(report.outcome).to.equal('moved');
        await expectAll(b);
        const { minimum, moved } = bytesOf(report);
        expect(report.namespaces.map(({ nsid }) => nsid)).to.deep.equal([1, 2, 3]);
        expect(moved, 'bytes moved').to.be.at.most(1.1 * minimum);
        // 256 blocks each, and the changes: all else of the tebibyte is not touched
        expect(minimum).to.be.at.most((queueEntries === undefined ? 4 : 16) * (3 << 20));
        // some of it may be deallocated before it is read
        expect(report.namespaces[2]!.readBytes).to.be.at.least(200 * 4096);
        await write(3, 77, 99);
        await expectAll(b);
      });
    }
  }

  const isBegun = (event: MoveEvent, step: string): boolean =>
    event.event === 'step' && event.step === step && event.state === 'begun';

  for (const changes of ['bitmap', 'queue'] as const) {
    for (const [what, step, resize] of [
      ['grows while it is copied', 'round', () => a.resize(1, 20_000)],
      ['grows in the pause', 'close-source', () => a.resize(2, 4096)],
      ['grows in the pause at the destination', 'close-source', () => b.resize(2, 4096)],
      ['shrinks in the pause', 'close-source', () => a.resize(1, 8192)],
    ] as const) {
      it(`a namespace that ${what}, followed by ${changes}: as before, and it says what to do`, async () => {
        await fill();
        const resizing: Promise<void>[] = [];
        const failure = await move({ changes }, (event) => {
          if (isBegun(event, step) || (event.event === step && resizing.length === 0)) resizing.push(resize());
        }).then(
          () => undefined,
          (error: unknown) => error,
        );
        await Promise.all(resizing);
        expect(failure).to.be.instanceOf(MoveError);
        const { outcome, message } = failure as MoveError;
        expect(outcome).to.equal('as-before');
        expect(message)
          .to.match(/Namespace [12].* has (20000|4096|8192) blocks/)
          .and.to.match(/same size/);
        expect([a.isOpen(1), a.isOpen(2), b.isOpen(1), b.isOpen(2)]).to.deep.equal([true, true, false, false]);
        await write(2, 9, 77);
        if (what !== 'shrinks in the pause') await expectAll(a);
      });
    }
  }

  it('the bitmap is taken where there is one, else the queue, and what is asked for is refused where it is not there', async () => {
    await fill();
    const source = withoutBitmap(a.end);
    expect(await messageOf(move({ changes: 'bitmap' }, undefined, source))).to.match(
      /no log of changes of namespace 1, 2, 3/,
    );
    const options = { destination: b.end, journal: new ModelJournal(), clock: systemClock };
    const ofHosts = (end: End, changes: 'auto' | 'queue'): Promise<MoveReport> =>
      new Move({ ...options, source: end, spec: { kind: 'namespaces' }, tuning: { changes } }).run();
    expect(await messageOf(ofHosts(a.end, 'queue'))).to.match(/hosts may come at any time: use the bitmap/);
    expect(await messageOf(ofHosts(source, 'auto'))).to.match(/no log of changes/);
    const { record, outcome } = await move({}, undefined, source);
    expect([record?.changes, outcome]).to.deep.equal(['queue', 'moved']);
    await expectAll(b);
  });

  const host = (): Promise<HostController> =>
    HostController.connect({
      ...{ address: '127.0.0.1', port: a.target.port.service, subnqn: SUBSYSTEM_NQN, katoMs: 0 },
      hostnqn: 'nqn.2024-01.org.example:host',
    });

  it('the queue is refused while another controller may write, and one that comes later ends the move', async () => {
    await fill();
    const first = await host();
    const other = /controller \d+ may change namespace 1 as well, and the queue has the changes of one only: detach it/;
    expect(await messageOf(move({ changes: 'queue' }))).to.match(other);
    await first.close();
    let late: Promise<HostController> | undefined;
    const slow = { changes: 'queue', bytesPerSecond: 4 << 20 } as const;
    const said = await messageOf(
      move(slow, (event) => {
        if (isBegun(event, 'pre-copy')) late = host();
      }),
    );
    expect(said)
      .to.match(other)
      .and.to.match(/everything is as before/);
    await (await late)?.close();
    await write(1, 3, 9);
    await expectAll(a);
  });

  it('a destination that is larger or smaller is refused before anything is touched', async () => {
    for (const blockCount of [4096, 1024]) {
      await b.resize(2, blockCount);
      const failure = await move({}).then(
        () => undefined,
        (error: unknown) => error,
      );
      expect((failure as MoveError).code).to.equal('NVMEOF_ERR_MOVE_REFUSED');
      expect((failure as MoveError).message).to.match(
        new RegExp(`Namespace 2 .* ${blockCount} blocks of 4096 bytes, the source has 2048 of 4096: make it the same`),
      );
    }
  });
});
