/** Admin commands and log pages of the subsystem's list, passed to the device below; and nothing else. */
import { expect } from 'chai';
import type { DeviceAnswer, DeviceCommand } from '../../src/backend/device-passthrough.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Passthrough } from '../../src/target/passthrough-list.ts';
import type { RawHost } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const INVALID_LOG_PAGE = 0x109;
const ALL = 0xffff_ffff;
/** Bits 1:0 of an opcode say which way its data goes. */
const VENDOR_NONE = 0xc0;
const VENDOR_BOTH = 0xc3;
const VENDOR_OUT = 0xc5;
const VENDOR_IN = 0xc6;

/** Memory that says it is a device, and keeps what came. */
class Device extends MemoryBackend {
  readonly commands: DeviceCommand[] = [];
  answer: DeviceAnswer = { status: 0, result0: 0, result1: 0 };
  fill = 0;
  /** Holds the next command back. */
  hold: Promise<void> | undefined;
  readonly passthrough;

  constructor(device: string) {
    super({ blockSize: 512, blockCount: 64 });
    this.passthrough = {
      device,
      admin: async (command: DeviceCommand): Promise<DeviceAnswer> => {
        // what the host sent is in memory that is used again
        this.commands.push({ ...command, data: command.data?.slice() });
        await this.hold;
        if ((command.opcode & 3) === 2) command.data?.fill(this.fill);
        return this.answer;
      },
    };
  }
}

