/**
 * A backend around another one that fails or delays what its rules say: for tests and the simulator. Without rules it changes nothing.
 */

import type { Arena } from '../util/arena.ts';
import { assert } from '../util/assert.ts';
import type { Clock, Timer } from '../util/clock.ts';
import type { BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

export type FaultOperation = 'read' | 'write' | 'flush' | 'writeZeroes' | 'deallocate';

/** The first rule that matches decides. A rule without `status`, `delayMs` and `hold` only counts. */
export interface FaultRule {
  /** Default: every operation. */
  operation?: FaultOperation;
  /** Only operations that touch blocks `firstBlock` to `lastBlock`; default: all. A flush touches none, so it matches only without these. */
  firstBlock?: number;
  lastBlock?: number;
  /** Matches let through before the rule takes effect; default 0. */
  skip?: number;
  /** Times that it takes effect; default: always. */
  times?: number;
  /** 0 to 1, with the injected `random`; default 1. */
  probability?: number;
  /**
   * `before` (default): the inner backend does not see an operation that fails, and sees a delayed one late. `after`: it executes the
   * operation at once, and the answer is changed or late, as when an acknowledgement is lost.
   */
  when?: 'before' | 'after';
  /** The status instead of the inner backend's. */
  status?: number;
  delayMs?: number;
  /** Held until `release`. */
  hold?: boolean;
}

/** Returned by `addRule`. */
export interface FaultHandle {
  /** Matches so far, those skipped included. */
  readonly matchCount: number;
  remove(): void;
}

class Rule implements FaultHandle {
  readonly rule: FaultRule;
  readonly #owner: Set<Rule>;
  matchCount = 0;
  effectCount = 0;

  constructor(rule: FaultRule, owner: Set<Rule>) {
    this.rule = rule;
    this.#owner = owner;
  }

  remove(): void {
    this.#owner.delete(this);
  }

  /** True if it takes effect on this operation; counts. */
  applies(operation: FaultOperation, io: BlockIo, blockSize: number, random: () => number): boolean {
    const { rule } = this;
    if (rule.operation !== undefined && rule.operation !== operation) return false;
    if (rule.firstBlock !== undefined || rule.lastBlock !== undefined) {
      if (operation === 'flush') return false;
      const first = io.offsetBytes / blockSize;
      const last = first + io.lengthBytes / blockSize - 1;
      if (first > (rule.lastBlock ?? Number.POSITIVE_INFINITY) || last < (rule.firstBlock ?? 0)) return false;
    }
    if (this.effectCount >= (rule.times ?? Number.POSITIVE_INFINITY)) return false;
    this.matchCount++;
    if (this.matchCount <= (rule.skip ?? 0)) return false;
    if (rule.probability !== undefined && random() >= rule.probability) return false;
    this.effectCount++;
    return true;
  }
}

/** The operation as the inner backend sees it when its answer will be changed or late. */
class LateIo implements BlockIo {
  readonly #io: BlockIo;
  readonly #answer: (status: number, done: (status: number) => void) => void;
  #copy: Uint8Array | undefined;
  #copied = 0;

  constructor(io: BlockIo, answer: (status: number, done: (status: number) => void) => void) {
    this.#io = io;
    this.#answer = answer;
  }

  get offsetBytes(): number {
    return this.#io.offsetBytes;
  }
  get lengthBytes(): number {
    return this.#io.lengthBytes;
  }
  get fua(): boolean {
    return this.#io.fua;
  }
  get segments(): Uint8Array[] {
    return this.#io.segments;
  }
  get segmentCount(): number {
    return this.#io.segmentCount;
  }

  lend(view: Uint8Array): void {
    this.#append(view);
  }

  /** The answer is what was there now, however late it is: a copy. */
  lendAt(arena: Arena, offsetBytes: number, lengthBytes: number): void {
    this.#append(arena.bytes.subarray(offsetBytes, offsetBytes + lengthBytes));
  }

  #append(bytes: Uint8Array): void {
    this.#copy ??= this.#io.provide();
    this.#copy.set(bytes, this.#copied);
    this.#copied += bytes.length;
  }

  provide(): Uint8Array {
    return this.#io.provide();
  }

  retain(): void {
    this.#io.retain();
  }

  complete(status: number): void {
    this.#answer(status, (final) => this.#io.complete(final));
  }
}

interface Delayed {
  timer: Timer | undefined;
  go: () => void;
}

/** @public */
export class FaultBackend implements BlockBackend {
  readonly #inner: BlockBackend;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #rules = new Set<Rule>();
  readonly #held: (() => void)[] = [];
  readonly #delayed = new Set<Delayed>();
  #closing: Promise<void> | undefined;

  /** Owns `inner`: closing this closes it. */
  constructor(inner: BlockBackend, deps: { clock: Clock; random?: () => number; rules?: readonly FaultRule[] }) {
    this.#inner = inner;
    this.#clock = deps.clock;
    this.#random = deps.random ?? (() => 0);
    for (const rule of deps.rules ?? []) this.addRule(rule);
  }

