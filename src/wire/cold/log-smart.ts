/** SMART / Health Information log page (LID 02h). Base 2.1 section 5.1.12.1.3. */
import { type Codec, type Decoded, structure } from './table.ts';

export const SMART_LOG_BYTES = 512;

const SMART = [
  [0, 'criticalWarning', 'u8'],
  [1, 'temperature', 'u16'], // K
  [3, 'availSpare', 'u8'],
  [4, 'spareThresh', 'u8'],
  [5, 'percentUsed', 'u8'],
  [6, 'enduranceGrpCriticalWarningSummary', 'u8'],
  [7, 'reserved', 25],
  [32, 'dataUnitsRead', 'u128'], // thousands of 512 bytes
  [48, 'dataUnitsWritten', 'u128'],
  [64, 'hostReadCommands', 'u128'],
  [80, 'hostWriteCommands', 'u128'],
  [96, 'controllerBusyTime', 'u128'], // minutes
  [112, 'powerCycles', 'u128'],
  [128, 'powerOnHours', 'u128'],
  [144, 'unsafeShutdowns', 'u128'],
  [160, 'mediaErrors', 'u128'],
  [176, 'numErrLogEntries', 'u128'],
  [192, 'warningTempTime', 'u32'],
  [196, 'criticalCompTime', 'u32'],
  [200, 'temperatureSensor', 'u16[]', 8],
  [216, 'thmTemp1TransCount', 'u32'],
  [220, 'thmTemp2TransCount', 'u32'],
  [224, 'thmTemp1TotalTime', 'u32'],
  [228, 'thmTemp2TotalTime', 'u32'],
  [232, 'opLifetimeEnergyConsumed', 'u64'],
  [240, 'intervalPowerMeasurement', 'u32'],
  [244, 'reserved', 268],
] as const;
/** @public */
export type SmartLog = Decoded<typeof SMART>;
/** @public */
export const smartLogCodec: Codec<SmartLog> = structure('SmartLog', SMART_LOG_BYTES, SMART);
