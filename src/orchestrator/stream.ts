/** Something that is copied while it changes: the blocks of a namespace, the memory of a VM. */
export interface Stream {
  /** For messages. */
  readonly name: string;
  /** Copies all that is there; changes are followed from its beginning. */
  first(signal: AbortSignal | undefined): Promise<void>;
  /** What was changed and is to be copied next. @returns its bytes, or a bound */
  look(): Promise<number>;
  /** Copies what `look` found. */
  again(signal: AbortSignal | undefined): Promise<void>;
  /** Nothing changes any more: copies the rest, and makes it durable. */
  finish(signal: AbortSignal | undefined): Promise<void>;
  /** Bytes moved so far. */
  readonly copiedBytes: number;
  /** Of them, those that were copied again. */
  readonly dirtiedBytes: number;
  /** What there was to copy at the beginning, as far as it is known. */
  readonly allocatedBytes: number;
  /**
   * Compares what was not compared since it was changed last, as far as the mode asks for it.
   * @throws MoveError NVMEOF_ERR_MISCOMPARE
   */
  verify?(signal: AbortSignal | undefined): Promise<void>;
  /** What `finish` takes beside copying what is left, about. */
  readonly finishMs?: number;
  /** Bytes that `verify` would compare now. */
  readonly unverifiedBytes?: number;
}
