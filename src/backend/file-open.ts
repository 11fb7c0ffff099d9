/** Opens, makes or grows the file of a file backend; every way that can go wrong is one line with its remedy. */
import fs from 'node:fs';
import { dirname, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { NativeBlockDevice } from '../native/binding.ts';
import { lockFile } from '../native/file-lock.ts';
import { requireNative } from '../native/load.ts';
import { errnoName } from '../native/native-error.ts';
import type { EngineChoice } from '../native/thread-engine.ts';
import { ConfigError, NvmeofError } from '../util/error.ts';
import { blockDeviceName, deviceUsers } from './device-users.ts';
import { FileBackend, type FileCalls } from './file.ts';
import { type FileAccess, openFileAccess } from './file-access.ts';

// plain descriptors: a FileHandle that is garbage collected would close the file under the backend
const openFd = promisify(fs.open);
const closeFd = promisify(fs.close);
const fstat = promisify(fs.fstat);
const ftruncate = promisify(fs.ftruncate);
const fsync = promisify(fs.fsync);
const unlink = promisify(fs.unlink);

export interface OpenFileOptions {
  /** A regular file, or (with the native addon) a block device. */
  readonly path: string;
  readonly blockSize: number;
  /** Needed to make the file; a smaller existing file grows to it, a larger one is refused. Default: what the file has. Not for devices. */
  readonly sizeBytes?: number | undefined;
  readonly readOnly?: boolean | undefined;
  /** Past the page cache (O_DIRECT); needs the native addon. */
  readonly direct?: boolean | undefined;
  /** Serve a block device that is mounted or part of something. */
  readonly force?: boolean | undefined;
}

export interface OpenFileDeps {
  /** Something an operator should know: the file cannot be locked, completed writes may be lost. */
  readonly onWarning?: ((message: string, error?: Error) => void) | undefined;
  /** Default: the addon's, or node:fs without it. */
  readonly calls?: FileCalls | undefined;
  /** False: as where there is no `fallocate` program. For tests. */
  readonly holePunch?: boolean | undefined;
  /** Who does the I/O; default `auto`. */
  readonly engine?: EngineChoice | undefined;
}

/** @throws ConfigError naming the file, what is wrong with it, and the remedy; NativeError if the engine asked for is not to be had */
export async function openFileBackend(options: OpenFileOptions, deps: OpenFileDeps = {}): Promise<FileBackend> {
  const path = resolve(options.path);
  const readOnly = options.readOnly ?? false;
  if (options.sizeBytes !== undefined) checkSize(path, options.sizeBytes, options.blockSize);
  const { fd, made } = await openOrMake(path, options.sizeBytes !== undefined, readOnly, options.force === true);
  let access: FileAccess | undefined;
  try {
    const device = await checkKind(fd, path, options);
    await lock(fd, path, readOnly, deps);
    const sizeBytes = device === undefined ? await adoptSize(fd, path, made, options) : device.sizeBytes;
    access = await openFileAccess(fd, { ...options, path, readOnly, sizeBytes, device: device !== undefined }, deps);
    return new FileBackend({
      fd,
      path,
      blockSize: options.blockSize,
      blockCount: sizeBytes / options.blockSize,
      readOnly,
      ...access,
      onFault: (error) =>
        deps.onWarning?.(
          `Completed writes to ${path} may be lost (${error.message}); flushes fail until it is reopened`,
          error,
        ),
    });
  } catch (error) {
    await access?.holePunch?.close();
    await access?.release();
    await closeFd(fd);
    // nobody had a lock on it, so nobody uses what we made
    if (made) await unlink(path);
    throw failure(path, error);
  }
}

async function openOrMake(
  path: string,
  mayMake: boolean,
  readOnly: boolean,
  force: boolean,
): Promise<{ fd: number; made: boolean }> {
  const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL } = fs.constants;
  try {
    // on a block device, O_EXCL claims it against mounts and everything that stands on disks, for as long as we have it open
    const claim = isBlockDevice(path) && !force ? O_EXCL : 0;
    return { fd: await openFd(path, (readOnly ? O_RDONLY : O_RDWR) | claim), made: false };
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || !mayMake || readOnly) throw failure(path, error, readOnly);
  }
  try {
    // a namespace's data are for its owner only
    return { fd: await openFd(path, O_RDWR | O_CREAT | O_EXCL, 0o600), made: true };
  } catch (error) {
    if (codeOf(error) === 'ENOENT')
      throw new ConfigError(`${path}: no such directory ${dirname(path)}; create it first`, { cause: error });
    throw failure(path, error);
  }
}

function isBlockDevice(path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true;
}

