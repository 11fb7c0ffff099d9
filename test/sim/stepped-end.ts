/** An end whose calls are steps of an orchestrator, so that faults can meet them: those that copy blocks are not counted. */
import type { End, EndController, EndNamespace } from '../../src/orchestrator/end.ts';
import type { SourceVolume } from '../../src/orchestrator/volume.ts';
import { like } from './like.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party } from './scenario.ts';

type Step = <T>(what: string, act: () => Promise<T>) => Promise<T>;

export function steppedEnd(process: Orchestrator, party: Party, end: End): End {
  const step: Step = (what, act) => process.step(`${party}: ${what}`, act);
  return like(end, {
    namespaces: () =>
      step('namespaces', async () => (await end.namespaces()).map((namespace) => steppedNamespace(step, namespace))),
    migratable: () => step('migratable', () => end.migratable()),
    controller: (cntlid) => steppedController(step, end.controller(cntlid)),
    announce: (peer, isThere) => step(isThere ? 'announce' : 'announce no more', () => end.announce(peer, isThere)),
    close: () => process.alive(end.close()),
  });
}

function steppedNamespace(step: Step, namespace: EndNamespace): EndNamespace {
  const { nsid } = namespace.identity;
  return like(namespace, {
    source: steppedSource(step, nsid, namespace.source),
    fence: () => step('fence', () => namespace.fence()),
    setFence: (isOpen, epoch) =>
      step(`${isOpen ? 'open' : 'close'} ${nsid} at ${epoch}`, () => namespace.setFence(isOpen, epoch)),
    reservations: () => step('reservations', () => namespace.reservations()),
    setReservations: (status, epoch) => step('set reservations', () => namespace.setReservations(status, epoch)),
    limitWrites: (bytesPerSecond) => step('limit writes', () => namespace.limitWrites(bytesPerSecond)),
  });
}

function steppedSource(step: Step, nsid: number, source: SourceVolume): SourceVolume {
  return like(source, {
    startTracking: () => step(`start tracking ${nsid}`, () => source.startTracking()),
    stopTracking: () => step(`stop tracking ${nsid}`, () => source.stopTracking()),
    changes: () =>
      step(`changes ${nsid}`, async () => {
        const changes = await source.changes();
        return { ...changes, acknowledge: () => step(`acknowledge ${nsid}`, () => changes.acknowledge()) };
      }),
  });
}

function steppedController(step: Step, controller: EndController): EndController {
  return like(controller, {
    suspend: () => step('suspend', () => controller.suspend()),
    resume: () => step('resume', () => controller.resume()),
    isSuspended: () => step('is suspended', () => controller.isSuspended()),
    getState: () => step('get state', () => controller.getState()),
    setState: (state) => step('set state', () => controller.setState(state)),
    reset: () => step('reset', () => controller.reset()),
    trackMemory: (ranges) => step('track memory', () => controller.trackMemory(ranges)),
    memoryChanges: () => step('memory changes', () => controller.memoryChanges()),
    stopTrackingMemory: () => step('stop tracking memory', () => controller.stopTrackingMemory()),
  });
}
