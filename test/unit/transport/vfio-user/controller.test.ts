/** A real NVMe controller over vfio-user: commands by messages, shared memory and eventfds alone; and its move to another process's server. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { EventFd } from '../../../../src/native/event-fd.ts';
import { createMemfd } from '../../../../src/native/mapped-memory.ts';
import { VfioUserServer } from '../../../../src/transport/vfio-user/server.ts';
import { needNative, until } from '../../../support/native.ts';
import { Cmd, fields, VfioUserClient } from '../../../support/vfio-user-client.ts';
import { TestVm } from '../../../support/vm.ts';

const RAM = 1 << 20;
const ASQ = 0x1000;
const ACQ = 0x2000;
const DATA = 0x8000;
const GET = 0x1_0000;
const SET = 0x2_0000;

/** One server, with a VM's end of it. */
class Side {
  readonly vm: TestVm;
  readonly server: VfioUserServer;
  readonly path: string;
  client!: VfioUserClient;

  constructor(path: string, dmaByMessage: boolean) {
    this.path = path;
    this.vm = new TestVm();
    // the guest in this process is not the one that drives it
    this.vm.function.setInterruptSink(undefined);
    this.vm.function.unmapAll();
    this.server = new VfioUserServer({ path, function: this.vm.function, dmaByMessage });
  }

  async connect(ram: number, line: EventFd): Promise<void> {
    this.client = await VfioUserClient.connect(this.path);
    this.client.onRequest = (request) => {
      const address = Number(request.body.readBigUInt64LE(0));
      fs.writeSync(ram, request.body, 16, request.body.length - 16, address);
      this.client.reply(request, request.body.subarray(0, 16));
    };
    expect((await this.client.map(0, RAM, 0, ram)).flags).to.equal(1);
    expect((await this.client.setIrqs(0x24, 2, 0, 1, [line.fd])).flags).to.equal(1);
  }

  async state(state: number): Promise<number> {
    return (await this.client.call(Cmd.Feature, fields(16, SET | 2, state, 0))).errno;
  }

  async close(): Promise<void> {
    this.client?.close();
    await this.server.close();
    this.vm.function.close();
    await this.vm.close();
  }
}

