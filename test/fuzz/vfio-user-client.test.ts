/**
 * Hostile vfio-user client against the server with a real NVMe function behind it: right messages, messages with one thing wrong, and noise, with
 * descriptors of every kind. What must hold: each command is answered once, and in order, or the connection ends; no descriptor and no mapping stays;
 * the guest's memory is changed by nothing that was not mapped; the next client is served.
 */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { EventFd } from '../../src/native/event-fd.ts';
import { requireNative } from '../../src/native/load.ts';
import { createMemfd } from '../../src/native/mapped-memory.ts';
import { VfioUserServer } from '../../src/transport/vfio-user/server.ts';
import { needNative, until } from '../support/native.ts';
import { Cmd, fields, message, QEMU_CAPABILITIES, VfioUserClient } from '../support/vfio-user-client.ts';
import { TestVm } from '../support/vm.ts';
import { fuzz, type Random } from './support/random.ts';

const PAGE = 4096;
const RAM_BYTES = 1 << 20;
const GUARD_BYTES = 1 << 16;
const COMMANDS = [...Object.values(Cmd), 0, 6, 14, 19, 0xffff];
/** Descriptors beyond stdio that this process has now. */
const openFds = (): number => fs.readdirSync('/proc/self/fd').length;

/** What the client may pass: its RAM, eventfds, and what is neither. */
class Things {
  readonly ram: number = createMemfd({ name: 'ram', lengthBytes: RAM_BYTES + GUARD_BYTES });
  readonly events: EventFd[] = Array.from({ length: 4 }, () => new EventFd());
  readonly file: number;
  readonly directory: number;

  constructor(folder: string) {
    this.file = fs.openSync(join(folder, 'file'), 'w+');
    this.directory = fs.openSync(folder, 'r');
    // behind what is ever mapped
    fs.writeSync(this.ram, Buffer.alloc(GUARD_BYTES, 0xee), 0, GUARD_BYTES, RAM_BYTES);
  }

  any(random: Random): number {
    return random.pick([this.ram, this.ram, this.events[0]!.fd, this.events[1]!.fd, this.file, this.directory]);
  }

  checkGuard(): void {
    const found = Buffer.alloc(GUARD_BYTES);
    fs.readSync(this.ram, found, 0, GUARD_BYTES, RAM_BYTES);
    expect(
      found.every((byte) => byte === 0xee),
      'memory that was never mapped',
    ).to.equal(true);
  }

  close(): void {
    fs.closeSync(this.ram);
    fs.closeSync(this.file);
    fs.closeSync(this.directory);
    for (const event of this.events) event.close();
  }
}

/** A body that fits the command, mostly. */
function body(random: Random, command: number, things: Things): { bytes: Buffer; fds: number[] } {
  const page = (): number => random.below(RAM_BYTES / PAGE) * PAGE;
  switch (command) {
    case Cmd.Version:
      return { bytes: fields([2, 0], [2, 0], Buffer.from(`${QEMU_CAPABILITIES}\0`)), fds: [] };
    case Cmd.DmaMap: {
      const at = page();
      const size = Math.min(RAM_BYTES - at, PAGE * random.pick([1, 1, 2, 16, 256]));
      const bytes = fields(32, random.pick([3, 3, 1, 2, 0]), BigInt(at), BigInt(page()), BigInt(size));
      return { bytes, fds: random.chance(4) ? [] : [random.chance(6) ? things.any(random) : things.ram] };
    }
    case Cmd.DmaUnmap:
      return { bytes: fields(24, random.pick([0, 0, 0, 2, 1]), BigInt(page()), BigInt(PAGE)), fds: [] };
    case Cmd.SetIrqs: {
      const count = random.pick([0, 1, 1, 2, 4]);
      const fds = Array.from({ length: random.pick([count, count, 0, 1]) }, () =>
        random.chance(6) ? things.any(random) : random.pick(things.events).fd,
      );
      const flags = random.pick([0x24, 0x24, 0x24, 0x21, 0x11, 0x09, 0x22]);
      return { bytes: fields(20, flags, random.below(6), random.below(5), count, Buffer.alloc(4, 1)), fds };
    }
    case Cmd.RegionRead:
      return {
        bytes: fields(
          BigInt(random.below(0x4000) & ~3),
          random.pick([0, 0, 7, 7, 1]),
          random.pick([1, 2, 4, 4, 8, 64]),
        ),
        fds: [],
      };
    case Cmd.RegionWrite: {
      const offset = random.pick([
        0x14,
        0x14,
        0x24,
        0x28,
        0x30,
        0x0c,
        0x20,
        0x1000,
        0x1004,
        0x1008,
        0x100c,
        random.below(0x4000) & ~3,
      ]);
      const value = random.pick([random.below(64), 0x0046_0001, 0, page(), random.u32(), 0x001f_001f]);
      return { bytes: fields(BigInt(offset), random.pick([0, 0, 0, 0, 7]), 4, value), fds: [] };
    }
    case Cmd.RegionWriteMulti:
      return { bytes: fields(1n, BigInt(0x1000), 0, 4, random.below(8), 0), fds: [] };
    case Cmd.Feature: {
      const data = random.pick([
        fields(random.below(8), 0),
        fields(4096n, 1, 0, 0n, BigInt(RAM_BYTES)),
        fields(0n, BigInt(RAM_BYTES), 4096n),
        Buffer.alloc(0),
      ]);
      const flags = random.pick([0x1_0000, 0x2_0000, 0x2_0000, 0x4_0000]) | random.pick([1, 2, 2, 2, 6, 7, 8]);
      return { bytes: fields(8 + data.length, flags, data), fds: [] };
    }
    case Cmd.MigDataRead:
      return { bytes: fields(8, random.below(8192)), fds: [] };
    case Cmd.MigDataWrite: {
      const data = random.bytes(random.below(600));
      return { bytes: fields(8, data.length, data), fds: [] };
    }
    default:
      return { bytes: random.bytes(random.pick([0, 4, 16, 32])), fds: [] };
  }
}

