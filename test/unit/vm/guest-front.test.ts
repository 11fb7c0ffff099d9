/** A guest that goes on with another function, and in another memory, while it writes all the time. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { NvmeofError } from '../../../src/util/error.ts';
import { GuestFront } from '../../../src/vm/guest-front.ts';
import { GuestMemoryCopy } from '../../../src/vm/guest-memory-copy.ts';
import { TestVm } from '../../support/vm.ts';

const RAM_BYTES = 4 << 20;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('in-process guest: its device and its memory move', () => {
  let source: TestVm;
  let destination: TestVm;
  let there: Uint8Array;
  let front: GuestFront;

  beforeEach(async () => {
    const backend = new MemoryBackend({ blockSize: 512, blockCount: 4096 });
    source = new TestVm({ backend, guest: { ramBytes: RAM_BYTES } });
    destination = new TestVm({ backend, guest: { ramBytes: RAM_BYTES } });
    destination.guest.unplug();
    there = new Uint8Array(new SharedArrayBuffer(RAM_BYTES));
    const memory = { source: source.guest.ram.bytes, destination: there };
    front = new GuestFront(source.guest, { source: source.function, destination: destination.function }, memory);
    await source.guest.start(2);
  });
  afterEach(async () => {
    await source.close();
    await destination.close();
  });

  const stopped = (vm: TestVm): Promise<void> => new Promise((resolve) => vm.function.stop(resolve));

  async function move(): Promise<void> {
    const { guest } = source;
    const copy = new GuestMemoryCopy(guest.ram, there);
    await copy.copy(await copy.changes());
    await front.pause();
    await stopped(source);
    const left = await copy.changes();
    await copy.copy(left);
    expect(await copy.changes()).to.deep.equal([]);
    await stopped(destination);
    destination.function.loadState(source.function.saveState());
    await front.attach('destination');
    destination.function.resume();
    await front.resume();
  }

  it('every write is answered once, and read back there', async () => {
    const { guest } = source;
    let stop = false;
    let written = 0;
    const lanes = Array.from({ length: 8 }, async (_, lane) => {
      for (let i = 1; !stop; i++) {
        const block = new Uint8Array(1024).fill(i & 0xff);
        await guest.write(1, lane * 8, block);
        expect(await guest.read(1, lane * 8, 2)).to.deep.equal(block);
        written++;
        await turn();
      }
    });
    while (written < 40) await turn();
    await move();
    expect(guest.function).to.equal(destination.function);
    expect(guest.ram.bytes).to.equal(there);
    const before = written;
    while (written < before + 40) await turn();
    stop = true;
    await Promise.all(lanes);
    expect(guest.queues.map(({ strays, outstanding }) => [strays, outstanding])).to.deep.equal([
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    expect(source.fatal.concat(destination.fatal)).to.deep.equal([]);
  });

  it('a paused guest touches neither its memory nor its function', async () => {
    const { guest } = source;
    await front.pause();
    const before = guest.ram.bytes.slice();
    const answers: number[] = [];
    const late = [
      guest.write(1, 0, new Uint8Array(4096).fill(7)).then(() => answers.push(1)),
      guest.read(1, 0, 1).then(() => answers.push(2)),
      guest.flush(1).then(() => answers.push(3)),
    ];
    for (let i = 0; i < 20; i++) await turn();
    expect(answers).to.deep.equal([]);
    expect(Buffer.compare(guest.ram.bytes, before)).to.equal(0);
    await front.resume();
    await Promise.all(late);
    expect(answers.length).to.equal(3);
  });

  it('completions that come while it is paused are taken when it goes on', async () => {
    const { guest } = source;
    const done = guest.write(1, 0, new Uint8Array(512).fill(1));
    await Promise.resolve();
    front.pause();
    await stopped(source);
    source.function.resume();
    await front.resume();
    await done;
  });

  it('the device of a guest that runs stays', async () => {
    const error = await front.attach('destination').catch((cause: unknown) => cause);
    expect(error).to.be.instanceOf(NvmeofError).and.include({ code: 'NVMEOF_ERR_FRONT' });
    await front.attach('source');
    expect(source.guest.function).to.equal(source.function);
  });

  it('changed pages are those that differ, joined', async () => {
    const { ram } = source.guest;
    const copy = new GuestMemoryCopy(ram, there);
    expect(await copy.changes()).to.deep.equal([{ address: ram.base, lengthBytes: RAM_BYTES }]);
    expect(await copy.copy(copy.ranges)).to.equal(RAM_BYTES);
    expect(await copy.changes()).to.deep.equal([]);
    const at = ram.base + (2 << 20);
    ram.write(at + 4095, Uint8Array.of(1, 2));
    ram.write(at + 5 * 4096, Uint8Array.of(9));
    const runs = await copy.changes();
    expect(runs).to.deep.equal([
      { address: at, lengthBytes: 8192 },
      { address: at + 5 * 4096, lengthBytes: 4096 },
    ]);
    expect(await copy.copy(runs)).to.equal(12288);
    expect(await copy.changes()).to.deep.equal([]);
  });
});
