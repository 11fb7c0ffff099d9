/** The path of a socket: listening there, whatever a killed process left, and what is said when it cannot be. */
import fs from 'node:fs';
import { FdSocket, FdSocketServer } from '../../native/fd-socket.ts';
import { NativeError } from '../../native/native-error.ts';
import { ConfigError } from '../../util/error.ts';

/** A socket that a killed process left is in the way of its successor. */
export function listenAt(
  path: string,
  onConnection: (fd: number) => void,
  onError: (error: Error) => void,
): FdSocketServer {
  try {
    return new FdSocketServer(path, onConnection, onError);
  } catch (error) {
    if (!(error instanceof NativeError) || error.errno !== 'EADDRINUSE') throw socketError(path, error);
  }
  if (!isStale(path)) throw new ConfigError(`Socket ${path}: is in use by another program; choose another path`);
  fs.rmSync(path);
  try {
    return new FdSocketServer(path, onConnection, onError);
  } catch (error) {
    throw socketError(path, error);
  }
}

function isStale(path: string): boolean {
  if (!fs.lstatSync(path).isSocket()) return false;
  try {
    FdSocket.connect(path, { onReadable() {}, onClose() {} }).close();
    return false;
  } catch (error) {
    return error instanceof NativeError && error.errno === 'ECONNREFUSED';
  }
}

export function socketError(path: string, error: unknown): unknown {
  if (!(error instanceof NativeError) || error.errno === undefined) return error;
  const remedy =
    error.errno === 'ENOENT'
      ? 'the directory does not exist'
      : error.errno === 'EACCES'
        ? 'no permission to make it there'
        : error.errno === 'ENAMETOOLONG' || error.errno === 'EINVAL'
          ? 'the path is too long for a socket, 107 bytes are allowed'
          : `it cannot be made (${error.errno})`;
  return new ConfigError(`Socket ${path}: ${remedy}`, { cause: error });
}
