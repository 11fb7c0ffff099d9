/** Our vfio-user client on our server: what each call asks of the device, and migration version 2 with a guest that goes on at the other end. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { EventFd } from '../../../../../src/native/event-fd.ts';
import { createMemfd } from '../../../../../src/native/mapped-memory.ts';
import { MigState } from '../../../../../src/spec/vfio-user.ts';
import { DeviceMigration } from '../../../../../src/transport/vfio-user/client/device-migration.ts';
import { VfioUserClient } from '../../../../../src/transport/vfio-user/client/vfio-user-client.ts';
import { VfioUserServer } from '../../../../../src/transport/vfio-user/server.ts';
import { VfioUserError } from '../../../../../src/transport/vfio-user/vfio-user-error.ts';
import { TransportError } from '../../../../../src/util/error.ts';
import { needNative, until } from '../../../../support/native.ts';
import { RemoteVm } from '../../../../support/remote-vm.ts';
import { StubFunction } from '../../../../support/stub-function.ts';
import { TestVm } from '../../../../support/vm.ts';

const PAGE = 4096;
const openFds = (): number => fs.readdirSync('/proc/self/fd').length;

async function errorOf(work: Promise<unknown>): Promise<Error> {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  throw new Error('It did not fail');
}

describe('vfio-user client', () => {
  let folder: string;
  let pci: StubFunction;
  let server: VfioUserServer;
  let client: VfioUserClient;

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-vfu-'));
    pci = new StubFunction();
  });
  afterEach(async () => {
    if (folder === undefined) return; // skipped
    client?.close();
    await server?.close();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  async function connect(options: { dmaByMessage?: boolean } = {}): Promise<void> {
    server = new VfioUserServer({ path: join(folder, 'vm.sock'), function: pci, ...options });
    client = await VfioUserClient.connect(server.path);
  }

  it('learns what the device is', async () => {
    await connect();
    expect(client.limits).to.deep.equal({ fdsMax: 16, transferBytesMax: 1 << 20, writesMultiple: true });
    expect(await client.deviceInfo()).to.deep.equal({ argsz: 16, flags: 3, numRegions: 9, numIrqs: 5 });
    expect(await client.regionInfo(0)).to.include({ index: 0, flags: 3, size: 0x4000n });
    expect(await client.irqInfo(2)).to.include({ index: 2, count: 8, flags: 1 });
  });

  it('reads and writes regions; what is posted comes before what is asked later', async () => {
    await connect();
    await client.writeRegion(0, 0x14, Uint8Array.of(1, 0, 0x46, 0));
    for (let i = 0; i < 100; i++) client.postRegion(0, 0x1000, Uint8Array.of(i, 0, 0, 0));
    expect([...(await client.readRegion(0, 0x1000, 4))]).to.deep.equal([99, 0, 0, 0]);
    expect(pci.calls.filter((call) => call.startsWith('bar 1000'))).to.have.length(100);
    expect([...(await client.readRegion(7, 0, 4))]).to.deep.equal([0x36, 0x1b, 0x34, 0x12]);
  });

  it('says with which error the device refuses', async () => {
    await connect();
    const error = await errorOf(client.readRegion(0, 0x4000, 4));
    expect(error).to.be.instanceOf(VfioUserError).and.to.include({ errno: 22 });
    expect((await errorOf(client.unmapDma(0, PAGE))) as VfioUserError).to.include({ errno: 2 });
    expect((await client.readRegion(0, 0, 4)).length, 'the connection stays').to.equal(4);
  });

  it('arms interrupts, more than fit into one message', async () => {
    await connect();
    const before = openFds();
    const lines = Array.from({ length: 8 }, () => new EventFd());
    await client.setEventFds(
      2,
      0,
      lines.map(({ fd }) => fd),
    );
    pci.sink!.message(0);
    pci.sink!.message(7);
    expect(lines.map((line) => line.take())).to.deep.equal([1, 0, 0, 0, 0, 0, 0, 1]);
    await client.clearEventFds(2, 7, 1);
    await client.disableInterrupts(2);
    pci.sink!.message(0);
    expect(lines[0]!.take()).to.equal(0);
    for (const line of lines) line.close();
    expect(openFds()).to.equal(before);
  });

  it('gives memory, and takes it back', async () => {
    await connect();
    const fd = createMemfd({ name: 'ram', lengthBytes: 4 * PAGE });
    fs.writeSync(fd, 'here', PAGE);
    await client.mapDma({ iova: 0x10_0000, lengthBytes: PAGE, fd, offsetBytes: PAGE, writable: false });
    await client.mapDma({ iova: 0x20_0000, lengthBytes: PAGE });
    expect(pci.regions.map(({ iova, writable }) => [iova, writable])).to.deep.equal([
      [0x10_0000, false],
      [0x20_0000, true],
    ]);
    expect(Buffer.from(pci.regions[0]!.buffer as ArrayBuffer, 0, 4).toString()).to.equal('here');
    await client.unmapDma(0x10_0000, PAGE);
    await client.unmapAllDma();
    expect(pci.regions).to.deep.equal([]);
    fs.closeSync(fd);
  });

  it('takes what the device writes by message', async () => {
    server = new VfioUserServer({ path: join(folder, 'vm.sock'), function: pci, dmaByMessage: true });
    const written: string[] = [];
    client = await VfioUserClient.connect(server.path, {
      onDmaWrite: (iova, data) => written.push(`${iova}:${Buffer.from(data).toString()}`),
    });
    const fd = createMemfd({ name: 'ram', lengthBytes: PAGE });
    await client.mapDma({ iova: PAGE, lengthBytes: PAGE, fd });
    fs.closeSync(fd);
    let done = false;
    pci.regions[0]!.writer!.write(PAGE + 8, Buffer.from('one'));
    pci.regions[0]!.writer!.fence(() => {
      done = true;
    });
    await until(() => done);
    expect(written).to.deep.equal([`${PAGE + 8}:one`]);
  });

  it('a device that goes: what was asked fails, and so does what is asked later', async () => {
    let closed = 0;
    pci.holdQuiet = true;
    server = new VfioUserServer({ path: join(folder, 'vm.sock'), function: pci, quietTimeoutMs: 1 });
    client = await VfioUserClient.connect(server.path, { onClose: () => closed++ });
    const asked = errorOf(new DeviceMigration(client).setState(MigState.Stop));
    const ended = server.close();
    expect(await asked).to.be.instanceOf(TransportError);
    expect(await errorOf(client.readRegion(0, 0, 4))).to.be.instanceOf(TransportError);
    expect([closed, client.isClosed]).to.deep.equal([1, true]);
    await ended;
  });

  it('nobody listens: an error that names the socket', async () => {
    const error = await errorOf(VfioUserClient.connect(join(folder, 'none.sock')));
    expect(error.message).to.include('none.sock');
  });
});

describe('vfio-user migration, version 2, by our client', () => {
  let folder: string;
  let vm: RemoteVm;
  const ends: { vm: TestVm; server: VfioUserServer }[] = [];

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-vfu-'));
  });
  afterEach(async () => {
    if (folder === undefined) return; // skipped
    await vm?.close();
    for (const end of ends.splice(0)) {
      await end.server.close();
      await end.vm.close();
    }
    fs.rmSync(folder, { recursive: true, force: true });
  });

  function end(name: string, backend?: TestVm): { vm: TestVm; server: VfioUserServer } {
    const made = new TestVm(
      backend === undefined ? {} : { backend: backend.subsystem.allocatedNamespaces()[0]!.backend },
    );
    made.guest.unplug();
    const server = new VfioUserServer({ path: join(folder, `${name}.sock`), function: made.function });
    ends.push({ vm: made, server });
    return ends.at(-1)!;
  }

  for (const first of [MigState.StopCopy, MigState.PreCopy]) {
    const name = first === MigState.PreCopy ? 'PRE_COPY and STOP_COPY' : 'STOP_COPY';
    it(`a guest goes on where it was: ${name}, RESUMING, RUNNING`, async () => {
      const source = end('source');
      vm = await RemoteVm.connect(source.server.path);
      await vm.start(2);
      const { guest } = vm;
      await guest.write(1, 8, new Uint8Array(4096).fill(0x51));
      const migration = new DeviceMigration(vm.client);
      expect(await migration.flags()).to.equal(5);
      expect(await migration.state()).to.equal(MigState.Running);
      if (first === MigState.PreCopy) {
        await migration.setState(MigState.PreCopy);
        expect((await migration.read()).length).to.equal(0);
        await guest.write(1, 16, new Uint8Array(4096).fill(0x52));
      }
      // rung in the turn in which the device stops, and not fetched: the destination must find it without another ring
      const waiting = guest.read(1, 8, 8);
      await migration.setState(MigState.StopCopy);
      expect(await migration.state()).to.equal(MigState.StopCopy);
      const state = await migration.read(100);
      expect(await migration.read(), 'no more').to.deep.equal(Buffer.alloc(0));

      const destination = end('destination', source.vm);
      const client = await VfioUserClient.connect(destination.server.path);
      const incoming = new DeviceMigration(client);
      await vm.share(client);
      await incoming.setState(MigState.Resuming);
      await incoming.write(state, 77);
      await incoming.setState(MigState.Running);
      const data = await waiting;
      expect(data.every((byte) => byte === 0x51)).to.equal(true);
      expect(await migration.state(), 'the source stays as it was').to.equal(MigState.StopCopy);
      client.close();
    });
  }

  it('the log of written pages: exactly those that the device wrote, once each', async () => {
    const source = end('source');
    vm = await RemoteVm.connect(source.server.path);
    await vm.start(1);
    const { guest } = vm;
    const migration = new DeviceMigration(vm.client);
    const all = { iova: guest.ram.base, lengthBytes: guest.ram.lengthBytes };
    const pages = async (): Promise<number[]> => {
      const bitmap = await migration.writtenPages(all, PAGE);
      return [...bitmap].flatMap((byte, i) =>
        [...Array(8).keys()].filter((bit) => byte & (1 << bit)).map((bit) => i * 8 + bit),
      );
    };
    await migration.startLogging(PAGE);
    expect(await pages()).to.deep.equal([]);
    const data = new Uint8Array(16_384).fill(0xd7);
    await guest.write(1, 0, data);
    const { bytes } = guest.ram;
    const queue = (guest.queues[1]!.cqAddress - guest.ram.base) / PAGE;
    expect(await pages(), 'the completion; reading memory is no writing').to.deep.equal([queue]);
    bytes.fill(0, 0x40_0000);
    await guest.read(1, 0, 32);
    const filled = [...Array(bytes.length / PAGE).keys()].filter((page) =>
      bytes.subarray(page * PAGE, (page + 1) * PAGE).every((byte) => byte === 0xd7),
    );
    expect(filled).to.have.length.of.at.least(4);
    const reported = await pages();
    expect(reported).to.have.length(5).and.to.include(queue);
    expect(reported.filter((page) => page !== queue && !filled.includes(page))).to.deep.equal([]);
    expect(await pages(), 'reported once').to.deep.equal([]);
    await migration.stopLogging();
    expect((await errorOf(pages())) as VfioUserError).to.include({ errno: 22 });
  });

  it('refuses what no way leads to, and a state that is none; a reset makes it usable', async () => {
    const source = end('source');
    vm = await RemoteVm.connect(source.server.path);
    const migration = new DeviceMigration(vm.client);
    expect(await migration.probe(2, 0x2_0000)).to.equal(true);
    expect(await migration.probe(3, 0x2_0000)).to.equal(false);
    await migration.setState(MigState.StopCopy);
    expect((await errorOf(migration.setState(MigState.PreCopy))) as VfioUserError).to.include({ errno: 22 });
    await migration.setState(MigState.Resuming);
    await migration.write(new Uint8Array(64).fill(0x5a));
    expect((await errorOf(migration.setState(MigState.Running))) as VfioUserError).to.include({ errno: 22 });
    expect(await migration.state()).to.equal(MigState.Error);
    await vm.client.reset();
    expect(await migration.state()).to.equal(MigState.Running);
    await vm.start(1);
    await vm.guest.flush(1);
  });
});
