/**
 * The engine part of the addon without the addon: completes what it is told to when it is told to, so that backends and the engine can be tested
 * without a kernel, a file or a device.
 */
import { NATIVE_REVISION, type NativeBinding, type NativeEngine, type NativeEngineOptions } from './binding.ts';
import { COMPLETION_WORDS, CompletionWord, ENTRY_WORDS, EngineState, EntryWord } from './operation-layout.ts';

/** One operation as the addon would have seen it. */
export interface FakeOperation {
  readonly op: number;
  readonly fd: number;
  readonly flags: number;
  readonly slot: number;
  readonly offset: number;
  readonly length: number;
  readonly mode: number;
  readonly skip: number;
  readonly data: Uint8Array | readonly Uint8Array[] | undefined;
  readonly metadata: Uint8Array | undefined;
  readonly opcode: number;
  readonly nsid: number;
  readonly cdw10To15: readonly number[];
}

export interface FakeAnswer {
  /** Bytes, NVMe status, or -errno. */
  readonly result: number;
  readonly result0?: number;
  readonly result1?: number;
}

/** Answers an operation at once, or undefined: held until `release`. */
export type FakeScript = (operation: FakeOperation) => FakeAnswer | undefined;

const HIGH = 0x1_0000_0000;

class FakeEngine implements NativeEngine {
  readonly mode: 'io_uring' | 'thread-pool';
  readonly passthrough: 'io_uring' | 'ioctl';
  readonly refusal = 0;
  readonly submissions: ArrayBuffer;
  readonly completions: ArrayBuffer;
  readonly state: ArrayBuffer = new ArrayBuffer(32);
  readonly #depth: number;
  readonly #pins: unknown[];
  readonly #owner: FakeBinding;
  readonly #onComplete: (count: number) => void;

  constructor(owner: FakeBinding, options: NativeEngineOptions, pins: unknown[], onComplete: (count: number) => void) {
    this.#owner = owner;
    this.#depth = options.depth;
    this.#pins = pins;
    this.#onComplete = onComplete;
    this.mode = options.ring ? 'io_uring' : 'thread-pool';
    this.passthrough = options.ring ? 'io_uring' : 'ioctl';
    this.submissions = new ArrayBuffer(options.depth * ENTRY_WORDS * 4);
    this.completions = new ArrayBuffer(options.depth * COMPLETION_WORDS * 4);
  }

  submit(count: number): number {
    const words = new Int32Array(this.submissions);
    const state = new Int32Array(this.state);
    if (count > 0) state[EngineState.Enters] = state[EngineState.Enters]! + 1;
    const answered: { slot: number; answer: FakeAnswer }[] = [];
    for (let i = 0; i < count; i++) {
      const at = i * ENTRY_WORDS;
      const word = (index: number): number => words[at + index]!;
      const slot = word(EntryWord.Slot);
      const operation: FakeOperation = {
        op: word(EntryWord.Op),
        fd: word(EntryWord.Fd),
        flags: word(EntryWord.Flags),
        slot,
        offset: (word(EntryWord.OffsetLow) >>> 0) + word(EntryWord.OffsetHigh) * HIGH,
        length: (word(EntryWord.LengthLow) >>> 0) + word(EntryWord.LengthHigh) * HIGH,
        mode: word(EntryWord.Mode),
        skip: word(EntryWord.BufferSkip),
        data: this.#pins[slot] as Uint8Array | readonly Uint8Array[] | undefined,
        metadata: this.#pins[this.#depth + slot] as Uint8Array | undefined,
        opcode: word(EntryWord.OpcodeFlags) & 0xff,
        nsid: word(EntryWord.Nsid) >>> 0,
        cdw10To15: Array.from(words.subarray(at + EntryWord.Cdw10, at + EntryWord.Cdw10 + 6), (value) => value >>> 0),
      };
      this.#owner.operations.push(operation);
      const answer = this.#owner.script(operation);
      if (answer === undefined) this.#owner.held.push({ engine: this, slot });
      else answered.push({ slot, answer });
    }
    return this.#put(answered);
  }

  #put(answered: readonly { slot: number; answer: FakeAnswer }[]): number {
    const words = new Int32Array(this.completions);
    answered.forEach(({ slot, answer }, index) => {
      const at = index * COMPLETION_WORDS;
      words[at + CompletionWord.Slot] = slot;
      words[at + CompletionWord.Result] = answer.result;
      words[at + CompletionWord.Result0] = answer.result0 ?? 0;
      words[at + CompletionWord.Result1] = answer.result1 ?? 0;
    });
    return answered.length;
  }

  finish(slot: number, answer: FakeAnswer): void {
    this.#onComplete(this.#put([{ slot, answer }]));
  }

  registerFile(): number {
    return 0;
  }
  registerBuffer(): number {
    return 0;
  }
  close(): void {}
}

/** Give it to what takes a `NativeBinding`; only `Engine` works. */
export class FakeBinding {
  /** Everything submitted so far. */
  readonly operations: FakeOperation[] = [];
  readonly held: { engine: FakeEngine; slot: number }[] = [];
  script: FakeScript;

  constructor(script: FakeScript) {
    this.script = script;
  }

  /** Answers the oldest held operation. */
  release(answer: FakeAnswer): void {
    const next = this.held.shift();
    if (next === undefined) throw new Error('Nothing is held');
    next.engine.finish(next.slot, answer);
  }

  get binding(): NativeBinding {
    const owner = this;
    const binding = {
      revision: NATIVE_REVISION,
      entryBytes: ENTRY_WORDS * 4,
      completionBytes: COMPLETION_WORDS * 4,
      Engine: class extends FakeEngine {
        constructor(options: NativeEngineOptions, pins: unknown[], onComplete: (count: number) => void) {
          super(owner, options, pins, onComplete);
        }
      },
    };
    return binding as unknown as NativeBinding;
  }
}
