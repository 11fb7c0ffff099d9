import { expect } from 'chai';
import { NvmeBackend } from '../../../src/backend/nvme.ts';
import { Metadata, type NvmeGeometry, nvmeGeometry } from '../../../src/backend/nvme-geometry.ts';
import { openNvmeBackend } from '../../../src/backend/nvme-open.ts';
import { FakeBinding } from '../../../src/native/fake-binding.ts';
import { IoEngine } from '../../../src/native/io-engine.ts';
import { IoOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import { ConfigError } from '../../../src/util/error.ts';
import { describeBackendCompliance, pattern, submit, TestBlockIo } from '../../support/backend-compliance.ts';
import { FakeSsd, type FakeSsdOptions } from '../../support/fake-ssd.ts';

interface Made {
  readonly backend: NvmeBackend;
  readonly ssd: FakeSsd;
  readonly fake: FakeBinding;
  goneCount: number;
  released: number;
}

function make(options: FakeSsdOptions, changes: Partial<NvmeGeometry> = {}, readOnly = false): Made {
  const ssd = new FakeSsd(options);
  const fake = new FakeBinding(ssd.answer);
  const engine = new IoEngine(fake.binding, { depth: 16 });
  const geometry: NvmeGeometry = {
    blockSize: options.blockSize,
    blockCount: options.blockCount,
    metadata:
      options.protection === true ? Metadata.Protection : options.metadataBytes ? Metadata.Scratch : Metadata.None,
    metadataBytes: options.metadataBytes ?? 0,
    referenceTag: options.protection === true,
    transferBytesMax: options.transferBytesMax ?? 1 << 20,
    boundaryBytes: options.boundaryBytes ?? 0,
    volatileWriteCache: true,
    readsZeroAfterDeallocate: true,
    writeZeroes: true,
    writeZeroesBlocksMax: options.writeZeroesBlocksMax ?? 0x1_0000,
    compares: options.metadataBytes === undefined,
    allocationBlocks: 0,
    verifies: true,
    verifyBlocksMax: options.verifyBlocksMax ?? 0x1_0000,
    copy: { mssrl: 64, mcl: 128, msrc: 7 },
    deacSupported: true,
    deallocates: true,
    deallocateBlocksMax: options.deallocateBlocksMax ?? 0xffff_ffff,
    atomicBytes: undefined,
    writeProtected: false,
    model: 'fake',
    serial: 'fake',
    ...changes,
  };
  const made: Made = {
    ssd,
    fake,
    goneCount: 0,
    released: 0,
    backend: new NvmeBackend({
      engine,
      fd: 9,
      path: '/dev/ng9n1',
      nsid: options.nsid ?? 1,
      geometry,
      readOnly,
      ioctl: false,
      onGone: () => {
        made.goneCount++;
      },
      identify: async () => {
        ssd.grow(options.blockCount + 1200);
        return { ...geometry, blockCount: options.blockCount + 1200 };
      },
      release: async () => {
        made.released++;
        engine.close();
      },
    }),
  };
  return made;
}

const KINDS: readonly [string, Omit<FakeSsdOptions, 'blockSize' | 'blockCount'>, Partial<NvmeGeometry>][] = [
  ['nvme', {}, {}],
  ['nvme with small transfers and boundaries', { transferBytesMax: 16_384, boundaryBytes: 12_288 }, {}],
  ['nvme with protection information', { metadataBytes: 8, protection: true, nsid: 7 }, {}],
  ['nvme with metadata', { metadataBytes: 16, transferBytesMax: 65_536 }, {}],
  [
    'nvme with small Write Zeroes and ranges',
    { writeZeroesBlocksMax: 16, deallocateBlocksMax: 32 },
    { volatileWriteCache: false },
  ],
  [
    'nvme without optional commands',
    { transferBytesMax: 131_072 },
    { writeZeroes: false, deallocates: false, readsZeroAfterDeallocate: false, deacSupported: false },
  ],
];

for (const [name, options, changes] of KINDS) {
  let made: Made | undefined;
  describeBackendCompliance(name, {
    open: async (geometry) => {
      made = make({ ...geometry, ...options }, changes);
      return made.backend;
    },
    cleanUp: async () => {
      expect(made!.ssd.faults).to.deep.equal([]);
      expect(made!.released).to.equal(1);
    },
  });
}

describe('NvmeBackend', () => {
  const options = { blockSize: 512, blockCount: 4096 };
  const block = { data: [pattern(512, 1)] };

  it('copies by the device: all sources in one command, or as many as its answer says', async () => {
    const { backend, ssd, fake } = make(options);
    await submit(backend, 'write', new TestBlockIo({ data: [pattern(8192, 3)] }));
    const copy = async (to: number, sources: readonly [first: number, blocks: number][]): Promise<[number, number]> => {
      const blocks = sources.reduce((sum, [, count]) => sum + count, 0);
      const job = {
        sources: sources.map(([first, count]) => ({ offsetBytes: first * 512, lengthBytes: count * 512 })),
        completeCount: 0,
      };
      const io = new TestBlockIo({ offset: to * 512, length: blocks * 512, fua: true });
      backend.copy!(io, job);
      return [await io.done, job.completeCount];
    };
    const before = fake.operations.length;
    expect(
      await copy(100, [
        [3, 2],
        [0, 1],
        [9, 7],
      ]),
    ).to.deep.equal([0, 0]);
    expect(fake.operations.slice(before).map(({ opcode }) => opcode)).to.deep.equal([IoOpcode.Copy]);
    expect(fake.operations.at(-1)!.cdw10To15[2], 'FUA and two more sources').to.equal(0x4000_0002);
    const content = pattern(8192, 3);
    const expected = Buffer.concat([content.subarray(1536, 2560), content.subarray(0, 512), content.subarray(4608)]);
    expect(expected.subarray(0, 5120).equals(ssd.bytes.subarray(51_200, 56_320))).to.equal(true);
    const [status, complete] = await copy(200, [
      [0, 1],
      [1, 1],
      [4095, 2],
      [2, 1],
    ]);
    expect([status & 0x7ff, complete]).to.deep.equal([Status.LbaOutOfRange, 2]);
    expect(ssd.faults).to.deep.equal([]);
    await backend.close();
  });

  it('has no Copy where the device has none, or its blocks have metadata', async () => {
    const { backend } = make(options, { copy: undefined });
    expect([backend.copy, backend.copyLimits]).to.deep.equal([undefined, undefined]);
    await backend.close();
  });

  it('sends FUA, and Flush at the end if the device has a write cache', async () => {
    const { backend, ssd, fake } = make(options);
    await submit(backend, 'write', new TestBlockIo({ ...block, fua: true }));
    await submit(backend, 'read', new TestBlockIo({ length: 512, fua: true }));
    await submit(backend, 'write', new TestBlockIo(block));
    expect(fake.operations.map(({ cdw10To15 }) => (cdw10To15[2]! & 0x4000_0000) !== 0)).to.deep.equal([
      true,
      true,
      false,
    ]);
    await backend.close();
    expect(ssd.flushCount).to.equal(1);
    const cacheless = make(options, { volatileWriteCache: false });
    await cacheless.backend.close();
    expect(cacheless.ssd.flushCount).to.equal(0);
  });

  it('a flush is one Flush, whatever range its command slot had before', async () => {
    const { backend, fake } = make(options);
    expect(await submit(backend, 'flush', new TestBlockIo({ offset: 512, length: 4096 }))).to.equal(0);
    expect(fake.operations.map(({ opcode }) => opcode)).to.deep.equal([IoOpcode.Flush]);
    await backend.close();
  });

  it('passes few segments as they are, many as one', async () => {
    const { backend, fake, ssd } = make(options);
    const pieces = [pattern(100, 1), pattern(412, 2)];
    await submit(backend, 'write', new TestBlockIo({ data: pieces }));
    expect(fake.operations[0]!.data).to.be.an('array');
    const many = Array.from({ length: 64 }, (_, i) => pattern(8, i));
    await submit(backend, 'write', new TestBlockIo({ offset: 512, data: many }));
    expect(fake.operations[1]!.data).to.be.instanceOf(Uint8Array);
    expect(Buffer.compare(ssd.bytes.subarray(0, 1024), Buffer.concat([...pieces, ...many]))).to.equal(0);
    await backend.close();
  });

  it("gives the device's status, without the parts that refer to the device's own logs", async () => {
    const { backend, ssd } = make(options);
    for (const [status, expected] of [
      [0x4281, 0x4281], // Unrecovered Read Error, Do Not Retry
      [0x7285, 0x4285], // Compare Failure with More and a retry delay
      [0x0006, 0x0006],
    ] as const) {
      ssd.script = () => ({ result: status });
      expect(await submit(backend, 'read', new TestBlockIo({ length: 512 }))).to.equal(expected);
    }
    ssd.script = undefined;
    await backend.close();
  });

  it('verifies by the device, in pieces as long as it takes, checking protection but not making it', async () => {
    const verified = { blockSize: 512, blockCount: 4096, metadataBytes: 8, protection: true, verifyBlocksMax: 8 };
    const { backend, ssd } = make(verified);
    const sent: [number, number, number][] = [];
    ssd.script = ({ opcode, cdw10To15: [low, , cdw12, , reference] }) => {
      if (opcode === IoOpcode.Verify) sent.push([low!, cdw12! >>> 0, reference!]);
      return low === 28 ? { result: 0x281 } : undefined;
    };
    const verify = (offset: number, length: number): Promise<number> =>
      new Promise((resolve) =>
        backend.verify!(Object.assign(new TestBlockIo({ offset, length }), { complete: resolve })),
      );
    expect(await verify(0, 20 * 512)).to.equal(0);
    // PRCHK: guard and reference tag
    expect(sent).to.deep.equal([
      [0, 0x1400_0007, 0],
      [8, 0x1400_0007, 8],
      [16, 0x1400_0003, 16],
    ]);
    expect(await verify(20 * 512, 12 * 512), 'the status of the piece that failed').to.equal(0x281);
    expect(ssd.faults).to.deep.equal([]);
    await backend.close();
    expect(make({ blockSize: 512, blockCount: 64 }, { verifies: false }).backend.verify).to.equal(undefined);
  });

  it('compares by the device, in pieces as long as it takes; not where blocks have metadata', async () => {
    const { backend, ssd } = make({ blockSize: 512, blockCount: 4096, transferBytesMax: 4096 });
    const bytes = pattern(40 * 512, 3);
    ssd.bytes.set(bytes, 7 * 512);
    const compare = (data: Uint8Array[]): Promise<number> =>
      new Promise((resolve) =>
        backend.compare!(Object.assign(new TestBlockIo({ offset: 7 * 512, data }), { complete: resolve })),
      );
    expect(await compare([bytes])).to.equal(0);
    expect(ssd.opcodes).to.deep.equal(new Array(5).fill(IoOpcode.Compare));
    expect(await compare([bytes.subarray(0, 100), bytes.subarray(100)]), 'in segments').to.equal(0);
    const other = bytes.slice();
    other[39 * 512] = other[39 * 512]! ^ 1;
    expect(await compare([other])).to.equal(0x285);
    expect(ssd.faults).to.deep.equal([]);
    await backend.close();
    expect(make({ blockSize: 512, blockCount: 64, metadataBytes: 8 }).backend.compare).to.equal(undefined);
  });

  it('a piece that fails fails the operation, once, and nothing more is sent', async () => {
    const { backend, ssd, fake } = make({ ...options, transferBytesMax: 512 });
    let left = 3;
    ssd.script = () => (--left === 0 ? { result: 0x0281 } : undefined);
    expect(await submit(backend, 'read', new TestBlockIo({ length: 64 * 512 }))).to.equal(0x0281);
    expect(fake.operations.length).to.be.at.most(8 + 3);
    ssd.script = undefined;
    await backend.close();
  });

  for (const [what, result] of [
    ['ENODEV', -19],
    ['EINTR', -4],
    ['a path status of the kernel', 0x0371],
  ] as const) {
    it(`${what}: Namespace Not Ready, and who watches the device is asked to look`, async () => {
      const made = make(options);
      made.ssd.script = () => ({ result });
      expect(await submit(made.backend, 'read', new TestBlockIo({ length: 512 }))).to.equal(Status.NamespaceNotReady);
      expect(made.goneCount).to.equal(1);
      made.backend.markGone();
      const before = made.fake.operations.length;
      expect(await submit(made.backend, 'flush', new TestBlockIo({}))).to.equal(Status.NamespaceNotReady);
      expect(made.fake.operations.length, 'sent to a device that is gone').to.equal(before);
      await made.backend.close();
      expect(made.released).to.equal(1);
    });
  }

  it('a shortage of this machine is no error of the device', async () => {
    const { backend, ssd } = make(options);
    ssd.script = () => ({ result: -12 });
    expect(await submit(backend, 'write', new TestBlockIo(block))).to.equal(Status.InternalError);
    ssd.script = undefined;
    await backend.close();
  });

  it('read-only: changes are refused', async () => {
    const { backend, fake } = make(options, {}, true);
    for (const operation of ['write', 'writeZeroes', 'deallocate'] as const) {
      const io = new TestBlockIo(operation === 'write' ? block : { length: 512 });
      expect(await submit(backend, operation, io)).to.equal(Status.NamespaceWriteProtected);
    }
    expect(fake.operations).to.have.length(0);
    await backend.close();
  });

  it('close reports a Flush that failed', async () => {
    const { backend, ssd } = make(options);
    ssd.script = ({ opcode }) => (opcode === IoOpcode.Flush ? { result: 0x0280 } : undefined);
    let message = '';
    await backend.close().catch((error: Error) => {
      message = error.message;
    });
    expect(message).to.match(/\/dev\/ng9n1 was closed, but its last writes may be lost: status 280/);
  });

  it('names what is no namespace device', async () => {
    for (const [path, message] of [
      ['/dev/nvme0', /no namespace of an NVMe device/],
      ['/dev/null', /no namespace of an NVMe device/],
      ['/dev/ng77n1', /no such device/],
    ] as const) {
      let error: unknown;
      await openNvmeBackend({ path }).catch((caught: unknown) => {
        error = caught;
      });
      expect(error).to.be.instanceOf(ConfigError);
      expect((error as Error).message).to.match(message);
    }
  });
});

describe('what a device says of itself', () => {
  /** Offsets of Base 2.1 figure 313 and NVM Command Set 1.2 figure 114, by hand. */
  function identify(changes: {
    mdts?: number;
    oncs?: number;
    vwc?: number;
    awun?: number;
    nsze?: bigint;
    flbas?: number;
    dps?: number;
    dlfeat?: number;
    nsfeat?: number;
    nawun?: number;
    nabsn?: number;
    nabo?: number;
    noiob?: number;
    lbads?: number;
    ms?: number;
    elbaf?: number;
    wzsl?: number;
    dmrsl?: number;
    ocfs?: number;
    mssrl?: number;
    mcl?: number;
    msrc?: number;
  }): Parameters<typeof nvmeGeometry>[1] {
    const pages = Array.from({ length: 4 }, () => new DataView(new ArrayBuffer(4096)));
    const [controller, namespace, nvmNamespace, nvmController] = pages as [DataView, DataView, DataView, DataView];
    controller.setUint8(77, changes.mdts ?? 0);
    controller.setUint16(520, changes.oncs ?? 0x0c, true);
    controller.setUint8(525, changes.vwc ?? 1);
    controller.setUint16(534, changes.ocfs ?? 0, true);
    controller.setUint16(526, changes.awun ?? 0, true);
    namespace.setBigUint64(0, changes.nsze ?? 1000n, true);
    namespace.setUint8(24, changes.nsfeat ?? 0);
    namespace.setUint8(26, changes.flbas ?? 0);
    namespace.setUint8(29, changes.dps ?? 0);
    namespace.setUint8(33, changes.dlfeat ?? 0);
    namespace.setUint16(34, changes.nawun ?? 0, true);
    namespace.setUint16(40, changes.nabsn ?? 0, true);
    namespace.setUint16(42, changes.nabo ?? 0, true);
    namespace.setUint16(46, changes.noiob ?? 0, true);
    namespace.setUint16(74, changes.mssrl ?? 0, true);
    namespace.setUint32(76, changes.mcl ?? 0, true);
    namespace.setUint8(80, changes.msrc ?? 0);
    namespace.setUint16(128, changes.ms ?? 0, true);
    namespace.setUint8(130, changes.lbads ?? 9);
    nvmNamespace.setUint32(12, changes.elbaf ?? 0, true);
    nvmController.setUint8(1, changes.wzsl ?? 0);
    nvmController.setUint32(4, changes.dmrsl ?? 0, true);
    const bytes = (view: DataView): Uint8Array => new Uint8Array(view.buffer);
    return {
      controller: bytes(controller),
      namespace: bytes(namespace),
      nvmNamespace: bytes(nvmNamespace),
      nvmController: bytes(nvmController),
    };
  }
  const geometry = (changes: Parameters<typeof identify>[0], queueBytes = 1 << 20): NvmeGeometry =>
    nvmeGeometry('/dev/ng0n1', identify(changes), queueBytes);

  it('geometry, caches, optional commands', () => {
    expect(geometry({ lbads: 12, nsze: 5n, vwc: 0, oncs: 0, dlfeat: 9 })).to.deep.include({
      blockSize: 4096,
      blockCount: 5,
      volatileWriteCache: false,
      writeZeroes: false,
      deallocates: false,
      readsZeroAfterDeallocate: false,
      metadata: Metadata.None,
    });
    expect(geometry({ dlfeat: 9 })).to.deep.include({
      volatileWriteCache: true,
      writeZeroes: true,
      deallocates: true,
      readsZeroAfterDeallocate: true,
      deacSupported: true,
    });
    expect(geometry({ dlfeat: 2 }).readsZeroAfterDeallocate).to.equal(false);
  });

  it('the smallest limit holds: MDTS, the kernel, NLB', () => {
    expect(geometry({}).transferBytesMax).to.equal(1 << 20);
    expect(geometry({ mdts: 2 }).transferBytesMax).to.equal(16_384);
    expect(geometry({ mdts: 9 }, 131_072).transferBytesMax).to.equal(131_072);
    expect(geometry({ lbads: 12 }, 10_000).transferBytesMax).to.equal(8192);
    expect(geometry({}, 2 ** 40).transferBytesMax).to.equal(65_536 * 512);
    expect(geometry({ noiob: 256 }).boundaryBytes).to.equal(131_072);
    expect(geometry({ noiob: 256, mdts: 2 }).boundaryBytes, 'no piece is that long').to.equal(0);
    expect(geometry({ wzsl: 2 }).writeZeroesBlocksMax).to.equal(32);
    expect(geometry({ dmrsl: 77 }).deallocateBlocksMax).to.equal(77);
  });

  it('Copy: its limits, where it has descriptors of format 0 and blocks without metadata', () => {
    const limits = { mssrl: 33, mcl: 70_000, msrc: 15 };
    expect(geometry({ oncs: 0x100, ocfs: 3, ...limits }).copy).to.deep.equal(limits);
    expect(geometry({ oncs: 0x0c, ocfs: 3, ...limits }).copy, 'ONCS').to.equal(undefined);
    expect(geometry({ oncs: 0x100, ocfs: 2, ...limits }).copy, 'OCFS').to.equal(undefined);
    expect(geometry({ oncs: 0x100, ocfs: 1, ...limits, ms: 8, dps: 1 }).copy, 'metadata').to.equal(undefined);
    expect(geometry({ oncs: 0x100, ocfs: 1, ...limits, mcl: 0 }).copy, 'MCL 0').to.equal(undefined);
  });

  it('atomic units: the namespace before the controller, cut at boundaries, powers of two', () => {
    expect(geometry({}).atomicBytes).to.equal(undefined);
    expect(geometry({ awun: 7 }).atomicBytes).to.equal(4096);
    expect(geometry({ awun: 7, nsfeat: 2, nawun: 31 }).atomicBytes).to.equal(16_384);
    expect(geometry({ nsfeat: 2, nawun: 31, nabsn: 15 }).atomicBytes).to.equal(8192);
    expect(geometry({ nsfeat: 2, nawun: 31, nabsn: 15, nabo: 3 }).atomicBytes).to.equal(undefined);
    expect(geometry({ awun: 0xffff, mdts: 1 }).atomicBytes).to.equal(8192);
    expect(geometry({ awun: 10 }).atomicBytes).to.equal(4096);
  });

  it('metadata: protection by the device, a buffer for the rest', () => {
    expect(geometry({ ms: 8, dps: 1 })).to.deep.include({ metadata: Metadata.Protection, referenceTag: true });
    expect(geometry({ ms: 8, dps: 3, flbas: 0x10 })).to.deep.include({
      metadata: Metadata.Protection,
      referenceTag: false,
    });
    expect(geometry({ ms: 16, dps: 1, elbaf: 2 << 7 })).to.deep.include({ metadata: Metadata.Protection });
    expect(geometry({ ms: 64 })).to.deep.include({
      metadata: Metadata.Scratch,
      metadataBytes: 64,
      referenceTag: false,
    });
  });

  for (const [what, changes, message] of [
    ['an inactive namespace', { nsze: 0n }, /not active/],
    ['interleaved metadata', { ms: 8, flbas: 0x10 }, /inside each block/],
    ['protection inside larger metadata', { ms: 64, dps: 1 }, /of another size/],
    ['a storage tag', { ms: 16, dps: 1, elbaf: (2 << 7) | 16 }, /of another size/],
    ['blocks too large', { lbads: 17 }, /131072 bytes/],
    ['more than can be counted', { nsze: 1n << 60n }, /larger than/],
  ] as const) {
    it(`refuses ${what}`, () => {
      expect(() => geometry(changes)).to.throw(ConfigError, message);
    });
  }
});
