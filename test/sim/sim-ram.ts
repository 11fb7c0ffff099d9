/** A VM's memory, page by page: submission queue, completion queue, and a buffer for each command. */
import type { HostCommand } from './sim-host-io.ts';

export const PAGE_BYTES = 4096;
/** More than the guest ever has under way. */
export const QUEUE_ENTRIES = 16;
export const SUBMISSION_PAGE = 0;
export const COMPLETION_PAGE = 1;
export const PAGES: number = 2 + QUEUE_ENTRIES;
/** Of a command's data. */
export const slotPage = (cid: number): number => 2 + cid;

export interface GuestCommand extends HostCommand {
  readonly cid: number;
}

export interface Completion {
  readonly cid: number;
  readonly status: number;
  /** Counts completions: stands for the phase tag. */
  readonly order: number;
}

export class SimRam {
  submissions: (GuestCommand | undefined)[] = [];
  completions: (Completion | undefined)[] = [];
  readonly data: (number[] | undefined)[] = [];

  copyPage(from: SimRam, page: number): void {
    if (page === SUBMISSION_PAGE) this.submissions = [...from.submissions];
    else if (page === COMPLETION_PAGE) this.completions = [...from.completions];
    else this.data[page - 2] = from.data[page - 2];
  }
}
