/** Opens a namespace of another target as a backend: connects every path, asks what the namespace is, and follows its changes. */

import { type NvmeGeometry, nvmeGeometry } from '../backend/nvme-geometry.ts';
import type { RemoteBackendConfig } from '../backend/open.ts';
import { RemoteBackend, type RemoteGeometry } from '../backend/remote.ts';
import type { HostController } from '../initiator/controller.ts';
import { identify as identifyPage } from '../initiator/controller-commands.ts';
import { MultipathSubsystem } from '../initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../initiator/namespace.ts';
import type { HostOptions } from '../initiator/options.ts';
import { parseNvmeUri } from '../initiator/uri.ts';
import { Cns } from '../spec/identify.ts';
import { NVMEOF_PORT } from '../spec/nqn.ts';
import { type Clock, systemClock } from '../util/clock.ts';
import { ConfigError, NvmeofError, NvmeStatusError } from '../util/error.ts';
import { nvmControllerCodec, nvmNamespaceCodec } from '../wire/cold/identify-nvm.ts';

export interface OpenRemoteDeps {
  readonly clock?: Clock | undefined;
  /** Something an operator should know. */
  readonly onWarning?: ((message: string, error?: Error) => void) | undefined;
  /** The far namespace has another size; the backend has it already. */
  readonly onResized?: (() => void) | undefined;
  /** How long closing waits for commands under way. Default 10 s. */
  readonly closeTimeoutMs?: number | undefined;
  /** From the loss of a path to repeating writes that were under way on it; see `MultipathOptions`. */
  readonly quiesceMs?: number | undefined;
}

/** A guest or host waits for its disk; whoever wants an error instead says so in the URI (ctrl-loss-tmo). */
const LOSS_TIMEOUT_MS = Number.POSITIVE_INFINITY;
const RECONNECT_DELAY_MS = 2000;
const QUEUES_DEFAULT = 2;
const PATH = /^(?:\[([^\]]+)\]|([^:[\]/]+))(?::(\d{1,5}))?$/;
const ACTION_ALLOCATED = 0x02;
/** AOCS bit 0: Get LBA Status tells of allocated blocks. */
const AOCS_ALLOCATED = 1;

/** @throws ConfigError, TransportError, NvmeofError: one line naming the URI */
export async function openRemoteNamespace(
  config: RemoteBackendConfig,
  deps: OpenRemoteDeps = {},
): Promise<RemoteBackend> {
  const { paths, nsid: asked } = pathsOf(config, deps);
  const subsystem = await MultipathSubsystem.connect({ paths, quiesceMs: deps.quiesceMs });
  try {
    const nsid = asked ?? (await onlyNamespace(config.uri, subsystem));
    return await serve(config, subsystem, nsid, deps);
  } catch (error) {
    await subsystem.close();
    throw error;
  }
}

function pathsOf(
  { uri, paths = [] }: RemoteBackendConfig,
  deps: OpenRemoteDeps,
): { paths: HostOptions[]; nsid: number | undefined } {
  const { nsid, ...given } = parseNvmeUri(uri);
  const { subnqn } = given;
  if (subnqn === undefined)
    throw new ConfigError(`${uri}: names no subsystem; it should read nvme+tcp://host:port/subnqn?nsid=1`);
  const first: HostOptions = {
    ctrlLossTimeoutMs: LOSS_TIMEOUT_MS,
    reconnectDelayMs: RECONNECT_DELAY_MS,
    ioQueues: QUEUES_DEFAULT,
    ...given,
    subnqn,
    clock: deps.clock,
  };
  const others = paths.map((text) => {
    const match = PATH.exec(text);
    const port = match?.[3] === undefined ? first.port : Number(match[3]);
    if (match === null || port === 0 || (port ?? 1) > 65_535)
      throw new ConfigError(`${uri}: path ${JSON.stringify(text)} is no address such as 10.0.0.2 or [fe80::1]:4420`);
    return { ...first, address: (match[1] ?? match[2])!, port };
  });
  return { paths: [first, ...others], nsid };
}

async function onlyNamespace(uri: string, subsystem: MultipathSubsystem): Promise<number> {
  const active = await subsystem.activeNamespaces();
  if (active.length === 1) return active[0]!;
  const found = active.length === 0 ? 'has no namespace' : `has namespaces ${active.slice(0, 16).join(', ')}`;
  throw new ConfigError(`${uri}: ${found}; name one, such as ${uri}?nsid=${active[0] ?? 1}`);
}

