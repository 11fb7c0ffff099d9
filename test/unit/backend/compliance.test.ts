import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FaultBackend } from '../../../src/backend/fault.ts';
import { openFileBackend } from '../../../src/backend/file-open.ts';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { NullBackend } from '../../../src/backend/null.ts';
import { describeBackendCompliance } from '../../support/backend-compliance.ts';
import { ManualClock } from '../../support/manual-clock.ts';

describeBackendCompliance('memory', { open: async (geometry) => new MemoryBackend(geometry) });
describeBackendCompliance('null', { open: async (geometry) => new NullBackend(geometry), keepsData: false });
describeBackendCompliance('fault without rules', {
  open: async (geometry) => new FaultBackend(new MemoryBackend(geometry), { clock: new ManualClock() }),
});

for (const holePunch of [true, false]) {
  let directory: string;
  describeBackendCompliance(holePunch ? 'file by node:fs' : 'file by node:fs without hole punching', {
    open: async ({ blockSize, blockCount }) => {
      directory = await mkdtemp(join(tmpdir(), 'nvmeferry-file-'));
      return openFileBackend(
        { path: join(directory, 'disk.img'), blockSize, sizeBytes: blockSize * blockCount },
        { holePunch, engine: 'node' },
      );
    },
    cleanUp: () => rm(directory, { recursive: true }),
  });
}
