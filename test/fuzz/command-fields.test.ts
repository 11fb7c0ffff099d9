/**
 * Command-field fuzzer: every opcode that a queue serves (it is asked, so that new commands are met as they come), and some that it does not,
 * with fields that are right, at an edge, or noise beside right ones. Whatever is asked, each command is answered once, with a status that can be
 * explained, and the target goes on.
 */
import { opcodesOf } from '../../src/target/commands/command-set.ts';
import { pattern, type SqeFields } from '../support/raw-pdu.ts';
import { DISCOVERY_NQN } from '../support/test-target.ts';
import type { FuzzHost, Outstanding } from './support/fuzz-host.ts';
import { FuzzTarget, NS_BLOCKS } from './support/fuzz-target.ts';
import { fuzz, type Random } from './support/random.ts';

const COMMANDS = 120;
const AER = 0x0c;
const FABRICS = 0x7f;
const KEEP_ALIVE = 0x18;
const IDENTIFY = 0x06;
const GET_LOG_PAGE = 0x02;
const SET_FEATURES = 0x09;
const GET_FEATURES = 0x0a;
const CC = 0x14;

const NSIDS: readonly number[] = [0, 1, 1, 2, 2, 3, 3, 4, 1024, 1025, 0xffff_fffe, 0xffff_ffff];
const LENGTHS: readonly number[] = [0, 4, 16, 64, 256, 512, 1024, 4096, 4096, 8192, 32_768, 131_072, 1 << 20];

const small = (random: Random): number => random.pick([0, 0, 1, 1, 2, 3, 4, 7, 8, random.below(32)]);
const dword = (random: Random): number => (random.chance(3) ? random.field(32) : small(random));

/** Identifiers of log pages, features, structures: most that exist are small. */
const identifier = (random: Random): number =>
  random.weighted([
    [6, random.below(0x20)],
    [1, 0x70 + random.below(0x20)],
    [1, random.below(256)],
  ]);

/** The length that the command's own fields ask for. */
function likelyLength(random: Random, { opcode, cdw10 = 0, cdw12 = 0 }: SqeFields, isAdmin: boolean): number {
  if (random.chance(5)) return random.pick(LENGTHS);
  if (!isAdmin) return opcode === 9 ? ((cdw10 & 0xff) + 1) * 16 : ((cdw12 & 0xffff) + 1) * 512;
  if (opcode === GET_LOG_PAGE) return ((cdw10 >>> 16) + 1) * 4;
  return opcode === IDENTIFY ? 4096 : random.pick(LENGTHS);
}

/** Fields that let a command through to what it does: the dwords around it stay noise. */
function likely(random: Random, opcode: number, isAdmin: boolean): Partial<SqeFields> {
  if (!isAdmin) {
    const blocks = random.pick([1, 1, 8, 16, 128]);
    return { nsid: random.between(1, 3), cdw10: random.below(NS_BLOCKS), cdw11: 0, cdw12: blocks - 1 };
  }
  switch (opcode) {
    case IDENTIFY:
      return { cdw10: identifier(random) | (random.chance(3) ? random.below(8) << 16 : 0) };
    case GET_LOG_PAGE:
      return {
        cdw10: (identifier(random) | (random.below(4) << 8) | ((LENGTHS[1 + random.below(8)]! / 4 - 1) << 16)) >>> 0,
        cdw11: 0,
      };
    case SET_FEATURES:
      return { cdw10: identifier(random), cdw11: dword(random) };
    case GET_FEATURES:
      return { cdw10: identifier(random) | (random.chance(2) ? random.below(5) << 8 : 0), cdw11: random.below(2) };
    case FABRICS:
      return { fctype: random.pick([0, 1, 4, 4, 4, 5, 6, 8]), cdw10: random.below(2), cdw11: random.below(0x70) & ~3 };
    default:
      return { cdw10: small(random), cdw11: small(random) };
  }
}

class Commands {
  readonly #random: Random;
  readonly #host: FuzzHost;
  readonly #served: readonly number[];
  readonly #isAdmin: boolean;

  constructor(random: Random, host: FuzzHost, served: readonly number[], isAdmin: boolean) {
    this.#random = random;
    this.#host = host;
    this.#served = served;
    this.#isAdmin = isAdmin;
  }

