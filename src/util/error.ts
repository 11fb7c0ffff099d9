import { statusName } from '../spec/status.ts';

/** Every operational error of this package: a stable `code`, a message that names the thing and the remedy. @public */
export class NvmeofError extends Error {
  override readonly name: string = 'NvmeofError';
  readonly code: string;
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** A command completed with a status other than 0. @public */
export class NvmeStatusError extends NvmeofError {
  override readonly name = 'NvmeStatusError';
  /** 15-bit status: SC | SCT << 8 | CRD << 11 | M << 13 | DNR << 14. */
  readonly status: number;
  /** DW0 of the completion. */
  readonly result: number;
  constructor(what: string, status: number, kind: 'admin' | 'io' | 'fabrics', result = 0) {
    super(
      'NVMEOF_ERR_STATUS',
      `${what} failed: ${statusName(status, kind)} (0x${status.toString(16).padStart(4, '0')})`,
    );
    this.status = status;
    this.result = result;
  }
}

/** The connection failed, was closed, or the peer broke the PDU rules. @public */
export class TransportError extends NvmeofError {
  override readonly name = 'TransportError';
}

/**
 * A command may have been executed or not: the path to the controller was lost before its completion came, and repeating it could do harm
 * (compare and write, reservations, passthru). Only looking at the result tells. @public
 */
export class OutcomeUnknownError extends NvmeofError {
  override readonly name = 'OutcomeUnknownError';
  constructor(what: string, options?: { cause?: unknown }) {
    super(
      'NVMEOF_ERR_OUTCOME_UNKNOWN',
      `${what} was under way when its path was lost; whether it was executed is not known`,
      options,
    );
  }
}

/** A configuration or argument is wrong; the message names the place, what was found, what is allowed. @public */
export class ConfigError extends NvmeofError {
  override readonly name = 'ConfigError';
  constructor(message: string, options?: { cause?: unknown }) {
    super('NVMEOF_ERR_CONFIG', message, options);
  }
}
