/** The H lines of the NVMe/TCP checklist: a target that breaks one rule. */
import { type HostPdu, pdu } from '../scripted-target.ts';
import type { HostCase, HostProbe, Reaction } from './host-case.ts';
import { BLOCK_BYTES, blockData, type HostLink, isTrigger } from './link.ts';

const READ = 0x02;
const WRITE = 0x01;
const HEADER_FIELD = 1;
const SEQUENCE = 2;
const HEADER_DIGEST = 3;
const OUT_OF_RANGE = 4;
const R2T_LIMIT = 5;
const UNSUPPORTED = 6;
/** Data Transfer Error with DNR: an error of the command that no path can mend. */
const DATA_TRANSFER_ERROR = 0x4004;
/** For the second of two commands; a host on a busy machine takes its time between them. */
const PAIR_WAIT_MS = 10_000;

const fatal = (...allowed: (readonly [number, number | undefined])[]): Reaction => ({ kind: 'fatal', allowed });
const SETUP = { requirement: 'TCP 1.0 section 3.1', tags: ['host', 'setup'], action: 'connect' } as const;
const PDUS = { requirement: 'TCP 1.0 section 3.6.2', tags: ['host', 'headers'] } as const;
const DIGESTS = { requirement: 'TCP 1.0 section 3.3.1', tags: ['host', 'digests'] } as const;
const DATA = { requirement: 'TCP 1.0 section 3.3.2', tags: ['host', 'data'] } as const;

/** A set-up case in which ICResp is wrong. */
function badIcResp(
  number: number,
  title: string,
  reaction: Reaction,
  response: (request: HostPdu) => Buffer,
): HostCase {
  return {
    ...SETUP,
    id: `host-${number}`,
    title,
    reaction,
    onIcReq: (link, request, probe) => {
      probe.misbehaved(link);
      link.send(response(request));
    },
  };
}

/** Two blocks or more, where cases are brought about. */
const isLong = (command: HostPdu): boolean => isTrigger(command) && command.sglLength >= 2 * BLOCK_BYTES;

/** The first read of at least two blocks is answered wrong. */
function badRead(
  number: number,
  title: string,
  reaction: Reaction,
  answer: (link: HostLink, command: HostPdu) => void,
  more: Partial<HostCase> = {},
): HostCase {
  return {
    ...DATA,
    ...more,
    id: `host-${number}`,
    title,
    action: 'read',
    reaction,
    onIo: (link, command, probe) => {
      if (command.opcode !== READ || !isLong(command)) return false;
      probe.misbehaved(link, command);
      answer(link, command);
      return true;
    },
  };
}

/** The first write of at least two blocks, whose data is not in the capsule, is answered wrong. */
function badWrite(
  number: number,
  title: string,
  reaction: Reaction,
  answer: (link: HostLink, command: HostPdu, probe: HostProbe) => void,
  more: Partial<HostCase> = {},
): HostCase {
  return {
    ...DATA,
    ...more,
    id: `host-${number}`,
    title,
    action: 'write',
    reaction,
    onIo: (link, command, probe) => {
      if (command.opcode !== WRITE || command.sglId === 0x01 || !isLong(command)) return false;
      answer(link, command, probe);
      return true;
    },
  };
}

const needsDigest =
  (which: 'hdgst' | 'ddgst', inner: NonNullable<HostCase['onIo']>): NonNullable<HostCase['onIo']> =>
  (link, command, probe) => {
    if (link.digests[which] === true) return inner(link, command, probe);
    if (command.opcode === READ && isTrigger(command))
      probe.notApplicable(`the host asked for no ${which === 'hdgst' ? 'header' : 'data'} digest`);
    return false;
  };

