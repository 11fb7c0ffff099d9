/** What the front tells the VM of its device: the profile of the first controller, whichever is there now. */
import { Errno, VFIO_USER_MAJOR, VFIO_USER_MINOR, VfioUserCommand } from '../../../spec/vfio-user.ts';
import {
  decodeVersion,
  deviceInfoCodec,
  encodeVersion,
  irqInfoCodec,
  regionInfoCodec,
} from '../../../wire/cold/vfio-user.ts';
import { invalid, VfioUserError } from '../vfio-user-error.ts';
import type { DeviceProfile } from './device-profile.ts';

/** Device, region or interrupt info. @param body of the request @throws VfioUserError, WireError */
export function describeDevice(
  { device, regions, irqs }: DeviceProfile,
  command: number,
  body: Uint8Array,
): Uint8Array {
  if (command === VfioUserCommand.DeviceGetInfo) {
    deviceInfoCodec.decode(body);
    return deviceInfoCodec.encode(device);
  }
  if (command === VfioUserCommand.DeviceGetRegionInfo) {
    const { index } = regionInfoCodec.decode(body);
    const region = regions[index];
    if (region === undefined) throw invalid(`There is no region ${index}`);
    return regionInfoCodec.encode({ ...region, argsz: regionInfoCodec.size });
  }
  const { index } = irqInfoCodec.decode(body);
  const irq = irqs[index];
  if (irq === undefined) throw invalid(`There is no interrupt index ${index}`);
  return irqInfoCodec.encode(irq);
}

/** The answer to VERSION. @param body of the request @throws VfioUserError, WireError */
export function describeVersion({ limits }: DeviceProfile, body: Uint8Array): Uint8Array {
  const { major, minor, capabilities } = decodeVersion(body);
  if (major !== VFIO_USER_MAJOR)
    throw new VfioUserError(Errno.NotSupported, `Version ${major}.${minor}, supported is ${VFIO_USER_MAJOR}`);
  const answer = {
    max_msg_fds: limits.fdsMax,
    max_data_xfer_size: limits.transferBytesMax,
    ...(limits.writesMultiple && capabilities.write_multiple === true ? { write_multiple: true } : {}),
  };
  return encodeVersion(
    { major: VFIO_USER_MAJOR, minor: Math.min(minor, VFIO_USER_MINOR), capabilities: answer },
    body.length,
  );
}
