/** Opens, makes or grows the file of a file backend; every way that can go wrong is one line with its remedy. */
import fs from 'node:fs';
import { dirname, resolve } from 'node:path';
import { promisify } from 'node:util';
import { ConfigError } from '../util/error.ts';
import { FileBackend, type FileCalls } from './file.ts';
import { lockFile } from './file-lock.ts';
import { openHolePunch } from './hole-punch.ts';

// plain descriptors: a FileHandle that is garbage collected would close the file under the backend
const openFd = promisify(fs.open);
const closeFd = promisify(fs.close);
const fstat = promisify(fs.fstat);
const ftruncate = promisify(fs.ftruncate);
const fsync = promisify(fs.fsync);
const unlink = promisify(fs.unlink);

export interface OpenFileOptions {
  readonly path: string;
  readonly blockSize: number;
  /** Needed to make the file; a smaller existing file grows to it, a larger one is refused. Default: what the file has. */
  readonly sizeBytes?: number | undefined;
  readonly readOnly?: boolean | undefined;
}

export interface OpenFileDeps {
  /** Something an operator should know: the file cannot be locked, completed writes may be lost. */
  readonly onWarning?: ((message: string, error?: Error) => void) | undefined;
  readonly calls?: FileCalls | undefined;
  /** False: as where there is no `fallocate` program. For tests. */
  readonly holePunch?: boolean | undefined;
}

/** @throws ConfigError naming the file, what is wrong with it, and the remedy */
export async function openFileBackend(options: OpenFileOptions, deps: OpenFileDeps = {}): Promise<FileBackend> {
  const path = resolve(options.path);
  const readOnly = options.readOnly ?? false;
  if (options.sizeBytes !== undefined) checkSize(path, options.sizeBytes, options.blockSize);
  const { fd, made } = await openOrMake(path, options.sizeBytes !== undefined, readOnly);
  try {
    await checkRegular(fd, path);
    await lock(fd, path, readOnly, deps);
    const sizeBytes = await adoptSize(fd, path, made, options);
    const holePunch = readOnly || deps.holePunch === false ? undefined : await openHolePunch(fd, sizeBytes);
    return new FileBackend({
      fd,
      path,
      blockSize: options.blockSize,
      blockCount: sizeBytes / options.blockSize,
      readOnly,
      holePunch,
      calls: deps.calls,
      onFault: (error) =>
        deps.onWarning?.(
          `Completed writes to ${path} may be lost (${error.message}); flushes fail until it is reopened`,
          error,
        ),
    });
  } catch (error) {
    await closeFd(fd);
    // nobody had a lock on it, so nobody uses what we made
    if (made) await unlink(path);
    throw failure(path, error);
  }
}

async function openOrMake(path: string, mayMake: boolean, readOnly: boolean): Promise<{ fd: number; made: boolean }> {
  const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL } = fs.constants;
  try {
    return { fd: await openFd(path, readOnly ? O_RDONLY : O_RDWR), made: false };
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

async function checkRegular(fd: number, path: string): Promise<void> {
  const stat = await fstat(fd);
  if (stat.isFile()) return;
  const what = stat.isDirectory() ? 'a directory' : stat.isBlockDevice() ? 'a block device' : 'not a regular file';
  throw new ConfigError(`${path}: is ${what}; a file backend takes a regular file`);
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

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

function failure(path: string, error: unknown, readOnly = false): ConfigError {
  if (error instanceof ConfigError) return error;
  return new ConfigError(`${path}: ${reason(error, readOnly)}`, { cause: error });
}

function reason(error: unknown, readOnly: boolean): string {
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
    case 'EFBIG':
      return 'the size is more than its file system allows for one file';
    case 'EMFILE':
    case 'ENFILE':
      return 'too many open files; raise the limit (ulimit -n)';
    default:
      return error instanceof Error ? error.message : String(error);
  }
}