  /** Sends one. */
  send(): Outstanding {
    const random = this.#random;
    const host = this.#host;
    const opcode = random.chance(12) ? random.below(256) : random.pick(this.#served);
    const fields: SqeFields = { opcode, nsid: random.pick(NSIDS), cid: host.nextCid() };
    if (!random.chance(5)) Object.assign(fields, likely(random, opcode, this.#isAdmin));
    for (const name of ['cdw12', 'cdw13', 'cdw14', 'cdw15', 'cdw10', 'cdw11', 'nsid'] as const) {
      if (random.chance(30) || (fields[name] === undefined && random.chance(6))) fields[name] = dword(random);
    }
    if (random.chance(40)) fields.flags = random.field(8, 0x40);
    if (opcode === FABRICS) this.#sparesTheController(fields);
    const way = opcode === FABRICS ? (fields.fctype ?? 0) & 3 : opcode & 3;
    const length = Math.min(likelyLength(random, fields, this.#isAdmin), 1 << 20);
    if (random.chance(15)) {
      const sgl = { id: random.field(8, 0x5a) & 0xfe, length, address: random.chance(3) ? random.field(32) : 0 };
      host.send(host.commandBytes({ ...fields, sgl }, { length }));
    } else if (way === 1 && random.chance(2) && length <= 8192 && length > 0) {
      host.send(host.commandBytes(fields, { capsuleData: this.#data(length) }));
    } else {
      host.send(host.commandBytes(fields, { length: way === 0 && !random.chance(8) ? 0 : length }));
    }
    return host.lastSent!;
  }

  /** A Property Set of CC that resets or shuts down would end the round; other suites do that. */
  #sparesTheController(fields: SqeFields): void {
    if ((fields.fctype ?? (fields.nsid ?? 0) & 0xff) === 0 && (fields.cdw11 ?? 0) >>> 0 === CC)
      fields.cdw12 = 0x0046_0001;
  }

  /** Lists, ranges, descriptors: small numbers in dwords, or noise. */
  #data(length: number): Buffer {
    const random = this.#random;
    if (random.chance(3)) return pattern(length, random.u32() & 0xffff);
    const data = Buffer.alloc(length);
    for (let at = 0; at + 4 <= length && at < 256; at += 4) {
      if (random.chance(2)) data.writeUInt32LE(random.chance(8) ? random.field(32) : small(random), at);
    }
    return data;
  }

  /** Sends what R2Ts ask for. */
  answerR2ts(): boolean {
    const { r2ts } = this.#host;
    const any = r2ts.length > 0;
    for (const { cid, ttag, offset, length } of r2ts.splice(0)) {
      const data = this.#data(length);
      for (let at = 0; at < length; at += this.#host.maxH2cData) {
        const end = Math.min(length, at + this.#host.maxH2cData);
        this.#host.send(
          this.#host.h2cData({ cid, ttag, offset: offset + at, last: end === length }, data.subarray(at, end)),
        );
      }
    }
    return any;
  }
}

/** A status that a command may end with: known types, no reserved bits. */
function checkStatus(command: Outstanding): void {
  const { status } = command.completion!;
  const what = `opcode ${command.opcode.toString(16)}h`;
  const type = (status >>> 8) & 7;
  if (type > 3) throw new Error(`${what} ended with status type ${type}`);
  if ((status & 0x1800) !== 0) throw new Error(`${what} ended with a retry delay, and no controller reports any`);
  if ((status & 0x7ff) === 0x006) throw new Error(`${what} ended with Internal Error`);
  if (status === 0 && command.data.length > 0 && command.receivedBytes === 0) throw new Error(`${what} sent no data`);
}

async function run(random: Random, target: FuzzTarget, host: FuzzHost, isAdmin: boolean): Promise<void> {
  const { queuePair } = target.connections[target.hosts.indexOf(host)]!;
  const commands = new Commands(random, host, opcodesOf(queuePair.commandSet), isAdmin);
  const sent: Outstanding[] = [];
  for (let i = 0; i < COMMANDS && target.isOpen(host); i++) {
    sent.push(commands.send());
    if (queuePair.outstanding < queuePair.depth - 8 && random.chance(2)) continue;
    do await target.drain();
    while (commands.answerR2ts());
  }
  do await target.drain();
  while (commands.answerR2ts());
  target.expectProgress();
  const last = sent.at(-1)!;
  if (host.term !== undefined || !target.isOpen(host)) {
    throw new Error(
      `The connection ended: ${target.test.closed.at(-1)}, FES ${host.term?.fes} FEI ${host.term?.fei}, last opcode ${last.opcode}`,
    );
  }
  for (const command of sent) {
    if (command.completion !== undefined) checkStatus(command);
    else if (!(isAdmin && command.opcode === AER))
      throw new Error(`Opcode ${command.opcode.toString(16)}h was not answered`);
  }
}

async function round(random: Random): Promise<void> {
  const dgst = random.pick([0, 0, 0, 3]);
  const target = await FuzzTarget.start({ tcp: { bufferBytesMax: random.pick([65_536, 8 << 20]) } });
  try {
    const icReq = { dgst };
    const cattr = random.pick([0, 4]);
    const kind = random.pick(['admin', 'io', 'io', 'discovery'] as const);
    const healthy = await target.admin();
    const { host: admin, cntlid } = await target.admin({
      icReq,
      cattr,
      sqsize: 63,
      ...(kind === 'discovery' ? { subnqn: DISCOVERY_NQN, katoMs: 60_000 } : {}),
    });
    if (kind === 'io') {
      const io = await target.io(cntlid, { icReq, cattr, sqsize: 63 });
      await run(random, target, io, false);
    } else {
      await run(random, target, admin, true);
    }
    if (target.isOpen(admin)) await target.answer(admin, admin.commandBytes({ opcode: KEEP_ALIVE }));
    await target.answer(healthy.host, healthy.host.commandBytes({ opcode: IDENTIFY, cdw10: 1 }, { length: 4096 }));
    await target.expectBase(random);
  } finally {
    await target.close();
  }
}

describe('fuzz: fields of commands', () => {
  fuzz('fields of commands', 20, round);
});
