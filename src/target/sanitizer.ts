/**
 * Sanitize: takes the data of every namespace of the subsystem, in the background, while the gate refuses I/O. Base 2.1 section 8.1.24.
 *
 * What it can honestly do: Block Erase leaves no block allocated (a file gives its blocks back to its file system, memory is released);
 * Overwrite writes the pattern to every block, pass by pass, and syncs, before it deallocates. What the file system or the disk below keep
 * of overwritten or released blocks is out of reach. Where namespaces outlive the process, it is offered only with a state store: an operation
 * that a crash interrupts then starts over before any host gets I/O.
 */
import { AsyncEventType, IoCommandSetEvent, LogPage } from '../spec/log-page.ts';
import { SanitizeAction, SanitizeStatus } from '../spec/sanitize.ts';
import { DNR, Status } from '../spec/status.ts';
import { type EraseOptions, overwriteNamespace, zeroNamespace } from './erase.ts';
import type { Namespace } from './namespace.ts';
import { becomeQuiet } from './quiet.ts';
import type { Subsystem } from './subsystem.ts';

interface SanitizeState {
  /** SSTAT bits 2:0. */
  readonly status: number;
  readonly passesDone: number;
  /** The command that started it. */
  readonly cdw10: number;
  readonly cdw11: number;
  /** In failure mode: I/O is refused until the host recovers. */
  readonly failureMode: boolean;
}

const NEVER: SanitizeState = {
  status: SanitizeStatus.Never,
  passesDone: 0,
  cdw10: 0,
  cdw11: 0,
  failureMode: false,
};
const CDW10_AUSE = 0x08;

