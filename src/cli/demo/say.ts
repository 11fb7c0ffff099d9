/** What the demo tells, and how it fails. */
import { NvmeofError } from '../../util/error.ts';

export const say = (text: string): void => void process.stdout.write(`${text}\n`);
export const done = (text: string): void => say(`   ok  ${text}`);

/** @throws NvmeofError NVMEOF_ERR_DEMO */
export function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new NvmeofError('NVMEOF_ERR_DEMO', `Demo: ${what}`);
}