describe('a controller over vfio-user', () => {
  let folder: string;
  let ram: number;
  let line: EventFd;
  const sides: Side[] = [];
  let tail: number;

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-vfu-'));
    ram = createMemfd({ name: 'ram', lengthBytes: RAM });
    line = new EventFd();
    tail = 0;
  });
  afterEach(async () => {
    if (line === undefined) return; // skipped
    for (const side of sides.splice(0)) await side.close();
    line.close();
    fs.closeSync(ram);
    fs.rmSync(folder, { recursive: true, force: true });
  });

  function side(name: string, dmaByMessage = false): Side {
    const made = new Side(join(folder, `${name}.sock`), dmaByMessage);
    sides.push(made);
    return made;
  }
  const peek = (at: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length);
    fs.readSync(ram, bytes, 0, length, at);
    return bytes;
  };

  /** As a driver does after power-on. */
  async function enable({ client }: Side): Promise<void> {
    expect((await client.call(Cmd.Reset)).flags).to.equal(1);
    await client.writeRegion(7, 4, fields([2, 6]));
    const config = await client.readRegion(7, 0, 256);
    let at = config[0x34]!;
    while (config[at] !== 0x11) at = config[at + 1]!;
    await client.writeRegion(7, at + 2, fields([2, 0x8000 | config.readUInt16LE(at + 2)]));
    await client.writeRegion(0, 0x24, fields(0x001f_001f));
    await client.writeRegion(0, 0x28, fields(ASQ));
    await client.writeRegion(0, 0x30, fields(ACQ));
    await client.writeRegion(0, 0x14, fields(0x0046_0001));
    while (((await client.readRegion(0, 0x1c, 4)).readUInt32LE(0) & 1) === 0);
  }

  /** Identify Controller in the next slot; its completion by interrupt. */
  async function identify({ client }: Side): Promise<Buffer> {
    const cid = 100 + tail;
    const sqe = Buffer.alloc(64);
    sqe.writeUInt32LE(0x06 | (cid << 16), 0);
    sqe.writeUInt32LE(DATA, 24);
    sqe.writeUInt32LE(1, 40);
    fs.writeSync(ram, Buffer.alloc(4096), 0, 4096, DATA);
    fs.writeSync(ram, sqe, 0, 64, ASQ + tail * 64);
    line.take();
    const slot = tail;
    tail = (tail + 1) % 32;
    client.post(Cmd.RegionWrite, fields(0x1000n, 0, 4, tail));
    await until(() => line.take() > 0);
    const cqe = peek(ACQ + slot * 16, 16);
    expect([cqe.readUInt16LE(8), cqe.readUInt16LE(12), cqe.readUInt16LE(14)], `completion ${slot}`).to.deep.equal([
      tail,
      cid,
      1,
    ]);
    client.post(Cmd.RegionWrite, fields(0x1004n, 0, 4, tail));
    return peek(DATA, 4096);
  }

  for (const dmaByMessage of [false, true]) {
    it(`commands go by doorbell, memory and eventfd${dmaByMessage ? ', writes by message' : ''}`, async () => {
      const one = side('one', dmaByMessage);
      await one.connect(ram, line);
      await enable(one);
      for (let i = 0; i < 5; i++) {
        const data = await identify(one);
        expect(data.toString('latin1', 768, 768 + 30)).to.equal('nqn.2024-01.org.example:vm\0\0\0\0');
      }
      expect(one.client.requests.length > 0).to.equal(dmaByMessage);
    });
  }

  it('a client that went, and the next one that goes on where it was', async () => {
    const one = side('one');
    await one.connect(ram, line);
    await enable(one);
    await identify(one);
    one.client.close();
    await until(() => !one.server.isConnected);
    await one.connect(ram, line);
    await identify(one);
  });

  it('moves to another server with what it was doing: dirty pages, state, and the next command', async () => {
    const source = side('source');
    await source.connect(ram, line);
    await enable(source);
    await identify(source);
    const start = await source.client.call(Cmd.Feature, fields(24, SET | 6, 4096n, 0, 0));
    expect(start.flags).to.equal(1);
    await identify(source);
    const report = fields(40, GET | 8, 0n, BigInt(RAM), 4096n);
    const dirty = (await source.client.call(Cmd.Feature, report)).body.readBigUInt64LE(32);
    expect(dirty, 'completion queue and data').to.equal((1n << 2n) | (1n << 8n));
    expect((await source.client.call(Cmd.Feature, report)).body.readBigUInt64LE(32), 'reported once').to.equal(0n);
    expect(await source.state(3)).to.equal(0);
    const state = (await source.client.call(Cmd.MigDataRead, fields(8, 1 << 20))).body.subarray(8);
    expect(state.length).to.be.greaterThan(100);
    source.client.close();

    const destination = side('destination');
    await destination.connect(ram, line);
    expect(await destination.state(4)).to.equal(0);
    for (let at = 0; at < state.length; at += 100) {
      const piece = state.subarray(at, at + 100);
      expect((await destination.client.call(Cmd.MigDataWrite, fields(8, piece.length, piece))).flags).to.equal(1);
    }
    expect(await destination.state(2)).to.equal(0);
    const data = await identify(destination);
    expect(data.toString('latin1', 768, 768 + 26)).to.equal('nqn.2024-01.org.example:vm');
  });

  it('a state that is torn: refused, and a reset makes the device usable', async () => {
    const one = side('one');
    await one.connect(ram, line);
    expect(await one.state(4)).to.equal(0);
    await one.client.call(Cmd.MigDataWrite, fields(8, 64, Buffer.alloc(64, 0x5a)));
    expect(await one.state(2)).to.equal(22);
    await enable(one);
    await identify(one);
  });
});
