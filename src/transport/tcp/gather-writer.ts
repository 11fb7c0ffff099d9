// @hot
/**
 * Hands many pieces to a socket in one call, without an object per piece. The addon writes them straight to the socket's descriptor, found by
 * number where they lie; node:net gets what the kernel does not take at once, and waits for it. Without the addon node:net gets all: the arrays and
 * entries that `Writable._writev` takes are kept and reused per thread. The writer is the only one that writes to its socket.
 */
import type { Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.ts';
import { nativeBinding } from '../../native/load.ts';
import { type Batch, GATHER_MAX } from './thread-buffers.ts';

interface Chunk {
  chunk: Uint8Array;
  encoding: BufferEncoding;
}
type ChunkArray = Chunk[] & { allBuffers?: boolean };

const EMPTY = new Uint8Array(0);
const entries: Chunk[] = Array.from({ length: GATHER_MAX }, () => ({
  chunk: EMPTY,
  encoding: 'buffer' as BufferEncoding,
}));
/** An array of each length, made when first needed: its length never changes, so it never grows again. */
const arrays: (ChunkArray | undefined)[] = new Array<ChunkArray | undefined>(GATHER_MAX + 1).fill(undefined);

/**
 * Looks at every view once, with nothing else to wait for in between: views of a large namespace are seldom in the cache, and the processor fetches
 * many at a time here, where node's writev would fetch one after the other.
 */
function touch(buffers: readonly Uint8Array[], count: number): number {
  let bytes = 0;
  for (let i = 0; i < count; i++) bytes = (bytes + buffers[i]!.length) | 0;
  return bytes;
}

/** What is left of a write, for node:net; one at a time per thread is filled. */
const rest: Uint8Array[] = [];

const NOTHING = new Uint8Array(0);
const fromHeap = (bytes: number): Uint8Array => new Uint8Array(bytes);

/** The descriptor is no documented part of a socket; without it node:net does all. */
interface WithDescriptor {
  readonly _handle: { readonly fd?: number } | null;
}

export class GatherWriter {
  readonly #socket: Socket;
  readonly #native: NativeBinding | undefined;
  readonly #fd: number;
  readonly #onWritten: (error?: Error | null) => void;
  readonly #onDrained: () => void;
  readonly #onError: (error: Error) => void;
  readonly #takeSpare: (bytes: number) => Uint8Array;
  #inCall = false;
  /** A write is still with the kernel: nothing may be written, and what was passed must not change. */
  busy = false;
  /** Bytes given to the kernel since the connection was made. */
  writtenBytes = 0;

  /**
   * @param onDrained a write that could not be finished at once is finished
   * @param onError the socket failed; called at most once per write
   * @param takeSpare at least so many bytes, for copies of what is left of a batch; its owner takes them back once the batch is written
   */
  constructor(
    socket: Socket,
    onDrained: () => void,
    onError: (error: Error) => void,
    useAddon: boolean = true,
    takeSpare: (bytes: number) => Uint8Array = fromHeap,
  ) {
    this.#socket = socket;
    this.#takeSpare = takeSpare;
    this.#fd = (socket as unknown as WithDescriptor)._handle?.fd ?? -1;
    this.#native = useAddon && this.#fd >= 0 ? nativeBinding() : undefined;
    this.#onDrained = onDrained;
    this.#onError = onError;
    this.#onWritten = (error) => {
      this.busy = false;
      if (error !== undefined && error !== null) this.#onError(error);
      else if (!this.#inCall) this.#onDrained();
    };
  }

  /** Batches may hold places in arenas. */
  get sendsByPlace(): boolean {
    return this.#native !== undefined;
  }

  /** Writes the pieces of `batch`; as `write`. */
  writeBatch(batch: Batch): boolean {
    const native = this.#native;
    if (batch.allViews && native === undefined) return this.write(batch.buffers, batch.bufferCount);
    let sent = 0;
    // a socket that was destroyed has no descriptor any more: its number may be another's
    if (native !== undefined && (this.#socket as unknown as WithDescriptor)._handle !== null) {
      sent = native.streamWrite(this.#fd, batch.table, batch.bufferCount, batch.buffers);
      if (sent === batch.totalBytes) {
        this.writtenBytes += sent;
        return true;
      }
    }
    // an error shows again when node:net tries
    const taken = Math.max(sent, 0);
    this.writtenBytes += taken;
    const copied = batch.restBytes(taken);
    batch.takeRest(taken, rest, copied === 0 ? NOTHING : this.#takeSpare(copied));
    const drained = this.write(rest, rest.length);
    rest.length = 0;
    return drained;
  }

  /**
   * Writes `buffers[0]` to `buffers[count - 1]`.
   * @returns true if the kernel took all; false if `busy` (the buffers stay in use until `onDrained`)
   */
  write(buffers: readonly Uint8Array[], count: number): boolean {
    this.busy = true;
    this.#inCall = true;
    if (count === 1) {
      this.writtenBytes += buffers[0]!.length;
      this.#socket._write(buffers[0], 'buffer' as BufferEncoding, this.#onWritten);
    } else {
      let array = arrays[count];
      if (array === undefined) {
        array = new Array<Chunk>(count) as ChunkArray;
        array.allBuffers = true;
      }
      arrays[count] = undefined;
      this.writtenBytes += touch(buffers, count);
      for (let i = 0; i < count; i++) {
        const entry = entries[i]!;
        entry.chunk = buffers[i]!;
        array[i] = entry;
      }
      this.#socket._writev!(array, this.#onWritten);
      // the stream has put the buffers themselves in the entries' places; while busy it still reads the array
      if (!this.busy) {
        array.fill(entries[0]!);
        arrays[count] = array;
      }
    }
    this.#inCall = false;
    return !this.busy;
  }
}
