/** What a VM was told of its device, which every controller behind the front must be: its regions, its interrupts, and what it takes in one message. */
import { IRQ_INDEX_COUNT, RegionFlag, RegionIndex } from '../../../spec/vfio-user.ts';
import { ConfigError } from '../../../util/error.ts';
import type { DeviceInfo, IrqInfo, RegionInfo } from '../../../wire/cold/vfio-user.ts';
import type { MessageLink } from '../client/message-link.ts';
import {
  agreeOnVersion,
  type DeviceLimits,
  readDeviceInfo,
  readIrqInfo,
  readRegionInfo,
} from '../client/vfio-user-client.ts';

/** As QEMU bounds them. */
const REGIONS_MAX = 100;
const IRQS_MAX = 50;

export interface DeviceProfile {
  readonly limits: DeviceLimits;
  readonly device: DeviceInfo;
  readonly regions: readonly RegionInfo[];
  readonly irqs: readonly IrqInfo[];
}

/** Connection set-up: version, then what the device is. @throws VfioUserError, TransportError, ConfigError */
export async function readProfile(link: MessageLink): Promise<DeviceProfile> {
  const limits = await agreeOnVersion(link);
  const device = await readDeviceInfo(link);
  if (device.numRegions > REGIONS_MAX || device.numIrqs > IRQS_MAX || device.numIrqs < IRQ_INDEX_COUNT)
    throw new ConfigError(
      `Socket ${link.path}: the device has ${device.numRegions} regions and ${device.numIrqs} kinds of interrupts`,
    );
  const indexes = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
  const regions = await Promise.all(indexes(device.numRegions).map((index) => readRegionInfo(link, index)));
  const irqs = await Promise.all(indexes(device.numIrqs).map((index) => readIrqInfo(link, index)));
  return {
    limits,
    device,
    // everything goes by messages: a mapping could not be moved
    regions: regions.map((region) => ({
      ...region,
      flags: region.flags & (RegionFlag.Read | RegionFlag.Write),
      capOffset: 0,
      offset: 0n,
    })),
    irqs,
  };
}

/** @throws ConfigError naming what the VM would notice, and the remedy */
export function checkProfile(path: string, known: DeviceProfile, other: DeviceProfile): void {
  const differs = (what: string, there: unknown, told: unknown): never => {
    throw new ConfigError(
      `Controller at ${path}: has ${what} ${there}, the VM was told ${told}; start it with the same --vectors and --queues`,
    );
  };
  if (other.device.numRegions !== known.device.numRegions)
    differs('regions', other.device.numRegions, known.device.numRegions);
  known.regions.forEach(({ size }, index) => {
    const there = other.regions[index]!.size;
    const name = index === RegionIndex.Config ? 'config space of bytes' : `a region ${index} of bytes`;
    if (there !== size) differs(name, there, size);
  });
  known.irqs.forEach(({ count }, index) => {
    const there = other.irqs[index]?.count;
    if (there !== count) differs(`interrupts of kind ${index}:`, there, count);
  });
  const { limits } = known;
  const fewer =
    other.limits.fdsMax < limits.fdsMax ||
    other.limits.transferBytesMax < limits.transferBytesMax ||
    (limits.writesMultiple && !other.limits.writesMultiple);
  if (fewer) differs('limits of a message', JSON.stringify(other.limits), JSON.stringify(limits));
}
