/** The Error Information log of one controller: a ring of the newest entries. Base 2.1 section 5.1.12.1.2. */
import type { Request } from './request.ts';

export const ERROR_LOG_ENTRIES = 64;

export interface ErrorLogEntry {
  readonly errorCount: number;
  readonly sqid: number;
  readonly cid: number;
  /** 15-bit status. */
  readonly status: number;
  readonly location: number;
  readonly lba: number;
  readonly nsid: number;
  readonly opcode: number;
}

export class ErrorLog {
  readonly #entries: ErrorLogEntry[] = [];
  /** Errors since the controller was made; the newest entry's count. */
  count = 0;

  add(request: Request, status: number): void {
    const { sqe, sqeBase, queuePair } = request;
    this.#push({
      errorCount: this.count + 1,
      sqid: queuePair.qid,
      cid: request.cid,
      status,
      location: request.errorLocation,
      lba: queuePair.qid === 0 ? 0 : sqe.getUint32(sqeBase + 40, true) + sqe.getUint32(sqeBase + 44, true) * 2 ** 32,
      nsid: sqe.getUint32(sqeBase + 4, true),
      opcode: request.opcode,
    });
  }

  /** An error that belongs to no command (keep alive, fatal). */
  addControllerError(status: number): void {
    this.#push({
      errorCount: this.count + 1,
      sqid: 0xffff,
      cid: 0xffff,
      status,
      location: 0xffff,
      lba: 0,
      nsid: 0,
      opcode: 0,
    });
  }

  #push(entry: ErrorLogEntry): void {
    this.count++;
    this.#entries.unshift(entry);
    if (this.#entries.length > ERROR_LOG_ENTRIES) this.#entries.pop();
  }

  /** Its entries are these; `count` stays. @param entries newest first */
  replace(entries: readonly ErrorLogEntry[]): void {
    this.#entries.length = 0;
    this.#entries.push(...entries);
  }

  /** Newest first. */
  entries(): readonly ErrorLogEntry[] {
    return this.#entries;
  }
}
