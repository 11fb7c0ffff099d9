/** The two parts of a controller's state, judged together: what the NVMe part may say depends on the function that the vendor part brings. */
import { decodeStateSection } from '../../migration/state-section.ts';
import { decodeFunctionState } from '../../transport/pcie/function-state.ts';
import type { ControllerState } from '../../wire/cold/controller-state.ts';
import { StateBlockKind } from '../../wire/cold/state-blocks.ts';
import type { Controller } from '../controller.ts';
import { type Loaded, wrongState } from './block-type.ts';
import { loadController } from './controller-blocks.ts';

const ALL_KINDS: ReadonlySet<number> = new Set(Object.values(StateBlockKind));
const CC_ENABLED = 1;
const CC_MPS_SHIFT = 7;

/**
 * @returns what it will do
 * @throws MigrationError, WireError what is wrong: nothing is applied then
 */
export function loadState(controller: Controller, { nvme, vendor }: ControllerState): Loaded {
  const loaded = vendor === undefined ? {} : loadController(controller, vendor);
  if (nvme === undefined) return loaded;
  if (controller.ioQueueCount > 0) throw wrongState('has an NVMe part, and the controller has I/O queues');
  const { memory } = controller;
  const count = nvme.submissionQueues.length + nvme.completionQueues.length;
  if (memory === undefined) {
    // a queue over NVMe/TCP is a connection, which only the host can make
    if (count > 0) throw wrongState('has I/O queues');
    return loaded;
  }
  const { cc, ioQueuesMax } = registersOf(vendor) ?? controller;
  const pageBytes = 4096 << ((cc >>> CC_MPS_SHIFT) & 0xf);
  const reason = memory.checkQueues(nvme, ioQueuesMax, controller.queueEntriesMax, pageBytes);
  if (reason !== undefined) throw wrongState(reason);
  if (count > 0 && (cc & CC_ENABLED) === 0) throw wrongState('has I/O queues of a controller that is not enabled');
  return {
    durable: loaded.durable,
    apply(): void {
      loaded.apply?.();
      memory.loadQueues(nvme);
    },
  };
}

function registersOf(vendor: Uint8Array | undefined): { cc: number; ioQueuesMax: number } | undefined {
  if (vendor === undefined) return undefined;
  const block = decodeStateSection(vendor, ALL_KINDS).get(StateBlockKind.PcieFunction);
  const state = block === undefined ? undefined : decodeFunctionState(block.bytes);
  return typeof state === 'string' ? undefined : state;
}
