/** From a configuration entry to the backend it describes. */
import { assert } from '../util/assert.ts';
import { ConfigError } from '../util/error.ts';
import type { BlockBackend } from './block-backend.ts';
import { type OpenFileDeps, openFileBackend } from './file-open.ts';
import { MemoryBackend } from './memory.ts';
import { NullBackend } from './null.ts';
import { type OpenNvmeDeps, openNvmeBackend } from './nvme-open.ts';

export type { EngineChoice } from '../native/thread-engine.ts';

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
      /** Past the page cache (O_DIRECT). */
      readonly direct?: boolean | undefined;
      /** Serve a block device that something else uses. */
      readonly force?: boolean | undefined;
    }
  | {
      readonly type: 'nvme';
      /** `/dev/ng0n1` or `/dev/nvme0n1`. */
      readonly path: string;
      readonly readOnly?: boolean | undefined;
      /** Serve it though something on this machine uses it. */
      readonly force?: boolean | undefined;
      /** Commands go by ioctl on threads even where the kernel takes them by io_uring. */
      readonly ioctl?: boolean | undefined;
    }
  | RemoteBackendConfig;

/** A namespace of another target. @public */
export interface RemoteBackendConfig {
  readonly type: 'remote';
  /** `nvme+tcp://host:port/subnqn?nsid=1`; without nsid the only one there is. */
  readonly uri: string;
  /** Other ways to the same subsystem: `host[:port]`. */
  readonly paths?: readonly string[] | undefined;
  readonly readOnly?: boolean | undefined;
}

/** What opening takes beside the description. */
export type OpenBackendDeps = OpenFileDeps &
  OpenNvmeDeps & {
    /** Backends reach other targets through the initiator that they are handed. */
    readonly openRemote?: ((config: RemoteBackendConfig) => Promise<BlockBackend>) | undefined;
  };

/**
 * Opens the backend; the caller closes it.
 * @throws ConfigError one line with the remedy
 * @public
 */
export async function openBackend(config: BackendConfig, deps: OpenBackendDeps = {}): Promise<BlockBackend> {
  if (config.type === 'file') return openFileBackend(config, deps);
  if (config.type === 'nvme') return openNvmeBackend(config, deps);
  if (config.type === 'remote') {
    if (deps.openRemote === undefined)
      throw new ConfigError(`Backend ${config.uri}: nothing here reaches other targets`);
    return deps.openRemote(config);
  }
  const { blockSize } = config;
  assert(
    config.sizeBytes > 0 && config.sizeBytes % blockSize === 0,
    'Backend size is not a multiple of its block size',
  );
  const geometry = { blockSize, blockCount: config.sizeBytes / blockSize };
  return config.type === 'memory' ? new MemoryBackend(geometry) : new NullBackend(geometry);
}
