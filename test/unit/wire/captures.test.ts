/** Our decoders and digests on what the Linux kernel's host and target really send. */
import { expect } from 'chai';
import { PDU_HLEN, PduFlag, PduType } from '../../../src/spec/pdu.ts';
import { connectDataCodec } from '../../../src/wire/cold/connect.ts';
import { decodeDiscoveryLog } from '../../../src/wire/cold/discovery-log.ts';
import { icReqCodec, icRespCodec } from '../../../src/wire/cold/ic.ts';
import { identifyControllerCodec } from '../../../src/wire/cold/identify-controller.ts';
import { identifyNamespaceCodec } from '../../../src/wire/cold/identify-namespace.ts';
import { crc32cScript, crc32cView } from '../../../src/wire/crc32c.ts';
import {
  dataOffsetFor,
  pduCccid,
  pduDataLength,
  pduFlags,
  pduHlen,
  pduPdo,
  pduPlen,
  pduType,
} from '../../../src/wire/pdu.ts';
import { sqeCdw10, sqeCid, sqeFctype, sqeFlags, sqeOpcode, sqeSglId, sqeSglLength } from '../../../src/wire/sqe.ts';
import { type CapturedPdu, capture } from '../../support/captures.ts';

const FILES = ['linux-6.12-host', 'linux-6.12-host-discovery', 'linux-6.12-target'];
const KERNEL_HOST = 'nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555';

const viewOf = ({ bytes }: CapturedPdu): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const typeOf = (pdu: CapturedPdu): number => pduType(viewOf(pdu), 0);
const isOpcode = (pdu: CapturedPdu, opcode: number): boolean =>
  typeOf(pdu) === PduType.CapsuleCmd && sqeOpcode(viewOf(pdu), 8) === opcode;

/** The data of the C2HData that answers `command` on its connection. */
function answerOf(pdus: CapturedPdu[], command: CapturedPdu): Uint8Array {
  const cid = sqeCid(viewOf(command), 8);
  const answer = pdus
    .slice(pdus.indexOf(command))
    .find(
      (pdu) =>
        pdu.connection === command.connection && typeOf(pdu) === PduType.C2HData && pduCccid(viewOf(pdu), 0) === cid,
    );
  expect(answer, `answer to CID ${cid}`).not.to.equal(undefined);
  const view = viewOf(answer!);
  return answer!.bytes.slice(pduPdo(view, 0), pduPdo(view, 0) + pduDataLength(view, 0));
}

for (const file of FILES) {
  describe(`Capture ${file}`, () => {
    const pdus = capture(file);

    it('holds what the test is about', () => {
      const types = new Set(pdus.map(typeOf));
      expect([...types]).to.include.members([
        PduType.ICReq,
        PduType.ICResp,
        PduType.CapsuleCmd,
        PduType.CapsuleResp,
        PduType.C2HData,
      ]);
    });

    it('has the lengths that our formulas give', () => {
      for (const pdu of pdus) {
        const view = viewOf(pdu);
        expect(pduPlen(view, 0)).to.equal(pdu.bytes.length);
        expect(pduHlen(view, 0)).to.equal(PDU_HLEN[pduType(view, 0)]);
        const headerDigest = (pduFlags(view, 0) & PduFlag.Hdgst) !== 0;
        if (pduPdo(view, 0) !== 0) expect(pduPdo(view, 0)).to.equal(dataOffsetFor(pduHlen(view, 0), headerDigest, 4));
      }
    });

    it('has the digests that we compute', () => {
      let headers = 0;
      let data = 0;
      for (const pdu of pdus) {
        const view = viewOf(pdu);
        const flags = pduFlags(view, 0);
        if (pduType(view, 0) < PduType.CapsuleCmd) continue;
        const hlen = pduHlen(view, 0);
        if ((flags & PduFlag.Hdgst) !== 0) {
          headers++;
          expect(crc32cView(view, 0, hlen)).to.equal(view.getUint32(hlen, true));
        }
        const carriesData = pduType(view, 0) !== PduType.CapsuleResp && pduType(view, 0) !== PduType.R2T;
        if (carriesData && (flags & PduFlag.Ddgst) !== 0) {
          data++;
          const end = pdu.bytes.length - 4;
          expect(crc32cScript(pdu.bytes.subarray(pduPdo(view, 0), end))).to.equal(view.getUint32(end, true));
        }
      }
      const digests = file !== 'linux-6.12-host-discovery';
      expect(headers > 20 && data > 5, `${headers} header and ${data} data digests`).to.equal(digests);
    });
  });
}

