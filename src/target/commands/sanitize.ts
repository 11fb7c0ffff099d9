/** Sanitize (84h). Base 2.1 section 5.1.22. */
import { SanitizeAction } from '../../spec/sanitize.ts';
import { SpecificStatus } from '../../spec/status.ts';
import { sqeCdw10, sqeCdw11 } from '../../wire/sqe.ts';
import { Access, conflictOf } from '../access.ts';
import type { CommandHandler } from './command-set.ts';
import { settle } from './settle.ts';

const CDW10_NDAS = 0x200;
const CDW10_EMVS = 0x400;
const SERVED: readonly number[] = [SanitizeAction.ExitFailureMode, SanitizeAction.BlockErase, SanitizeAction.Overwrite];

export const sanitize: CommandHandler = {
  isOffered: ({ subsystem }) => subsystem.sanitizer.isOffered || subsystem.sanitizer.refusal !== undefined,
  prepare(request): number {
    const controller = request.queuePair.controller!;
    const cdw10 = sqeCdw10(request.sqe, request.sqeBase);
    const action = cdw10 & 7;
    if (!SERVED.includes(action)) return request.invalidField(40);
    if (action !== SanitizeAction.ExitFailureMode) {
      // blocks are deallocated in any case (SANICAP.NDI); there is no media verification
      if ((cdw10 & CDW10_NDAS) !== 0) return request.invalidField(41, 1);
      if ((cdw10 & CDW10_EMVS) !== 0) return request.invalidField(41, 2);
    }
    const { subsystem } = controller;
    if (subsystem.migration?.hasSuspended === true) return request.fail(SpecificStatus.ControllerSuspended, 0);
    // the operation itself decides while one runs or has failed
    if (subsystem.sanitizer.refusal !== undefined) return 0;
    for (const namespace of subsystem.allocatedNamespaces()) {
      const conflict = conflictOf(controller, namespace, Access.Write);
      if (conflict !== undefined) return conflict;
    }
    return 0;
  },
  execute(request): void {
    const { sanitizer } = request.queuePair.controller!.subsystem;
    settle(request, sanitizer.start(sqeCdw10(request.sqe, request.sqeBase), sqeCdw11(request.sqe, request.sqeBase)));
  },
};
