/** Write Uncorrectable: the blocks cannot be read until they are written again. NVM Command Set 1.2 section 3.3.7. */
import { Access } from '../access.ts';
import { admitted, blockRange } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';

export const writeUncorrectable: CommandHandler = {
  prepare(request): number {
    const namespace = admitted(request, Access.Attached | Access.Write);
    return namespace === undefined ? request.status : blockRange(request, namespace);
  },
  execute(request): void {
    request.namespace!.writeUncorrectable(request);
  },
};
