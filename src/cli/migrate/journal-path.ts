import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ConfigError } from '../../util/error.ts';

/** Where the journal of a subsystem's moves is, if none is named: one for each NQN and user, so that two moves of it cannot go on at once. */
export async function defaultJournal(subnqn: string): Promise<string> {
  const folder = join(process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'nvmeferry');
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new ConfigError(`--journal: ${folder} cannot be made (${(cause as Error).message}); name a file`, { cause });
  }
  const name = subnqn.replaceAll(/[^A-Za-z0-9.-]/g, '_').slice(0, 80);
  const hash = createHash('sha256').update(subnqn).digest('hex').slice(0, 8);
  return join(folder, `${name}-${hash}.journal`);
}
