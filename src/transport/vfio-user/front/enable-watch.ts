// @hot
/**
 * Sees whether the guest has enabled its NVMe controller. One that comes back not enabled has lost its state; the guest is told as NVMe tells it, by
 * Controller Fatal Status, until it resets the controller. NVMe Base 2.1 section 3.1.4.
 */
import { Cc, Csts, Property } from '../../../spec/property.ts';
import { VFIO_USER_HEADER_BYTES, VfioUserCommand } from '../../../spec/vfio-user.ts';
import {
  accessCount,
  accessOffset,
  accessRegion,
  MULTI_WRITE_BYTES,
  messageCommand,
  REGION_ACCESS_BYTES,
} from '../../../wire/vfio-user.ts';

const BAR = 0;
const DATA = VFIO_USER_HEADER_BYTES + REGION_ACCESS_BYTES;
const MULTI = VFIO_USER_HEADER_BYTES + 8;

export class EnableWatch {
  /** As the guest has it. */
  isEnabled = false;
  /** The guest has not been told by a reset of its own that all is gone. */
  isLost = false;

  /** Another guest, or DEVICE_RESET. */
  reset(): void {
    this.isEnabled = false;
    this.isLost = false;
  }

  /** A message to the device. @param view of a message of `length` bytes */
  sent(view: DataView, length: number): void {
    const command = messageCommand(view, 0);
    if (command === VfioUserCommand.RegionWrite) {
      if (length >= DATA + 4 && accessRegion(view, 0) === BAR && accessOffset(view, 0) === Property.CC) {
        this.#configured(view.getUint32(DATA, true));
      }
    } else if (command === VfioUserCommand.RegionWriteMulti) {
      for (let at = MULTI; at + MULTI_WRITE_BYTES <= length; at += MULTI_WRITE_BYTES) {
        if (view.getUint32(at + 8, true) === BAR && view.getUint32(at, true) === Property.CC)
          this.#configured(view.getUint32(at + 16, true));
      }
    } else if (command === VfioUserCommand.DeviceReset) this.reset();
  }

  #configured(cc: number): void {
    this.isEnabled = (cc & Cc.EN) !== 0;
    this.isLost = false;
  }

  /** CC of a controller that has come back. @returns true if it has lost the guest's state, which was not known before */
  found(cc: number): boolean {
    const isLost = this.isEnabled && (cc & Cc.EN) === 0;
    const isNew = isLost && !this.isLost;
    this.isLost = isLost;
    return isNew;
  }

  /** An answer to the guest: CSTS says so while the state is lost. */
  answered(bytes: Uint8Array, length: number): void {
    if (!this.isLost) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, length);
    if (messageCommand(view, 0) !== VfioUserCommand.RegionRead || length < DATA || accessRegion(view, 0) !== BAR)
      return;
    const at = Property.CSTS - accessOffset(view, 0);
    if (at >= 0 && at < accessCount(view, 0) && DATA + at < length) bytes[DATA + at] = bytes[DATA + at]! | Csts.CFS;
  }
}
