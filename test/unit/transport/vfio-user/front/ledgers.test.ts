/** What the front keeps of a VM: maps of memory with their files, eventfds by vector, and accesses that wait. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { DmaLedger } from '../../../../../src/transport/vfio-user/front/dma-ledger.ts';
import { EnableWatch } from '../../../../../src/transport/vfio-user/front/enable-watch.ts';
import { HeldMessages } from '../../../../../src/transport/vfio-user/front/held-messages.ts';
import { IrqLedger } from '../../../../../src/transport/vfio-user/front/irq-ledger.ts';
import type { VfioUserError } from '../../../../../src/transport/vfio-user/vfio-user-error.ts';
import { fields, message } from '../../../../support/vfio-user-client.ts';

const openFds = (): number => fs.readdirSync('/proc/self/fd').length;

function errnoOf(work: () => void): number {
  try {
    work();
  } catch (error) {
    return (error as VfioUserError).errno;
  }
  return 0;
}

describe('what the front keeps', () => {
  let folder: string;
  let before: number;
  let names = 0;

  beforeEach(() => {
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-front-'));
    before = openFds();
  });
  afterEach(() => {
    fs.rmSync(folder, { recursive: true, force: true });
    expect(openFds(), 'descriptors').to.equal(before);
  });
  const open = (name = `${names++}`): number => fs.openSync(join(folder, name), 'a+');

  describe('memory', () => {
    const map = (iova: number, size: number, flags = 3): Buffer => fields(32, flags, 0n, BigInt(iova), BigInt(size));
    const unmap = (iova: number, size: number, flags = 0): Buffer => fields(24, flags, BigInt(iova), BigInt(size));
    let ledger: DmaLedger;
    beforeEach(() => {
      ledger = new DmaLedger();
    });

    it('has one descriptor for each file and way to use it, however many maps there are', () => {
      for (let i = 0; i < 10; i++) {
        const body = map(i * 4096, 4096, i < 8 ? 3 : 1);
        ledger.add(body, ledger.hold(body, [open('ram')]));
      }
      expect([ledger.size, ledger.mappedBytes, ledger.fileCount, openFds() - before]).to.deep.equal([10, 40_960, 2, 2]);
      ledger.remove(unmap(8 * 4096, 4096));
      ledger.remove(unmap(9 * 4096, 4096));
      expect(ledger.fileCount).to.equal(1);
      ledger.remove(unmap(0, 0, 2));
      expect([ledger.size, ledger.mappedBytes, ledger.fileCount]).to.deep.equal([0, 0, 0]);
    });

    it('refuses what is there already, what is not, and what is no map; and keeps no descriptor of it', () => {
      const body = map(4096, 4096);
      ledger.add(body, undefined);
      expect(errnoOf(() => ledger.add(body, ledger.hold(body, [open()])))).to.equal(17);
      expect(errnoOf(() => ledger.add(map(0, 0), ledger.hold(body, [open()])))).to.equal(22);
      expect(errnoOf(() => ledger.hold(body, [open(), open()]))).to.equal(22);
      expect(() => ledger.hold(Buffer.alloc(3), [open()])).to.throw(/DmaMap/);
      expect(errnoOf(() => ledger.remove(unmap(4096, 8192)))).to.equal(2);
      expect(errnoOf(() => ledger.remove(unmap(8192, 4096)))).to.equal(2);
      expect(ledger.size).to.equal(1);
    });
  });

  describe('interrupts', () => {
    const set = (index: number, start: number, count: number, flags = 0x24): Buffer =>
      fields(20, flags, index, start, count);
    let ledger: IrqLedger;
    beforeEach(() => {
      ledger = new IrqLedger();
    });

    it('gives them back in runs, cut at gaps and at what a message takes', () => {
      const fds = Array.from({ length: 6 }, () => open());
      ledger.apply(set(2, 1, 5), fds.slice(0, 5));
      ledger.apply(set(0, 0, 1), [fds[5]!]);
      ledger.apply(set(2, 2, 1), []); // a vector without an eventfd
      expect(ledger.armedCount).to.equal(5);
      expect(ledger.runs(2)).to.deep.equal([
        { index: 0, start: 0, fds: [fds[5]] },
        { index: 2, start: 1, fds: [fds[0]] },
        { index: 2, start: 3, fds: [fds[2], fds[3]] },
        { index: 2, start: 5, fds: [fds[4]] },
      ]);
      ledger.apply(set(2, 0, 0, 0x21), []);
      expect(ledger.runs(16)).to.have.length(1);
      ledger.clear();
    });

    it('an eventfd takes the place of another; what only masks or triggers changes nothing', () => {
      ledger.apply(set(2, 0, 2), [open(), open()]);
      const next = open();
      ledger.apply(set(2, 1, 1), [next]);
      ledger.apply(set(0, 0, 1, 0x11), []);
      ledger.apply(set(2, 0, 1, 0x21), []);
      expect(ledger.runs(16)[0]!.fds[1]).to.equal(next);
      expect(openFds() - before).to.equal(2);
      ledger.clear();
    });

    it('refuses other numbers of descriptors, and vectors that none has; and closes them', () => {
      expect(errnoOf(() => ledger.apply(set(2, 0, 3), [open()]))).to.equal(22);
      expect(errnoOf(() => ledger.apply(set(9, 0, 1), [open()]))).to.equal(22);
      expect(errnoOf(() => ledger.apply(set(2, 0xffff_0000, 1), [open()]))).to.equal(22);
      expect(() => ledger.apply(Buffer.alloc(4), [open()])).to.throw(/SetIrqs/);
      expect(ledger.armedCount).to.equal(0);
    });
  });

  it('accesses that wait: in order, answered ones by their time, doorbells without one', () => {
    const held = new HeldMessages();
    const read = (id: number): Buffer => message(id, 9, fields(0n, 0, 4));
    const post = (id: number): Buffer => message(id, 10, fields(0x1000n, 0, 4, id), 0x10);
    expect(held.oldestMs).to.equal(undefined);
    held.push(post(1), 10);
    expect(held.oldestMs, 'nobody waits for an answer').to.equal(undefined);
    held.push(read(2), 20);
    held.push(read(3), 30);
    held.putBack([read(4)], 25);
    expect([held.count, held.oldestMs, held.bytes]).to.deep.equal([4, 20, 36 + 3 * 32]);
    const idOf = ({ bytes }: { bytes: Uint8Array }): number => bytes[0]!;
    expect(held.expire(25).map(idOf)).to.deep.equal([4, 2]);
    expect(held.takeAll().map(idOf)).to.deep.equal([1, 3]);
    expect([held.count, held.bytes]).to.deep.equal([0, 0]);
    while (!held.isFull) held.push(post(1), 0);
    expect(held.bytes).to.be.within(1 << 20, (1 << 20) + 36);
  });

  it('a controller that was enabled, and is not any more: CSTS says fatal until the guest resets it', () => {
    const watch = new EnableWatch();
    const write = (bytes: Buffer): void =>
      watch.sent(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), bytes.length);
    const csts = (offset: number, count: number): Buffer => {
      const answer = message(1, 9, Buffer.concat([fields(BigInt(offset), 0, count), Buffer.alloc(count)]), 1);
      watch.answered(answer, answer.length);
      return answer.subarray(32);
    };
    expect(watch.found(0), 'the guest has not enabled it').to.equal(false);
    write(message(1, 10, fields(0x14n, 0, 4, 0x46_0001), 0x10));
    expect(watch.found(0x46_0001)).to.equal(false);
    expect([watch.found(0), watch.found(0)], 'said once').to.deep.equal([true, false]);
    expect(csts(0x1c, 4)[0]).to.equal(2);
    expect(csts(0x18, 8)[4]).to.equal(2);
    expect([csts(0x18, 4)[0], csts(0x20, 4)[0]]).to.deep.equal([0, 0]);
    write(message(1, 15, fields(1n, 0x14n, 0, 4, 0, 0), 0x10));
    expect(csts(0x1c, 4)[0]).to.equal(0);
    // the doorbell of another queue at an offset with the same low bits is none
    write(message(1, 10, fields(0x1014n, 0, 4, 1), 0x10));
    expect(watch.isEnabled).to.equal(false);
    write(message(1, 10, fields(0x14n, 0, 4, 1)));
    write(message(1, 13, Buffer.alloc(0)));
    expect(watch.found(0)).to.equal(false);
  });
});