/** Two commands at once: both are held until the second is there. */
function pair(
  opcode: number,
  both: (link: HostLink, first: HostPdu, second: HostPdu, probe: HostProbe) => void,
): NonNullable<HostCase['onIo']> {
  let held: { link: HostLink; command: HostPdu } | undefined;
  return (link, command, probe) => {
    if (command.opcode !== opcode || command.sglId === 0x01 || !isLong(command)) return false;
    if (held !== undefined && held.link === link && !held.link.closed) {
      const { command: first } = held;
      held = undefined;
      probe.misbehaved(link, command);
      both(link, first, command, probe);
      return true;
    }
    const mine = { link, command };
    held = mine;
    probe.after(PAIR_WAIT_MS, () => {
      if (held !== mine) return;
      held = undefined;
      if (opcode === READ) link.read(command);
      else link.write(command);
    });
    return true;
  };
}

const half = (command: HostPdu): number => command.sglLength / 2 - ((command.sglLength / 2) % BLOCK_BYTES);
const content = (command: HostPdu): Buffer => blockData(command.cdw(10), command.sglLength);

/** A fresh set of cases: some keep what they hold back. */
export function makeHostCases(): readonly HostCase[] {
  return [
    {
      ...SETUP,
      id: 'host-19',
      title: 'ICResp with CPDA 7 -> data of the Connect capsule at a multiple of 32, or no connection',
      reaction: { kind: 'judged' },
      onIcReq: (link, _request, probe) => {
        probe.misbehaved(link);
        link.send(pdu.icResp({ cpda: 7 }));
      },
      onFirst: (_link, request, probe) => {
        if (request.pdo % 32 === 0 && request.pdo >= 72) probe.pass();
        else if (request.data.length === 0) probe.pass('no data in the Connect capsule');
        else probe.fail(`data of Connect at byte ${request.pdo}, needed a multiple of 32`);
        return true;
      },
    },
    badIcResp(20, 'ICResp with CPDA 32 -> FES 1, FEI 10', fatal([HEADER_FIELD, 10]), () => pdu.icResp({ cpda: 32 })),
    badIcResp(21, 'ICResp with PFV 1 -> fatal, FEI 8', fatal([HEADER_FIELD, 8], [UNSUPPORTED, 8]), () =>
      pdu.icResp({ pfv: 1 }),
    ),
    badIcResp(22, 'ICResp enables digests that were not asked for -> FES 1, FEI 11', fatal([HEADER_FIELD, 11]), () =>
      pdu.icResp({ dgst: 3 }),
    ),
    badIcResp(23, 'ICResp with MAXH2CDATA 4095 -> fatal, FEI 12', fatal([HEADER_FIELD, 12], [UNSUPPORTED, 12]), () =>
      pdu.icResp({ maxh2cdata: 4095 }),
    ),
    badIcResp(24, 'ICResp with PLEN 127 -> FES 1, FEI 4', fatal([HEADER_FIELD, 4]), () => pdu.icResp({ plen: 127 })),
    {
      ...badIcResp(25, 'C2HTermReq instead of ICResp -> closed', { kind: 'closed' }, () =>
        pdu.c2hTermReq(UNSUPPORTED, 8),
      ),
      timeoutMs: 15_000, // a host that wants 128 bytes waits as for no ICResp
    },
    {
      ...SETUP,
      id: 'host-26',
      title: 'no ICResp -> closed after the time-out of the host, nothing sent meanwhile',
      reaction: { kind: 'closed' },
      slow: true,
      timeoutMs: 40_000,
      onIcReq: (link, _request, probe) => probe.misbehaved(link),
    },
    {
      ...SETUP,
      id: 'host-27',
      title: 'ICResp byte by byte -> accepted',
      reaction: { kind: 'judged' },
      timeoutMs: 15_000, // 128 segments take their time where both sides share a busy machine; the host's first PDU ends the case
      onIcReq: (link, _request, probe) => {
        probe.misbehaved(link);
        void link.connection.trickle(pdu.icResp());
      },
      onFirst: (_link, request, probe) => {
        if (request.type === 0x04) probe.pass();
        else probe.fail(`PDU type ${request.type} came instead of Connect`);
        return true;
      },
    },
    badRead(
      39,
      'CapsuleResp with PLEN 25 -> FES 1, FEI 4',
      fatal([HEADER_FIELD, 4]),
      (link, command) => link.send(pdu.capsuleResp(command.cid, { plen: 25 }), Buffer.alloc(1)),
      PDUS,
    ),
    badWrite(
      40,
      'R2T with HLEN 20 -> FES 1, FEI 2',
      fatal([HEADER_FIELD, 2]),
      (link, command, probe) => {
        probe.misbehaved(link, command);
        link.r2t(command.cid, { hlen: 20, length: command.sglLength });
      },
      PDUS,
    ),
    {
      ...badRead(
        49,
        'C2HData with wrong DDGST, then success -> the command fails, connection alive',
        { kind: 'alive' },
        () => {},
        DIGESTS,
      ),
      user: 'error',
      onIo: needsDigest('ddgst', (link, command, probe) => {
        if (command.opcode !== READ || !isLong(command)) return false;
        probe.misbehaved(link, command);
        link.data(command.cid, content(command), { badDigest: true });
        link.complete(command.cid);
        return true;
      }),
    },
    {
      ...badRead(
        50,
        'C2HData with wrong DDGST and SUCCESS -> the command fails, connection alive',
        { kind: 'alive' },
        () => {},
        DIGESTS,
      ),
      user: 'error',
      onIo: needsDigest('ddgst', (link, command, probe) => {
        if (command.opcode !== READ || !isLong(command)) return false;
        if (!link.withoutFlowControl) {
          probe.notApplicable('the host did not disable SQ flow control');
          return false;
        }
        probe.misbehaved(link, command);
        link.data(command.cid, content(command), { badDigest: true, success: true });
        return true;
      }),
    },
    {
      ...badRead(51, 'wrong HDGST on CapsuleResp -> FES 3', fatal([HEADER_DIGEST, undefined]), () => {}, DIGESTS),
      onIo: needsDigest('hdgst', (link, command, probe) => {
        if (command.opcode !== READ || !isTrigger(command)) return false;
        probe.misbehaved(link, command);
        const bytes = pdu.capsuleResp(command.cid, { hdgst: true });
        bytes[24]! ^= 1;
        link.send(bytes);
        return true;
      }),
    },
    badRead(72, 'C2HData with unknown CCCID -> FES 1, FEI 8', fatal([HEADER_FIELD, 8]), (link, command) =>
      link.data(command.cid ^ 0x0055, content(command)),
    ),
    badRead(73, 'C2HData whose DATAO leaves a gap -> FES 2', fatal([SEQUENCE, 0]), (link, command) => {
      link.data(command.cid, content(command).subarray(half(command)), { offset: half(command) });
      link.complete(command.cid);
    }),
    badRead(74, 'C2HData beyond the buffer -> FES 4', fatal([OUT_OF_RANGE, 0]), (link, command) =>
      link.data(command.cid, blockData(command.cdw(10), command.sglLength + BLOCK_BYTES)),
    ),
    badRead(
      75,
      'C2HData with SUCCESS and without LAST_PDU -> FES 1, FEI 1',
      fatal([HEADER_FIELD, 1]),
      (link, command) => link.data(command.cid, content(command), { success: true, last: false }),
    ),
    badWrite(76, 'C2HData for a write -> FES 2', fatal([SEQUENCE, 0]), (link, command, probe) => {
      probe.misbehaved(link, command);
      link.data(command.cid, content(command));
    }),
    badRead(77, 'C2HData after LAST_PDU -> FES 2', fatal([SEQUENCE, 0]), (link, command) => {
      link.data(command.cid, content(command));
      link.data(command.cid, content(command).subarray(0, BLOCK_BYTES));
      link.complete(command.cid);
    }),
    badRead(
      78,
      'LAST_PDU with half of the data, then success -> the read fails',
      { kind: 'judged' },
      (link, command) => {
        link.data(command.cid, content(command).subarray(0, half(command)));
        link.complete(command.cid);
      },
      { user: 'error' },
    ),
    {
      ...DATA,
      id: 'host-79',
      title: 'C2HData of two reads interleaved -> both right',
      action: 'two-reads',
      reaction: { kind: 'alive' },
      user: 'success',
      onIo: pair(READ, (link, first, second) => {
        const [a, b] = [content(first), content(second)];
        link.data(first.cid, a.subarray(0, half(first)), { last: false });
        link.data(second.cid, b.subarray(0, half(second)), { last: false });
        link.data(first.cid, a.subarray(half(first)), { offset: half(first) });
        link.data(second.cid, b.subarray(half(second)), { offset: half(second) });
        link.complete(second.cid);
        link.complete(first.cid);
      }),
    },
    badRead(
      80,
      'success without any C2HData -> the read fails',
      { kind: 'judged' },
      (link, command) => link.complete(command.cid),
      {
        user: 'error',
      },
    ),
    badWrite(
      93,
      'R2T longer than MAXH2CDATA -> several H2CData, LAST_PDU on the last alone',
      { kind: 'judged' },
      (link, command, probe) => {
        probe.misbehaved(link, command);
        link.write(command, () => {
          link.complete(command.cid);
          if (link.complaints.length > 0) probe.fail(link.complaints.join('; '));
          else probe.pass();
        });
      },
      { user: 'success' },
    ),
    badWrite(94, 'R2T for a command that is done -> FES 1, FEI 8', fatal([HEADER_FIELD, 8]), (link, command, probe) =>
      link.write(command, () => {
        link.complete(command.cid);
        probe.misbehaved(link, command);
        link.r2t(command.cid, { ttag: 0x77, length: BLOCK_BYTES });
      }),
    ),
    badWrite(95, 'R2T beyond the buffer -> FES 4', fatal([OUT_OF_RANGE, 0]), (link, command, probe) => {
      probe.misbehaved(link, command);
      link.r2t(command.cid, { length: command.sglLength + BLOCK_BYTES });
    }),
    badWrite(96, 'more R2Ts than MAXR2T allows -> FES 5', fatal([R2T_LIMIT, 0]), (link, command, probe) => {
      probe.misbehaved(link, command);
      const part = pdu.r2t(command.cid, { ttag: 1, offset: 0, length: half(command), ...link.headerDigest });
      const rest = { ttag: 2, offset: half(command), length: command.sglLength - half(command), ...link.headerDigest };
      link.send(part, pdu.r2t(command.cid, rest));
    }),
    badWrite(97, 'R2T with R2TL 0 -> fatal, FEI 16', fatal([HEADER_FIELD, 16]), (link, command, probe) => {
      probe.misbehaved(link, command);
      link.r2t(command.cid, { length: 0 });
    }),
    badWrite(98, 'R2T that leaves a gap -> FES 2', fatal([SEQUENCE, 0]), (link, command, probe) => {
      probe.misbehaved(link, command);
      link.r2t(command.cid, { offset: half(command), length: command.sglLength - half(command) });
    }),
    {
      ...DATA,
      id: 'host-99',
      title: 'R2Ts of two commands, the later first -> both answered',
      action: 'two-writes',
      reaction: { kind: 'judged' },
      user: 'success',
      onIo: pair(WRITE, (link, first, second, probe) => {
        let left = 2;
        const done = (command: HostPdu) => (): void => {
          link.complete(command.cid);
          if (--left > 0) return;
          if (link.complaints.length > 0) probe.fail(link.complaints.join('; '));
          else probe.pass();
        };
        const later = link.expectData(second, done(second));
        const earlier = link.expectData(first, done(first));
        link.r2t(second.cid, { ttag: later, length: second.sglLength });
        link.r2t(first.cid, { ttag: earlier, length: first.sglLength });
      }),
    },
    badWrite(
      100,
      'error status while an R2T is outstanding -> stops cleanly',
      { kind: 'judged' },
      (link, command, probe) => {
        probe.misbehaved(link, command);
        const ttag = link.expectData(command, () => {});
        link.r2t(command.cid, { ttag, length: command.sglLength });
        link.complete(command.cid, { status: DATA_TRANSFER_ERROR });
      },
      { user: 'error' },
    ),
    badRead(
      106,
      'C2HTermReq -> closed, commands fail as of the path (and are tried again)',
      { kind: 'closed' },
      (link) => link.send(pdu.c2hTermReq(HEADER_FIELD, 4)),
      { requirement: 'TCP 1.0 section 3.5', tags: ['host', 'termination'] },
    ),
  ];
}
