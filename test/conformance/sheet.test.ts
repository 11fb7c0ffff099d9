/**
 * The tables of the sheet of commands, row by row and over the whole value space: Identify (7.1), log pages (8.1), features (9), Admin commands
 * (10), I/O commands (11). What applies to a fabrics controller is served; everything else gets the status that the sheet names; and what
 * controllers say of themselves (log pages 00h, 05h, 12h, capability bits) is exactly that.
 */
import { expect } from 'chai';
import { MemoryVolumePool } from '../../src/backend/volume-pool.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const INVALID_LOG_PAGE = 0x109;
const DISCOVERY_NQN = 'nqn.2014-08.org.nvmexpress.discovery';
const bytes = (to = 0xff): number[] => Array.from({ length: to + 1 }, (_, value) => value);
const hex = (values: Iterable<number>): string => [...values].map((value) => value.toString(16)).join(' ');

/** What a controller of some kind serves. */
interface Served {
  readonly cns: readonly number[];
  readonly lids: readonly number[];
  readonly fids: readonly number[];
  readonly admin: readonly number[];
}

const IO_CONTROLLER: Served = {
  cns: [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x13],
  lids: [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0c, 0x0e, 0x12, 0x1c, 0x80],
  fids: [0x01, 0x02, 0x04, 0x05, 0x07, 0x0a, 0x0b, 0x0e, 0x0f, 0x15, 0x16, 0x81, 0x82, 0x83, 0x84],
  // (7Fh: Fabrics, which log page 05h does not list); Format NVM, because the namespace is in memory
  admin: [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x80, 0x86],
};
/** With a pool of volumes, and Sanitize. */
const FULL_CONTROLLER: Served = {
  cns: [...IO_CONTROLLER.cns, 0x10, 0x11, 0x12, 0x1a, 0x1b, 0x1f],
  lids: [...IO_CONTROLLER.lids, 0x81],
  fids: IO_CONTROLLER.fids,
  admin: [...IO_CONTROLLER.admin, 0x0d, 0x15, 0x84],
};
const DISCOVERY_CONTROLLER: Served = {
  cns: [0x01],
  lids: [0x00, 0x01, 0x05, 0x12, 0x70],
  fids: [0x0b, 0x0f],
  admin: [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18],
};
const IO_COMMANDS = [0x00, 0x01, 0x02, 0x04, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x19];

const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);

/** Indexes of the dwords from `at` on that have bit 0. */
function supported(page: Buffer, at = 0): number[] {
  return bytes().filter((i) => (page.readUInt32LE(at + i * 4) & 1) !== 0);
}

