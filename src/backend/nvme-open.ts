/** Opens a namespace of a local SSD for serving: whose it is, whether somebody else uses it, what it can do, and whether it is still there. */
import fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { EngineChoice } from '../native/thread-engine.ts';
import { Cns } from '../spec/identify.ts';
import { ConfigError, NvmeStatusError } from '../util/error.ts';
import { decodeNamespaceDescriptors } from '../wire/cold/lists.ts';
import { deviceUsers } from './device-users.ts';
import { NvmeBackend } from './nvme.ts';
import { allocatedOfDevice } from './nvme-allocation.ts';
import { NvmeDevice, nvmeNodeKind } from './nvme-device.ts';
import { type NvmeGeometry, nvmeGeometry } from './nvme-geometry.ts';
import { NvmeHealth } from './nvme-health.ts';
import { NvmePassthrough } from './nvme-passthrough.ts';

export interface OpenNvmeOptions {
  readonly path: string;
  readonly readOnly?: boolean | undefined;
  readonly force?: boolean | undefined;
  readonly ioctl?: boolean | undefined;
}

export interface OpenNvmeDeps {
  /** Something an operator should know. */
  readonly onWarning?: ((message: string, error?: Error) => void) | undefined;
  /** The device was taken away: once. */
  readonly onGone?: ((path: string) => void) | undefined;
  readonly engine?: EngineChoice | undefined;
}

/** Where the kernel does not say: as many pages as one command takes everywhere. */
const QUEUE_BYTES_DEFAULT = 128 << 10;
const COMMAND_SETS: Readonly<Record<number, string>> = {
  1: 'key value',
  2: 'zoned',
  3: 'subsystem local memory',
  4: 'computational programs',
};

/** @throws ConfigError, NativeError, NvmeofError: one line naming the device and the remedy */
export async function openNvmeBackend(options: OpenNvmeOptions, deps: OpenNvmeDeps = {}): Promise<NvmeBackend> {
  const { path } = options;
  const kind = nvmeNodeKind(path);
  if (kind === undefined || kind === 'controller')
    throw new ConfigError(`${path}: is no namespace of an NVMe device; name one, such as /dev/ng0n1 or /dev/nvme0n1`);
  if (!fs.existsSync(path)) throw new ConfigError(`${path}: no such device`);
  const name = basename(path).replace(/^ng/, 'nvme');
  const claim = claimBlockDevice(path, name, options);
  let device: NvmeDevice | undefined;
  try {
    device = NvmeDevice.open(commandNode(path), { engine: deps.engine });
    return await serve(device, name, claim, options, deps);
  } catch (error) {
    device?.close();
    if (claim !== undefined) fs.closeSync(claim);
    throw error;
  }
}

/** The character device, which takes commands by io_uring, where there is one. */
function commandNode(path: string): string {
  const character = join(dirname(path), basename(path).replace(/^nvme/, 'ng'));
  return fs.existsSync(character) ? character : path;
}

/**
 * Holds the block device exclusively, so that nobody mounts it while it is served.
 * @returns its descriptor, or undefined if there is none (the namespace has no block device) or it is forced
 */
function claimBlockDevice(path: string, name: string, options: OpenNvmeOptions): number | undefined {
  const node = join(dirname(path), name);
  if (options.force === true || !fs.existsSync(node)) return undefined;
  const users = deviceUsers(name);
  const remedy = 'end that first, or serve it with force (whoever uses it then loses data)';
  if (users.length > 0) throw new ConfigError(`${path}: ${users.join(', ')}; ${remedy}`);
  try {
    return fs.openSync(node, fs.constants.O_RDONLY | fs.constants.O_EXCL);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EBUSY') throw new ConfigError(`${path}: is in use by something else on this machine; ${remedy}`);
    if (code === 'EACCES' || code === 'EPERM')
      throw new ConfigError(`${path}: no permission; run as root, or give this user access to the device`, {
        cause: error,
      });
    throw new ConfigError(`${path}: ${(error as Error).message}`, { cause: error });
  }
}

