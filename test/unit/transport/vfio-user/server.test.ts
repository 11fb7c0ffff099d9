/** The vfio-user server against a client of our own that speaks as QEMU 11.1 was seen to. */
import { constants } from 'node:buffer';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { EventFd } from '../../../../src/native/event-fd.ts';
import { requireNative } from '../../../../src/native/load.ts';
import { createMemfd, MappedMemory } from '../../../../src/native/mapped-memory.ts';
import { VfioUserServer, type VfioUserServerOptions } from '../../../../src/transport/vfio-user/server.ts';
import { ManualClock } from '../../../support/manual-clock.ts';
import { needNative, until } from '../../../support/native.ts';
import { StubFunction } from '../../../support/stub-function.ts';
import { Cmd, fields, message, QEMU_CAPABILITIES, VfioUserClient } from '../../../support/vfio-user-client.ts';

const MIB = 1 << 20;
const PAGE = 4096;
const openFds = (): number => fs.readdirSync('/proc/self/fd').length;

describe('vfio-user server', () => {
  let folder: string;
  let path: string;
  let pci: StubFunction;
  let server: VfioUserServer;
  let client: VfioUserClient;
  let clock: ManualClock;
  const warnings: string[] = [];
  const ended: string[] = [];
  const memfds: number[] = [];

  function listen(options: Partial<VfioUserServerOptions> = {}): void {
    server = new VfioUserServer({
      path,
      function: pci,
      clock,
      onWarning: (text) => warnings.push(text),
      onDisconnected: (reason) => ended.push(reason),
      ...options,
    });
  }
  function memory(lengthBytes: number): number {
    const fd = createMemfd({ name: 'ram', lengthBytes });
    memfds.push(fd);
    return fd;
  }

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-vfu-'));
    path = join(folder, 'vm.sock');
    pci = new StubFunction();
    clock = new ManualClock();
    warnings.length = 0;
    ended.length = 0;
  });
  afterEach(async () => {
    if (folder === undefined) return; // skipped
    client?.close();
    await server?.close();
    for (const fd of memfds.splice(0)) fs.closeSync(fd);
    fs.rmSync(folder, { recursive: true, force: true });
  });

  async function start(options: Partial<VfioUserServerOptions> = {}): Promise<void> {
    listen(options);
    client = await VfioUserClient.connect(path);
  }

  // ---- version

  describe('VERSION', () => {
    const ask = (text: string): Buffer => fields([2, 0], [2, 0], Buffer.from(text));

    it("answers QEMU's with its own limits, not longer than it was asked", async () => {
      listen();
      client = VfioUserClient.raw(path);
      const asked = ask(`${QEMU_CAPABILITIES}\0`);
      expect(asked.length + 16, 'as recorded').to.equal(214);
      const { flags, body } = await client.call(Cmd.Version, asked);
      expect(flags).to.equal(1);
      expect(body.length).to.be.at.most(asked.length);
      expect([body.readUInt16LE(0), body.readUInt16LE(2), body.at(-1)]).to.deep.equal([0, 0, 0]);
      expect(JSON.parse(body.subarray(4, -1).toString())).to.deep.equal({
        capabilities: { max_msg_fds: 16, max_data_xfer_size: MIB, write_multiple: true },
      });
    });

    it('leaves out what does not fit', async () => {
      listen();
      for (const [text, answer] of [
        ['', ''],
        ['{}\0', '{}\0'],
        ['{"capabilities":{}}\0', '{}\0'],
      ] as const) {
        client = VfioUserClient.raw(path);
        const { flags, body } = await client.call(Cmd.Version, ask(text));
        expect([flags, body.subarray(4).toString()], text).to.deep.equal([1, answer]);
        client.close();
        await until(() => !server.isConnected);
      }
    });

    it('refuses what is none, and takes a right one afterwards', async () => {
      listen();
      client = VfioUserClient.raw(path);
      for (const [bytes, errno] of [
        [fields([2, 1], [2, 0]), 95],
        [fields([2, 0]), 22],
        [ask('{}'), 22],
        [ask('{"capabilities":[]}\0'), 22],
        [ask('[]\0'), 22],
        [ask('{\0'), 22],
        [ask('{"capabilities":{"max_msg_fds":-1}}\0'), 22],
        [ask('{"capabilities":{"max_data_xfer_size":"1M"}}\0'), 22],
        [Buffer.concat([fields([2, 0], [2, 0]), Buffer.from([0xff, 0xfe, 0])]), 22],
      ] as const) {
        const answer = await client.call(Cmd.Version, bytes);
        expect([answer.flags, answer.errno, answer.body.length], bytes.toString()).to.deep.equal([0x21, errno, 0]);
      }
      const early = await client.call(Cmd.GetInfo, fields(16, 0, 0, 0));
      expect([early.flags, early.errno], 'before the version').to.deep.equal([0x21, 22]);
      expect((await client.call(Cmd.Version, ask('{"unknown":1}\0'))).flags).to.equal(1);
      expect((await client.call(Cmd.Version, ask('{}\0'))).errno, 'twice').to.equal(22);
    });
  });

  // ---- what QEMU asks when it attaches

  it('says what the device is', async () => {
    await start();
    const info = await client.call(Cmd.GetInfo, fields(16, 0, 0, 0));
    expect(info.body).to.deep.equal(fields(16, 3, 9, 5));
    const region = async (index: number): Promise<Buffer> =>
      (await client.call(Cmd.GetRegionInfo, fields(32, 0, index, 0, 0n, 0n))).body;
    expect(await region(0)).to.deep.equal(fields(32, 3, 0, 0, 0x4000n, 0n));
    for (const absent of [1, 2, 3, 4, 5, 6, 8])
      expect(await region(absent)).to.deep.equal(fields(32, 0, absent, 0, 0n, 0n));
    expect(await region(7)).to.deep.equal(fields(32, 3, 7, 0, 256n, 0n));
    expect((await client.call(Cmd.GetRegionInfo, fields(32, 0, 9, 0, 0n, 0n))).errno).to.equal(22);
    const irq = async (index: number): Promise<Buffer> =>
      (await client.call(Cmd.GetIrqInfo, fields(16, 0, index, 0))).body;
    expect(await irq(0)).to.deep.equal(fields(16, 7, 0, 1));
    expect(await irq(1)).to.deep.equal(fields(16, 1, 1, 4));
    expect(await irq(2)).to.deep.equal(fields(16, 1, 2, 8));
    expect(await irq(3)).to.deep.equal(fields(16, 1, 3, 1));
    expect(await irq(4)).to.deep.equal(fields(16, 1, 4, 1));
    expect((await client.call(Cmd.GetIrqInfo, fields(16, 0, 5, 0))).errno).to.equal(22);
  });

  it('a command that it does not know: not supported, the connection stays', async () => {
    await start();
    for (const command of [0, 6, 14, 19, 0xffff]) {
      const { flags, errno } = await client.call(command, Buffer.alloc(24));
      expect([flags, errno], `command ${command}`).to.deep.equal([0x21, 95]);
    }
    expect((await client.readRegion(7, 0, 4)).readUInt32LE(0)).to.equal(0x1234_1b36);
  });

  it('a body that is too short for its command: invalid', async () => {
    await start();
    for (const command of [2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 18]) {
      const { flags, errno } = await client.call(command, Buffer.alloc(3));
      expect([flags, errno], `command ${command}`).to.deep.equal([0x21, 22]);
    }
  });

  // ---- regions

  it('reads and writes config space and BAR, and works once for many doorbells', async () => {
    await start();
    await client.writeRegion(7, 4, fields([2, 6]));
    await client.writeRegion(0, 0x14, fields(0x0046_0001));
    expect((await client.readRegion(0, 0x14, 4)).readUInt32LE(0)).to.equal(0x0046_0001);
    expect(await client.readRegion(7, 0, 256)).to.deep.equal(pci.config);
    const before = pci.runCount;
    for (let tail = 1; tail <= 50; tail++) client.post(Cmd.RegionWrite, fields(BigInt(0x1008), 0, 4, fields(tail)));
    await client.readRegion(0, 0x1c, 4);
    await until(() => pci.bar.readUInt32LE(0x1008) === 50);
    await new Promise((resolve) => setImmediate(resolve));
    expect(pci.runCount - before)
      .to.be.at.least(1)
      .and.at.most(5);
    expect(pci.calls.filter((call) => call.startsWith('bar 1008'))).to.have.length(50);
  });

  it('accesses outside a region are errors, and reach nothing', async () => {
    await start();
    const read = async (region: number, offset: bigint, count: number): Promise<number> =>
      (await client.call(Cmd.RegionRead, fields(offset, region, count))).errno;
    for (const [region, offset, count] of [
      [0, 0x4000n, 4],
      [0, 0x3ffdn, 4],
      [0, 0n, 0x4001],
      [0, 0n, 0],
      [0, 0xffff_ffff_ffff_fffcn, 4],
      [0, 0n, 0xffff_ffff],
      [1, 0n, 4],
      [7, 255n, 2],
      [8, 0n, 4],
      [99, 0n, 4],
    ] as const)
      expect(await read(region, offset, count), `${region} ${offset} ${count}`).to.equal(22);
    const short = await client.call(Cmd.RegionWrite, fields(0n, 0, 8, fields(1)));
    expect(short.errno, 'less data than count').to.equal(22);
    expect(pci.calls.filter((call) => call.startsWith('bar'))).to.deep.equal([]);
  });

  it('several writes in one message, as agreed upon', async () => {
    await start();
    const one = (offset: number, value: number): Buffer => fields(BigInt(offset), 0, 4, value, 0);
    const { flags, body } = await client.call(Cmd.RegionWriteMulti, fields(2n, one(0x1000, 3), one(0x1008, 4)));
    expect([flags, body]).to.deep.equal([1, fields(2n)]);
    expect(pci.calls.slice(-2)).to.deep.equal(['bar 1000=03000000', 'bar 1008=04000000']);
    for (const wrong of [fields(201n), fields(2n, one(0, 1)), fields(1n, fields(0n, 0, 9, 0n)), fields(1n << 40n)])
      expect((await client.call(Cmd.RegionWriteMulti, wrong)).errno).to.equal(22);
  });

  it('answers in the order of the messages, however they are cut', async () => {
    await start();
    const bytes = Buffer.concat([
      message(500, Cmd.RegionRead, fields(0n, 7, 4)),
      message(501, Cmd.RegionWrite, fields(0x1000n, 0, 4, 7)),
      message(502, Cmd.RegionRead, fields(0x1000n, 0, 4)),
      message(503, 99, Buffer.alloc(0)),
    ]);
    const order: number[] = [];
    const answers = [500, 501, 502, 503].map((id) => client.answerTo(id).then((got) => order.push(got.id)));
    for (const byte of bytes) client.send(Buffer.from([byte]));
    await Promise.all(answers);
    expect(order).to.deep.equal([500, 501, 502, 503]);
  });

  // ---- memory

  describe('DMA', () => {
    it('maps what came with a descriptor, knows what came without, and keeps no descriptor', async () => {
      await start();
      const fd = memory(4 * MIB);
      const before = openFds();
      expect((await client.map(0, MIB, 0, fd)).flags).to.equal(1);
      expect((await client.map(0x4000_0000, 2 * MIB, 2 * MIB, fd, 1)).flags).to.equal(1);
      expect((await client.map(0xfffc_0000, 0x4_0000, 0, undefined, 1)).flags).to.equal(1);
      expect(openFds()).to.equal(before);
      fs.writeSync(fd, Buffer.from('here'), 0, 4, 2 * MIB + 5);
      const [first, second, rom] = pci.regions;
      expect(Buffer.from(second!.buffer!, 5, 4).toString()).to.equal('here');
      new Uint8Array(first!.buffer!)[7] = 42;
      const seen = Buffer.alloc(1);
      fs.readSync(fd, seen, 0, 1, 7);
      expect(seen[0]).to.equal(42);
      expect([first!.writable, second!.writable, rom!.buffer]).to.deep.equal([true, false, undefined]);
      expect(warnings).to.deep.equal([]);
    });

    it('more in one map than an ArrayBuffer holds, with addresses that go on', async () => {
      await start();
      const before = requireNative('x').mappingCount();
      const fd = memory(6 * 1024 * MIB + 4 * PAGE);
      expect((await client.map(PAGE, 5 * 1024 * MIB + 3 * PAGE, 1024 * MIB, fd)).flags).to.equal(1);
      fs.writeSync(fd, Buffer.from('far'), 0, 3, 6 * 1024 * MIB + PAGE);
      let next = PAGE;
      for (const { iova, lengthBytes } of pci.regions) {
        expect(iova).to.equal(next);
        next += lengthBytes;
      }
      expect(next).to.equal(5 * 1024 * MIB + 4 * PAGE);
      expect(Buffer.from(pci.regions.at(-1)!.buffer!, PAGE, 3).toString()).to.equal('far');
      expect((await client.unmap(PAGE, 5 * 1024 * MIB)).errno).to.equal(2);
      expect((await client.unmap(PAGE, 5 * 1024 * MIB + 3 * PAGE)).flags).to.equal(1);
      expect([pci.regions.length, requireNative('x').mappingCount()]).to.deep.equal([0, before]);
      // the third piece overlaps: nothing of it stays
      await client.map(2 * 1024 * MIB, PAGE, 0, fd);
      expect((await client.map(0, 4 * 1024 * MIB, 0, fd)).errno).to.equal(17);
      expect([pci.regions.length, requireNative('x').mappingCount()]).to.deep.equal([1, before + 1]);
    });

    it('a mapping longer than an ArrayBuffer can be is refused, and nothing of it stays', () => {
      const before = requireNative('x').mappingCount();
      const lengthBytes = 2 * constants.MAX_LENGTH;
      // newer versions of V8 have no such limit that memory could reach
      if (lengthBytes > 1024 * 1024 * MIB) return;
      const fd = memory(lengthBytes);
      expect(() => MappedMemory.map({ fd, lengthBytes })).to.throw(/EFBIG/);
      expect(requireNative('x').mappingCount()).to.equal(before);
    });

    it('unmaps the exact range, answers with what was asked, and lets go of the memory', async () => {
      await start();
      const before = requireNative('x').mappingCount();
      const fd = memory(2 * MIB);
      await client.map(0, MIB, 0, fd);
      await client.map(MIB, MIB, MIB, fd);
      expect((await client.unmap(0, PAGE)).errno).to.equal(2);
      expect((await client.unmap(PAGE, MIB)).errno).to.equal(2);
      const { flags, body } = await client.unmap(0, MIB);
      expect([flags, body]).to.deep.equal([1, fields(24, 0, 0n, BigInt(MIB))]);
      expect(pci.regions.map(({ iova }) => iova)).to.deep.equal([MIB]);
      expect(requireNative('x').mappingCount()).to.equal(before + 1);
      await client.map(0, MIB, 0, fd);
      expect((await client.unmap(0, 0, 2)).flags, 'all').to.equal(1);
      expect(pci.regions).to.deep.equal([]);
      expect(requireNative('x').mappingCount()).to.equal(before);
      expect((await client.unmap(0, MIB, 1)).errno, 'with a dirty bitmap').to.equal(95);
    });

    it('the batch of a firmware that rebuilds its map, sent without waiting', async () => {
      await start();
      const fd = memory(64 * MIB);
      const map = (iova: number, size: number, withFd: boolean, flags = 3) =>
        client.map(iova, size, iova, withFd ? fd : undefined, flags);
      await map(0, 64 * MIB, true);
      const answers = await Promise.all([
        client.unmap(0, 64 * MIB),
        map(0, 0xc_0000, true),
        map(0xc_0000, 0x2_0000, false, 1),
        map(0xe_0000, 0x2_0000, false),
        map(0x10_0000, 63 * MIB, true),
      ]);
      expect(answers.map(({ flags }) => flags)).to.deep.equal([1, 1, 1, 1, 1]);
      expect(pci.regions.map(({ iova }) => iova)).to.deep.equal([0, 0xc_0000, 0xe_0000, 0x10_0000]);
    });

    it('refuses overlaps, no range, ranges past the file or 2^53, and closes the descriptor', async () => {
      await start();
      const fd = memory(MIB);
      await client.map(MIB, MIB, 0, fd);
      const before = openFds();
      expect((await client.map(2 * MIB - PAGE, MIB, 0, fd)).errno).to.equal(17);
      expect((await client.map(0, 0, 0, fd)).errno).to.equal(22);
      expect((await client.map(0, 2 * MIB, 0, fd)).errno, 'longer than the file').to.not.equal(0);
      expect((await client.map(0, PAGE, 100, fd)).errno, 'offset inside a page').to.equal(22);
      const huge = fields(32, 3, 0n, (1n << 53n) - 4096n, 8192n);
      expect((await client.call(Cmd.DmaMap, huge, [fd])).errno).to.equal(22);
      expect((await client.call(Cmd.DmaMap, fields(32, 8, 0n, 0n, 4096n), [fd])).errno, 'unknown flag').to.equal(22);
      expect((await client.call(Cmd.DmaMap, fields(32, 3, 0n, 0n, 4096n), [fd, fd])).errno, 'two').to.equal(22);
      expect(openFds()).to.equal(before);
      expect(pci.regions).to.have.length(1);
    });

    it('says that memory without descriptor is of no use', async () => {
      await start();
      await client.map(0, 1024 * MIB);
      expect(warnings.join()).to.match(/share=on/);
    });
  });

  // ---- interrupts

  /** Everything that was sent was handled, and the function has worked. */
  const worked = async (): Promise<void> => {
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  };

  describe('interrupts', () => {
    const events: EventFd[] = [];
    const event = (): EventFd => {
      const made = new EventFd();
      events.push(made);
      return made;
    };
    afterEach(() => {
      for (const each of events.splice(0)) each.close();
    });

    it('MSI-X: a vector signals the eventfd that it was given', async () => {
      await start();
      expect(pci.ownsMsixTable).to.equal(true);
      const [a, b] = [event(), event()];
      const before = openFds();
      expect((await client.setIrqs(0x24, 2, 1, 2, [a.fd, b.fd])).flags).to.equal(1);
      expect(openFds()).to.equal(before + 2);
      pci.sink!.message(1);
      pci.sink!.message(2);
      pci.sink!.message(2);
      expect([a.take(), b.take()]).to.deep.equal([1, 2]);
      const c = event();
      await client.setIrqs(0x24, 2, 1, 1, [c.fd]);
      pci.sink!.message(1);
      expect([a.take(), c.take()]).to.deep.equal([0, 1]);
      expect(openFds(), 'the one before is closed').to.equal(before + 3);
      await client.setIrqs(0x21, 2, 0, 0);
      pci.sink!.message(1);
      expect(c.take()).to.equal(0);
      expect(openFds()).to.equal(before + 1);
    });

    it('a message that comes before its vector is unmasked is not lost', async () => {
      await start();
      expect((await client.setIrqs(0x24, 2, 0, 1)).flags, 'as QEMU allocates').to.equal(1);
      pci.sink!.message(3);
      const line = event();
      await client.setIrqs(0x24, 2, 3, 1, [line.fd]);
      expect(line.take()).to.equal(1);
      await client.setIrqs(0x24, 2, 3, 1, [line.fd]);
      expect(line.take()).to.equal(0);
      await client.setIrqs(0x24, 2, 3, 1);
      pci.sink!.message(3);
      await client.setIrqs(0x21, 2, 0, 0);
      await client.setIrqs(0x24, 2, 3, 1, [line.fd]);
      expect(line.take(), 'disabled meanwhile').to.equal(0);
    });

    it('MSI has vectors of its own', async () => {
      await start();
      pci.interruptMode = 1;
      const [msi, msix] = [event(), event()];
      await client.setIrqs(0x24, 1, 0, 1, [msi.fd]);
      await client.setIrqs(0x24, 2, 0, 1, [msix.fd]);
      pci.sink!.message(0);
      expect([msi.take(), msix.take()]).to.deep.equal([1, 0]);
    });

    it('the pin: once until it is unmasked, again if it is still asserted then', async () => {
      await start();
      const line = event();
      await client.setIrqs(0x24, 0, 0, 1, [line.fd]);
      const assert = (level: boolean): void => {
        pci.pinAsserted = level;
        pci.sink!.pin(level);
      };
      assert(true);
      assert(true);
      expect(line.take()).to.equal(1);
      const runs = pci.runCount;
      await client.setIrqs(0x11, 0, 0, 1);
      await until(() => pci.runCount > runs);
      expect(line.take(), 'still asserted, once the function has worked').to.equal(1);
      assert(false);
      await client.setIrqs(0x11, 0, 0, 1);
      await worked();
      expect(line.take()).to.equal(0);
      await client.setIrqs(0x09, 0, 0, 1);
      assert(true);
      expect(line.take(), 'masked').to.equal(0);
      await client.setIrqs(0x11, 0, 0, 1);
      await worked();
      expect(line.take()).to.equal(1);
      await client.setIrqs(0x21, 0, 0, 0);
      const armed = event();
      await client.setIrqs(0x24, 0, 0, 1, [armed.fd]);
      expect(armed.take(), 'asserted when it is armed').to.equal(1);
    });

    it('refuses what cannot be, and closes every descriptor', async () => {
      await start();
      const line = event();
      const before = openFds();
      for (const [flags, index, first, count, fds] of [
        [0x24, 2, 8, 1, 1],
        [0x24, 2, 7, 2, 2],
        [0x24, 5, 0, 1, 1],
        [0x24, 2, 0, 2, 1],
        [0x24, 2, 0, 0, 0],
        [0x24, 2, 0xffff_ffff, 2, 2],
        [0x26, 2, 0, 1, 1],
        [0x20, 2, 0, 1, 0],
        [0x04, 2, 0, 1, 1],
        [0x34, 2, 0, 1, 1],
        [0x22, 2, 0, 2, 0],
        [0x09, 2, 0, 1, 0],
        [0x0c, 0, 0, 1, 1],
        [0x21, 2, 0, 1, 1],
        [0x40, 0, 0, 1, 0],
      ] as const) {
        const { errno } = await client.setIrqs(flags, index, first, count, new Array<number>(fds).fill(line.fd));
        expect(errno, `${flags.toString(16)} ${index} ${first} ${count}`).to.equal(22);
      }
      const file = fs.openSync(join(folder, 'file'), 'w');
      expect((await client.setIrqs(0x24, 2, 0, 1, [file])).errno, 'a file is no eventfd').to.equal(22);
      fs.closeSync(file);
      expect(openFds()).to.equal(before);
    });

    it('a full eventfd stops nobody', async () => {
      await start();
      const line = event();
      await client.setIrqs(0x24, 2, 0, 1, [line.fd]);
      fs.writeSync(line.fd, Buffer.from('feffffffffffffff', 'hex'));
      pci.sink!.message(0);
      expect((await client.readRegion(7, 0, 4)).length).to.equal(4);
    });
  });

  // ---- life

  it('does nothing for a client until that uses the device', async () => {
    await start();
    await until(() => server.isConnected);
    expect(pci.isStopped).to.equal(true);
    await client.readRegion(7, 0, 4);
    await client.map(0, MIB);
    expect(pci.isStopped).to.equal(true);
    await client.readRegion(0, 0x1c, 4);
    expect(pci.isStopped).to.equal(false);
    expect(pci.calls.filter((call) => call === 'resume')).to.have.length(1);
  });

  it('DEVICE_RESET resets, and lets it run', async () => {
    await start();
    expect((await client.call(Cmd.Reset)).flags).to.equal(1);
    expect([pci.calls.includes('reset'), pci.isStopped]).to.deep.equal([true, false]);
  });

  it('a client that goes takes its memory and interrupts along, and nothing of the device', async () => {
    await start();
    const line = new EventFd();
    const before = requireNative('x').mappingCount();
    await client.map(0, MIB, 0, memory(MIB));
    await client.setIrqs(0x24, 2, 0, 1, [line.fd]);
    await client.writeRegion(0, 0x14, fields(0x0046_0001));
    pci.holdQuiet = true;
    client.close();
    await until(() => !server.isConnected);
    expect([pci.isStopped, pci.sink, pci.regions.length], 'until it is quiet').to.deep.equal([true, undefined, 1]);
    const second = VfioUserClient.connect(path);
    await new Promise((resolve) => setImmediate(resolve));
    expect(server.isConnected).to.equal(false);
    pci.holdQuiet = false;
    pci.quiet();
    client = await second;
    expect([pci.regions.length, requireNative('x').mappingCount()]).to.deep.equal([0, before]);
    expect((await client.readRegion(0, 0x14, 4)).readUInt32LE(0)).to.equal(0x0046_0001);
    expect(pci.calls).to.not.include('reset');
    expect(ended).to.deep.equal(['the client closed the connection']);
    line.close();
  });

  it('commands of a client that went and do not end: reset after a while', async () => {
    await start({ quietTimeoutMs: 5000 });
    await client.readRegion(0, 0, 4);
    pci.holdQuiet = true;
    client.close();
    await until(() => !server.isConnected);
    clock.advance(5000);
    await until(() => pci.calls.includes('reset'));
    pci.holdQuiet = false;
    client = await VfioUserClient.connect(path);
    expect(warnings.join()).to.match(/did not end/);
  });

  it('a second client is turned away, the first does not notice', async () => {
    await start();
    const second = VfioUserClient.raw(path);
    await second.until(() => false);
    expect(second.isClosed).to.equal(true);
    expect(warnings.join()).to.match(/second client/);
    expect((await client.readRegion(7, 0, 4)).length).to.equal(4);
  });

  it('framing that is lost ends the connection: sizes, types, answers to nothing', async () => {
    listen();
    for (const bytes of [
      fields([2, 1], [2, 4], 15, 0, 0),
      fields([2, 1], [2, 4], 0, 0, 0),
      fields([2, 1], [2, 4], 0xffff_ffff, 0, 0),
      fields([2, 1], [2, 4], 16 + MIB + 65, 0, 0),
      fields([2, 1], [2, 4], 16, 2, 0),
      fields([2, 1], [2, 12], 16, 1, 0),
    ]) {
      client = await VfioUserClient.connect(path);
      client.send(bytes);
      await client.until(() => false);
      expect(client.isClosed, bytes.toString('hex')).to.equal(true);
      await until(() => !server.isConnected);
    }
  });

  it('replaces a stale socket, not one in use, nor a file', async () => {
    listen();
    expect(() => new VfioUserServer({ path, function: new StubFunction() })).to.throw(/in use by another program/);
    await server.close();
    expect(fs.existsSync(path)).to.equal(false);
    const binding = requireNative('x');
    fs.closeSync(binding.unixListen(path, 1));
    listen();
    client = await VfioUserClient.connect(path);
    const file = join(folder, 'file');
    fs.writeFileSync(file, 'x');
    expect(() => new VfioUserServer({ path: file, function: new StubFunction() })).to.throw(/in use/);
    expect(fs.readFileSync(file, 'utf8')).to.equal('x');
    const nowhere = join(folder, 'no', 'vm.sock');
    expect(() => new VfioUserServer({ path: nowhere, function: new StubFunction() })).to.throw(/does not exist/);
  });

  it('close ends the client and frees the path', async () => {
    await start();
    await server.close();
    await client.until(() => false);
    expect([client.isClosed, fs.existsSync(path)]).to.deep.equal([true, false]);
  });

  // ---- writes by message

  it('DMA_WRITE instead of the mapping, when asked for', async () => {
    await start({ dmaByMessage: true });
    const fd = memory(MIB);
    await client.map(0x10_0000, MIB, 0, fd);
    const { writer } = pci.regions[0]!;
    const view = MappedMemory.map({ fd, lengthBytes: MIB });
    const bytes = Buffer.from('written by message');
    let fenced = 0;
    writer!.fence(() => fenced++);
    expect(fenced, 'nothing is under way').to.equal(1);
    writer!.write(0x10_0200, bytes);
    writer!.write(0x10_0000, Buffer.alloc(MIB + 5, 7).subarray(0, MIB));
    bytes.fill(0);
    writer!.fence(() => fenced++);
    await client.until(() => client.requests.length === 2);
    const [first, second] = client.requests;
    expect([first!.command, first!.flags, second!.command]).to.deep.equal([12, 0, 12]);
    expect(first!.body).to.deep.equal(fields(0x10_0200n, 18n, Buffer.from('written by message')));
    expect(second!.body.length).to.equal(16 + MIB);
    // region accesses are answered while these wait
    expect((await client.readRegion(7, 0, 4)).length).to.equal(4);
    client.reply(first!, fields(0x10_0200n, 18n));
    await client.readRegion(7, 0, 4);
    expect(fenced).to.equal(1);
    client.reply(second!, fields(0x10_0000n, MIB, 0).subarray(0, 12));
    await until(() => fenced === 2);
    writer!.write(0x10_0000, Buffer.alloc(16));
    writer!.fence(() => fenced++);
    client.close();
    await until(() => fenced === 3);
    await view.unmap();
  });

  // ---- features

  describe('DEVICE_FEATURE and migration', () => {
    const GET = 0x1_0000;
    const SET = 0x2_0000;
    const PROBE = 0x4_0000;
    const feature = (flags: number, ...data: Parameters<typeof fields>) => {
      const rest = fields(...data);
      return client.call(Cmd.Feature, fields(8 + rest.length, flags, rest));
    };
    const setState = async (state: number): Promise<number> => (await feature(SET | 2, state, 0)).errno;
    const getState = async (): Promise<number> => (await feature(GET | 2)).body.readUInt32LE(8);

    it('says what it has, to probes as well', async () => {
      await start();
      expect((await feature(GET | 1)).body).to.deep.equal(fields(16, GET | 1, 5n));
      for (const flags of [PROBE | GET | 1, PROBE | GET | SET | 2, PROBE | SET | 6, PROBE | SET | 7, PROBE | GET | 8]) {
        const { errno, body } = await feature(flags);
        expect([errno, body.readUInt32LE(4)], flags.toString(16)).to.deep.equal([0, flags]);
      }
      for (const flags of [PROBE | SET | 1, PROBE | GET | 6, PROBE | GET | 3, GET | 99, SET | 8])
        expect((await feature(flags)).errno, flags.toString(16)).to.equal(95);
      for (const flags of [2, GET | SET | 2]) expect((await feature(flags, 2, 0)).errno).to.equal(22);
    });

    it('walks every way between two states that there is, and no other', async () => {
      const names = ['error', 'stop', 'running', 'stop-copy', 'resuming', 'p2p', 'pre-copy', 'pre-copy-p2p'];
      const arcs = ['2-1', '1-2', '1-3', '3-1', '1-4', '4-1', '2-6', '6-2', '6-3'];
      await start();
      for (const from of [1, 2, 3, 4, 6]) {
        for (let to = 0; to < 8; to++) {
          await client.call(Cmd.Reset);
          expect(await setState(from)).to.equal(0);
          expect(await getState()).to.equal(from);
          const reachable = [1, 2, 3, 4, 6].includes(to) && !(from === 3 && to === 6);
          expect(await setState(to), `${names[from]} -> ${names[to]}`).to.equal(reachable ? 0 : 22);
          expect(await getState()).to.equal(reachable ? to : from);
          expect(pci.isStopped, `${names[from]} -> ${names[to]}`).to.equal(![2, 6].includes(reachable ? to : from));
        }
      }
      expect(arcs).to.have.length(9);
    });

    it('a stop is answered once everything has ended, and what comes behind it waits', async () => {
      await start();
      await client.readRegion(0, 0, 4);
      pci.holdQuiet = true;
      const order: string[] = [];
      const stopped = setState(1).then((errno) => order.push(`stop ${errno}`));
      const read = client.readRegion(7, 0, 4).then(() => order.push('read'));
      await until(() => pci.isStopped);
      await new Promise((resolve) => setImmediate(resolve));
      expect(order).to.deep.equal([]);
      pci.quiet();
      await Promise.all([stopped, read]);
      expect(order).to.deep.equal(['stop 0', 'read']);
    });

    it('a client that goes during a stop', async () => {
      await start();
      await client.readRegion(0, 0, 4);
      pci.holdQuiet = true;
      void setState(1);
      await until(() => pci.isStopped);
      client.close();
      await until(() => !server.isConnected);
      pci.holdQuiet = false;
      pci.quiet();
      client = await VfioUserClient.connect(path);
      expect(await getState()).to.equal(2);
    });

    it('reads the state in pieces, and writes it elsewhere', async () => {
      await start();
      expect((await client.call(Cmd.MigDataRead, fields(8, 100))).errno, 'while it runs').to.equal(22);
      await setState(6);
      expect((await client.call(Cmd.MigDataRead, fields(8, 100))).body, 'nothing yet').to.deep.equal(fields(8, 0));
      await setState(3);
      const pieces: Buffer[] = [];
      for (;;) {
        const { body } = await client.call(Cmd.MigDataRead, fields(8, 5));
        expect(body.readUInt32LE(0)).to.equal(body.length);
        pieces.push(body.subarray(8));
        if (body.readUInt32LE(4) < 5) break;
      }
      expect(Buffer.concat(pieces).toString()).to.equal('controller state');
      await setState(4);
      for (const piece of pieces)
        expect((await client.call(Cmd.MigDataWrite, fields(8, piece.length, piece))).flags).to.equal(1);
      expect((await client.call(Cmd.MigDataWrite, fields(8, 9, 0))).errno, 'less than it says').to.equal(22);
      expect(await setState(1)).to.equal(0);
      expect(Buffer.from(pci.loaded!).toString()).to.equal('controller state');
      expect(pci.isStopped).to.equal(true);
      await client.readRegion(0, 0, 4);
      expect(pci.isStopped, 'an access does not let it run').to.equal(true);
      expect(await setState(2)).to.equal(0);
      expect(pci.isStopped).to.equal(false);
    });

    it('a state that cannot be: ERROR, which only a reset leaves', async () => {
      await start();
      await setState(4);
      await client.call(Cmd.MigDataWrite, fields(8, 2, Buffer.from([0xff, 0])));
      expect(await setState(2)).to.equal(22);
      expect(await getState()).to.equal(0);
      expect(await setState(2)).to.equal(22);
      await client.call(Cmd.Reset);
      expect(await getState()).to.equal(2);
    });

    it('logs what is written to memory', async () => {
      await start();
      expect((await feature(SET | 6, 4096n, 2, 0, 0n, 1n << 20n, 1n << 32n, 8192n)).errno).to.equal(0);
      expect(pci.dirtyLog).to.deep.equal({
        pageBytes: 4096,
        ranges: [
          { iova: 0, lengthBytes: MIB },
          { iova: 2 ** 32, lengthBytes: 8192 },
        ],
      });
      const report = await feature(GET | 8, 0n, BigInt(65 * PAGE), 4096n);
      expect(report.body).to.deep.equal(fields(48, GET | 8, 0n, BigInt(65 * PAGE), 4096n, Buffer.alloc(16, 0xa5)));
      for (const [length, page] of [
        [1n << 50n, 4096n],
        [4096n, 0n],
        [1n << 60n, 1n],
      ] as const)
        expect((await feature(GET | 8, 0n, length, page)).errno).to.equal(22);
      expect((await feature(SET | 6, 1000n, 0, 0)).errno).to.equal(22);
      expect((await feature(SET | 6, 4096n, 3, 0, 0n, 4096n)).errno, 'ranges that are not there').to.equal(22);
      expect((await feature(SET | 6, 4096n, 0xffff_ffff, 0)).errno).to.equal(22);
      expect((await feature(SET | 7)).errno).to.equal(0);
      expect(pci.dirtyLog).to.equal(undefined);
      await feature(SET | 6, 4096n, 0, 0);
      client.close();
      await until(() => !server.isConnected);
      expect(pci.dirtyLog, 'the client is gone').to.equal(undefined);
    });
  });
});
