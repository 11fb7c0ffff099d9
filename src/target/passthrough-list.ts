/** What a subsystem passes to the local SSDs below it as it came. */

/** @public */
export interface PassthroughList {
  /** Of Admin commands. */
  readonly opcodes: readonly number[];
  /** Log page identifiers. */
  readonly logPages: readonly number[];
}

export class Passthrough {
  readonly opcodes: ReadonlySet<number>;
  readonly logPages: ReadonlySet<number>;

  constructor(list: PassthroughList = { opcodes: [], logPages: [] }) {
    this.opcodes = new Set(list.opcodes);
    this.logPages = new Set(list.logPages);
  }
}
