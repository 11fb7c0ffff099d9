/** A well-behaved little controller for hosts under test: one namespace whose blocks hold what their numbers say. */
import type { HostPdu } from '../scripted-target.ts';
import { BLOCK_COUNT, type HostLink } from './link.ts';

const Opcode = { Flush: 0, Write: 1, Read: 2, Fabrics: 0x7f } as const;
const Admin = {
  GetLogPage: 0x02,
  Identify: 0x06,
  Abort: 0x08,
  SetFeatures: 0x09,
  AsyncEvent: 0x0c,
  KeepAlive: 0x18,
} as const;
const Fctype = { PropertySet: 0, Connect: 1, PropertyGet: 4 } as const;
const Property = { CAP: 0x00, VS: 0x08, CC: 0x14, CSTS: 0x1c } as const;
/** 1.4: hosts need no Identify structure beyond those below. */
const VERSION = 0x0001_0400;
const INVALID_OPCODE = 0x4001;
const INVALID_FIELD = 0x4002;
const MAX_QUEUES = 4;
/** MQES 127, CQR, TO 7.5 s, NVM command set. */
const CAP_LOW = 127 | (1 << 16) | (15 << 24);
const CAP_HIGH = 1 << 5;

interface State {
  cc: number;
}

export class BenchController {
  readonly #nqn: string;
  readonly #states = new Map<number, State>();
  #lastCntlid = 0;

  constructor(nqn: string) {
    this.#nqn = nqn;
  }

  command(link: HostLink, command: HostPdu): void {
    if (command.opcode === Opcode.Fabrics) this.#fabrics(link, command);
    else if (link.qid === 0) this.#admin(link, command);
    else this.#io(link, command);
  }

  readonly #cntlidOf = new WeakMap<HostLink, number>();
  #state(link: HostLink): State {
    return this.#states.get(this.#cntlidOf.get(link) ?? 0) ?? { cc: 0 };
  }

  #fabrics(link: HostLink, command: HostPdu): void {
    const { cid } = command;
    if (command.fctype === Fctype.Connect) {
      link.qid = command.sqe.readUInt16LE(42);
      link.withoutFlowControl = (command.sqe.readUInt8(46) & 4) !== 0;
      const cntlid = link.qid === 0 ? ++this.#lastCntlid : command.data.readUInt16LE(16);
      if (link.qid === 0) this.#states.set(cntlid, { cc: 0 });
      this.#cntlidOf.set(link, cntlid);
      link.connected(cid, cntlid);
      return;
    }
    const state = this.#state(link);
    const offset = command.cdw(11);
    if (command.fctype === Fctype.PropertySet) {
      if (offset === Property.CC) state.cc = command.cdw(12);
      link.complete(cid, offset === Property.CC ? {} : { status: INVALID_FIELD });
    } else if (command.fctype !== Fctype.PropertyGet) link.complete(cid, { status: INVALID_FIELD });
    else if (offset === Property.CAP) link.complete(cid, { dw0: CAP_LOW, dw1: CAP_HIGH });
    else if (offset === Property.VS) link.complete(cid, { dw0: VERSION });
    else if (offset === Property.CC) link.complete(cid, { dw0: state.cc });
    else if (offset === Property.CSTS)
      link.complete(cid, { dw0: (state.cc & 1) | ((state.cc & 0xc000) !== 0 ? 8 : 0) });
    else link.complete(cid, { status: INVALID_FIELD });
  }

  #admin(link: HostLink, command: HostPdu): void {
    const { cid, opcode } = command;
    if (opcode === Admin.Identify) this.#identify(link, command);
    else if (opcode === Admin.GetLogPage) {
      link.data(cid, new Uint8Array(command.sglLength));
      link.complete(cid);
    } else if (opcode === Admin.SetFeatures) {
      const queues = (MAX_QUEUES - 1) * 0x1_0001;
      link.complete(cid, (command.cdw(10) & 0xff) === 7 ? { dw0: queues } : {});
    } else if (opcode === Admin.Abort) link.complete(cid, { dw0: 1 });
    else if (opcode === Admin.KeepAlive) link.complete(cid);
    else if (opcode !== Admin.AsyncEvent) link.complete(cid, { status: INVALID_OPCODE });
  }

  #identify(link: HostLink, command: HostPdu): void {
    const cns = command.cdw(10) & 0xff;
    const data = Buffer.alloc(4096);
    if (cns === 1) this.#controllerData(data, this.#cntlidOf.get(link) ?? 0);
    else if (cns === 2) {
      if (command.nsid === 0) data.writeUInt32LE(1, 0);
    } else if (cns === 0) {
      if (command.nsid === 1) {
        for (const offset of [0, 8, 16]) data.writeBigUInt64LE(BigInt(BLOCK_COUNT), offset);
        data[130] = 9;
      }
    } else if (cns === 3) {
      // one UUID per case: a host may not take two namespaces for one
      data.set([3, 16], 0);
      data.set(Buffer.from(this.#nqn.padStart(16)).subarray(-16), 4);
      data[10] = 0x80 | (data[10]! & 0x0f);
      data[12] = 0x80 | (data[12]! & 0x3f);
    } else {
      link.complete(command.cid, { status: INVALID_FIELD });
      return;
    }
    link.data(command.cid, data.subarray(0, Math.min(4096, command.sglLength)));
    link.complete(command.cid);
  }

  #controllerData(data: Buffer, cntlid: number): void {
    data.fill(0x20, 4, 72);
    data.write(this.#nqn.slice(-20), 4);
    data.write('nvmeferry conformance', 24);
    data.write('0', 64);
    data[77] = 5; // MDTS: 128 KiB
    data.writeUInt16LE(cntlid, 78);
    data.writeUInt32LE(VERSION, 80);
    data[111] = 1;
    data[259] = 3;
    data.writeUInt16LE(10, 320);
    data[512] = 0x66;
    data[513] = 0x44;
    data.writeUInt16LE(128, 514);
    data.writeUInt32LE(1, 516);
    data.writeUInt32LE(1, 536);
    data.write(this.#nqn, 768);
    data.writeUInt32LE(4, 1792); // no data in I/O capsules: writes are asked for
    data.writeUInt32LE(1, 1796);
    data[1803] = 1;
  }

  #io(link: HostLink, command: HostPdu): void {
    if (command.opcode === Opcode.Read) link.read(command);
    else if (command.opcode === Opcode.Write) link.write(command);
    else if (command.opcode === Opcode.Flush) link.complete(command.cid);
    else link.complete(command.cid, { status: INVALID_OPCODE });
  }
}
