import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { expect } from 'chai';
import { createMemfd, MappedMemory } from '../../../src/native/mapped-memory.ts';
import type { MemoryRun } from '../../../src/orchestrator/end.ts';
import { MemoryFile } from '../../../src/orchestrator/memory-file.ts';
import { VmMemory, type VmMemoryRegion } from '../../../src/orchestrator/vm-memory.ts';
import { freeHugePages } from '../../support/huge-pages.ts';
import { needNative } from '../../support/native.ts';
import { Random, randomSeed } from '../../support/random.ts';

const PAGE = 4096;
const HUGE_PAGE = 2 << 20;
const SHARED = '/dev/shm';

describe("a VM's memory in files", function () {
  this.timeout(120_000);
  let folder: string;
  const open: VmMemory[] = [];
  const path = (name: string): string => join(folder, name);

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(fs.existsSync(SHARED) ? SHARED : tmpdir(), 'nvmeferry-memory-'));
  });
  afterEach(async () => {
    for (const memory of open.splice(0)) await memory.close();
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  async function opened(...regions: VmMemoryRegion[]): Promise<VmMemory> {
    const memory = await VmMemory.open(regions);
    open.push(memory);
    return memory;
  }

  function make(name: string, sizeBytes: number): string {
    fs.closeSync(fs.openSync(path(name), 'w'));
    fs.truncateSync(path(name), sizeBytes);
    return path(name);
  }

  function store(file: string, atBytes: number, bytes: Uint8Array): void {
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, bytes, 0, bytes.length, atBytes);
    fs.closeSync(fd);
  }

  function load(file: string, atBytes: number, lengthBytes: number): Buffer {
    const fd = fs.openSync(file, 'r');
    const bytes = Buffer.alloc(lengthBytes);
    fs.readSync(fd, bytes, 0, lengthBytes, atBytes);
    fs.closeSync(fd);
    return bytes;
  }

  const page = (value: number, count = 1): Uint8Array => new Uint8Array(count * PAGE).fill(value);
  const allocated = (file: string): number => fs.statSync(file).blocks * 512;

  async function copyAll(memory: VmMemory): Promise<number> {
    await memory.changes();
    return memory.copy(await memory.used());
  }

  it('beyond 2 and 4 GiB, with holes: pages are where they were, and holes stay holes', async () => {
    const size = 3 * 2 ** 31;
    const address = 2 ** 40;
    const [a, b] = [make('a', size), make('b', size)];
    const places = [0, 2 ** 31 - PAGE, 2 ** 31 + PAGE, 2 ** 32 - PAGE, 2 ** 32 + 3 * PAGE, size - PAGE];
    for (const [i, at] of places.entries()) store(a, at, page(i + 1));
    store(b, 5 * 2 ** 30, page(0xee)); // of a VM that was there before: zero here
    const memory = await opened({ source: a, destination: b, address });
    expect(memory.ranges).to.deep.equal([{ address, lengthBytes: size }]);
    const used = await memory.used();
    for (const at of [...places, 5 * 2 ** 30]) {
      expect(
        used.some((run) => address + at >= run.address && address + at < run.address + run.lengthBytes),
        `${at} is used`,
      ).to.equal(true);
    }
    expect(used.reduce((sum, run) => sum + run.lengthBytes, 0)).to.be.below(64 << 20);
    expect(await copyAll(memory)).to.equal((places.length + 1) * PAGE);
    for (const [i, at] of places.entries()) {
      expect(load(b, at, PAGE).equals(page(i + 1)), `page at ${at}`).to.equal(true);
    }
    expect(load(b, 5 * 2 ** 30, PAGE).equals(page(0))).to.equal(true);
    expect(await memory.changes()).to.deep.equal([]);
    store(a, 2 ** 32 + 7 * PAGE, page(9, 2));
    store(a, 2 ** 31 + PAGE, page(0));
    const changed: MemoryRun[] = [
      { address: address + 2 ** 31 + PAGE, lengthBytes: PAGE },
      { address: address + 2 ** 32 + 7 * PAGE, lengthBytes: 2 * PAGE },
    ];
    expect(await memory.changes()).to.deep.equal(changed);
    expect(await memory.copy(memory.ranges), 'the whole is asked for, what differs is written').to.equal(3 * PAGE);
    expect(await memory.changes()).to.deep.equal([]);
    for (const file of [a, b]) expect(allocated(file), file).to.be.below(64 << 20);
    // nothing of it stays here
    expect(fs.readFileSync('/proc/self/maps', 'latin1')).to.not.contain(folder);
  });

  it('of several files, some in parts: each in its place', async () => {
    const [a, b, c, d] = [make('a', 64 * PAGE), make('b', 64 * PAGE), make('c', 8 * PAGE), make('d', 16 * PAGE)];
    for (let i = 0; i < 64; i++) store(a, i * PAGE, page(i + 1));
    for (let i = 0; i < 8; i++) store(c, i * PAGE, page(100 + i));
    const memory = await opened(
      { source: a, destination: b, address: 2 ** 32, offsetBytes: 32 * PAGE },
      // below it in the VM; and another file size is fine where the part is named
      { source: a, destination: b, address: 0, lengthBytes: 16 * PAGE },
      { source: c, destination: d, address: 2 ** 33, offsetBytes: 4 * PAGE, lengthBytes: 4 * PAGE },
    );
    expect(memory.ranges.map(({ address }) => address)).to.deep.equal([0, 2 ** 32, 2 ** 33]);
    expect(await copyAll(memory)).to.equal((16 + 32 + 4) * PAGE);
    for (let i = 0; i < 64; i++) {
      expect(load(b, i * PAGE, 1)[0], `page ${i}`).to.equal(i < 16 || i >= 32 ? i + 1 : 0);
    }
    for (let i = 0; i < 8; i++) expect(load(d, i * PAGE, 1)[0], `page ${i} of d`).to.equal(i < 4 ? 0 : 100 + i);
    store(a, 40 * PAGE, page(77));
    store(a, 20 * PAGE, page(78)); // no part of the VM
    expect(await memory.changes()).to.deep.equal([{ address: 2 ** 32 + 8 * PAGE, lengthBytes: PAGE }]);
  });

  const seed = randomSeed();
  it(`random pages in rounds: both are the same at the end (seed ${seed})`, async () => {
    const random = new Random(seed);
    const pages = 700;
    const [a, b] = [make('a', pages * PAGE), make('b', pages * PAGE)];
    const memory = await opened({ source: a, destination: b });
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 40; i++) {
        const at = random.below(pages) * PAGE;
        store(a, at, random.below(4) === 0 ? page(0) : page(1 + random.below(255)));
      }
      const changed = await memory.changes();
      await memory.copy(changed);
    }
    expect(fs.readFileSync(a).equals(fs.readFileSync(b))).to.equal(true);
    expect(await memory.changes()).to.deep.equal([]);
  });

  const failure = (act: Promise<unknown>): Promise<{ readonly code?: string; readonly message: string }> =>
    act.then(
      () => ({ message: 'none' }),
      (error: Error) => error,
    );

  it('a file that is cut short is an error that names it, wherever the cut is, and nothing is made of it', async () => {
    const size = 4 << 20;
    for (const [name, cut] of [
      ['a', (3 << 20) + 100],
      ['a', 3 << 20],
      ['a', 2 << 20],
      ['a', 0],
      ['b', 3 << 20],
      ['b', 1 << 20],
      ['b', PAGE],
    ] as const) {
      const [a, b] = [make('a', size), make('b', size)];
      for (const at of [0, 2 << 20, 3 << 20]) store(a, at, page(7));
      const memory = await opened({ source: a, destination: b });
      expect(await copyAll(memory)).to.equal(3 * PAGE);
      store(a, 2 << 20, page(8));
      // the first pieces are copied when it happens
      await memory.copy([{ address: 0, lengthBytes: 1 << 20 }]);
      fs.truncateSync(path(name), cut);
      const what = `${name} cut at ${cut}`;
      for (const act of [
        memory.copy([{ address: 1 << 20, lengthBytes: 3 << 20 }]),
        memory.changes(),
        memory.used(),
        memory.copy(memory.ranges),
      ]) {
        const error = await failure(act);
        expect(error, what).to.include({ code: 'NVMEOF_ERR_MEMORY' });
        expect(error.message, what).to.match(
          new RegExp(`^Memory of the VM, .*/${name}, has ${cut} bytes now, ${size} are needed: nobody may cut it`),
        );
      }
      if (name === 'a') expect(load(b, 2 << 20, PAGE).equals(page(7)), `${what}: no zeroes for it`).to.equal(true);
      else expect(fs.statSync(b).size, what).to.equal(cut);
      await memory.close();
    }
  });

  it('does not open what does not fit', async () => {
    const [a, b, c] = [make('a', 8 * PAGE), make('b', 8 * PAGE), make('c', 4 * PAGE)];
    const both = { source: a, destination: b };
    const cases: readonly (readonly [VmMemoryRegion[], RegExp])[] = [
      [
        [{ source: a, destination: c }],
        /c has 16384 bytes, .*a has 32768; start the VM at the destination with as much/,
      ],
      [
        [{ source: a, destination: c, lengthBytes: 8 * PAGE }],
        /c with bytes 0 to 32768 of 16384; they have to be in it/,
      ],
      [[{ ...both, lengthBytes: 0 }], /they have to be in it/],
      [[{ ...both, address: 2 ** 53 - PAGE }], /above 2\^53/],
      [
        [
          { ...both, lengthBytes: 4 * PAGE },
          { ...both, address: 2 ** 32, offsetBytes: 3 * PAGE },
        ],
        /regions at 0x0 and at 0x3000 overlap in .*b; give each its offset= and length=/,
      ],
      [[both, { source: b, destination: c, address: 2 ** 32, lengthBytes: PAGE }], /b is the destination as well/],
      [[{ source: a, destination: '/dev/null' }], /\/dev\/null is no file/],
      [
        [{ source: a, destination: folder }],
        /cannot be opened \(EISDIR\); name the file that the hypervisor shares there/,
      ],
      [[{ source: path('none'), destination: b }], /none cannot be opened \(ENOENT\)/],
      [[{ source: a, destination: a }], /a is the destination as well; a VM that stays on its memory needs none/],
      [[{ ...both, address: 100 }], /a with address 100; multiples of 4096 are needed/],
      [[{ ...both, offsetBytes: 1 }], /a with offset 1; multiples/],
      [[{ ...both, offsetBytes: 8 * PAGE, lengthBytes: PAGE }], /bytes 32768 to 36864 of 32768; they have to be in it/],
      [[both, { ...both, offsetBytes: PAGE }], /regions at 0x0 and at 0x0 overlap in the VM; give each its address=/],
    ];
    const before = fs.readdirSync('/proc/self/fd').length;
    for (const [regions, message] of cases) {
      const error = await VmMemory.open(regions).catch((reason: unknown) => reason);
      expect(error, `${message}`).to.include({ code: 'NVMEOF_ERR_CONFIG' });
      expect((error as Error).message).to.match(message);
    }
    expect(fs.readdirSync('/proc/self/fd').length, 'descriptors').to.equal(before);
  });

  it('in huge pages where the system has free ones: written by mapping, holes left alone; else refused in one line', async () => {
    const free = freeHugePages();
    const fds = [1, 2].map((n) =>
      createMemfd({ name: `vm${n}`, lengthBytes: 2 * HUGE_PAGE, hugePageBytes: HUGE_PAGE }),
    );
    try {
      // as of a hypervisor with memory-backend-memfd
      const [source, destination] = fds.map((fd) => `/proc/${process.pid}/fd/${fd}`) as [string, string];
      if (free < 4) {
        const error = (await VmMemory.open([{ source, destination }]).catch((reason: unknown) => reason)) as Error;
        expect(error).to.include({ code: 'NVMEOF_ERR_CONFIG' });
        expect(error.message).to.match(
          /cannot be mapped \(ENOMEM\); it needs 2 free huge pages of 2048 KiB: raise vm\.nr_hugepages there$/,
        );
        return;
      }
      const guest = MappedMemory.map({ fd: fds[0]!, lengthBytes: 2 * HUGE_PAGE });
      const bytes = new Uint8Array(guest.buffer);
      bytes.fill(0x11, 5 * PAGE, 6 * PAGE);
      // not from the beginning of a huge page
      const memory = await opened({ source, destination, offsetBytes: PAGE, lengthBytes: 2 * HUGE_PAGE - PAGE });
      expect(await copyAll(memory)).to.equal(PAGE);
      expect(await memory.changes()).to.deep.equal([]);
      expect(fs.fstatSync(fds[1]!).blocks * 512, 'a hole stays one').to.equal(HUGE_PAGE);
      // the hole was looked at, and is written to only now
      bytes.fill(0x22, HUGE_PAGE + PAGE, HUGE_PAGE + 2 * PAGE);
      expect(await memory.changes()).to.deep.equal([{ address: HUGE_PAGE, lengthBytes: PAGE }]);
      expect(await memory.copy(await memory.changes())).to.equal(PAGE);
      const copied = Buffer.alloc(PAGE);
      fs.readSync(fds[1]!, copied, 0, PAGE, HUGE_PAGE + PAGE);
      expect(copied.every((byte) => byte === 0x22)).to.equal(true);
      expect(await memory.changes()).to.deep.equal([]);
      guest.unmapNow();
    } finally {
      for (const memory of open.splice(0)) await memory.close();
      for (const fd of fds) fs.closeSync(fd);
    }
  });

  /** Where files of huge pages may be made; else the test is not run, and says why. */
  function hugeFolder(context: Mocha.Context, pages: number): string {
    const free = freeHugePages();
    const mount = /^\S+ (\S+) hugetlbfs \S*pagesize=2M/m.exec(fs.readFileSync('/proc/mounts', 'latin1'))?.[1];
    if (free >= pages && mount !== undefined) return mount;
    const why = mount === undefined ? 'no hugetlbfs of 2 MiB is mounted' : `${free} huge pages are free`;
    console.log(`      not run: ${why}`);
    context.skip();
  }

  it(`random pages of a guest in huge pages, in rounds: both are the same at the end (needs a hugetlbfs and free pages, seed ${seed})`, async function () {
    const mount = hugeFolder(this as unknown as Mocha.Context, 8);
    const random = new Random(seed);
    const [a, b] = ['a', 'b'].map((name) => join(mount, `${basename(folder)}-${name}`)) as [string, string];
    const size = 4 * HUGE_PAGE;
    let guest: MappedMemory | undefined;
    try {
      for (const each of [a, b]) {
        fs.closeSync(fs.openSync(each, 'w'));
        fs.truncateSync(each, size);
      }
      const fd = fs.openSync(a, 'r+');
      guest = MappedMemory.map({ fd, lengthBytes: size });
      fs.closeSync(fd);
      const bytes = new Uint8Array(guest.buffer);
      const memory = await opened({ source: a, destination: b });
      for (let round = 0; round < 6; round++) {
        // the last huge page is a hole in the first rounds
        const pages = ((round < 3 ? 3 : 4) * HUGE_PAGE) / PAGE;
        for (let i = 0; i < 60; i++) {
          const at = random.below(pages) * PAGE;
          bytes.fill(random.below(4) === 0 ? 0 : random.below(256), at, at + PAGE);
        }
        await memory.copy(await memory.changes());
      }
      expect(await memory.changes()).to.deep.equal([]);
      expect(load(b, 0, size).equals(bytes)).to.equal(true);
    } finally {
      for (const memory of open.splice(0)) await memory.close();
      guest?.unmapNow();
      for (const each of [a, b]) fs.rmSync(each, { force: true });
    }
  });

  it('a file in huge pages that is cut short while it is mapped is an error, and no signal (needs a hugetlbfs and free pages)', async function () {
    const mount = hugeFolder(this as unknown as Mocha.Context, 4);
    const [a, b] = ['a', 'b'].map((name) => join(mount, `${basename(folder)}-${name}`)) as [string, string];
    let file: MemoryFile | undefined;
    try {
      for (const each of [a, b]) {
        fs.closeSync(fs.openSync(each, 'w'));
        fs.truncateSync(each, 2 * HUGE_PAGE);
      }
      const memory = await opened({ source: a, destination: b });
      await memory.changes();
      file = await MemoryFile.open(b, 'write');
      file.prepare(0, 2 * HUGE_PAGE);
      await file.write(HUGE_PAGE - PAGE, page(3, 2)); // over the edge of two
      expect(load(b, HUGE_PAGE - PAGE, 2 * PAGE).equals(page(3, 2))).to.equal(true);
      fs.truncateSync(b, HUGE_PAGE);
      for (const at of [HUGE_PAGE, HUGE_PAGE - PAGE, 2 * HUGE_PAGE - 2 * PAGE]) {
        const error = await failure(file.write(at, page(4, 2)));
        expect(error, `at ${at}`).to.include({ code: 'NVMEOF_ERR_MEMORY' });
        expect(error.message).to.match(/-b, has 2097152 bytes now, \d+ are needed: nobody may cut it short/);
      }
      expect((await failure(memory.copy(memory.ranges))).message).to.match(/-b, has 2097152 bytes now, 4194304 are/);
      // as long as before, but with nothing in it: it can be written again
      fs.truncateSync(b, 2 * HUGE_PAGE);
      await file.write(HUGE_PAGE, page(5));
      expect(load(b, HUGE_PAGE, PAGE).equals(page(5))).to.equal(true);
    } finally {
      await file?.close();
      for (const memory of open.splice(0)) await memory.close();
      for (const each of [a, b]) fs.rmSync(each, { force: true });
    }
  });
});
