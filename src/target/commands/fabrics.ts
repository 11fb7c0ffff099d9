/** Fabrics commands on the admin queue of a controller, whatever its state: properties. Base 2.1 section 6. */
import { Fctype } from '../../spec/opcode.ts';
import { Property } from '../../spec/property.ts';
import { DNR, FabricsStatus, Status } from '../../spec/status.ts';
import { sqeFctype } from '../../wire/sqe.ts';
import type { CommandHandler } from './command-set.ts';

const PROPERTY_SIZE_MASK = 0x07;

export const adminFabrics: CommandHandler = {
  isOffered: (controller) => controller.memory === undefined,
  prepare(request): number {
    const { sqe, sqeBase } = request;
    switch (sqeFctype(sqe, sqeBase)) {
      case Fctype.PropertyGet:
      case Fctype.PropertySet: {
        const size = sqe.getUint8(sqeBase + 40) & PROPERTY_SIZE_MASK;
        return size > 1 ? request.invalidField(40) : 0;
      }
      case Fctype.Connect:
        return Status.CommandSequenceError | DNR;
      case Fctype.Disconnect:
        return FabricsStatus.DisconnectInvalidQueueType | DNR;
      default:
        return request.invalidField(4);
    }
  },
  execute(request): void {
    const { sqe, sqeBase } = request;
    const controller = request.queuePair.controller!;
    const bytes = (sqe.getUint8(sqeBase + 40) & PROPERTY_SIZE_MASK) === 1 ? 8 : 4;
    const offset = sqe.getUint32(sqeBase + 44, true);
    if (sqeFctype(sqe, sqeBase) === Fctype.PropertyGet) {
      const value = controller.getProperty(offset, bytes);
      if (value === undefined) {
        request.finish(
          request.invalidField(controller.getProperty(offset, bytes === 8 ? 4 : 8) === undefined ? 44 : 40),
        );
        return;
      }
      request.result0 = Number(value & 0xffff_ffffn);
      request.result1 = Number(value >> 32n);
      request.finish(0);
      return;
    }
    if (offset !== Property.CC || bytes !== 4) {
      request.finish(request.invalidField(offset === Property.CC ? 40 : 44));
      return;
    }
    controller.setConfiguration(sqe.getUint32(sqeBase + 48, true));
    request.finish(0);
  },
};
