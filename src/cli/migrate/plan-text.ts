/** A plan in words: what will move, how long it takes, how long the pause will be, what stands against it. */
import type { MovePlan } from '../../orchestrator/move-spec.ts';
import { bytesText, durationText, rateText } from './units.ts';

function changesText({ record: { changes } }: MovePlan): string {
  return changes === 'queue' ? ', changes by the queue of the controller' : '';
}

export function planText(plan: MovePlan, source: string, destination: string): string {
  const { record, refusals, warnings, allocatedBytes, memoryBytes, memoryUsedBytes, switchMs, forecast } = plan;
  const { controller } = record.spec;
  const lines = [
    `from ${source}`,
    `to   ${destination}`,
    ...(controller === undefined
      ? []
      : [`controller ${controller.source}, which will be controller ${controller.destination} there`]),
    ...record.namespaces.map(({ nsid, mode, blockSize, blockCount }) => {
      const size = bytesText(blockSize * blockCount);
      return mode === 'shared'
        ? `namespace ${nsid}: ${size}, shared, not copied`
        : `namespace ${nsid}: ${size}, copied`;
    }),
    ...(memoryBytes === 0
      ? []
      : [`memory of the VM: ${bytesText(memoryBytes)}, ${bytesText(memoryUsedBytes)} of it in use, copied`]),
    `to copy: ${bytesText(allocatedBytes)}${changesText(plan)}; epoch ${record.epoch}`,
  ];
  if (forecast !== undefined) {
    const { copyBytesPerSecond, dirtyBytesPerSecond, totalMs, blackoutMs } = forecast;
    lines.push(`at ${rateText(copyBytesPerSecond)} with ${rateText(dirtyBytesPerSecond)} of changes now:`);
    lines.push(
      totalMs === undefined || blackoutMs === undefined
        ? '  copying would not catch up: throttle the writers, allow a longer pause, or copy faster'
        : `  about ${durationText(totalMs)}, with a pause of about ${durationText(blackoutMs)}`,
    );
  } else lines.push(`pause: ${durationText(switchMs)} for the switch, and what is changed by then`);
  lines.push(...warnings.map(({ message }) => `warning: ${message}`));
  lines.push(...refusals.map(({ message }) => `refused: ${message}`));
  if (refusals.length === 0) lines.push('nothing stands against it');
  return lines.join('\n');
}
