// @hot
/**
 * Hands a host's batches to its socket so that a full socket leaves no garbage behind: what the kernel has not taken stays in the batch, and node:net gets
 * one piece of it, whose end says that there is room again. Without the addon node:net gets all.
 */
import type { Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.ts';
import { nativeBinding } from '../../native/load.ts';
import { GatherWriter } from './gather-writer.ts';
import type { Batch } from './thread-buffers.ts';

/** The descriptor is no documented part of a socket; without it node:net does all. */
interface WithDescriptor {
  readonly _handle: { readonly fd?: number } | null;
}

export class HostGatherWriter {
  readonly #socket: Socket;
  readonly #net: GatherWriter;
  readonly #native: NativeBinding | undefined;
  readonly #onDrained: () => void;
  readonly #onError: (error: Error) => void;
  /** What node:net gets of a batch. */
  readonly #piece: Uint8Array[] = [new Uint8Array(0)];
  /** The rest of it waits for room. */
  #waiting: Batch | undefined;
  /** The socket failed: nothing more is written. */
  #isLost = false;

  /**
   * @param onDrained a write that could not be finished at once is finished
   * @param onError the socket failed; called at most once per write
   */
  constructor(socket: Socket, onDrained: () => void, onError: (error: Error) => void, useAddon: boolean = true) {
    this.#socket = socket;
    this.#onDrained = onDrained;
    this.#onError = onError;
    this.#net = new GatherWriter(
      socket,
      () => this.#room(),
      (error) => this.#failed(error),
      useAddon,
    );
    this.#native = useAddon ? nativeBinding() : undefined;
  }

  /** Of the socket, once it connects; -1 where it has none, and when it is destroyed: its number may be another's then. */
  get #fd(): number {
    return (this.#socket as unknown as WithDescriptor)._handle?.fd ?? -1;
  }

  /** A write is still with the kernel: nothing may be written, and what was passed must not change. */
  get busy(): boolean {
    return this.#net.busy || this.#waiting !== undefined;
  }

  /** As `GatherWriter.write`. */
  write(buffers: readonly Uint8Array[], count: number): boolean {
    return this.#net.write(buffers, count);
  }

  /**
   * Writes the pieces of `batch`, which are parts of its slab and whole views.
   * @returns true if the kernel took all; false if `busy` (the batch is consumed bit by bit until `onDrained`)
   */
  writeBatch(batch: Batch): boolean {
    if (this.#native === undefined || this.#fd < 0) return this.#net.writeBatch(batch);
    return this.#send(batch);
  }

  #send(batch: Batch): boolean {
    const piece = this.#piece;
    while (batch.bufferCount !== 0) {
      const fd = this.#fd;
      const sent = fd < 0 ? 0 : this.#native!.streamWrite(fd, batch.table, batch.bufferCount, batch.buffers);
      if (sent === batch.totalBytes) break;
      // an error shows again when node:net tries
      piece[0] = batch.takeFirst(Math.max(sent, 0));
      if (!this.#net.write(piece, 1)) {
        this.#waiting = batch;
        return false;
      }
      if (this.#isLost) break;
    }
    this.#waiting = undefined;
    return true;
  }

  /** node:net's piece is with the kernel. */
  #room(): void {
    const batch = this.#waiting;
    if (batch !== undefined && !this.#socket.destroyed && !this.#send(batch)) return;
    this.#waiting = undefined;
    this.#onDrained();
  }

  #failed(error: Error): void {
    this.#isLost = true;
    this.#waiting = undefined;
    this.#onError(error);
  }
}