  get kind(): string {
    return this.#inner.kind;
  }
  get blockSize(): number {
    return this.#inner.blockSize;
  }
  get blockCount(): number {
    return this.#inner.blockCount;
  }
  get volatileWriteCache(): boolean {
    return this.#inner.volatileWriteCache;
  }
  get readsZeroAfterDeallocate(): boolean {
    return this.#inner.readsZeroAfterDeallocate;
  }
  get readOnly(): boolean {
    return this.#inner.readOnly;
  }
  /** But for answers that are late: those take a buffer. */
  get lendsMemory(): boolean {
    return this.#inner.lendsMemory === true;
  }
  get isVolatile(): boolean {
    return this.#inner.isVolatile === true;
  }
  health(): ReturnType<NonNullable<BlockBackend['health']>> {
    return this.#inner.health?.();
  }
  watchHealth(listener: () => void): void {
    this.#inner.watchHealth?.(listener);
  }
  /** Operations held or delayed now. */
  get heldCount(): number {
    return this.#held.length + this.#delayed.size;
  }

  get allocationUnitBytes(): number | undefined {
    return this.#inner.allocationUnitBytes;
  }
  nextAllocated(fromBytes: number, endBytes: number): ByteRun | undefined {
    const { nextAllocated } = this.#inner;
    if (nextAllocated === undefined) return fromBytes < endBytes ? { startBytes: fromBytes, endBytes } : undefined;
    return nextAllocated.call(this.#inner, fromBytes, endBytes);
  }

  allocatedBytes(): number | undefined {
    return this.#inner.allocatedBytes?.();
  }

  /** @throws AssertionError if the inner backend cannot */
  async grow(blockCount: number): Promise<void> {
    assert(this.#inner.grow !== undefined, `A ${this.kind} backend does not grow`);
    await this.#inner.grow(blockCount);
  }

  get shrink(): ((blockCount: number) => Promise<void>) | undefined {
    const { shrink } = this.#inner;
    return shrink === undefined ? undefined : (blockCount) => shrink.call(this.#inner, blockCount);
  }

  get setBlockSize(): ((blockSize: number) => void) | undefined {
    const { setBlockSize } = this.#inner;
    return setBlockSize === undefined ? undefined : (blockSize) => setBlockSize.call(this.#inner, blockSize);
  }

  addRule(rule: FaultRule): FaultHandle {
    assert(rule.hold !== true || rule.delayMs === undefined, 'A fault rule holds or delays, not both');
    const made = new Rule(rule, this.#rules);
    this.#rules.add(made);
    return made;
  }

  clearRules(): void {
    this.#rules.clear();
  }

  /** Lets everything held go on, oldest first. */
  release(): void {
    for (const go of this.#held.splice(0)) go();
  }

  read(io: BlockIo): void {
    this.#pass('read', io, (inner, target) => inner.read(target));
  }
  write(io: BlockIo): void {
    this.#pass('write', io, (inner, target) => inner.write(target));
  }
  flush(io: BlockIo): void {
    this.#pass('flush', io, (inner, target) => inner.flush(target));
  }
  writeZeroes(io: BlockIo, mayDeallocate: boolean): void {
    this.#pass('writeZeroes', io, (inner, target) => inner.writeZeroes(target, mayDeallocate));
  }
  deallocate(io: BlockIo): void {
    this.#pass('deallocate', io, (inner, target) => inner.deallocate(target));
  }

  #pass(operation: FaultOperation, io: BlockIo, run: (inner: BlockBackend, target: BlockIo) => void): void {
    for (const candidate of this.#rules) {
      if (!candidate.applies(operation, io, this.blockSize, this.#random)) continue;
      const { rule } = candidate;
      if (operation === 'write' && (rule.hold === true || rule.delayMs !== undefined)) io.retain();
      if (rule.when === 'after') {
        const late = new LateIo(io, (status, done) => this.#later(rule, () => done(rule.status ?? status)));
        run(this.#inner, late);
      } else {
        this.#later(rule, () => {
          if (rule.status !== undefined) io.complete(rule.status);
          else run(this.#inner, io);
        });
      }
      return;
    }
    run(this.#inner, io);
  }

  #later(rule: FaultRule, go: () => void): void {
    if (this.#closing !== undefined || (rule.hold !== true && rule.delayMs === undefined)) {
      go();
      return;
    }
    if (rule.hold === true) {
      this.#held.push(go);
      return;
    }
    const entry: Delayed = { timer: undefined, go };
    this.#delayed.add(entry);
    entry.timer = this.#clock.setTimer(() => {
      this.#delayed.delete(entry);
      go();
    }, rule.delayMs ?? 0);
  }

  /** Lets everything held or delayed go on at once, then closes the inner backend. */
  close(): Promise<void> {
    if (this.#closing === undefined) {
      this.#closing = Promise.resolve().then(() => this.#inner.close());
      this.#rules.clear();
      this.release();
      for (const entry of [...this.#delayed]) {
        entry.timer?.cancel();
        this.#delayed.delete(entry);
        entry.go();
      }
    }
    return this.#closing;
  }
}
