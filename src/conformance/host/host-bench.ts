/** The target that misbehaves: one subsystem NQN per case (for set-up, one port), served well but for the rule that the case is about. */
import type { CaseResult, Verdict } from '../case.ts';
import { type Quirk, quirkOf } from '../quirks.ts';
import { type HostPdu, pdu, type ScriptedConnection, ScriptedTarget } from '../scripted-target.ts';
import { makeHostCases } from './cases.ts';
import { BenchController } from './controller.ts';
import type { HostCase, HostProbe } from './host-case.ts';
import { HostLink, MAX_H2C_BYTES } from './link.ts';

export const HOST_CASE_NQN = 'nqn.2026-01.io.nvmeferry:conformance:';

/** How the operation of the host's user ended. */
export type UserResult = 'success' | 'error' | 'wrong-data';

export interface HostBenchOptions {
  readonly address: string;
  /** Of the cases with NQNs; set-up case N listens N above it. 0: free ports. */
  readonly port: number;
  readonly cases?: readonly HostCase[];
  /** How long a host may take to react. */
  readonly settleMs: number;
  readonly quirks: readonly Quirk[];
  readonly onResult?: (result: CaseResult) => void;
}

/** Where a host finds a case. */
export interface HostPlace {
  readonly one: HostCase;
  readonly port: number;
  readonly nqn: string;
}

const numberOf = (id: string): number => Number(id.slice(id.lastIndexOf('-') + 1));

class CaseRun implements HostProbe {
  readonly one: HostCase;
  readonly controller: BenchController;
  readonly #bench: Pick<HostBenchOptions, 'settleMs' | 'quirks' | 'onResult'>;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly notes: string[] = [];
  result: CaseResult | undefined;
  connected = false;
  #link: HostLink | undefined;
  #user: UserResult | undefined;
  #command: HostPdu | undefined;
  #retried = false;
  #settled = false;
  #passed = false;
  #startMs = 0;

  constructor(one: HostCase, nqn: string, bench: Pick<HostBenchOptions, 'settleMs' | 'quirks' | 'onResult'>) {
    this.one = one;
    this.#bench = bench;
    this.controller = new BenchController(nqn);
  }

  get hasMisbehaved(): boolean {
    return this.#link !== undefined;
  }

  misbehaved(link: HostLink, command?: HostPdu): void {
    this.#link = link;
    this.#command = command;
    this.#startMs = performance.now();
    this.after(this.one.timeoutMs ?? this.#bench.settleMs, () => this.#settle());
  }

  pass(note?: string): void {
    if (note !== undefined) this.notes.push(note);
    this.#passed = true;
    this.#settle();
  }
  fail(reason: string): void {
    const quirk = quirkOf(this.#bench.quirks, this.one.id, reason);
    if (quirk === undefined) this.#decide('fail', reason);
    else this.#decide('quirk', reason, quirk.because);
  }
  notApplicable(reason: string): void {
    this.#decide('not-applicable', reason);
  }

  after(ms: number, then: () => void): void {
    if (this.result !== undefined) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (this.result === undefined) then();
    }, ms);
    this.#timers.add(timer);
  }