export class Sanitizer {
  readonly #subsystem: Subsystem;
  readonly #name: string;
  #state: SanitizeState = NEVER;
  #progress = 1;
  #running: Promise<void> | undefined;
  #cancelled = false;
  /** Host writes of each namespace when it ended well. */
  #writesThen: ReadonlyMap<Namespace, number> | undefined;

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  constructor(subsystem: Subsystem) {
    this.#subsystem = subsystem;
    this.#name = `${subsystem.nqn}.sanitize`;
    const saved = subsystem.state?.load(this.#name) as Partial<SanitizeState> | undefined;
    if (saved !== undefined) this.#state = { ...NEVER, ...saved };
  }

  /**
   * The command is there: the operator allows it, no host sees less than it would erase, and it would survive a crash as far as the
   * data does.
   */
  get isOffered(): boolean {
    const { allowSanitize, isDiscovery, state } = this.#subsystem;
    if (!allowSanitize || isDiscovery) return false;
    return this.#subsystem
      .allocatedNamespaces()
      .every(
        ({ attachments, backend }) => !attachments.isMasked && (state !== undefined || backend.isVolatile === true),
      );
  }

  /** What commands get that a sanitize operation, or its failure, keeps out; undefined: nothing. */
  get refusal(): number | undefined {
    if (this.#state.status === SanitizeStatus.InProgress) return Status.SanitizeInProgress;
    return this.#state.failureMode ? Status.SanitizeFailed | DNR : undefined;
  }

  // ---- for log page 81h

  /** SPROG. */
  get progress65536(): number {
    return this.#state.status === SanitizeStatus.InProgress
      ? Math.min(0xffff, Math.floor(this.#progress * 0x10000))
      : 0xffff;
  }

  /** SSTAT: status, passes completed, Global Data Erased. */
  get sstat(): number {
    const { status, passesDone } = this.#state;
    return status | ((passesDone & 0x1f) << 3) | (this.#isErased() ? 0x100 : 0);
  }

  /** SCDW10. */
  get cdw10(): number {
    return this.#state.cdw10;
  }

  /** No host has written since. */
  #isErased(): boolean {
    const then = this.#writesThen;
    if (then === undefined) return false;
    return this.#subsystem
      .allocatedNamespaces()
      .every((namespace) => (then.get(namespace) ?? 0) === namespace.writeCommands);
  }

  // ---- the operation

  /**
   * A Sanitize command whose fields are valid and whose namespaces may be written.
   * @returns a status; the operation goes on in the background
   */
  async start(cdw10: number, cdw11: number): Promise<number> {
    const action = cdw10 & 7;
    const before = this.#state;
    if (before.status === SanitizeStatus.InProgress) return Status.SanitizeInProgress;
    const unrestricted = (cdw10 & CDW10_AUSE) !== 0;
    if (before.failureMode && (before.cdw10 & CDW10_AUSE) === 0) {
      // a restricted operation failed: only another restricted one recovers
      if (action === SanitizeAction.ExitFailureMode || unrestricted) return Status.SanitizeFailed | DNR;
    }
    const next: SanitizeState =
      action === SanitizeAction.ExitFailureMode
        ? { ...before, failureMode: false }
        : { status: SanitizeStatus.InProgress, passesDone: 0, cdw10, cdw11, failureMode: false };
    this.#state = next;
    this.#progress = 0;
    try {
      await this.#subsystem.state?.save(this.#name, next);
    } catch (error) {
      this.#state = before;
      this.#subsystem.accessChanged();
      this.#subsystem.events.warning?.(this.#subsystem, 'Sanitize was not started: its state cannot be saved', error);
      return Status.InternalError;
    }
    this.#subsystem.accessChanged();
    if (next.status === SanitizeStatus.InProgress) this.#running = this.#run();
    return 0;
  }

  /** After a restart, when the namespaces are there: goes on from the beginning with what was interrupted. */
  resume(): void {
    if (this.#state.status === SanitizeStatus.InProgress) this.#running ??= this.#run();
  }

  /** Stops at the next step; what is saved says that it has to start over. Idempotent. */
  async close(): Promise<void> {
    this.#cancelled = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    const { cdw10, cdw11 } = this.#state;
    const isOverwrite = (cdw10 & 7) === SanitizeAction.Overwrite;
    const passes = isOverwrite ? (cdw10 >>> 4) & 0xf || 16 : 0;
    const invert = (cdw10 & 0x100) !== 0;
    const namespaces = this.#subsystem.allocatedNamespaces();
    const { clock } = this.#subsystem;
    let status = 0;
    for (const namespace of namespaces) await becomeQuiet(this.#subsystem, namespace, Status.SanitizeInProgress, clock);
    for (let pass = 0; pass < passes && status === 0; pass++) {
      const pattern = invert && pass % 2 === 1 ? ~cdw11 >>> 0 : cdw11;
      status = await this.#each(namespaces, pass / (passes + 1), 1 / (passes + 1), (namespace, options) =>
        overwriteNamespace(namespace, pattern, options),
      );
      if (status === 0) this.#state = { ...this.#state, passesDone: pass + 1 };
    }
    if (status === 0) {
      status = await this.#each(namespaces, passes / (passes + 1), 1 / (passes + 1), zeroNamespace);
    }
    if (!this.#cancelled) await this.#ended(status === 0, namespaces);
  }

  async #each(
    namespaces: readonly Namespace[],
    from: number,
    share: number,
    erase: (namespace: Namespace, options: EraseOptions) => Promise<number>,
  ): Promise<number> {
    for (const [i, namespace] of namespaces.entries()) {
      if (this.#cancelled) return 0;
      const status = await erase(namespace, {
        isCancelled: () => this.#cancelled,
        onProgress: (fraction) => {
          this.#progress = from + (share * (i + fraction)) / namespaces.length;
        },
      });
      if (status !== 0) return status;
    }
    return 0;
  }

  async #ended(succeeded: boolean, namespaces: readonly Namespace[]): Promise<void> {
    this.#state = {
      ...this.#state,
      status: succeeded ? SanitizeStatus.Completed : SanitizeStatus.Failed,
      failureMode: !succeeded,
    };
    this.#running = undefined;
    this.#writesThen = succeeded
      ? new Map(namespaces.map((namespace) => [namespace, namespace.writeCommands]))
      : undefined;
    try {
      await this.#subsystem.state?.save(this.#name, this.#state);
    } catch (error) {
      // after a restart it runs once more: nothing worse
      this.#subsystem.events.warning?.(this.#subsystem, 'The end of a sanitize operation could not be saved', error);
    }
    this.#subsystem.accessChanged();
    for (const controller of this.#subsystem.controllers) {
      controller.asyncEvents.report(
        AsyncEventType.IoCommandSet,
        IoCommandSetEvent.SanitizeCompleted,
        LogPage.SanitizeStatus,
      );
    }
  }
}