/** @returns the block device, or undefined for a regular file */
async function checkKind(fd: number, path: string, options: OpenFileOptions): Promise<NativeBlockDevice | undefined> {
  const stat = await fstat(fd);
  if (stat.isFile()) return undefined;
  if (!stat.isBlockDevice()) {
    const what = stat.isDirectory() ? 'a directory' : 'not a regular file';
    throw new ConfigError(`${path}: is ${what}; a file backend takes a regular file or a block device`);
  }
  const device = requireNative(`${path}: a block device`).blockDevice(fd);
  if (typeof device === 'number') throw new ConfigError(`${path}: does not tell its size (${errnoName(device)})`);
  if (options.sizeBytes !== undefined && options.sizeBytes !== device.sizeBytes)
    throw new ConfigError(`${path}: is a block device of ${device.sizeBytes} bytes; give no size`);
  if (device.readOnly && options.readOnly !== true)
    throw new ConfigError(`${path}: is a read-only block device; serve it read-only`);
  if (options.blockSize < device.logicalBlockSize) {
    const logical = device.logicalBlockSize;
    throw new ConfigError(
      `${path}: has sectors of ${logical} bytes, not ${options.blockSize}; use block size ${logical}`,
    );
  }
  if (device.sizeBytes === 0 || device.sizeBytes % options.blockSize !== 0)
    throw new ConfigError(
      `${path}: ${device.sizeBytes} bytes are not a multiple of the block size ${options.blockSize}; use block size ${device.logicalBlockSize}`,
    );
  return device;
}

async function lock(fd: number, path: string, shared: boolean, deps: OpenFileDeps): Promise<void> {
  const result = await lockFile(fd, shared);
  if (result === 'held') {
    throw new ConfigError(
      `${path}: is in use by another nvmeferry (or by whoever holds its flock); stop that one, or take another file`,
    );
  }
  if (result === 'unavailable') {
    deps.onWarning?.(
      `${path} is not protected against a second user: flock(1) of util-linux is missing or does not work there`,
    );
  }
}

/** Gives the file its size. @returns it */
async function adoptSize(fd: number, path: string, made: boolean, options: OpenFileOptions): Promise<number> {
  const found = (await fstat(fd)).size;
  const wanted = options.sizeBytes ?? found;
  if (wanted === 0) throw new ConfigError(`${path}: is empty; give a size`);
  if (found > wanted) {
    throw new ConfigError(
      `${path}: has ${found} bytes, size says ${wanted}; give no size, or one of at least ${found}`,
    );
  }
  if (options.readOnly === true && found < wanted) {
    throw new ConfigError(
      `${path}: has ${found} bytes, size says ${wanted}; a read-only file does not grow, give no size`,
    );
  }
  checkSize(path, wanted, options.blockSize);
  if (found < wanted) {
    await ftruncate(fd, wanted);
    await fsync(fd);
  }
  if (made) await syncDirectory(dirname(path));
  return wanted;
}

/** Without this, a crash could take the new file's name away. */
async function syncDirectory(path: string): Promise<void> {
  const fd = await openFd(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  try {
    await fsync(fd);
  } finally {
    await closeFd(fd);
  }
}

function checkSize(path: string, sizeBytes: number, blockSize: number): void {
  if (sizeBytes % blockSize === 0) return;
  const rounded = Math.ceil(sizeBytes / blockSize) * blockSize;
  throw new ConfigError(
    `${path}: ${sizeBytes} bytes are not a multiple of the block size ${blockSize}; use size ${rounded}, or block size 512`,
  );
}

/** Linux numbers devices so in `st_rdev`. */
const major = (rdev: number): number => ((rdev >>> 8) & 0xfff) | (Math.floor(rdev / 0x1_0000_0000) & ~0xfff);
const minor = (rdev: number): number => (rdev & 0xff) | ((rdev >>> 12) & 0xf_ff00);

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

function failure(path: string, error: unknown, readOnly = false): NvmeofError {
  if (error instanceof NvmeofError) return error;
  return new ConfigError(`${path}: ${reason(path, error, readOnly)}`, { cause: error });
}

function reason(path: string, error: unknown, readOnly: boolean): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return readOnly ? 'no such file' : 'no such file; create it, or give a size to have it made';
    case 'EACCES':
    case 'EPERM':
      return 'no permission; give this user read and write access to the file and its directory, or serve it read-only';
    case 'EROFS':
      return 'is on a read-only file system; serve it read-only';
    case 'EISDIR':
      return 'is a directory; a file backend takes a regular file';
    case 'ENOSPC':
    case 'EDQUOT':
      return 'no room on its file system';
    case 'EBUSY': {
      const stat = fs.statSync(path, { throwIfNoEntry: false });
      const number = stat?.isBlockDevice() ? Number(stat.rdev) : undefined;
      const name = number === undefined ? undefined : blockDeviceName(major(number), minor(number));
      const users = name === undefined ? [] : deviceUsers(name);
      const who = users.length === 0 ? 'is in use by something else on this machine' : users.join(', ');
      return `${who}; end that first, or serve it with force (whoever uses it then loses data)`;
    }
    case 'EFBIG':
      return 'the size is more than its file system allows for one file';
    case 'EMFILE':
    case 'ENFILE':
      return 'too many open files; raise the limit (ulimit -n)';
    default:
      return error instanceof Error ? error.message : String(error);
  }
}
