/** The misbehaving target of `nvmeferry conformance --host`, driven by our own initiator: it must react as the specification says. */
import { expect } from 'chai';
import { HostBench, type HostPlace, type UserResult } from '../../src/conformance/host/host-bench.ts';
import type { HostCase } from '../../src/conformance/host/host-case.ts';
import { blockData } from '../../src/conformance/host/link.ts';
import { HostController } from '../../src/initiator/controller.ts';
import { NvmeofError } from '../../src/util/error.ts';

const BLOCK = 1 << 14;
const BLOCKS = 64;

/** What a user of the initiator does, and how it ends. */
async function use({ one, port, nqn }: HostPlace): Promise<UserResult> {
  const digests = one.tags.includes('digests');
  let controller: HostController;
  try {
    controller = await HostController.connect({
      address: '127.0.0.1',
      port,
      subnqn: nqn,
      headerDigest: digests,
      dataDigest: digests,
      disableSqFlow: digests,
      // one case waits for this time-out; the others must not meet it on a busy machine (ICResp byte by byte)
      connectTimeoutMs: one.slow === true ? 2000 : 20_000,
      ctrlLossTimeoutMs: 0,
    });
  } catch (error) {
    expect(error).to.be.instanceOf(NvmeofError);
    return 'error';
  }
  try {
    if (one.action === 'connect') return 'success';
    const namespace = await controller.namespace(1);
    const at = [BLOCK, ...(one.action.startsWith('two-') ? [BLOCK + 256] : [])];
    if (one.action.endsWith('write') || one.action === 'two-writes') {
      await Promise.all(at.map((block) => namespace.write(block, blockData(block, BLOCKS * 512))));
      return 'success';
    }
    const reads = await Promise.all(at.map((block) => namespace.read(block, BLOCKS)));
    const right = reads.every((data, i) => Buffer.from(data).equals(blockData(at[i]!, BLOCKS * 512)));
    return right ? 'success' : 'wrong-data';
  } catch (error) {
    expect(error).to.be.instanceOf(NvmeofError);
    return 'error';
  } finally {
    // the connection goes on, where it should
    if (one.reaction.kind === 'alive') await (await controller.namespace(1)).read(0, 1);
    await controller.close();
  }
}

describe('conformance: a misbehaving target and our initiator', () => {
  let bench: HostBench;
  before(async () => {
    bench = await HostBench.listen({ address: '127.0.0.1', port: 0, settleMs: 3000, quirks: [] });
  });
  after(async () => {
    await bench.close();
  });

  it('every case, each by its own place', async function () {
    this.timeout(60_000);
    await Promise.all(
      bench.places.map(async (place) => {
        bench.userSaw(place.one.id, await use(place));
        await bench.settled(place.one.id);
      }),
    );
    const results = bench.finish();
    const bad = results
      .filter(({ verdict }) => verdict !== 'pass')
      .map(({ id, verdict, reason }) => `${id} ${verdict}: ${reason}`);
    expect(bad.join('\n')).to.equal('');
    expect(results.length).to.be.greaterThan(28);
  });

  it('what no host brings about is not run, and says what is missing', async () => {
    const idle = await HostBench.listen({ address: '127.0.0.1', port: 0, settleMs: 100, quirks: [] });
    try {
      const place = idle.places.find(({ one }) => one.id === 'host-72')!;
      expect(await use({ ...place, one: { ...place.one, action: 'connect' } as HostCase })).to.equal('success');
      const results = idle.finish();
      expect(results.every(({ verdict }) => verdict === 'skipped')).to.equal(true);
      expect(results.find(({ id }) => id === 'host-72')!.reason).to.equal(
        'a host connected, and did not bring the case about: read',
      );
      expect(results.find(({ id }) => id === 'host-73')!.reason).to.equal('no host connected for it');
    } finally {
      await idle.close();
    }
  });
});