describe('conformance: Admin commands passed to a device', () => {
  const list = { opcodes: [0x81, 0x82, VENDOR_NONE, VENDOR_OUT, VENDOR_IN, VENDOR_BOTH], logPages: [0xca] };
  let t: TestTarget;
  let admin: RawHost;
  let device: Device;
  async function start(passthrough: typeof list | undefined = list): Promise<void> {
    device = new Device('nvme3');
    t = await TestTarget.start({ empty: true, subsystem: { passthrough } });
    t.target.addNamespace(t.subsystem, { nsid: 1, backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }) });
    t.target.addNamespace(t.subsystem, { nsid: 5, backend: device });
    admin = await t.admin();
  }
  afterEach(() => t.close());

  it('by NSID: all dwords, the NSID of the device, data to the host, both result dwords', async () => {
    await start();
    device.fill = 0xab;
    device.answer = { status: 0, result0: 0x1234_5678, result1: 0x9abc_def0 };
    const cdws = { cdw2: 2, cdw3: 3, cdw10: 0xffff_fff0, cdw11: 11, cdw12: 12, cdw13: 13, cdw14: 14, cdw15: 15 };
    const done = await admin.command({ opcode: VENDOR_IN, nsid: 5, ...cdws }, { readBytes: 5000 });
    expect([done.status, done.result0, done.result1]).to.deep.equal([0, 0x1234_5678, 0x9abc_def0]);
    expect(done.data.length).to.equal(5000);
    expect(done.data.every((byte) => byte === 0xab)).to.equal(true);
    const [{ data, ...command }] = device.commands as [DeviceCommand];
    expect(command).to.deep.equal({
      opcode: VENDOR_IN,
      nsid: 'own',
      cdw2: 2,
      cdw3: 3,
      cdw10To15: [0xffff_fff0, 11, 12, 13, 14, 15],
    });
    expect(data?.length).to.equal(5000);
  });

  for (const by of ['capsule', 'r2t'] as const) {
    it(`data to the device, by ${by}`, async () => {
      await start();
      const data = Buffer.from(Array.from({ length: 4096 }, (_, i) => (i * 7) & 0xff));
      const done = await admin.command({ opcode: VENDOR_OUT, nsid: 0 }, { data, by });
      expect(done.status).to.equal(0);
      expect(Buffer.compare(Buffer.from(device.commands[0]!.data!), data)).to.equal(0);
      expect(device.commands[0]!.nsid).to.equal(0);
    });
  }

  it('without data; FFFFFFFFh stays what it is', async () => {
    await start();
    expect((await admin.command({ opcode: VENDOR_NONE, nsid: ALL })).status).to.equal(0);
    expect(device.commands[0]).to.include({ nsid: ALL, data: undefined });
  });

  it("the device's status is the command's, without data", async () => {
    await start();
    device.answer = { status: 0x4000 | 0x1c7, result0: 9, result1: 0 };
    const done = await admin.command({ opcode: VENDOR_IN, nsid: 5 }, { readBytes: 512 });
    expect([done.code, done.dnr, done.result0, done.data.length]).to.deep.equal([0x1c7, true, 9, 0]);
  });

  for (const [what, fields, code] of [
    ['a vendor command that is not on the list', { opcode: 0xc8, nsid: 5 }, INVALID_OPCODE],
    ['Device Self-test, not on the list', { opcode: 0x14, nsid: 5 }, INVALID_OPCODE],
    ['Firmware Commit, which no list can name', { opcode: 0x10, nsid: 0 }, INVALID_OPCODE],
    ['a namespace that is no device', { opcode: VENDOR_NONE, nsid: 1 }, INVALID_FIELD],
    ['an NSID that is not active', { opcode: VENDOR_NONE, nsid: 9 }, INVALID_FIELD],
    ['an NSID past NN', { opcode: VENDOR_NONE, nsid: 2000 }, INVALID_NAMESPACE],
    ['data both ways', { opcode: VENDOR_BOTH, nsid: 5 }, INVALID_FIELD],
  ] as const) {
    it(`refuses ${what}; nothing reaches the device`, async () => {
      await start();
      const done = await admin.command(fields);
      expect([done.code, done.dnr]).to.deep.equal([code, true]);
      expect(device.commands).to.deep.equal([]);
    });
  }

  it('without a namespace named and with two devices: the host has to say which', async () => {
    await start();
    const other = new Device('nvme4');
    t.target.addNamespace(t.subsystem, { nsid: 6, backend: other });
    const done = await admin.command({ opcode: VENDOR_NONE, nsid: 0 });
    expect(done.code).to.equal(INVALID_NAMESPACE);
    expect((await admin.command({ opcode: VENDOR_NONE, nsid: 6 })).status).to.equal(0);
    expect([device.commands.length, other.commands.length]).to.deep.equal([0, 1]);
    // two namespaces of one device are no choice
    await t.target.removeNamespace(t.subsystem, 6);
    t.target.addNamespace(t.subsystem, { nsid: 7, backend: new Device('nvme3') });
    expect((await admin.command({ opcode: VENDOR_NONE, nsid: 0 })).status).to.equal(0);
  });

  it('a log page of the list; others are not there', async () => {
    await start();
    device.fill = 0x5c;
    const page = await admin.logPage(0xca, 512, { nsid: ALL });
    expect([page.status, page.data.length, page.data[511]]).to.deep.equal([0, 512, 0x5c]);
    expect(device.commands[0]!.cdw10To15[0]! & 0xff).to.equal(0xca);
    expect((await admin.logPage(0xcb, 512, { nsid: ALL })).code).to.equal(INVALID_LOG_PAGE);
    expect(device.commands).to.have.length(1);
  });

  it('is told by OACS, the effects log and the supported log pages; without a list or a device nothing is', async () => {
    const told = async (): Promise<unknown[]> => {
      const effects = (await admin.logPage(5, 4096)).data;
      const supported = (await admin.logPage(0, 1024)).data;
      const oacs = (await admin.identify(1)).data.readUInt16LE(256);
      return [
        oacs & 0x11,
        [0x14, 0x81, 0xc0, 0xc8].map((opcode) => effects.readUInt32LE(opcode * 4)),
        [0xca, 0xcb].map((lid) => supported.readUInt32LE(lid * 4)),
      ];
    };
    await start();
    expect(await told()).to.deep.equal([1, [0, 1, 1, 0], [1, 0]]);
    t.subsystem.passthrough = new Passthrough({ opcodes: [0x14, 0x81], logPages: [] });
    expect(await told(), 'another list takes its place at once').to.deep.equal([0x10, [1, 1, 0, 0], [0, 0]]);
    t.subsystem.passthrough = new Passthrough(list);
    await t.target.removeNamespace(t.subsystem, 5);
    expect(await told()).to.deep.equal([0, [0, 0, 0, 0], [0, 0]]);
    expect((await admin.command({ opcode: VENDOR_NONE, nsid: 0 })).code).to.equal(INVALID_OPCODE);
  });

  it('a host that leaves while the device works: the command ends unheard', async () => {
    await start();
    let release: () => void = () => {};
    device.hold = new Promise((resolve) => {
      release = resolve;
    });
    const lost = admin.command({ opcode: VENDOR_IN, nsid: 5 }, { readBytes: 512 }).catch((error: Error) => error);
    await t.until(() => device.commands.length === 1);
    admin.destroy();
    await t.until(() => t.connectionCount === 0);
    release();
    await lost;
    const next = await t.admin();
    device.hold = undefined;
    expect((await next.command({ opcode: VENDOR_IN, nsid: 5 }, { readBytes: 512 })).status).to.equal(0);
    expect(t.fatal).to.deep.equal([]);
  });
});
