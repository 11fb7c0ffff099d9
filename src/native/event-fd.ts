/** eventfd(2): how VMs and their devices signal each other. */
import fs from 'node:fs';
import { type NativeBinding, type NativeWatcher, WatchEvent } from './binding.ts';
import { requireNative } from './load.ts';
import { checked, NativeError } from './native-error.ts';

/** Owns its descriptor. @public */
export class EventFd {
  readonly fd: number;
  readonly #binding: NativeBinding;
  #watcher: NativeWatcher | undefined;
  #closed = false;

  /** @param fd one that was received, and is owned from now on; absent: a new one. @throws NativeError */
  constructor(fd?: number) {
    this.#binding = requireNative('An eventfd');
    this.fd = fd ?? checked(this.#binding.eventfdCreate(0), 'eventfd', 'An eventfd cannot be made');
  }

  /**
   * Takes over a descriptor that a peer sent. It must be an eventfd, which does not keep us waiting when it is full.
   * @throws NativeError EINVAL if it is something else; it is closed then
   */
  static adopt(fd: number): EventFd {
    try {
      if (fs.readlinkSync(`/proc/self/fd/${fd}`) !== 'anon_inode:[eventfd]')
        throw new NativeError(`Descriptor ${fd} is no eventfd`, { errno: EINVAL, syscall: 'eventfd' });
      const { setNonBlocking } = requireNative('An eventfd');
      if (setNonBlocking !== undefined) checked(setNonBlocking(fd), 'fcntl', `Eventfd ${fd}`);
      return new EventFd(fd);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  /** Adds 1. False if that would overflow (nobody reads). @throws NativeError if it is closed, or no eventfd */
  signal(): boolean {
    const result = this.#binding.eventfdWrite(this.fd, 1);
    if (result === 0) return true;
    if (result === EAGAIN) return false;
    checked(result, 'write', `Eventfd ${this.fd} cannot be signalled`);
    return false;
  }

  /** Signals since the last call. @throws NativeError */
  take(): number {
    return checked(this.#binding.eventfdRead(this.fd), 'read', `Eventfd ${this.fd} cannot be read`);
  }

  /** Calls `signalled` with the count each time it is signalled, until `close`. It keeps the event loop alive. */
  watch(signalled: (count: number) => void): void {
    this.#watcher?.close();
    this.#watcher = new this.#binding.Watcher(this.fd, () => {
      const count = this.take();
      if (count > 0) signalled(count);
    });
    this.#watcher.ref();
    checked(this.#watcher.start(WatchEvent.Readable), 'epoll_ctl', `Eventfd ${this.fd} cannot be watched`);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher?.close();
    fs.closeSync(this.fd);
  }
}

const EAGAIN = -11;
const EINVAL = 22;
