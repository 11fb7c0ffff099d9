/** From a configuration entry to the backend it describes. */
import { assert } from '../util/assert.ts';
import type { BlockBackend } from './block-backend.ts';
import { type OpenFileDeps, openFileBackend } from './file-open.ts';
import { MemoryBackend } from './memory.ts';
import { NullBackend } from './null.ts';

/** What a namespace stands on. Sizes in bytes, multiples of the block size. @public */
export type BackendConfig =
  | { readonly type: 'memory'; readonly sizeBytes: number; readonly blockSize: number }
  | { readonly type: 'null'; readonly sizeBytes: number; readonly blockSize: number }
  | {
      readonly type: 'file';
      readonly path: string;
      readonly blockSize: number;
      /** Default: the size that the file has. */
      readonly sizeBytes?: number | undefined;
      readonly readOnly?: boolean | undefined;
    };

/**
 * Opens the backend; the caller closes it.
 * @throws ConfigError one line with the remedy
 * @public
 */
export async function openBackend(config: BackendConfig, deps: OpenFileDeps = {}): Promise<BlockBackend> {
  if (config.type === 'file') return openFileBackend(config, deps);
  const { blockSize } = config;
  assert(
    config.sizeBytes > 0 && config.sizeBytes % blockSize === 0,
    'Backend size is not a multiple of its block size',
  );
  const geometry = { blockSize, blockCount: config.sizeBytes / blockSize };
  return config.type === 'memory' ? new MemoryBackend(geometry) : new NullBackend(geometry);
}