async function serve(
  config: RemoteBackendConfig,
  subsystem: MultipathSubsystem,
  nsid: number,
  deps: OpenRemoteDeps,
): Promise<RemoteBackend> {
  const namespace = await open(config.uri, subsystem, nsid);
  const geometry = await geometryOf(config.uri, subsystem.controllerFor(nsid), nsid);
  const backend = new RemoteBackend({
    io: subsystem.io,
    nsid,
    geometry,
    readOnly: config.readOnly,
    clock: deps.clock ?? systemClock,
    closeTimeoutMs: deps.closeTimeoutMs,
    allocation: async (slba) => {
      const { ranges, completion } = await namespace.getLbaStatus({ slba, action: ACTION_ALLOCATED });
      return { runs: ranges, complete: completion !== 1 };
    },
    currentBlockCount: async () => {
      await namespace.refresh();
      return namespace.blockCount;
    },
    release: () => subsystem.close(),
  });
  follow(config.uri, subsystem, namespace, backend, deps);
  return backend;
}

async function open(uri: string, subsystem: MultipathSubsystem, nsid: number): Promise<HostNamespace> {
  try {
    return await subsystem.namespace(nsid);
  } catch (error) {
    if (!(error instanceof NvmeofError) || error.code !== 'NVMEOF_ERR_NO_NAMESPACE') throw error;
    const active = await subsystem.activeNamespaces();
    const some = active.slice(0, 16).join(', ') || 'none';
    throw new ConfigError(`${uri}: there is no namespace ${nsid}, active are ${some}`);
  }
}

/** What the far controller's Identify data mean for serving the namespace. */
async function geometryOf(uri: string, controller: HostController, nsid: number): Promise<RemoteGeometry> {
  const identify = (cns: number, of: number): Promise<Uint8Array> =>
    identifyPage((what, command) => controller.executeAdmin(what, command), cns, of);
  const optional = async (cns: number, of: number): Promise<Uint8Array | undefined> => {
    try {
      return await identify(cns, of);
    } catch (error) {
      if (error instanceof NvmeStatusError) return undefined; // a controller before 2.0
      throw error;
    }
  };
  const nvmNamespace = await optional(Cns.CommandSetNamespace, nsid);
  const nvmController = await optional(Cns.CommandSetController, 0);
  const data = {
    controller: await identify(Cns.Controller, 0),
    namespace: await identify(Cns.Namespace, nsid),
    nvmNamespace,
    nvmController,
  };
  const found = nvmeGeometry(uri, data, controller.maxTransferBytes);
  if (found.metadataBytes > 0)
    throw new ConfigError(`${uri}: has ${found.metadataBytes} bytes of metadata a block; format it without (--ms=0)`);
  return remoteGeometry(found, nvmNamespace, nvmController);
}

function remoteGeometry(
  found: NvmeGeometry,
  nvmNamespace: Uint8Array | undefined,
  nvmController: Uint8Array | undefined,
): RemoteGeometry {
  const tells = nvmController !== undefined && (nvmControllerCodec.decode(nvmController).aocs & AOCS_ALLOCATED) !== 0;
  const granule = nvmNamespace === undefined ? 0 : nvmNamespaceCodec.decode(nvmNamespace).tlbaag;
  return {
    blockSize: found.blockSize,
    blockCount: found.blockCount,
    transferBlocksMax: found.transferBytesMax / found.blockSize,
    volatileWriteCache: found.volatileWriteCache,
    readsZeroAfterDeallocate: found.readsZeroAfterDeallocate,
    readOnly: found.writeProtected,
    atomicBytes: found.atomicBytes,
    writeZeroesBlocksMax: found.writeZeroes ? found.writeZeroesBlocksMax : 0,
    deacSupported: found.deacSupported,
    deallocateBlocksMax: found.deallocates ? found.deallocateBlocksMax : 0,
    allocationBlocks: tells ? granule : 0,
  };
}

/** The initiator keeps the namespace object up to date; here it is compared with what is served. */
function follow(
  uri: string,
  subsystem: MultipathSubsystem,
  namespace: HostNamespace,
  backend: RemoteBackend,
  { onWarning, onResized }: OpenRemoteDeps,
): void {
  const { nsid } = namespace;
  let served = true;
  subsystem.on('namespacesChanged', () => {
    const serves = namespace.active && namespace.blockSize === backend.blockSize;
    if (served && !serves) {
      const what = namespace.active ? `has blocks of ${namespace.blockSize} bytes now` : 'is gone';
      onWarning?.(`${uri}: namespace ${nsid} ${what}; commands fail until it is as before`);
    }
    served = serves;
    if (!serves || namespace.blockCount === backend.blockCount) return;
    backend.resized(namespace.blockCount);
    onResized?.();
  });
  subsystem.on('path', ({ options, state }, error) => {
    if (state === 'live') return;
    onWarning?.(`${uri}: path ${options.address}:${options.port ?? NVMEOF_PORT} is ${state}`, error);
  });
  subsystem.on('identityMismatch', ({ options }) =>
    onWarning?.(`${uri}: path ${options.address} leads to another namespace ${nsid}; it is not used`),
  );
}
