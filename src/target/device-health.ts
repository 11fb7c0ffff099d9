/** What a subsystem says of the health of the devices that its namespaces stand on: the worst of them. */
import type { BackendHealth } from '../backend/block-backend.ts';
import type { SmartLog } from '../wire/cold/log-smart.ts';

const largest = (values: readonly bigint[]): bigint => values.reduce((a, b) => (a > b ? a : b), 0n);

/** The fields of the SMART log that devices decide; none without devices. */
export function deviceHealthFields(devices: readonly BackendHealth[]): Partial<SmartLog> {
  if (devices.length === 0) return {};
  // the spare of the device that is nearest to its threshold
  const scarce = devices.reduce((a, b) => (spareLeft(a) <= spareLeft(b) ? a : b));
  return {
    criticalWarning: devices.reduce((bits, device) => bits | device.criticalWarning, 0),
    temperature: Math.max(...devices.map((device) => device.temperatureKelvin)),
    availSpare: scarce.availableSpare,
    spareThresh: scarce.availableSpareThreshold,
    percentUsed: Math.max(...devices.map((device) => device.percentageUsed)),
    powerCycles: largest(devices.map((device) => device.powerCycles)),
    powerOnHours: largest(devices.map((device) => device.powerOnHours)),
    unsafeShutdowns: devices.reduce((sum, device) => sum + device.unsafeShutdowns, 0n),
    mediaErrors: devices.reduce((sum, device) => sum + device.mediaErrors, 0n),
  };
}

const spareLeft = (device: BackendHealth): number => device.availableSpare - device.availableSpareThreshold;