  /** The connection on which the case misbehaved sent something, or ended. */
  noticed(link: HostLink): void {
    if (link !== this.#link || this.result !== undefined) return;
    const { kind } = this.one.reaction;
    if (kind === 'fatal' && (link.termReq !== undefined || link.closed)) this.#settle();
    else if (link.closed) this.#settle();
  }

  /** A command after the misbehaviour: the one that was answered wrong may be tried again. */
  cameLater(command: HostPdu): void {
    const first = this.#command;
    if (first === undefined || this.#retried) return;
    this.#retried = command.opcode === first.opcode && command.cdw(10) === first.cdw(10);
    if (this.#retried) this.notes.push('the host tried the command again');
  }

  userSaw(result: UserResult): void {
    this.#user = result;
    if (this.#settled) this.#conclude();
  }

  /** No more is to come on the wire. */
  #settle(): void {
    if (this.#settled || this.result !== undefined) return;
    this.#settled = true;
    this.#conclude();
  }

  #conclude(): void {
    const wire = this.#wireFailure();
    if (wire !== undefined) {
      this.#link?.connection.destroy(); // what the case broke stays broken: a new connection is served well
      this.fail(wire);
      return;
    }
    const { user } = this.one;
    const saw = this.#user;
    if (saw === 'wrong-data') this.fail('the user of the host got data that is not on the namespace');
    else if (user === 'success' && saw === 'error') this.fail('the user of the host saw an error, needed success');
    else if (user === 'error' && saw === 'success' && !this.#retried) {
      this.fail('the user of the host saw success, needed an error');
    } else if (user === 'error' && saw === undefined && !this.#retried) {
      // a driver may still tell
      const wire = this.#link?.closed === true ? 'the host closed the connection' : 'the connection goes on';
      this.#pendingReason = `${wire}; whether the user of the host saw an error is not on the wire`;
    } else this.#decide('pass', undefined);
  }
  #pendingReason: string | undefined;

  /** What the wire shows against the host. */
  #wireFailure(): string | undefined {
    const link = this.#link!;
    const { reaction } = this.one;
    if (this.#passed) return undefined;
    if (reaction.kind === 'fatal') {
      const needed = reaction.allowed
        .map(([fes, fei]) => `FES ${fes}${fei === undefined ? '' : ` FEI ${fei}`}`)
        .join(' or ');
      const { termReq } = link;
      if (termReq !== undefined) {
        const fits = reaction.allowed.some(
          ([fes, fei]) => fes === termReq.fes && (fei === undefined || fei === termReq.fei),
        );
        return fits ? undefined : `found H2CTermReq FES ${termReq.fes} FEI ${termReq.fei}, needed ${needed}`;
      }
      if (link.closed) return `closed without H2CTermReq, needed ${needed}`;
      return `${link.laterPdus > 0 ? 'the host goes on' : 'no reaction'}, needed H2CTermReq ${needed}`;
    }
    if (reaction.kind === 'closed') {
      if (link.termReq !== undefined) return 'answered by an H2CTermReq, needed a close';
      if (!link.closed) return 'the connection stays open';
      return link.laterPdus > 0 && this.one.onIcReq !== undefined ? 'the host sent PDUs without an ICResp' : undefined;
    }
    if (reaction.kind === 'alive') {
      if (link.termReq !== undefined) return `ended by H2CTermReq FES ${link.termReq.fes} FEI ${link.termReq.fei}`;
      // a close at the end of the run is not one in answer to the misbehaviour: what came in between tells
      if (link.closed && link.laterPdus === 0) return 'the host closed the connection';
      return link.complaints.length > 0 ? link.complaints.join('; ') : undefined;
    }
    if (this.one.onFirst !== undefined) {
      return link.closed ? this.#refusal() : 'the host did not go on';
    }
    return this.one.user === 'error' ? undefined : 'the host did not finish the command';
  }

  /** A host that does not take what it may refuse has closed: fine for `host-19`, wrong for `host-27`. */
  #refusal(): string | undefined {
    if (this.one.id !== 'host-19') return 'the host closed the connection';
    this.notes.push('the host refuses the alignment');
    return undefined;
  }

  #decide(verdict: Verdict, reason: string | undefined, because?: string): void {
    if (this.result !== undefined) return;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    const { id, title, requirement, tags } = this.one;
    const durationMs = this.#startMs === 0 ? 0 : Math.round(performance.now() - this.#startMs);
    this.result = { id, title, requirement, tags, verdict, reason, because, notes: this.notes, durationMs };
    this.#bench.onResult?.(this.result);
  }

  /** Nothing more is to come on the wire, or nothing ever began. */
  get isSettled(): boolean {
    return this.#settled || this.result !== undefined || !this.hasMisbehaved;
  }

  /** Ends what is still open: nothing more will be told. */
  finish(): CaseResult {
    if (this.result === undefined && this.hasMisbehaved) this.#settle();
    if (this.#pendingReason !== undefined) this.#decide('inconclusive', this.#pendingReason);
    const missing = this.connected
      ? `a host connected, and did not bring the case about: ${this.one.action}`
      : 'no host connected for it';
    this.#decide('skipped', missing);
    return this.result!;
  }
}

export class HostBench {
  readonly #targets: ScriptedTarget[] = [];
  readonly #runs: readonly CaseRun[];
  #places: HostPlace[] = [];

  private constructor(runs: readonly CaseRun[]) {
    this.#runs = runs;
  }

  static async listen(options: HostBenchOptions): Promise<HostBench> {
    const cases = options.cases ?? makeHostCases();
    const bench = new HostBench(cases.map((one) => new CaseRun(one, HOST_CASE_NQN + one.id, options)));
    try {
      const shared = await bench.#open(options.port, options.address, undefined);
      for (const run of bench.#runs) {
        const own = run.one.onIcReq !== undefined;
        const wanted = options.port === 0 ? 0 : options.port + numberOf(run.one.id);
        const port = own ? await bench.#open(wanted, options.address, run) : shared;
        bench.#places.push({ one: run.one, port, nqn: HOST_CASE_NQN + run.one.id });
      }
    } catch (error) {
      await bench.close();
      throw error;
    }
    return bench;
  }

  get places(): readonly HostPlace[] {
    return this.#places;
  }

  async #open(port: number, address: string, run: CaseRun | undefined): Promise<number> {
    const target = await ScriptedTarget.listen(port, address);
    this.#targets.push(target);
    target.onConnection = (connection) => this.#serve(connection, run);
    return target.port;
  }

  #serve(connection: ScriptedConnection, setup: CaseRun | undefined): void {
    const link = new HostLink(connection);
    let run = setup;
    let misbehaves = setup !== undefined && !setup.hasMisbehaved;
    if (run !== undefined) run.connected = true;
    const command = (request: HostPdu): void => {
      run ??= this.#runOf(request);
      if (run === undefined) link.complete(request.cid, { status: 0x4182, dw0: 0x0001_0100 });
      else this.#command(run, link, request);
    };
    connection.handler = (request) => {
      if (request.type === 0x02) link.termReq = { fes: request.fes, fei: request.fei };
      else if (run?.hasMisbehaved === true && request.type !== 0x00) link.laterPdus++;
      if (request.type === 0x00) {
        if (misbehaves) setup!.one.onIcReq!(link, request, setup!);
        else this.#initialize(link, request);
      } else if (misbehaves && request.type !== 0x02) {
        misbehaves = false;
        if (setup!.one.onFirst?.(link, request, setup!) === true) connection.destroy();
      } else if (request.type === 0x06) link.onData(request);
      else if (request.type === 0x04) withConnectData(link, request, command);
      run?.noticed(link);
      if (request.type === 0x02) connection.socket.end(); // the controller closes, and the host need not wait for it
      return true;
    };
    connection.socket.once('close', () => setImmediate(() => run?.noticed(link)));
  }

