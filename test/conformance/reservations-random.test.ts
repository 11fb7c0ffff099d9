/** Random reservation commands and I/O of several hosts over several controllers, resets and losses of power, against a plain model. */
import { expect } from 'chai';
import { ControlledStateStore } from '../support/controlled-state-store.ts';
import { Random } from '../support/random.ts';
import { hostidOf, ReservationHost } from '../support/reservation-host.ts';
import { ReservationModel } from '../support/reservation-model.ts';
import { TestTarget } from '../support/test-target.ts';

const STEPS = 2000;
const HOSTS = [0xa, 0xb, 0xc, 0xd];
/** The first two hosts have two controllers each. */
const CONTROLLERS = [0xa, 0xa, 0xb, 0xb, 0xc, 0xd];
const nameOf = (digit: number): string => Buffer.from(hostidOf(digit)).toString('hex');

class Session {
  readonly random: Random;
  readonly model: ReservationModel = new ReservationModel();
  readonly store: ControlledStateStore = new ControlledStateStore();
  readonly history: string[] = [];
  t!: TestTarget;
  controllers: ReservationHost[] = [];
  /** What each controller has yet to read of log page 80h. */
  notices: number[][] = [];

  constructor(random: Random) {
    this.random = random;
  }

  async start(): Promise<void> {
    this.t = await TestTarget.start({ state: this.store });
    this.controllers = [];
    for (const digit of CONTROLLERS) this.controllers.push(await ReservationHost.connect(this.t, hostidOf(digit)));
    this.notices = CONTROLLERS.map(() => []);
  }

  async step(): Promise<void> {
    const { random, model } = this;
    const index = random.below(CONTROLLERS.length);
    const host = nameOf(CONTROLLERS[index]!);
    const controller = this.controllers[index]!;
    const mine = model.rows.find((row) => row.host === host)?.key ?? 0n;
    const key = random.oneIn(4) ? BigInt(random.below(4)) : mine;
    const other = BigInt(random.below(4));
    const kind = random.below(100);
    this.history.push(`${kind}@${index}`);
    if (kind < 30) {
      const [action, ignore, persistence] = [random.below(3), random.oneIn(4), random.pick([0, 0, 2, 3])];
      const expected = model.register(host, action, ignore, persistence, key, other);
      const cdw10 = action | (ignore ? 8 : 0) | (persistence << 30);
      await this.#expect(expected, controller.register(other, { currentKey: key, cdw10: cdw10 >>> 0 }));
    } else if (kind < 50) {
      const [action, type] = [random.below(3), random.below(6) + 1];
      const expected = model.acquire(host, action, type, key, other);
      await this.#expect(expected, controller.acquire(key, type, action, other));
    } else if (kind < 60) {
      const [action, type] = [random.oneIn(8) ? 1 : 0, random.oneIn(3) ? random.below(7) : model.rtype];
      const expected = model.release(host, action, type, key);
      await this.#expect(expected, controller.release(key, type, action));
    } else if (kind < 70) {
      await this.#expectIo(model.mayRead(host), controller.io.read(0, 1));
    } else if (kind < 80) {
      await this.#expectIo(model.mayWrite(host), controller.io.write(0, Buffer.alloc(512)));
    } else if (kind < 85) {
      await this.#expectIo(model.mayWrite(host), controller.io.command({ opcode: 0, nsid: 1 }));
    } else if (kind < 92) {
      expect(await controller.notices()).to.deep.equal(this.notices[index]);
      this.notices[index] = [];
    } else if (kind < 99) {
      await this.#reconnect(index);
    } else {
      await this.t.close();
      await this.start();
      model.powerLoss();
    }
  }

  async #expect(expected: number, command: Promise<{ code: number }>): Promise<void> {
    expect((await command).code).to.equal(expected);
    if (expected !== 0) return;
    for (const { host, type } of this.model.told) {
      for (const [i, digit] of CONTROLLERS.entries()) if (nameOf(digit) === host) this.notices[i]!.push(type);
    }
    this.model.told = [];
  }

  async #expectIo(allowed: boolean, command: Promise<{ code: number }>): Promise<void> {
    expect((await command).code).to.equal(allowed ? 0 : 0x83);
  }

  /** Its association ends and a new one begins: registrations stay, notices do not. */
  async #reconnect(index: number): Promise<void> {
    const { t } = this;
    const { cntlid } = this.controllers[index]!.admin;
    this.controllers[index]!.admin.destroy();
    await t.until(() => t.subsystem.controller(cntlid) === undefined);
    this.controllers[index] = await ReservationHost.connect(t, hostidOf(CONTROLLERS[index]!));
    this.notices[index] = [];
  }

  /** Every controller tells the same. */
  async compare(): Promise<void> {
    const { model, random } = this;
    const report = await random.pick(this.controllers).report();
    expect(report).to.deep.include({ gen: model.gen, rtype: model.rtype, ptpls: model.ptpl ? 1 : 0 });
    const expected = this.controllers.flatMap(({ hostid, admin }) => {
      const host = Buffer.from(hostid).toString('hex');
      const row = model.rows.find((one) => one.host === host);
      return row === undefined
        ? []
        : [{ cntlid: admin.cntlid, rcsts: model.isHolder(host) ? 1 : 0, rkey: row.key, hostid: host }];
    });
    expect(report.registrants).to.have.deep.members(expected);
  }
}

describe('conformance: reservations, random', function () {
  this.timeout(120_000);

  const seed = Number(process.env.NVMEFERRY_SEED ?? (Math.random() * 0x7fff_ffff) | 0);

  it(`${STEPS} steps of ${HOSTS.length} hosts and ${CONTROLLERS.length} controllers, seed ${seed}`, async () => {
    const session = new Session(new Random(seed));
    await session.start();
    try {
      for (let step = 0; step < STEPS; step++) {
        await session.step();
        if (step % 4 === 0) await session.compare();
      }
    } catch (error) {
      const where = `NVMEFERRY_SEED=${seed}, after ${session.history.length} steps (${session.history.slice(-8).join(' ')})`;
      throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
    } finally {
      await session.t.close();
    }
  });
});
