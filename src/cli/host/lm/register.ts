/** `nvmeferry lm`: Host Managed Live Migration, by the names and options of `nvme lm`. */
import type { Command } from 'commander';
import { registerBatch } from './batch.ts';
import { registerBlockVerbs } from './block-verbs.ts';
import { registerQueueVerbs } from './queue-verbs.ts';
import { type LmRunner, runAlone } from './session.ts';
import { registerStateFiles } from './state-file.ts';
import { registerStateVerbs } from './state-verbs.ts';
import { registerTrackVerbs } from './track-verbs.ts';

function registerVerbs(group: Command, run: LmRunner): void {
  registerQueueVerbs(group, run);
  registerTrackVerbs(group, run);
  registerStateVerbs(group, run);
  registerBlockVerbs(group, run);
  registerStateFiles(group);
}

export function registerLm(program: Command): void {
  const group = program
    .command('lm')
    .description('live migration: queues of changes, suspend and resume, controller state');
  registerVerbs(group, runAlone);
  registerBatch(group, runAlone, registerVerbs);
}
