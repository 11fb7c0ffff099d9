/** Blocks that only the state of a controller behind PCIe has: its function, and the Async Event Requests that its guest left with it. */
import { AdminOpcode } from '../../spec/opcode.ts';
import { NVME_VERSION_2_1 } from '../../spec/property.ts';
import { dwordsCodec, pcieRegistersCodec, StateBlockKind } from '../../wire/cold/state-blocks.ts';
import { AER_LIMIT } from '../async-events.ts';
import type { Controller } from '../controller.ts';
import { type BlockType, wrongState } from './block-type.ts';

/** CID, whether it has completed and only waits for room in the completion queue, DW0, DW1. */
const REQUEST_DWORDS = 4;

/** Registers, admin queue, interrupts and config space: transport/pcie/function-state.ts. */
export const functionBlock: BlockType = {
  kind: StateBlockKind.PcieFunction,
  version: 1,
  essential: true,
  save: ({ memory }) => memory!.saveFunction(),
  load(controller, bytes) {
    const applied = controller.memory!.loadFunction(bytes);
    if (typeof applied === 'string') throw wrongState(applied);
    return { apply: applied };
  },
};

/** Nothing of it is set here: a guest that was told otherwise rings doorbells where this function has none. What else differs is for who moves it to say. */
export const registersBlock: BlockType = {
  kind: StateBlockKind.PcieRegisters,
  version: 1,
  essential: false,
  save: ({ cap }) => pcieRegistersCodec.encode({ cap, vs: NVME_VERSION_2_1 }),
  load(controller, bytes) {
    const [found, mine] = [strideOf(pcieRegistersCodec.decode(bytes).cap), strideOf(controller.cap)];
    if (found !== mine) {
      throw wrongState(`is of a function with doorbells every ${found} bytes, this one has them every ${mine}`);
    }
    return {};
  },
};

/** CAP.DSTRD. */
const strideOf = (cap: bigint): number => 4 << Number((cap >> 32n) & 0xfn);

export const eventRequestsBlock: BlockType = {
  kind: StateBlockKind.EventRequests,
  version: 1,
  essential: true,
  save({ asyncEvents, memory }) {
    return dwordsCodec.encode([
      ...asyncEvents.outstanding.flatMap(({ cid }) => [cid, 0, 0, 0]),
      ...memory!.parkedEvents.flatMap(({ cid, result0, result1 }) => [cid, 1, result0, result1]),
    ]);
  },
  load(controller, bytes) {
    const values = dwordsCodec.decode(bytes);
    if (values.length % REQUEST_DWORDS !== 0 || values.length > 2 * AER_LIMIT * REQUEST_DWORDS) {
      throw wrongState(`has ${values.length} dwords of Async Event Requests`);
    }
    const requests = Array.from({ length: values.length / REQUEST_DWORDS }, (_, i) =>
      values.slice(i * REQUEST_DWORDS, (i + 1) * REQUEST_DWORDS),
    );
    return { apply: () => restore(controller, requests) };
  },
};

function restore(controller: Controller, requests: readonly (readonly number[])[]): void {
  for (const [cid, isComplete, result0, result1] of requests) {
    const request = controller.queue(0)?.restore(AdminOpcode.AsyncEventRequest, cid! & 0xffff);
    if (request === undefined) return;
    if (isComplete === 0) {
      controller.asyncEvents.add(request);
      continue;
    }
    request.result0 = result0!;
    request.result1 = result1!;
    controller.memory!.parkEvent(request);
  }
}
