/** A VM's memory, page by page: submission queue, completion queue, a buffer for each command, and what the guest works with. */
import type { HostCommand } from './sim-host-io.ts';

export const PAGE_BYTES = 4096;
/** More than the guest ever has under way. */
export const QUEUE_ENTRIES = 16;
export const SUBMISSION_PAGE = 0;
export const COMPLETION_PAGE = 1;
/** Pages that only the guest's CPU knows. */
export const WORK_PAGES = 3;
const FIRST_WORK_PAGE = 2 + QUEUE_ENTRIES;
export const PAGES: number = FIRST_WORK_PAGE + WORK_PAGES;
/** Of a command's data. */
export const slotPage = (cid: number): number => 2 + cid;
export const workPage = (index: number): number => FIRST_WORK_PAGE + index;

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
  readonly work: number[] = new Array<number>(WORK_PAGES).fill(0);

  copyPage(from: SimRam, page: number): void {
    if (page === SUBMISSION_PAGE) this.submissions = [...from.submissions];
    else if (page === COMPLETION_PAGE) this.completions = [...from.completions];
    else if (page < FIRST_WORK_PAGE) this.data[page - 2] = from.data[page - 2];
    else this.work[page - FIRST_WORK_PAGE] = from.work[page - FIRST_WORK_PAGE]!;
  }
}
