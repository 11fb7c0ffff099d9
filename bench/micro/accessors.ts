/** Fields of PDU headers, SQEs and CQEs. */
import { PduType } from '../../src/spec/pdu.ts';
import { cqeCid, cqeDw0, cqeSqhd, cqeStatus, writeCqe } from '../../src/wire/cqe.ts';
import {
  pduCccid,
  pduDataLength,
  pduDataOffset,
  pduFlags,
  pduHlen,
  pduPdo,
  pduPlen,
  pduType,
  writeCommonHeader,
  writeDataHeader,
} from '../../src/wire/pdu.ts';
import {
  sqeBlockCount,
  sqeCdw12,
  sqeCid,
  sqeNsid,
  sqeOpcode,
  sqeSglId,
  sqeSglLength,
  sqeSlba,
  writeSgl,
  writeSqe,
} from '../../src/wire/sqe.ts';
import { bench, sink } from './harness.ts';

/** As many entries as a read of 32 capsules brings, so that offsets vary. */
const ENTRIES = 32;
const STEP = 72;
const view = new DataView(new ArrayBuffer(ENTRIES * STEP));
for (let i = 0; i < ENTRIES; i++) {
  writeCommonHeader(view, i * STEP, PduType.CapsuleCmd, 0, 72, 0, 72);
  writeSqe(view, i * STEP + 8, 2, i, 1);
}
const at = (i: number): number => (i & (ENTRIES - 1)) * STEP;

bench('read a common header (5 fields)', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const base = at(i);
    sum += pduType(view, base) + pduFlags(view, base) + pduHlen(view, base) + pduPdo(view, base) + pduPlen(view, base);
  }
  sink[0] = sum;
});

bench('read a data header (3 fields)', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const base = at(i);
    sum += pduCccid(view, base) + pduDataOffset(view, base) + pduDataLength(view, base);
  }
  sink[0] = sum;
});

bench('write a C2HData header', (count) => {
  for (let i = 0; i < count; i++) {
    const base = at(i);
    writeCommonHeader(view, base, PduType.C2HData, 4, 24, 24, 4120);
    writeDataHeader(view, base, i & 127, 0, 0, 4096);
  }
});

bench('read an SQE (8 fields)', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const base = at(i) + 8;
    sum +=
      sqeOpcode(view, base) +
      sqeCid(view, base) +
      sqeNsid(view, base) +
      sqeSglId(view, base) +
      sqeSglLength(view, base) +
      sqeSlba(view, base) +
      sqeBlockCount(view, base) +
      sqeCdw12(view, base);
  }
  sink[0] = sum;
});

bench('write an SQE and its SGL', (count) => {
  for (let i = 0; i < count; i++) {
    const base = at(i) + 8;
    writeSqe(view, base, 2, i & 127, 1);
    writeSgl(view, base, 0x5a, 4096);
  }
});

bench('read a CQE (4 fields)', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const base = at(i);
    sum += cqeDw0(view, base) + cqeSqhd(view, base) + cqeCid(view, base) + cqeStatus(view, base);
  }
  sink[0] = sum;
});

bench('write a CQE', (count) => {
  for (let i = 0; i < count; i++) writeCqe(view, at(i), 0, 0, i & 127, i & 127, 0);
});