function describeSheet(kind: string, served: Served, start: () => Promise<{ t: TestTarget; admin: RawHost }>): void {
  describe(`conformance: the sheet's tables, ${kind}`, () => {
    let t: TestTarget;
    let admin: RawHost;
    before(async () => {
      ({ t, admin } = await start());
    });
    after(() => t.close());

    /** Values that did not answer as they must. */
    async function outside(
      listed: readonly number[],
      ask: (value: number) => Promise<Completion>,
      refusal: number,
      allowed: readonly number[] = [0],
    ): Promise<string> {
      const wrong: string[] = [];
      for (const value of bytes()) {
        const { code, dnr } = await ask(value);
        const right = listed.includes(value) ? allowed.includes(code) : code === refusal && dnr;
        if (!right) wrong.push(`${value.toString(16)}h -> ${code.toString(16)}h`);
      }
      return wrong.join(', ');
    }

    it('7.1: every CNS is served, or Invalid Field', async () => {
      expect(await outside(served.cns, (cns) => admin.identify(cns, { nsid: 1 }), INVALID_FIELD)).to.equal('');
    });

    it('8.1: every LID is served, or Invalid Log Page; 00h names them', async () => {
      const ask = (lid: number): Promise<Completion> => admin.logPage(lid, 16, { nsid: 0 });
      expect(await outside(served.lids, ask, INVALID_LOG_PAGE)).to.equal('');
      expect(hex(supported((await admin.logPage(0, 1024)).data))).to.equal(hex(sorted(served.lids)));
    });

    it('9: every FID is served by Get Features, or Invalid Field by both; 12h names them', async () => {
      const ask = (fid: number): Promise<Completion> =>
        admin.getFeature(fid, {
          nsid: NAMESPACE_FEATURES.includes(fid) ? 1 : 0,
          cdw11: fid === 0x81 ? 1 : 0,
          readBytes: 512,
        });
      expect(await outside(served.fids, ask, INVALID_FIELD)).to.equal('');
      const set = await Promise.all(
        bytes().map((fid) => (served.fids.includes(fid) ? undefined : admin.setFeature(fid, 0))),
      );
      expect(set.every((completion) => completion === undefined || completion.code === INVALID_FIELD)).to.equal(true);
      expect(hex(supported((await admin.logPage(0x12, 1024)).data))).to.equal(hex(sorted(served.fids)));
    });

    it('10: every Admin opcode is served, or Invalid Opcode; 05h names them', async () => {
      const wrong: string[] = [];
      for (const opcode of bytes()) {
        // those with an effect, and AER, have cases of their own
        if (served.admin.includes(opcode) || opcode === 0x7f) continue;
        const { code, dnr } = await admin.command({ opcode, nsid: 1 });
        if (code !== INVALID_OPCODE || !dnr) wrong.push(`${opcode.toString(16)}h -> ${code.toString(16)}h`);
      }
      expect(wrong.join(', ')).to.equal('');
      const page = (await admin.logPage(5, 4096)).data;
      expect(hex(supported(page))).to.equal(hex(sorted(served.admin)));
      const isDiscovery = served === DISCOVERY_CONTROLLER;
      expect(hex(supported(page, 1024))).to.equal(hex(isDiscovery ? [] : IO_COMMANDS));
    });

    it('7.2: the capability bits say the same', async () => {
      const { data } = await admin.identify(1);
      const has = (set: readonly number[], value: number): number => Number(set.includes(value));
      const { admin: commands, lids } = served;
      const bits = (at: number, size: 1 | 2 | 4, wanted: Readonly<Record<number, number>>): void => {
        const value = data.readUIntLE(at, size);
        const expected = Object.entries(wanted).reduce((sum, [bit, on]) => sum + on * 2 ** Number(bit), 0);
        expect(value.toString(16), `byte ${at}`).to.equal(expected.toString(16));
      };
      bits(256, 2, { 1: has(commands, 0x80), 3: has(commands, 0x0d), 9: has(commands, 0x86) }); // OACS
      bits(261, 1, { 1: has(lids, 5), 2: 1, 5: has(lids, 0x12) }); // LPA
      const isIo = served !== DISCOVERY_CONTROLLER;
      const io = Number(isIo);
      // OAES: namespaces, ANA, LBA status, allocated namespaces; discovery
      bits(92, 4, { 8: io, 11: io, 13: has(lids, 0x0e), 19: has(lids, 0x1c), 31: has(lids, 0x70) });
      // ONCS: all commands; no Save; timestamp; copy in one; namespace zeroes
      bits(520, 2, isIo ? { 0: 1, 1: 1, 2: 1, 3: 1, 5: 1, 6: has(served.fids, 0x0e), 7: 1, 8: 1, 9: 1, 12: 1 } : {});
      expect(data.readUInt16LE(534), 'OCFS').to.equal(isIo ? 0xf : 0);
      expect(data.readUInt32LE(328) & 7, 'SANICAP').to.equal(has(commands, 0x84) === 1 ? 6 : 0);
      // what would make further rows apply: NVM sets, endurance groups, granularity, UUIDs, domains; virtualization; I/O command sets
      expect(data.readUInt32LE(96) & 0x694, 'CTRATT').to.equal(0);
      const cap = await admin.propertyGet(0, 8);
      expect((cap.data.length === 8 ? cap.data.readUInt32LE(4) : 0) & (1 << 11), 'CAP.CSS bit 43').to.equal(0);
    });
  });
}

/** Features of one namespace: Get Features names it. */
const NAMESPACE_FEATURES = [0x05, 0x82, 0x83, 0x84];

describeSheet('an I/O controller', IO_CONTROLLER, async () => {
  const t = await TestTarget.start();
  return { t, admin: await t.admin() };
});

describeSheet('an I/O controller with volumes and Sanitize', FULL_CONTROLLER, async () => {
  const t = await TestTarget.start({
    subsystem: { allowSanitize: true, volumes: new MemoryVolumePool({ capacityBytes: 16 << 20 }) },
  });
  return { t, admin: await t.admin() };
});

describeSheet('a discovery controller', DISCOVERY_CONTROLLER, async () => {
  const t = await TestTarget.start();
  return { t, admin: await t.admin({ subnqn: DISCOVERY_NQN }) };
});

describe("conformance: the sheet's table of I/O commands", () => {
  it('11: every opcode is served, or Invalid Opcode', async () => {
    const t = await TestTarget.start();
    try {
      const { io } = await t.association();
      const wrong: string[] = [];
      for (const opcode of bytes()) {
        const { code } = await io.command({ opcode, nsid: 1, cdw10: 0, cdw12: 0 });
        const isServed = code !== INVALID_OPCODE;
        if (opcode !== 0x7f && isServed !== IO_COMMANDS.includes(opcode)) wrong.push(`${opcode.toString(16)}h`);
      }
      expect(wrong.join(', ')).to.equal('');
    } finally {
      await t.close();
    }
  });
});
