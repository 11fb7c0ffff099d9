/** What a `HostNamespace` stands on: a controller, or a subsystem reached through several. */
import type { CommandDone } from '../transport/tcp/host-command.ts';
import type { NvmeofError } from '../util/error.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import type { PassthruCommand, PassthruResult } from './admin-queue.ts';
import type { HostController } from './controller.ts';

/** A context that may say that its commands are no longer wanted: they are not sent again then. */
export interface Cancellable {
  readonly cancelled: boolean;
}

/** The data path: `onDone` is called exactly once per command, with a 15-bit status (or one of the host's own above it). @public */
export interface IoSubmitter {
  /** Data of whole blocks; `buffer` is the submitter's until `onDone`. */
  submitRead(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): void;
  submitWrite(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    fua?: boolean,
  ): void;
  submitWriteZeroes(
    nsid: number,
    slba: number,
    blockCount: number,
    deallocate: boolean,
    onDone: CommandDone,
    context: unknown,
  ): void;
  submitFlush(nsid: number, onDone: CommandDone, context: unknown): void;
  /** Any I/O command. @param replayable it may be sent again if the connection is lost before it completes */
  submitRaw(
    sqe: DataView,
    direction: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    shortAllowed: boolean,
    replayable: boolean,
  ): void;
}

/** @public */
export interface NamespaceOwner {
  /** One controller that has the namespace: for Admin commands, and for I/O commands that must not be spread. @throws TransportError if there is none */
  controllerFor(nsid: number): HostController;
  readonly io: IoSubmitter;
  /** Most bytes of one command's data; `Infinity` if there is no limit. */
  readonly maxTransferBytes: number;
  identifyNamespace(nsid: number): Promise<IdentifyNamespace>;
  ioPassthru(command: PassthruCommand): Promise<PassthruResult>;
  /** What a failed I/O command means: for the promise calls of namespaces. */
  ioError(what: string, status: number, result: number): NvmeofError | undefined;
  /** The commands with this context are no longer wanted: aborts those in flight. @returns those that were taken back, without `onDone` */
  cancelIo(context: Cancellable): number;
}