async function round(random: Random): Promise<void> {
  const folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-vfu-'));
  const fdsBefore = openFds();
  const mapsBefore = requireNative('x').mappingCount();
  const vm = new TestVm();
  vm.function.setInterruptSink(undefined);
  vm.function.unmapAll();
  const path = join(folder, 'vm.sock');
  const server = new VfioUserServer({ path, function: vm.function, dmaByMessage: random.chance(4) });
  const things = new Things(folder);
  try {
    for (let clients = random.between(1, 3); clients > 0; clients--) {
      await hostile(random, path, things);
      await until(() => !server.isConnected);
    }
    // another one is served as if nothing had been
    const client = await VfioUserClient.connect(path);
    expect((await client.call(Cmd.Reset)).flags).to.equal(1);
    expect((await client.call(Cmd.GetInfo, fields(16, 0, 0, 0))).body.readUInt32LE(8)).to.equal(9);
    expect((await client.map(0, RAM_BYTES, 0, things.ram)).flags).to.equal(1);
    expect((await client.readRegion(0, 0x1c, 4)).readUInt32LE(0) & 2, 'no fatal status after a reset').to.equal(0);
    client.close();
    await until(() => !server.isConnected);
    things.checkGuard();
  } finally {
    await server.close();
    things.close();
    vm.function.close();
    await vm.close();
    fs.rmSync(folder, { recursive: true, force: true });
  }
  expect(openFds(), 'descriptors').to.equal(fdsBefore);
  expect(requireNative('x').mappingCount(), 'mappings').to.equal(mapsBefore);
}

async function hostile(random: Random, path: string, things: Things): Promise<void> {
  const client = random.chance(8) ? VfioUserClient.raw(path) : await VfioUserClient.connect(path);
  client.onRequest = (request) => {
    if (!random.chance(10)) client.reply(request, request.body.subarray(0, 16), random.chance(6) ? 14 : 0);
  };
  const answered: number[] = [];
  const asked: number[] = [];
  let id = 1000;
  for (let i = random.between(5, 80); i > 0 && !client.isClosed; i--) {
    const command = random.pick(COMMANDS);
    const { bytes, fds } = body(random, command, things);
    let sent = Buffer.from(bytes);
    if (random.chance(5) && sent.length > 0) {
      const at = random.below(sent.length);
      const width = Math.min(4, sent.length - at);
      sent.writeUIntLE(random.field(width * 8), at, width);
    }
    if (random.chance(12)) sent = sent.subarray(0, random.below(sent.length + 1));
    const quiet = random.chance(5);
    const whole = message(++id, command, sent, quiet ? 0x10 : 0);
    if (random.chance(60)) {
      whole.writeUIntLE(random.field(32), random.pick([4, 8, 12]), 4);
      client.takesStrays = true;
    } else if (!quiet && !client.takesStrays) {
      asked.push(id);
      const expected = id;
      void client.answerTo(id).then(({ flags }) => {
        if (flags >= 0) answered.push(expected);
      });
    }
    if (random.chance(10) && whole.length > 1) {
      const cut = random.between(1, whole.length - 1);
      client.send(whole.subarray(0, cut), fds);
      await new Promise((resolve) => setImmediate(resolve));
      client.send(whole.subarray(cut));
    } else client.send(whole, fds);
    if (random.chance(4)) await new Promise((resolve) => setImmediate(resolve));
  }
  if (!client.isClosed && random.chance(2)) {
    // what was asked is answered unless the connection ends
    let turns = 0;
    while (!client.isClosed && answered.length < asked.length && turns++ < 2000)
      await new Promise((resolve) => setImmediate(resolve));
  }
  expect(answered, 'in order').to.deep.equal(asked.slice(0, answered.length));
  client.close();
}

describe('fuzz: vfio-user', () => {
  before(function () {
    needNative(this as unknown as Mocha.Context);
  });
  fuzz('hostile vfio-user client', 60, round);
});
