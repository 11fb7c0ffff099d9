import { expect } from 'chai';
import { allocatedOfDevice } from '../../../src/backend/nvme-allocation.ts';
import type { NvmeCommand } from '../../../src/backend/nvme-device.ts';

const BLOCK = 4096;

/** A device with these runs of blocks allocated; `most` descriptors in an answer. */
function device(runs: readonly (readonly [number, number])[], most = 1000) {
  const asked: number[] = [];
  const admin = async ({ opcode, nsid, cdw10To15, data }: NvmeCommand) => {
    expect([opcode, nsid]).to.deep.equal([0x86, 3]);
    const [low, high, numd, action] = cdw10To15!;
    expect(action).to.equal(0x0200_0000);
    expect((numd! + 1) * 4).to.equal(data!.length);
    const slba = low! + high! * 2 ** 32;
    asked.push(slba);
    const rest = runs.filter(([start, count]) => start + count > slba);
    const room = Math.min(most, (data!.length - 8) / 16);
    const view = new DataView(data!.buffer);
    const given = rest.slice(0, room);
    view.setUint32(0, given.length, true);
    view.setUint8(4, given.length < rest.length ? 1 : 2);
    given.forEach(([start, count], i) => {
      const from = Math.max(start, slba);
      view.setBigUint64(8 + i * 16, BigInt(from), true);
      view.setUint32(16 + i * 16, start + count - from - 1, true);
      view.setUint8(21 + i * 16, 2);
    });
    return { status: 0, result0: 0, result1: 0 };
  };
  return { path: '/dev/ng9n1', admin, asked };
}
const RUNS = [
  [0, 1],
  [10, 5],
  [2 ** 33, 100],
] as const;
const bytes = (runs: readonly { startBytes: number; endBytes: number }[]): (readonly [number, number])[] =>
  runs.map(({ startBytes, endBytes }) => [startBytes / BLOCK, (endBytes - startBytes) / BLOCK]);

describe('allocated blocks of a local SSD', () => {
  it('are what its Get LBA Status says, in as many commands as it takes', async () => {
    for (const most of [1, 2, 1000]) {
      const ssd = device(RUNS, most);
      const { runs, complete } = await allocatedOfDevice(ssd, 3, BLOCK, 0, 2 ** 34 * BLOCK, 100);
      expect(bytes(runs)).to.deep.equal(RUNS.map((run) => [...run]));
      expect(complete).to.equal(true);
      expect(ssd.asked.length).to.equal(Math.ceil(RUNS.length / most));
    }
  });

  it('are cut at both ends of the range', async () => {
    const { runs, complete } = await allocatedOfDevice(device(RUNS), 3, BLOCK, 12 * BLOCK, (2 ** 33 + 3) * BLOCK, 100);
    expect(bytes(runs)).to.deep.equal([
      [12, 3],
      [2 ** 33, 3],
    ]);
    expect(complete).to.equal(true);
    expect(bytes((await allocatedOfDevice(device(RUNS), 3, BLOCK, BLOCK, 10 * BLOCK, 100)).runs)).to.deep.equal([]);
  });

  it('are not complete where there is room for no more', async () => {
    const ssd = device(RUNS);
    const { runs, complete } = await allocatedOfDevice(ssd, 3, BLOCK, 0, 2 ** 34 * BLOCK, 2);
    expect(bytes(runs)).to.deep.equal([
      [0, 1],
      [10, 5],
    ]);
    expect(complete).to.equal(false);
  });

  it('a status of the device is what is thrown', async () => {
    const refusing = { path: '/dev/ng9n1', admin: async () => ({ status: 0x4002, result0: 0, result1: 0 }) };
    const error = await allocatedOfDevice(refusing, 3, BLOCK, 0, BLOCK, 1).catch((e: unknown) => e);
    expect(error).to.have.property('status', 0x4002);
  });
});
