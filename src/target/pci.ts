/** Makes a controller whose function is on PCIe: the core's controller, and the transport that a bus front end drives. */

import { NvmeFunction } from '../transport/pcie/nvme-function.ts';
import type { PciFunction, PciFunctionOptions } from '../transport/pcie/pci-function.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { ConfigError } from '../util/error.ts';
import { decodeControllerState, encodeControllerState } from '../wire/cold/controller-state.ts';
import { adminCommandSet } from './commands/admin.ts';
import { ioCommandSet } from './commands/io.ts';
import type { Controller } from './controller.ts';
import { saveController } from './migration/controller-blocks.ts';
import { loadState } from './migration/whole-state.ts';
import { QueuePair } from './queue-pair.ts';
import type { Subsystem } from './subsystem.ts';

/** Commands of one queue that are fetched and not complete; more stay in the guest's queue. */
const SLOTS = 128;
const QUEUE_ENTRIES_DEFAULT = 1024;
const VECTORS_DEFAULT = 64;
/** No registered vendor has it. */
const VENDOR_ID = 0x4e46;
const DEVICE_ID = 0x0001;

/** A function and its controller. @public */
export interface PciController {
  readonly function: PciFunction;
  readonly controller: Controller;
}

function within(name: string, value: number, low: number, high: number): number {
  if (Number.isInteger(value) && value >= low && value <= high) return value;
  throw new ConfigError(`PCI function: ${name} is ${value}, allowed are ${low} to ${high}`);
}

/** @throws ConfigError */
export function makePciFunction(subsystem: Subsystem, options: PciFunctionOptions, pool: BufferPool): PciController {
  const vectorCount = within('vectorCount', options.vectorCount ?? VECTORS_DEFAULT, 1, 256);
  const ioQueuesMax = within('ioQueuesMax', options.ioQueuesMax ?? Math.max(1, vectorCount - 1), 1, 511);
  const queueEntriesMax = within('queueEntriesMax', options.queueEntriesMax ?? QUEUE_ENTRIES_DEFAULT, 2, 65536);
  const made = new NvmeFunction(
    {
      vendorId: within('vendorId', options.vendorId ?? VENDOR_ID, 0, 0xfffe),
      deviceId: within('deviceId', options.deviceId ?? DEVICE_ID, 0, 0xffff),
      hasPin: options.hasPin ?? true,
      vectorCount,
      ioQueuesMax,
      doorbellStride: within('doorbellStride', options.doorbellStride ?? 0, 0, 4),
      allowSubsystemReset: options.allowSubsystemReset ?? false,
    },
    subsystem.clock,
  );
  const controller = subsystem.addMemoryController(
    {
      hostnqn: options.hostnqn ?? `${subsystem.nqn.slice(0, 200)}:pcie`,
      hostid: new Uint8Array(16),
      katoMs: 0,
      queueEntriesMax,
      inCapsuleBytes: 0,
      portId: options.portId ?? 0,
      memory: made,
      ioQueuesMax,
    },
    options.cntlid,
  );
  made.attach({
    controller,
    makePair(transport, qid): QueuePair {
      const set = qid === 0 ? adminCommandSet : ioCommandSet;
      const pair = new QueuePair(transport, set, pool, SLOTS);
      pair.attach(controller, set, qid, SLOTS, false);
      pair.inHostMemory = true;
      if (qid === 0) controller.attachAdmin(pair);
      else controller.attachIo(pair, qid);
      return pair;
    },
    resetSubsystem: () => subsystem.reset(),
    saveState: () =>
      encodeControllerState({ suspended: true, nvme: made.saveQueues(), vendor: saveController(controller) }),
    loadState(bytes) {
      const { durable, apply } = loadState(controller, decodeControllerState(bytes));
      // the front end waits for nobody: what has to be durable follows, and an operator hears of it if it cannot be
      durable?.().catch((error: unknown) => {
        subsystem.events.warning?.(subsystem, `The state of controller ${controller.cntlid} is not durable`, error);
      });
      apply?.();
    },
    close: () => controller.close('the function is taken out'),
  });
  subsystem.events.connected(controller);
  return { function: made, controller };
}