describe('What the Linux host sends', () => {
  const pdus = capture('linux-6.12-host');

  it('ICReq: HPDA 0, MAXR2T 0, both digests', () => {
    const icReq = icReqCodec.decode(pdus.find((pdu) => typeOf(pdu) === PduType.ICReq)!.bytes);
    expect(icReq).to.include({ pfv: 0, hpda: 0, dgst: 3, maxr2t: 0 });
  });

  it('Connect in the capsule: NQNs, CNTLID FFFFh, SGL 01h, flags 40h', () => {
    const connect = pdus.find((pdu) => isOpcode(pdu, 0x7f) && sqeFctype(viewOf(pdu), 8) === 1)!;
    const view = viewOf(connect);
    expect([sqeFlags(view, 8), sqeSglId(view, 8), sqeSglLength(view, 8)]).to.deep.equal([0x40, 0x01, 1024]);
    const data = connectDataCodec.decode(connect.bytes, pduPdo(view, 0));
    expect(data).to.include({ cntlid: 0xffff, subnqn: 'nqn.2026-01.io.nvmeferry:capture', hostnqn: KERNEL_HOST });
  });

  it('Identify: controller, NVM command set, active list, descriptors, namespace', () => {
    const cns = pdus.filter((pdu) => isOpcode(pdu, 0x06)).map((pdu) => sqeCdw10(viewOf(pdu), 8) & 0xff);
    expect(cns.slice(0, 5)).to.deep.equal([1, 6, 2, 3, 0]);
  });

  it('the second queue names the controller that the first one got', () => {
    const connects = pdus.filter((pdu) => isOpcode(pdu, 0x7f) && sqeFctype(viewOf(pdu), 8) === 1);
    expect(connects.map((pdu) => connectDataCodec.decode(pdu.bytes, pduPdo(viewOf(pdu), 0)).cntlid)).to.deep.equal([
      0xffff, 1,
    ]);
  });
});

describe('What the Linux target sends', () => {
  const pdus = capture('linux-6.12-target');
  const identifies = pdus.filter((pdu) => isOpcode(pdu, 0x06));
  const withCns = (cns: number): CapturedPdu =>
    identifies.findLast((pdu) => (sqeCdw10(viewOf(pdu), 8) & 0xff) === cns)!;

  it('ICResp: CPDA 0, MAXH2CDATA 4 MiB, digests as asked', () => {
    const all = pdus.filter((pdu) => typeOf(pdu) === PduType.ICResp).map((pdu) => icRespCodec.decode(pdu.bytes));
    for (const icResp of all) expect(icResp).to.include({ pfv: 0, cpda: 0, maxh2cdata: 0x400000 });
    expect(all.map(({ dgst }) => dgst)).to.include.members([0, 3]);
  });

  it('the discovery log, in pieces', () => {
    const header = pdus.find((pdu) => isOpcode(pdu, 0x02))!;
    const genctr = new DataView(answerOf(pdus, header).buffer).getBigUint64(0, true);
    const entries = pdus
      .filter((pdu) => isOpcode(pdu, 0x02))
      .map((pdu) => answerOf(pdus, pdu))
      .find((data) => data.length >= 2048)!;
    const page = new Uint8Array(1024 + entries.length);
    new DataView(page.buffer).setBigUint64(0, genctr, true);
    new DataView(page.buffer).setBigUint64(8, BigInt(entries.length / 1024), true);
    page.set(entries, 1024);
    const log = decodeDiscoveryLog(page);
    expect(
      log.entries.map(({ subtype, trtype, subnqn, trsvcid }) => ({ subtype, trtype, subnqn, trsvcid: trsvcid.trim() })),
    ).to.deep.equal([
      { subtype: 3, trtype: 3, subnqn: 'nqn.2014-08.org.nvmexpress.discovery', trsvcid: '4420' },
      { subtype: 2, trtype: 3, subnqn: 'nqn.2026-01.org.kernel:capture', trsvcid: '4420' },
    ]);
  });

  it('Identify Controller: what a host relies on, and the same bytes when encoded again', () => {
    const page = answerOf(pdus, withCns(1));
    const id = identifyControllerCodec.decode(page);
    expect(id).to.include({
      mn: 'Linux',
      cntrltype: 1,
      kas: 10,
      iorcsz: 1,
      icdoff: 0,
      subnqn: 'nqn.2026-01.org.kernel:capture',
    });
    expect(id.ioccsz * 16 - 64).to.equal(16384);
    const again = identifyControllerCodec.encode(id);
    // text fields of ours are padded alike; everything else must come back bit by bit
    expect(Buffer.compare(again, page)).to.equal(0);
  });

  it('Identify Namespace', () => {
    expect(identifyNamespaceCodec.decode(answerOf(pdus, withCns(0))).nsze).to.equal(2n ** 30n / 512n);
  });

  it('one R2T for a whole write', () => {
    const r2t = pdus.find((pdu) => typeOf(pdu) === PduType.R2T)!;
    expect(pduDataLength(viewOf(r2t), 0)).to.equal(65536);
  });
});
