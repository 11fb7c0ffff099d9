/**
 * What a subsystem says of the health of what its namespaces stand on: the worst of it; and what makes it an asynchronous event. Base 2.1
 * sections 5.1.12.1.3 and 5.1.2.1.
 *
 * A namespace that is served read only is no warning: bit 3 is for media that became so, and write protection is told by NSATTR.
 */
import type { BackendHealth, DeviceHealth } from '../backend/block-backend.ts';
import { Feature } from '../spec/feature.ts';
import { AsyncEventType, AsyncSmart, CriticalWarning, LogPage } from '../spec/log-page.ts';
import type { SmartLog } from '../wire/cold/log-smart.ts';
import type { Controller } from './controller.ts';
import type { Subsystem } from './subsystem.ts';

/** Composite temperature that a program has: 30 degrees Celsius. */
const TEMPERATURE_KELVIN = 303;
/** Feature 04h without a Set Features: WCTEMP, and no lower bound. */
export const OVER_TEMPERATURE_KELVIN = 343;
/** Where `Controller.features` keeps the lower bound. */
export const UNDER_TEMPERATURE_KEY: number = Feature.TemperatureThreshold | 0x100;

const largest = (values: readonly bigint[]): bigint => values.reduce((a, b) => (a > b ? a : b), 0n);

function healths(subsystem: Subsystem): BackendHealth[] {
  return subsystem.allocatedNamespaces().flatMap(({ backend }) => backend.health?.() ?? []);
}

/** The fields of the SMART log that what is below decides. */
export function healthFields(controller: Controller): Partial<SmartLog> {
  const all = healths(controller.subsystem);
  const devices = all.flatMap(({ device }) => device ?? []);
  return {
    criticalWarning: criticalWarningOf(controller, all),
    temperature: temperatureOf(devices),
    mediaErrors: all.reduce((sum, { mediaErrors }) => sum + mediaErrors, 0n),
    ...deviceFields(devices),
  };
}

function deviceFields(devices: readonly DeviceHealth[]): Partial<SmartLog> {
  if (devices.length === 0) return {};
  // the spare of the device that is nearest to its threshold
  const scarce = devices.reduce((a, b) => (spareLeft(a) <= spareLeft(b) ? a : b));
  return {
    availSpare: scarce.availableSpare,
    spareThresh: scarce.availableSpareThreshold,
    percentUsed: Math.max(...devices.map((device) => device.percentageUsed)),
    powerCycles: largest(devices.map((device) => device.powerCycles)),
    powerOnHours: largest(devices.map((device) => device.powerOnHours)),
    unsafeShutdowns: devices.reduce((sum, device) => sum + device.unsafeShutdowns, 0n),
  };
}

const spareLeft = (device: DeviceHealth): number => device.availableSpare - device.availableSpareThreshold;

function temperatureOf(devices: readonly DeviceHealth[]): number {
  return devices.length === 0 ? TEMPERATURE_KELVIN : Math.max(...devices.map((device) => device.temperatureKelvin));
}

/** What is below, and what the host set as thresholds. */
function criticalWarningOf({ features }: Controller, all: readonly BackendHealth[]): number {
  const temperature = temperatureOf(all.flatMap(({ device }) => device ?? []));
  const over = features.get(Feature.TemperatureThreshold) ?? OVER_TEMPERATURE_KELVIN;
  const under = features.get(UNDER_TEMPERATURE_KEY) ?? 0;
  const beyond = temperature >= over || temperature <= under;
  return all.reduce((bits, one) => bits | one.criticalWarning, beyond ? CriticalWarning.Temperature : 0);
}

const EVENTS: readonly (readonly [bits: number, info: number])[] = [
  [CriticalWarning.Spare, AsyncSmart.SpareBelowThreshold],
  [CriticalWarning.Temperature, AsyncSmart.TemperatureThreshold],
  [
    CriticalWarning.Reliability |
      CriticalWarning.ReadOnly |
      CriticalWarning.VolatileBackup |
      CriticalWarning.PersistentMemory,
    AsyncSmart.Reliability,
  ],
];

/**
 * Reports the warnings that the host wants to hear of and was not told since they began.
 * @param told bits that it was told of
 * @returns those that it was told of now
 */
export function reportWarnings(controller: Controller, told: number): number {
  const { asyncEvents } = controller;
  const standing = criticalWarningOf(controller, healths(controller.subsystem)) & asyncEvents.configuration & 0xff;
  for (const [bits, info] of EVENTS) {
    if ((standing & ~told & bits) !== 0) asyncEvents.report(AsyncEventType.Smart, info, LogPage.SmartHealth);
  }
  return standing;
}
