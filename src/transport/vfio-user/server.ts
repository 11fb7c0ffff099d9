/**
 * A PCI function behind a Unix socket, for one VMM at a time: QEMU's vfio-user-pci, cloud-hypervisor. A client that goes leaves the function as it is,
 * stopped and without memory; the next one maps its memory, and the function goes on when that client uses it, or from the start if it resets it.
 */
import fs from 'node:fs';
import type { FdSocketServer } from '../../native/fd-socket.ts';
import { type Clock, systemClock, type Timer } from '../../util/clock.ts';
import type { PciFunction } from '../pcie/pci-function.ts';
import { type ConnectionOwner, VfioUserConnection } from './connection.ts';
import type { DmaTable } from './dma-table.ts';
import { RunState } from './run-state.ts';
import { listenAt } from './socket-path.ts';

/** @public */
export interface VfioUserServerOptions {
  /** Of the socket. A stale one of a process that is gone is replaced. */
  readonly path: string;
  /** Stays its owner's: `close` leaves it. */
  readonly function: PciFunction;
  /**
   * Writes to guest memory go by DMA_WRITE messages, one by one, instead of through the mapping: slower, and the only ones that QEMU's dirty
   * bitmap sees. Default false.
   */
  readonly dmaByMessage?: boolean | undefined;
  /** How long commands of a client that went may take to end before the function is reset. Default 10 s. */
  readonly quietTimeoutMs?: number | undefined;
  readonly clock?: Clock | undefined;
  readonly onConnected?: (() => void) | undefined;
  readonly onDisconnected?: ((reason: string, error: Error | undefined) => void) | undefined;
  /** Something that an operator should know. */
  readonly onWarning?: ((message: string, error?: Error) => void) | undefined;
}

const QUIET_TIMEOUT_MS = 10_000;

/** @public */
export class VfioUserServer {
  readonly path: string;
  readonly #options: VfioUserServerOptions;
  readonly #clock: Clock;
  readonly #function: PciFunction;
  readonly #run: RunState;
  readonly #server: FdSocketServer;
  #connection: VfioUserConnection | undefined;
  /** The memory of a client that went, while commands may still write into it. */
  #leaving: Promise<void> | undefined;
  /** Connected while that is so: served afterwards. */
  #next: number | undefined;
  #workDue = false;
  #closing: Promise<void> | undefined;

  /** Listens. @throws ConfigError if the path cannot be used, NativeError */
  constructor(options: VfioUserServerOptions) {
    this.path = options.path;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#function = options.function;
    this.#run = new RunState(options.function);
    this.#server = listenAt(
      options.path,
      (fd) => this.#accept(fd),
      (error) => options.onWarning?.(`Socket ${options.path}: no connection could be taken`, error),
    );
    this.#function.onWork = () => this.#work();
  }

  get isConnected(): boolean {
    return this.#connection !== undefined;
  }

  // ---- clients

  #accept(fd: number): void {
    if (this.#closing !== undefined || this.#connection !== undefined || this.#next !== undefined) {
      fs.closeSync(fd);
      this.#options.onWarning?.(`Socket ${this.path}: a second client was turned away, the first is still there`);
      return;
    }
    if (this.#leaving === undefined) this.#serve(fd);
    else this.#next = fd;
  }

  #serve(fd: number): void {
    // what the function does for nobody, it must not do to this client's memory: not before the client uses it
    this.#run.stop(() => {});
    const owner: ConnectionOwner = {
      function: this.#function,
      run: this.#run,
      dmaByMessage: this.#options.dmaByMessage === true,
      used: () => this.#used(),
      work: () => this.#work(),
      closed: (reason, error) => this.#closed(reason, error),
      warning: (message) => this.#options.onWarning?.(message),
    };
    this.#used = this.#goOn;
    this.#connection = new VfioUserConnection(fd, owner);
    this.#options.onConnected?.();
  }

  /** The first time a client uses the device; then nothing. */
  #used: () => void = nothing;

  readonly #goOn = (): void => {
    this.#used = nothing;
    this.#run.resume();
  };

  #closed(reason: string, error: Error | undefined): void {
    const { dma } = this.#connection!;
    this.#connection = undefined;
    this.#used = nothing;
    this.#leaving = this.#leave(dma).finally(() => {
      this.#leaving = undefined;
      const next = this.#next;
      this.#next = undefined;
      if (next === undefined) return;
      if (this.#closing === undefined) this.#serve(next);
      else fs.closeSync(next);
    });
    this.#options.onDisconnected?.(reason, error);
  }

  /** Commands that were fetched end in the memory of their client; then that is given up. */
  async #leave(dma: DmaTable): Promise<void> {
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      timer = this.#clock.setTimer(() => {
        this.#options.onWarning?.(
          `Socket ${this.path}: commands of a client that went did not end, the function is reset`,
        );
        this.#run.reset();
        resolve();
      }, this.#options.quietTimeoutMs ?? QUIET_TIMEOUT_MS);
      this.#run.stop(resolve);
    });
    timer?.cancel();
    await dma.close();
  }

  // ---- work

  /** Once per turn, behind all messages and completions that are there: doorbells and interrupts coalesce. */
  #work(): void {
    if (this.#workDue) return;
    this.#workDue = true;
    setImmediate(this.#runOnce);
  }

  readonly #runOnce = (): void => {
    this.#workDue = false;
    if (this.#function.run()) this.#work();
    this.#connection?.worked();
  };

  /** Disconnects the client and listens no more; the path is free. Idempotent. The function stays. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#server.close();
    this.#connection?.close('the server is closed');
    await this.#leaving;
    this.#function.onWork = nothing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function nothing(): void {}
