/** Admin commands that are neither Identify, log pages nor features: Abort, AER, Keep Alive. Base 2.1 section 5. */
import { AdminOpcode, FABRICS_OPCODE } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { sqeCdw10 } from '../../wire/sqe.ts';
import { passthroughCommands } from './admin-passthrough.ts';
import { type CommandHandler, type CommandSet, commandSet } from './command-set.ts';
import { adminFabrics } from './fabrics.ts';
import { getFeatures, setFeatures } from './feature.ts';
import { formatNvm } from './format.ts';
import { identify } from './identify.ts';
import { getLbaStatus } from './lba-status.ts';
import { getLogPage } from './log-page.ts';
import { trackReceive } from './memory-tracking.ts';
import { controllerDataQueue, migrationReceive, migrationSend, trackSend } from './migration.ts';
import { namespaceAttachment, namespaceManagement } from './namespace-management.ts';
import {
  createCompletionQueue,
  createSubmissionQueue,
  deleteCompletionQueue,
  deleteSubmissionQueue,
  doorbellBufferConfig,
} from './queues.ts';
import { sanitize } from './sanitize.ts';

const asyncEventRequest: CommandHandler = {
  prepare: () => 0,
  execute(request): void {
    if (!request.queuePair.controller!.asyncEvents.add(request)) request.finish(SpecificStatus.AerLimitExceeded | DNR);
  },
};

const keepAlive: CommandHandler = {
  prepare: () => 0,
  execute(request): void {
    request.finish(0);
  },
};

const NOT_ABORTED = 1;

/** Aborts what has not reached a backend: an AER, or a command that waits for buffers, its other half, or a locked range. */
const abort: CommandHandler = {
  prepare: () => 0,
  execute(request): void {
    const cdw10 = sqeCdw10(request.sqe, request.sqeBase);
    const controller = request.queuePair.controller!;
    const victim = controller.queue(cdw10 & 0xffff)?.find(cdw10 >>> 16);
    request.result0 = NOT_ABORTED;
    if (victim !== undefined && victim !== request) {
      if (controller.asyncEvents.remove(victim)) {
        victim.finish(Status.CommandAbortRequested | DNR);
        request.result0 = 0;
      } else if (victim.queuePair.transport.abort(victim) || victim.queuePair.cancel(victim)) {
        request.result0 = 0;
      }
    }
    request.finish(0);
  },
};

/** What an admin queue serves; the handlers look at the kind of controller (I/O, discovery). */
export const adminCommandSet: CommandSet = commandSet({
  [AdminOpcode.GetLogPage]: getLogPage,
  [AdminOpcode.Identify]: identify,
  [AdminOpcode.Abort]: abort,
  [AdminOpcode.SetFeatures]: setFeatures,
  [AdminOpcode.GetFeatures]: getFeatures,
  [AdminOpcode.AsyncEventRequest]: asyncEventRequest,
  [AdminOpcode.NamespaceManagement]: namespaceManagement,
  [AdminOpcode.NamespaceAttachment]: namespaceAttachment,
  [AdminOpcode.KeepAlive]: keepAlive,
  [AdminOpcode.FormatNvm]: formatNvm,
  [AdminOpcode.Sanitize]: sanitize,
  [AdminOpcode.GetLbaStatus]: getLbaStatus,
  [AdminOpcode.TrackSend]: trackSend,
  [AdminOpcode.TrackReceive]: trackReceive,
  [AdminOpcode.MigrationSend]: migrationSend,
  [AdminOpcode.MigrationReceive]: migrationReceive,
  [AdminOpcode.ControllerDataQueue]: controllerDataQueue,
  [AdminOpcode.DeleteIoSq]: deleteSubmissionQueue,
  [AdminOpcode.CreateIoSq]: createSubmissionQueue,
  [AdminOpcode.DeleteIoCq]: deleteCompletionQueue,
  [AdminOpcode.CreateIoCq]: createCompletionQueue,
  [AdminOpcode.DoorbellBufferConfig]: doorbellBufferConfig,
  [FABRICS_OPCODE]: adminFabrics,
  ...passthroughCommands,
});
