/**
 * Gives an accepted socket one static read buffer, as `onread` does for sockets that connect. `net.Server` has no such option, so the accepted
 * handle moves into a new Socket. Where this Node does not allow that, the socket stays as it is and its 'data' events serve instead: slower,
 * same behaviour.
 */
import { Socket } from 'node:net';

interface WithHandle {
  _handle: unknown;
  _server?: unknown;
  server?: unknown;
}

/**
 * @param accepted a socket of a server with `pauseOnConnect`
 * @param nextBuffer where the kernel's next bytes go; asked before each read
 * @param onBytes `length` bytes are at the start of `buffer`, and must be consumed before it returns; false stops reading until `resume()`
 */
export function adoptSocket(
  accepted: Socket,
  nextBuffer: () => Uint8Array,
  onBytes: (length: number, buffer: Uint8Array) => boolean,
  allowHandleMove: boolean = true,
): Socket {
  const internals = accepted as unknown as WithHandle;
  const handle = internals._handle;
  if (allowHandleMove && typeof handle === 'object' && handle !== null && 'useUserBuffer' in handle) {
    const socket = new Socket({
      handle,
      allowHalfOpen: false,
      pauseOnCreate: true,
      onread: { buffer: nextBuffer, callback: onBytes },
    } as ConstructorParameters<typeof Socket>[0]);
    // the server counts its connections by this field
    (socket as unknown as WithHandle)._server = internals._server;
    (socket as unknown as WithHandle).server = internals.server;
    internals._handle = null;
    internals._server = null;
    return socket;
  }
  accepted.on('data', (chunk: Uint8Array) => {
    let more = true;
    for (let offset = 0; offset < chunk.length; ) {
      const buffer = nextBuffer();
      const piece = chunk.subarray(offset, offset + buffer.length);
      buffer.set(piece);
      more = onBytes(piece.length, buffer);
      offset += piece.length;
    }
    if (!more) accepted.pause();
  });
  return accepted;
}