async function serve(
  device: NvmeDevice,
  name: string,
  claim: number | undefined,
  options: OpenNvmeOptions,
  deps: OpenNvmeDeps,
): Promise<NvmeBackend> {
  const { path } = options;
  const nsid = device.nsid();
  await refuseOtherCommandSets(device, nsid, path);
  const identify = (): Promise<NvmeGeometry> => geometryOf(device, nsid, path, queueBytesMax(name));
  const geometry = await identify();
  const ioctl = options.ioctl === true || !(await device.takesUring(nsid));
  if (ioctl && options.ioctl !== true)
    deps.onWarning?.(`${path}: the kernel takes its commands by ioctl only, each one on a thread`);
  let watch: (() => void) | undefined;
  const health = new NvmeHealth(device);
  await health.refresh();
  const passthrough = new NvmePassthrough(device, name.replace(/n\d+$/, ''), nsid);
  const backend = new NvmeBackend({
    health,
    passthrough,
    engine: device.engine,
    fd: device.fd,
    path,
    nsid,
    geometry,
    readOnly: options.readOnly === true,
    ioctl,
    identify,
    allocated: (from, end, runsMax) => allocatedOfDevice(device, nsid, geometry.blockSize, from, end, runsMax),
    onGone: () => watch?.(),
    release: async () => {
      stop();
      await health.stop();
      await passthrough.stop();
      device.engine.unregisterFile(device.fd);
      device.close();
      if (claim !== undefined) fs.closeSync(claim);
    },
  });
  device.engine.registerFile(device.fd);
  let told = false;
  const stop = watchNode(device.path, (check) => {
    watch = check;
    return () => {
      if (told) return;
      told = true;
      backend.markGone();
      deps.onGone?.(path);
    };
  });
  return backend;
}

/**
 * Calls what `wire` returns when the node is no longer there. Commands that the kernel cancels make it look again.
 * @param wire gets the function that looks
 * @returns ends it
 */
function watchNode(path: string, wire: (check: () => void) => () => void): () => void {
  const name = basename(path);
  let gone: () => void = () => {};
  const inode = fs.statSync(path).rdev;
  const check = (): void => {
    if (fs.statSync(path, { throwIfNoEntry: false })?.rdev !== inode) gone();
  };
  gone = wire(check);
  let watcher: fs.FSWatcher | undefined;
  try {
    watcher = fs.watch(dirname(path), { persistent: false }, (_event, changed) => {
      if (changed === null || changed === name) check();
    });
    watcher.on('error', () => watcher?.close());
  } catch {
    // no inotify to be had: the first command that fails tells
  }
  return () => watcher?.close();
}

async function refuseOtherCommandSets(device: NvmeDevice, nsid: number, path: string): Promise<void> {
  let csi: number | undefined;
  try {
    csi = decodeNamespaceDescriptors(await device.identify(Cns.NamespaceDescriptors, nsid)).csi;
  } catch (error) {
    if (!(error instanceof NvmeStatusError)) throw error; // before 1.3 there is the NVM command set only
  }
  if (csi === undefined || csi === 0) return;
  const what = COMMAND_SETS[csi] ?? `of command set ${csi}`;
  throw new ConfigError(`${path}: is a ${what} namespace; only namespaces of the NVM command set can be served`);
}

async function geometryOf(device: NvmeDevice, nsid: number, path: string, queueBytes: number): Promise<NvmeGeometry> {
  const optional = async (cns: number, of: number): Promise<Uint8Array | undefined> => {
    try {
      return await device.identify(cns, of);
    } catch (error) {
      if (error instanceof NvmeStatusError) return undefined; // a device that has no such structure
      throw error;
    }
  };
  const controller = await device.identify(Cns.Controller);
  const namespace = await device.identify(Cns.Namespace, nsid);
  const nvmNamespace = await optional(Cns.CommandSetNamespace, nsid);
  const nvmController = await optional(Cns.CommandSetController, 0);
  return nvmeGeometry(path, { controller, namespace, nvmNamespace, nvmController }, queueBytes);
}

/** What the kernel takes in one command: bytes, and pages that need not be neighbours. */
function queueBytesMax(name: string): number {
  const read = (file: string): number | undefined => {
    try {
      return Number(fs.readFileSync(`/sys/class/block/${name}/queue/${file}`, 'latin1'));
    } catch {
      return undefined;
    }
  };
  const kib = read('max_hw_sectors_kb');
  const segments = read('max_segments');
  if (kib === undefined || segments === undefined) return QUEUE_BYTES_DEFAULT;
  // a buffer that begins inside a page touches one page more, and each further segment of a gathered write two
  const pages = Math.max(1, segments - 1 - 2 * 8);
  return Math.min(kib * 1024, pages * 4096);
}
