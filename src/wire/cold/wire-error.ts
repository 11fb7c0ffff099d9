import { NvmeofError } from '../../util/error.ts';

/**
 * Why bytes could not be decoded, or a value not be encoded:
 * - `short`: fewer bytes than the structure (or the count inside it) needs;
 * - `unterminated`: a text field without its NUL, `encoding`: not UTF-8;
 * - `range`: a value outside what the field holds, `type`: a value of the wrong kind;
 * - `invalid`: the bytes contradict each other or the specification.
 * @public
 */
export type WireErrorReason = 'short' | 'unterminated' | 'encoding' | 'range' | 'type' | 'invalid';

/** Bytes that are not the structure they should be, or a value that a field cannot hold. @public */
export class WireError extends NvmeofError {
  override readonly name = 'WireError';
  readonly reason: WireErrorReason;
  /** The structure's name, as in the specification. */
  readonly structure: string;
  /** The field, or undefined if the structure as a whole is meant. */
  readonly field: string | undefined;
  /** Byte offset of the field in the structure: what a Connect response reports as IPO. */
  readonly fieldOffset: number;

  /** @param detail completes the sentence that starts with the name: what was found, what is allowed */
  constructor(
    reason: WireErrorReason,
    structure: string,
    field: string | undefined,
    fieldOffset: number,
    detail: string,
    options?: { cause?: unknown },
  ) {
    super('NVMEOF_ERR_WIRE', `${structure}${field === undefined ? '' : `.${field}`} ${detail}`, options);
    this.reason = reason;
    this.structure = structure;
    this.field = field;
    this.fieldOffset = fieldOffset;
  }
}
