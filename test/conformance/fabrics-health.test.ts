/** Critical warnings and temperature thresholds as asynchronous events: sheet of commands 8.2 (LID 02h), 9 (features 04h, 0Bh), 10.1. */
import { expect } from 'chai';
import type { BackendHealth } from '../../src/backend/block-backend.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const ALL = 0xffff_ffff;
const TEMPERATURE = 0x0002_0101;
const SPARE = 0x0002_0201;
const RELIABILITY = 0x0002_0001;
const Warning = { Spare: 1, Temperature: 2, Reliability: 4, ReadOnly: 8 } as const;

/** A backend on a device that says how it is. */
class SickBackend extends CopyBackend {
  #health: BackendHealth = {
    criticalWarning: 0,
    mediaErrors: 0n,
    device: {
      temperatureKelvin: 310,
      availableSpare: 50,
      availableSpareThreshold: 10,
      percentageUsed: 7,
      powerCycles: 3n,
      powerOnHours: 9n,
      unsafeShutdowns: 1n,
    },
  };
  #listener: () => void = () => {};

  health(): BackendHealth {
    return this.#health;
  }
  watchHealth(listener: () => void): void {
    this.#listener = listener;
  }
  becomes(criticalWarning: number, temperatureKelvin = 310): void {
    this.#health = { ...this.#health, criticalWarning, device: { ...this.#health.device!, temperatureKelvin } };
    this.#listener();
  }
}

describe('conformance: critical warnings', () => {
  let t: TestTarget;
  let admin: RawHost;
  let backend: SickBackend;
  beforeEach(async () => {
    t = await TestTarget.start();
    backend = new SickBackend({});
    t.target.addNamespace(t.subsystem, { nsid: 2, backend });
    admin = await t.admin();
  });
  afterEach(() => t.close());

  const aer = (host = admin): Promise<Completion> => host.command({ opcode: 0x0c });
  const warning = async (rae = false): Promise<number> => (await admin.logPage(2, 512, { nsid: ALL, rae })).data[0]!;
  async function silent(event: Promise<unknown>): Promise<boolean> {
    let ended = false;
    void event.then(
      () => {
        ended = true;
      },
      () => {}, // the connection ends with the test
    );
    await settle();
    return !ended;
  }

  for (const [bit, name, dw0] of [
    [Warning.Spare, 'spare below its threshold', SPARE],
    [Warning.Temperature, 'temperature', TEMPERATURE],
    [Warning.Reliability, 'reliability', RELIABILITY],
    [Warning.ReadOnly, 'media that became read only', RELIABILITY],
  ] as const) {
    it(`${name}: an event if its bit of 0Bh is set, and the bit of the log page`, async () => {
      await admin.setFeature(0x0b, bit);
      const event = aer();
      backend.becomes(bit);
      expect((await event).result0).to.equal(dw0);
      expect(await warning()).to.equal(bit);
    });
  }

  it('no event without its bit; one when the bit is set later, because the warning still stands', async () => {
    await admin.setFeature(0x0b, 0xff & ~Warning.Reliability);
    const event = aer();
    backend.becomes(Warning.Reliability);
    expect(await silent(event)).to.equal(true);
    expect(await warning(true)).to.equal(Warning.Reliability);
    await admin.setFeature(0x0b, 0xff);
    expect((await event).result0).to.equal(RELIABILITY);
  });

  it('one event per warning while it stands; again when it comes back; each type after its log page was read', async () => {
    await admin.setFeature(0x0b, 0xff);
    const [first, second] = [aer(), aer()];
    backend.becomes(Warning.Spare);
    expect((await first).result0).to.equal(SPARE);
    backend.becomes(Warning.Spare | Warning.Reliability);
    expect(await silent(second), 'masked until LID 02h is read').to.equal(true);
    expect(await warning(true)).to.equal(Warning.Spare | Warning.Reliability);
    expect(await silent(second), 'RAE 1 keeps it so').to.equal(true);
    await warning();
    expect(await silent(second), 'the page told of both').to.equal(true);
    backend.becomes(Warning.Spare | Warning.Reliability);
    expect(await silent(second), 'nothing new').to.equal(true);
    backend.becomes(0);
    expect(await silent(second), 'its end is no event').to.equal(true);
    backend.becomes(Warning.Spare);
    expect((await second).result0).to.equal(SPARE);
  });

  it("04h: a threshold that is crossed is the host's own: event and bit 1 for the one that set it", async () => {
    const other = await t.admin();
    await admin.setFeature(0x0b, 0xff);
    await other.setFeature(0x0b, 0xff);
    const [event, theirs] = [aer(), aer(other)];
    expect((await admin.setFeature(4, 311)).status).to.equal(0);
    expect(await silent(event), '310 K is below 311 K').to.equal(true);
    expect((await admin.setFeature(4, 310)).status).to.equal(0);
    expect((await event).result0, 'and at 310 K').to.equal(TEMPERATURE);
    expect(await warning()).to.equal(Warning.Temperature);
    expect(await silent(theirs)).to.equal(true);
    expect((await other.logPage(2, 512, { nsid: ALL })).data[0]).to.equal(0);
  });

  it('04h: the under temperature threshold likewise, and both when the temperature moves', async () => {
    await admin.setFeature(0x0b, 0xff);
    let event = aer();
    await admin.setFeature(4, 309 | (1 << 20));
    await admin.setFeature(4, 320);
    expect(await silent(event)).to.equal(true);
    backend.becomes(0, 309);
    expect((await event).result0).to.equal(TEMPERATURE);
    await warning();
    event = aer();
    backend.becomes(0, 315);
    expect(await silent(event), 'in between').to.equal(true);
    expect(await warning()).to.equal(0);
    backend.becomes(0, 320);
    expect((await event).result0).to.equal(TEMPERATURE);
  });

  it('a warning that stands over a reset is told again', async () => {
    backend.becomes(Warning.Reliability);
    for (const round of ['before', 'after']) {
      await admin.setFeature(0x0b, 0xff);
      expect((await aer()).result0, round).to.equal(RELIABILITY);
      await admin.propertySet(0x14, 0);
      await admin.enable();
    }
  });

  it('a reset forgets thresholds, bits and what was told', async () => {
    await admin.setFeature(0x0b, 0xff);
    await admin.setFeature(4, 300);
    await admin.propertySet(0x14, 0);
    await admin.enable();
    expect(await warning()).to.equal(0);
    await admin.setFeature(0x0b, 0xff);
    const event = aer();
    expect(await silent(event)).to.equal(true);
    await admin.setFeature(4, 300);
    expect((await event).result0).to.equal(TEMPERATURE);
  });

  it('the log page has the worst of what is below; a namespace that is served read only is no warning', async () => {
    t.target.addNamespace(t.subsystem, { nsid: 3, backend: new CopyBackend({}), readOnly: true });
    backend.becomes(0, 333);
    const { data } = await admin.logPage(2, 512, { nsid: ALL });
    expect([data[0], data.readUInt16LE(1), data[3], data[4], data[5]]).to.deep.equal([0, 333, 50, 10, 7]);
    expect([data.readUInt32LE(112), data.readUInt32LE(144)], 'power cycles, unsafe shutdowns').to.deep.equal([3, 1]);
    expect((await admin.identify(0, { nsid: 3 })).data[99], 'NSATTR').to.equal(1);
  });
});