  #initialize(link: HostLink, request: HostPdu): void {
    const dgst = request.bytes[11]! & 3;
    link.send(pdu.icResp({ dgst, maxh2cdata: MAX_H2C_BYTES }));
    link.digests = { hdgst: (dgst & 1) !== 0, ddgst: (dgst & 2) !== 0 };
  }

  /** By the SUBNQN of Connect. */
  #runOf(connect: HostPdu): CaseRun | undefined {
    if (!isConnect(connect)) return undefined;
    const nqn = connect.data.toString('latin1', 256, 512).split('\0')[0];
    const run = this.#runs.find(({ one }) => HOST_CASE_NQN + one.id === nqn);
    if (run !== undefined) run.connected = true;
    return run;
  }

  #command(run: CaseRun, link: HostLink, command: HostPdu): void {
    const isIo = link.qid !== undefined && link.qid !== 0 && command.opcode !== 0x7f;
    if (isIo && run.hasMisbehaved) run.cameLater(command);
    if (isIo && !run.hasMisbehaved && run.result === undefined && run.one.onIo?.(link, command, run) === true) return;
    run.controller.command(link, command);
  }

  /** A driver tells how the operation of the host's user ended. */
  userSaw(id: string, result: UserResult): void {
    this.#runs.find(({ one }) => one.id === id)?.userSaw(result);
  }

  /** Until the host has reacted to the case, or had its time to. A case that the host did not bring about is not waited for. */
  async settled(id: string): Promise<void> {
    const run = this.#runs.find(({ one }) => one.id === id);
    while (run?.isSettled === false) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  get allDone(): boolean {
    return this.#runs.every(({ result }) => result !== undefined);
  }

  /** Ends every case. */
  finish(): CaseResult[] {
    return this.#runs.map((run) => run.finish());
  }

  async close(): Promise<void> {
    await Promise.all(this.#targets.map((target) => target.close()));
  }
}

const isConnect = (command: HostPdu): boolean => command.opcode === 0x7f && command.fctype === 1;

/** A Connect may bring its data in the capsule or by R2T: `then` sees it the same way. */
function withConnectData(link: HostLink, command: HostPdu, then: (command: HostPdu) => void): void {
  if (!isConnect(command) || command.sglId === 0x01) {
    then(command);
    return;
  }
  const ttag = link.expectData(command, (_link, data) => then({ ...command, data: Buffer.concat(data) }));
  link.r2t(command.cid, { ttag, offset: 0, length: command.sglLength });
}
