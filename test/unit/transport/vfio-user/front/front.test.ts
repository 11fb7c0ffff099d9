/** The front between a guest of ours (memory by descriptor, interrupts by eventfd) and controllers that come, go and change. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { BlockBackend } from '../../../../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../../../../src/backend/memory.ts';
import { EventFd } from '../../../../../src/native/event-fd.ts';
import { requireNative } from '../../../../../src/native/load.ts';
import { createMemfd } from '../../../../../src/native/mapped-memory.ts';
import { VfioUserFront } from '../../../../../src/transport/vfio-user/front/front.ts';
import type { FrontEvent, VfioUserFrontOptions } from '../../../../../src/transport/vfio-user/front/front-options.ts';
import { VfioUserServer } from '../../../../../src/transport/vfio-user/server.ts';
import { ManualClock } from '../../../../support/manual-clock.ts';
import { needNative, until } from '../../../../support/native.ts';
import { Random, randomSeed } from '../../../../support/random.ts';
import { RemoteVm } from '../../../../support/remote-vm.ts';
import { StubFunction } from '../../../../support/stub-function.ts';
import { Cmd, fields, message, VfioUserClient } from '../../../../support/vfio-user-client.ts';
import { HeldBackend, type TestVm } from '../../../../support/vm.ts';
import { managedVm, VmManager } from '../../../../support/vm-manager.ts';

const openFds = (): number => fs.readdirSync('/proc/self/fd').length;

async function errorOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('It did not fail');
}

function seeded(title: string, act: (random: Random) => Promise<void>): void {
  const seed = randomSeed();
  it(`${title} (NVMEFERRY_SEED=${seed})`, () => act(new Random(seed)));
}

/** A process with a controller, as far as it goes. */
class Dpu {
  readonly vm: TestVm;
  readonly server: VfioUserServer;
  #manager: VmManager | undefined;

  constructor(path: string, backend: BlockBackend, vectorCount = 8) {
    this.vm = managedVm({ backend, function: { vectorCount } });
    this.vm.guest.unplug();
    this.server = new VfioUserServer({ path, function: this.vm.function });
  }

  get cntlid(): number {
    return this.vm.controller.cntlid;
  }

  get manager(): VmManager {
    this.#manager ??= new VmManager(this.vm);
    return this.#manager;
  }

  async close(): Promise<void> {
    await this.server.close();
    await this.vm.close();
  }
}

