import { expect } from 'chai';
import { type AnaLogSource, readAnaLog } from '../../../src/initiator/ana-log.ts';
import type { GetLogPageOptions } from '../../../src/initiator/controller-commands.ts';
import { type AnaGroup, encodeAnaLog } from '../../../src/wire/cold/log-ana.ts';
import { rejection } from './support.ts';

const group = (grpid: number, nsids: readonly number[]): AnaGroup => ({ grpid, chgcnt: 1n, state: 1, nsids });
const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

/** Serves a log in commands of at most `maxTransferBytes`, as `getLogPage` sends them. */
class Source implements AnaLogSource {
  readonly identify: AnaLogSource['identify'];
  readonly maxTransferBytes: number;
  readonly commands: { offset: number; bytes: number; retain: boolean }[] = [];
  groups: readonly AnaGroup[] = [];
  chgcnt = 1n;
  /** Runs before each command. */
  before: () => void = () => {};

  constructor(maxTransferBytes: number, counts: { nanagrpid: number; mnan: number; nn: number }) {
    this.maxTransferBytes = maxTransferBytes;
    this.identify = counts as AnaLogSource['identify'];
  }

  async getLogPage({ bytes, lsp, retainEvent, bytesPerCommand }: GetLogPageOptions): Promise<Uint8Array> {
    const page = new Uint8Array(bytes);
    for (let offset = 0; offset < bytes; offset += bytesPerCommand!) {
      this.before();
      const length = Math.min(bytesPerCommand!, bytes - offset);
      this.commands.push({ offset, bytes: length, retain: retainEvent! || offset + length < bytes });
      const log = encodeAnaLog({ chgcnt: this.chgcnt, groups: this.groups }, lsp === 1);
      page.set(log.subarray(offset, offset + length), offset);
    }
    return page;
  }
}

describe('ANA log', () => {
  it('comes in one command where it fits, which lets the controller report the next change', async () => {
    const source = new Source(1 << 20, { nanagrpid: 128, mnan: 1024, nn: 1024 });
    source.groups = [group(1, range(1, 500)), group(2, range(501, 524))];
    expect((await readAnaLog(source)).groups).to.deep.equal(source.groups);
    expect(source.commands).to.deep.equal([{ offset: 0, bytes: 16 + 128 * 32 + 4096, retain: false }]);
  });

  it('in pieces: the event is kept until CHGCNT was seen not to have moved', async () => {
    const source = new Source(4096, { nanagrpid: 128, mnan: 1024, nn: 1024 });
    source.groups = [group(1, range(1, 500)), group(2, range(501, 524))];
    expect((await readAnaLog(source)).groups).to.deep.equal(source.groups);
    expect(source.commands).to.deep.equal([
      // the beginning says how long it is
      { offset: 0, bytes: 4096, retain: false },
      { offset: 0, bytes: 4096, retain: true },
      { offset: 4096, bytes: 80 + 1024 * 4 - 4096, retain: true },
      { offset: 0, bytes: 16, retain: false },
    ]);
  });

  it('a change between two pieces has it read again', async () => {
    const source = new Source(4096, { nanagrpid: 4, mnan: 2048, nn: 2048 });
    const first = [group(1, range(1, 1500)), group(2, range(1501, 100))];
    const second = [group(1, range(1, 1400)), group(2, range(1401, 200))];
    source.groups = first;
    source.before = () => {
      if (source.commands.length !== 2) return;
      source.groups = second;
      source.chgcnt++;
    };
    expect((await readAnaLog(source)).groups).to.deep.equal(second);
  });

  it('that never stands still is an error', async () => {
    const source = new Source(4096, { nanagrpid: 4, mnan: 2048, nn: 2048 });
    source.groups = [group(1, range(1, 2000))];
    source.before = () => source.chgcnt++;
    expect((await rejection(readAnaLog(source))).code).to.equal('NVMEOF_ERR_ANA_LOG');
  });

  it('of a controller that names no MNAN and 4 billion namespaces takes what it takes', async () => {
    const source = new Source(Number.POSITIVE_INFINITY, { nanagrpid: 8, mnan: 0, nn: 0xffff_fffe });
    source.groups = [group(3, [5, 9])];
    expect((await readAnaLog(source)).groups).to.deep.equal(source.groups);
    expect(source.commands).to.deep.equal([{ offset: 0, bytes: 1 << 20, retain: false }]);
  });

  it('without namespaces (RGO)', async () => {
    const source = new Source(4096, { nanagrpid: 128, mnan: 1024, nn: 1024 });
    source.groups = range(1, 100).map((id) => group(id, [id]));
    expect((await readAnaLog(source, true)).groups.map(({ nsids }) => nsids.length)).to.deep.equal(Array(100).fill(0));
  });

  it('a NNSIDS that the bytes do not bear out is an error, and no memory', async () => {
    const source = new Source(4096, { nanagrpid: 8, mnan: 64, nn: 64 });
    source.getLogPage = async ({ bytes }) => {
      const page = new Uint8Array(bytes);
      const view = new DataView(page.buffer);
      view.setUint16(8, 1, true);
      view.setUint32(16, 1, true);
      view.setUint32(20, 0xffff_ffff, true);
      return page;
    };
    expect((await rejection(readAnaLog(source))).code).to.equal('NVMEOF_ERR_WIRE');
  });
});