describe('front of a VM', () => {
  let folder: string;
  let backend: BlockBackend;
  let front: VfioUserFront;
  let guest: RemoteVm | undefined;
  const dpus: Dpu[] = [];
  const events: FrontEvent[] = [];
  const socket = (name: string): string => join(folder, `${name}.sock`);
  const told = (name: FrontEvent['event']): string[] =>
    events.filter(({ event }) => event === name).map(({ message: text }) => text);

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-front-'));
    backend = new MemoryBackend({ blockSize: 512, blockCount: 1 << 15 });
    events.length = 0;
  });
  afterEach(async () => {
    if (folder === undefined) return; // skipped
    await guest?.close();
    guest = undefined;
    await front?.close();
    for (const dpu of dpus.splice(0)) await dpu.close();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  function start(options: Partial<VfioUserFrontOptions> = {}): void {
    front = new VfioUserFront({
      path: socket('vm'),
      controller: socket('a'),
      onEvent: (event) => events.push(event),
      ...options,
    });
  }
  function dpu(name: string, vectorCount?: number): Dpu {
    const made = new Dpu(socket(name), backend, vectorCount);
    dpus.push(made);
    return made;
  }
  async function boot(): Promise<RemoteVm> {
    guest = await RemoteVm.connect(socket('vm'));
    await guest.start(2);
    return guest;
  }

  /** As the orchestrator does it. */
  async function move(from: Dpu, to: Dpu, name: string): Promise<void> {
    await front.pause();
    expect((await from.manager.suspend(from.cntlid)).status).to.equal(0);
    const state = await from.manager.getState(from.cntlid);
    expect((await to.manager.suspend(to.cntlid)).status).to.equal(0);
    expect((await to.manager.setState(to.cntlid, state)).status).to.equal(0);
    await front.attach(socket(name));
    expect((await to.manager.resume(to.cntlid)).status).to.equal(0);
    await front.resume();
  }

  it('a guest works through it; data and interrupts do not pass it', async () => {
    const a = dpu('a');
    start();
    const vm = await boot();
    const data = new Uint8Array(65_536).map((_, i) => i * 7);
    await vm.guest.write(1, 100, data);
    expect(await vm.guest.read(1, 100, 128)).to.deep.equal(data);
    expect(front.status()).to.deep.equal({
      vm: 'connected',
      controller: { socket: socket('a'), state: 'joined' },
      paused: false,
      waiting: { messages: 0, bytes: 0 },
      memory: { maps: 2, bytes: 16 << 20, descriptors: 1 },
      interrupts: 8,
      stateLost: false,
    });
    expect(a.server.isConnected).to.equal(true);
    expect(vm.guest.interrupts[1], 'of the first I/O queue').to.be.greaterThan(0);
  });

  it('a VM that comes before its controller waits for it', async () => {
    start();
    const coming = RemoteVm.connect(socket('vm'));
    await until(() => told('controller-waited-for').length === 1);
    dpu('a');
    guest = await coming;
    await guest.start(1);
    await guest.guest.flush(1);
    expect(told('controller-waited-for'), 'said once').to.have.length(1);
  });

  it('moves a running guest: what it rang before, during and after the pause is done once', async () => {
    const a = dpu('a');
    const b = dpu('b');
    start();
    const { guest: driver } = await boot();
    await driver.write(1, 0, new Uint8Array(512).fill(1));
    await front.pause();
    // held: the doorbell is rung, nothing happens
    let done = 0;
    const held = [1, 2, 3].map(async (i) => {
      await driver.write(1, i, new Uint8Array(512).fill(i + 1));
      done++;
    });
    await until(() => front.status().waiting.messages >= 3);
    await a.manager.suspend(a.cntlid);
    const state = await a.manager.getState(a.cntlid);
    await b.manager.suspend(b.cntlid);
    expect((await b.manager.setState(b.cntlid, state)).status).to.equal(0);
    await front.attach(socket('b'));
    await until(() => !a.server.isConnected && b.server.isConnected);
    expect([done, b.vm.controller.isSuspended], 'loaded and attached, it does nothing yet').to.deep.equal([0, true]);
    await b.manager.resume(b.cntlid);
    await front.resume();
    await Promise.all(held);
    for (let i = 0; i < 4; i++) expect((await driver.read(1, i, 1))[0]).to.equal(i + 1);
    for (const queue of driver.queues) expect(queue.strays, 'completions that nobody asked for').to.equal(0);
    expect(front.status().controller).to.deep.equal({ socket: socket('b'), state: 'joined' });
  });

  it('commands rung and not fetched before the suspension are found by the next controller, without a doorbell', async () => {
    const a = dpu('a');
    const b = dpu('b');
    start();
    const { guest: driver } = await boot();
    await a.manager.suspend(a.cntlid);
    // these doorbells reach A, which is suspended
    const waiting = [1, 2, 3, 4, 5].map((i) => driver.write(1, i, new Uint8Array(512).fill(i)));
    await guest!.readDword(0x1c);
    await front.pause();
    expect(front.status().waiting.messages).to.equal(0);
    const state = await a.manager.getState(a.cntlid);
    await b.manager.suspend(b.cntlid);
    await b.manager.setState(b.cntlid, state);
    await front.attach(socket('b'));
    await b.manager.resume(b.cntlid);
    // the front is paused still
    await Promise.all(waiting);
    await front.resume();
    expect((await driver.read(1, 5, 1))[0]).to.equal(5);
  });

  it('back to where it was: paused, suspended, and resumed at the source, as if nothing had been', async () => {
    const a = dpu('a');
    dpu('b');
    start();
    const { guest: driver } = await boot();
    await front.pause();
    await a.manager.suspend(a.cntlid);
    await front.attach(socket('b'));
    const work = driver.write(1, 9, new Uint8Array(512).fill(9));
    await front.attach(socket('a'));
    await a.manager.resume(a.cntlid);
    await front.resume();
    await work;
    expect((await driver.read(1, 9, 1))[0]).to.equal(9);
    expect(front.status().stateLost).to.equal(false);
  });

  seeded(
    'twenty moves under load, with a pause at any moment: every write is there once, no interrupt is missed',
    async (random) => {
      start();
      dpu('a');
      const vm = await boot();
      const driver = vm.guest;
      let ended = false;
      const last = new Map<number, number>();
      const worker = async (number: number): Promise<void> => {
        const queue = driver.queues[1 + (number % 2)]!;
        for (let i = 1; !ended; i++) {
          const block = number * 16 + random.below(16);
          const value = i & 0xff;
          await driver.write(1, block, new Uint8Array(512).fill(value), random.oneIn(2) ? 'sgl' : 'prp', queue);
          last.set(block, value);
          const look = number * 16 + random.below(16);
          const found = await driver.read(1, look, 1, 'prp', queue);
          expect(
            found.every((byte) => byte === (last.get(look) ?? 0)),
            `block ${look}`,
          ).to.equal(true);
        }
      };
      const load = Promise.all(Array.from({ length: 8 }, (_, number) => worker(number)));
      let from = dpus[0]!;
      for (let i = 0; i < 20; i++) {
        for (let turns = random.below(20); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
        const to = dpu(`d${i}`);
        await move(from, to, `d${i}`);
        from = to;
      }
      ended = true;
      await load;
      for (const queue of driver.queues) expect(queue.strays).to.equal(0);
      await guest!.close();
      guest = undefined;
      await front.close();
      for (const one of dpus.splice(0)) await one.close();
      backend = new MemoryBackend({ blockSize: 512, blockCount: 1 << 15 });
    },
  );

  it('a controller that ends: accesses wait, and the next one has memory and interrupts, and says that the state is gone', async () => {
    const a = dpu('a');
    start();
    const vm = await boot();
    await a.server.close();
    await until(() => front.status().controller.state === 'away');
    const reading = vm.readDword(0x1c);
    await until(() => front.status().waiting.messages === 1);
    dpu('a');
    expect((await reading) & 3, 'CSTS: not ready, fatal').to.equal(2);
    expect(front.status().stateLost).to.equal(true);
    // the guest resets it, and has its memory and its interrupts
    await vm.writeConfiguration(0);
    expect((await vm.readDword(0x1c)) & 3).to.equal(0);
    vm.guest.queues.length = 0;
    await vm.start(2);
    await vm.guest.write(1, 1, new Uint8Array(512).fill(0x77));
    expect((await vm.guest.read(1, 1, 1))[0]).to.equal(0x77);
    expect(front.status()).to.deep.include({ stateLost: false, interrupts: 8 });
  });

  it('memory and interrupts that change while no controller is there are those of the next', async () => {
    const a = dpu('a');
    start();
    const vm = await boot();
    await a.server.close();
    await until(() => front.status().controller.state === 'away');
    const { base, lengthBytes } = vm.guest.ram;
    await vm.client.unmapAllDma();
    await vm.client.mapDma({ iova: base, lengthBytes, fd: vm.ramFd });
    await vm.client.mapDma({ iova: 2 ** 40, lengthBytes: 4096 });
    expect(await errorOf(vm.client.unmapDma(2 ** 40, 8192))).to.match(/errno 2/);
    expect(await errorOf(vm.client.mapDma({ iova: base, lengthBytes: 4096 }))).to.match(/errno 17/);
    await vm.client.disableInterrupts(2);
    expect(front.status()).to.deep.include({ interrupts: 0 });
    expect(front.status().memory).to.deep.equal({ maps: 2, bytes: lengthBytes + 4096, descriptors: 1 });
    dpu('a');
    await until(() => front.status().controller.state === 'joined');
    await vm.client.unmapDma(2 ** 40, 4096);
    await vm.client.unmapDma(base, lengthBytes);
    await vm.share(vm.client);
    await vm.start(1);
    await vm.guest.flush(1);
  });

  it('an access that has waited too long fails, doorbells wait on, and the VM keeps its device', async () => {
    const clock = new ManualClock();
    const a = dpu('a');
    start({ patienceMs: 1000, clock });
    // whatever is to be done now, while nothing waits for real time
    const turning = setInterval(() => clock.advance(0), 1);
    try {
      const vm = await boot();
      await front.pause();
      vm.guest.ring(vm.guest.queues[1]!);
      const failing = errorOf(vm.readDword(0x1c));
      await until(() => front.status().waiting.bytes >= 36 + 32);
      clock.advance(999);
      expect(told('warning')).to.deep.equal([]);
      clock.advance(1);
      expect(await failing).to.match(/errno 5/);
      expect(front.status().waiting.messages, 'the doorbell').to.be.at.least(1);
      expect(told('warning')).to.have.length(1);
      await front.resume();
      expect((await vm.readDword(0x1c)) & 3).to.equal(1);
      expect(a.server.isConnected).to.equal(true);
    } finally {
      clearInterval(turning);
    }
  });

  it('attach says what is wrong, and leaves the controller that is there', async () => {
    dpu('a');
    start();
    const vm = await boot();
    expect(await errorOf(front.attach(socket('b')))).to.match(/pause it first/);
    await front.pause();
    expect(await errorOf(front.attach(socket('none')))).to.match(/none\.sock: nobody listens there \(ENOENT\); start/);
    dpu('small', 4);
    expect(await errorOf(front.attach(socket('small')))).to.match(/the VM was told .*--vectors/);
    const taken = dpu('taken');
    const other = await VfioUserClient.connect(socket('taken'));
    expect(await errorOf(front.attach(socket('taken')))).to.match(/controller of another VM/);
    other.close();
    await until(() => !taken.server.isConnected);
    expect(front.status().controller).to.deep.equal({ socket: socket('a'), state: 'joined' });
    await front.resume();
    await vm.guest.flush(1);
  });

  it('pause, attach and resume may be repeated', async () => {
    dpu('a');
    start();
    const vm = await boot();
    await Promise.all([front.pause(), front.pause()]);
    await front.attach(socket('a'));
    const joined = told('controller-joined').length;
    await front.attach(socket('a'));
    expect(told('controller-joined').length, 'it is there').to.equal(joined);
    await Promise.all([front.resume(), front.resume()]);
    await vm.guest.flush(1);
  });

  it('pause returns when what the guest asked before is done', async () => {
    const held = new HeldBackend();
    backend = held;
    dpu('a');
    start();
    const { guest: driver } = await boot();
    const reading = driver.read(1, 0, 1);
    await guest!.readDword(0x1c);
    await front.pause();
    await until(() => held.begun === 1);
    held.release();
    await reading;
    await front.resume();
  });

  it('a VM that goes takes everything along, and the next one is served', async () => {
    const a = dpu('a');
    start();
    const before = openFds();
    const maps = requireNative('x').mappingCount();
    for (let i = 0; i < 3; i++) {
      const vm = await boot();
      await vm.guest.flush(1);
      await vm.close();
      guest = undefined;
      await until(() => front.status().vm === 'none' && !a.server.isConnected);
      expect(front.status().memory).to.deep.equal({ maps: 0, bytes: 0, descriptors: 0 });
    }
    await until(() => openFds() === before && requireNative('x').mappingCount() === maps);
  });

  it('a second VM is turned away, the first does not notice', async () => {
    dpu('a');
    start();
    const vm = await boot();
    const second = VfioUserClient.raw(socket('vm'));
    await second.until(() => false);
    expect(second.isClosed).to.equal(true);
    await vm.guest.flush(1);
  });

  it('QEMU is told what the controller is, not more than it asked for', async () => {
    dpu('a');
    start();
    const client = await VfioUserClient.connect(socket('vm'));
    expect((await client.call(Cmd.GetInfo, fields(16, 0, 0, 0))).body).to.deep.equal(fields(16, 3, 9, 5));
    const region = await client.call(Cmd.GetRegionInfo, fields(32, 0, 0, 0, 0n, 0n));
    expect(region.body.readUInt32LE(4), 'no mapping').to.equal(3);
    expect((await client.call(Cmd.GetIrqInfo, fields(16, 0, 2, 0))).body).to.deep.equal(fields(16, 1, 2, 8));
    expect((await client.call(Cmd.GetRegionInfo, fields(32, 0, 9, 0, 0n, 0n))).errno).to.equal(22);
    expect((await client.call(Cmd.Version, fields([2, 0], [2, 0]))).errno, 'twice').to.equal(22);
    expect((await client.call(99)).errno).to.equal(95);
    client.close();
  });

  it('writes of the controller by message reach the VM, and their answers the controller that asked', async () => {
    const pci = new StubFunction();
    const server = new VfioUserServer({ path: socket('a'), function: pci, dmaByMessage: true });
    start();
    const client = await VfioUserClient.connect(socket('vm'));
    const fd = createMemfd({ name: 'ram', lengthBytes: 4096 });
    expect((await client.map(0, 4096, 0, fd)).flags).to.equal(1);
    let fenced = 0;
    pci.regions[0]!.writer!.write(16, Buffer.from('data'));
    pci.regions[0]!.writer!.fence(() => fenced++);
    await client.until(() => client.requests.length === 1);
    expect(client.requests[0]!.body.subarray(16).toString()).to.equal('data');
    // the one that asked goes before it is answered
    await server.close();
    await until(() => front.status().controller.state === 'away');
    const next = new StubFunction();
    const second = new VfioUserServer({ path: socket('a'), function: next, dmaByMessage: true });
    await until(() => front.status().controller.state === 'joined');
    client.reply(client.requests[0]!, client.requests[0]!.body.subarray(0, 16));
    next.regions[0]!.writer!.write(32, Buffer.from('more'));
    next.regions[0]!.writer!.fence(() => fenced++);
    await client.until(() => client.requests.length === 2);
    const before = fenced;
    client.reply(client.requests[1]!, client.requests[1]!.body.subarray(0, 16));
    await until(() => fenced > before);
    expect(second.isConnected).to.equal(true);
    fs.closeSync(fd);
    client.close();
    await second.close();
  });

  it('memory that is mapped without wanting an answer is known all the same', async () => {
    dpu('a');
    start();
    const client = await VfioUserClient.connect(socket('vm'));
    const fd = createMemfd({ name: 'ram', lengthBytes: 8192 });
    client.send(message(77, Cmd.DmaMap, fields(32, 3, 0n, 0n, 4096n), 0x10), [fd]);
    expect((await client.map(4096, 4096, 4096, fd)).flags).to.equal(1);
    client.send(message(78, Cmd.DmaMap, fields(32, 3, 0n, 0n, 4096n), 0x10), [fd]);
    expect((await client.call(Cmd.GetInfo, fields(16, 0, 0, 0))).flags).to.equal(1);
    await client.readRegion(7, 0, 4);
    expect(front.status().memory).to.deep.equal({ maps: 2, bytes: 8192, descriptors: 1 });
    expect(told('controller-left')).to.deep.equal([]);
    fs.closeSync(fd);
    client.close();
  });

  it('what a controller took along unanswered is asked of the next one', async () => {
    const pci = new StubFunction();
    pci.holdQuiet = true;
    const server = new VfioUserServer({ path: socket('a'), function: pci, quietTimeoutMs: 1 });
    start();
    const client = await VfioUserClient.connect(socket('vm'));
    const stopping = client.call(Cmd.Feature, fields(16, 0x2_0002, 1, 0));
    const reading = client.call(Cmd.RegionRead, fields(0n, 7, 4));
    await until(() => pci.calls.includes('stop'));
    await server.close();
    const next = new StubFunction();
    const second = new VfioUserServer({ path: socket('a'), function: next });
    const answers = await Promise.all([stopping, reading]);
    expect(answers.map(({ flags, command }) => [flags, command])).to.deep.equal([
      [1, Cmd.Feature],
      [1, Cmd.RegionRead],
    ]);
    expect(answers[1]!.body.readUInt32LE(16)).to.equal(0x1234_1b36);
    client.close();
    await second.close();
  });

  it('a guest that uses the pin: the next controller works without an access of the guest', async () => {
    const [first, next] = [new StubFunction(), new StubFunction()];
    const servers = [
      new VfioUserServer({ path: socket('a'), function: first }),
      new VfioUserServer({ path: socket('b'), function: next }),
    ];
    start();
    const client = await VfioUserClient.connect(socket('vm'));
    const line = new EventFd();
    await client.setIrqs(0x24, 0, 0, 1, [line.fd]);
    await front.pause();
    next.pinAsserted = true;
    await front.attach(socket('b'));
    expect(next.isStopped).to.equal(false);
    expect(line.take(), 'asserted when it is armed').to.equal(1);
    await front.resume();
    client.close();
    line.close();
    for (const server of servers) await server.close();
  });

  seeded('hostile VM: no descriptor is lost, and the next one is served', async (random) => {
    dpu('a');
    start();
    const before = openFds();
    for (let round = 0; round < 4; round++) {
      const client = await VfioUserClient.connect(socket('vm'));
      client.takesStrays = true;
      const fd = createMemfd({ name: 'ram', lengthBytes: 1 << 20 });
      for (let i = 0; i < 60 && !client.isClosed; i++) {
        const commands = [
          Cmd.DmaMap,
          Cmd.DmaUnmap,
          Cmd.SetIrqs,
          Cmd.RegionRead,
          Cmd.RegionWrite,
          Cmd.Feature,
          Cmd.Reset,
          6,
        ];
        const command = random.pick(commands);
        const body = hostileBody(random, command);
        const fds = random.oneIn(2) ? Array.from({ length: random.below(5) }, () => fd) : [];
        client.send(message(i, command, body, random.oneIn(4) ? 0x10 : 0), fds);
        if (random.oneIn(8)) await new Promise((resolve) => setImmediate(resolve));
        if (random.oneIn(20)) await Promise.all([front.pause(), front.resume()]);
      }
      client.close();
      fs.closeSync(fd);
      await until(() => front.status().vm === 'none' && front.status().controller.state === 'away');
    }
    await until(() => !dpus[0]!.server.isConnected);
    await boot();
    await guest!.guest.flush(1);
    await guest!.close();
    guest = undefined;
    await until(() => !dpus[0]!.server.isConnected);
    await until(() => openFds() === before);
  });

  it('a VM whose framing is lost, or that answers what nobody asked, is disconnected', async () => {
    dpu('a');
    start();
    for (const bytes of [
      message(1, 9, Buffer.alloc(0), 1),
      Buffer.alloc(16, 0xff),
      message(1, 9, Buffer.alloc(0), 7),
    ]) {
      const client = await VfioUserClient.connect(socket('vm'));
      client.send(bytes);
      await client.until(() => false);
      expect(client.isClosed).to.equal(true);
      await until(() => front.status().vm === 'none');
    }
  });
});

function hostileBody(random: Random, command: number): Buffer {
  const page = (): bigint => BigInt(random.below(256) * 4096);
  switch (command) {
    case Cmd.DmaMap:
      return fields(32, random.below(4), page(), page(), 4096n);
    case Cmd.DmaUnmap:
      return fields(24, random.pick([0, 0, 2]), random.oneIn(3) ? 0n : page(), random.oneIn(3) ? 0n : 4096n);
    case Cmd.SetIrqs:
      return fields(20, random.pick([0x24, 0x21, 0x24, 0x11]), random.below(7), random.below(9), random.below(5));
    case Cmd.RegionRead:
      return fields(BigInt(random.below(0x4000)), random.below(9), random.below(8));
    case Cmd.RegionWrite:
      return fields(BigInt(random.pick([0x14, 0x1000, 0x1004, 0x24])), 0, 4, random.below(64));
    default:
      return random.bytes(random.below(40)) as Buffer;
  }
}
