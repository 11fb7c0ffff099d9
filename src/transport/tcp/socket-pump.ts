// @hot
/**
 * Tells all connections of this thread that bytes are there, in one callback per turn of the loop: the addon's epoll instance watches their
 * sockets, and node's loop watches that. Their owners then read by `streamRead`. node:net keeps the sockets, closes them, and does not read.
 */
import { closeSync } from 'node:fs';
import { type NativeBinding, type NativeWatcher, WatchEvent } from '../../native/binding.ts';
import { nativeBinding } from '../../native/load.ts';
import { checked } from '../../native/native-error.ts';

/** Whose socket it is. */
export interface PumpMember {
  /** Bytes are there, or the end of the stream, or maybe nothing. @param alone no other socket of the thread has bytes now */
  readable(alone: boolean): void;
}

/** Events looked at per turn. */
const EVENTS_MAX = 256;

export class SocketPump {
  readonly binding: NativeBinding;
  #epoll = -1;
  #watcher: NativeWatcher | undefined;
  /** By token. */
  readonly #members: (PumpMember | undefined)[] = [];
  readonly #fds: number[] = [];
  readonly #watched: boolean[] = [];
  readonly #free: number[] = [];
  #count = 0;
  readonly #events: Uint32Array = new Uint32Array(EVENTS_MAX);

  constructor(binding: NativeBinding) {
    this.binding = binding;
  }

  /** Sockets that it watches, paused ones too. */
  get size(): number {
    return this.#count;
  }

  /**
   * Watches a socket, which stays its owner's; `remove` it before it is closed.
   * @returns the token for the calls below
   * @throws NativeError
   */
  add(fd: number, member: PumpMember): number {
    if (this.#count === 0) this.#open();
    const token = this.#free.pop() ?? this.#members.length;
    this.#members[token] = member;
    this.#fds[token] = fd;
    this.#watched[token] = false;
    this.#count++;
    try {
      this.resume(token);
    } catch (error) {
      this.remove(token);
      throw error;
    }
    return token;
  }

  /** The peer has to wait: nothing is told until `resume`, not even that the connection broke. */
  pause(token: number): void {
    if (!this.#watched[token]) return;
    this.#watched[token] = false;
    this.binding.epollRemove(this.#epoll, this.#fds[token]!);
  }

  resume(token: number): void {
    if (this.#watched[token]) return;
    checked(this.binding.epollAdd(this.#epoll, this.#fds[token]!, token), 'epoll_ctl', 'A socket cannot be watched');
    this.#watched[token] = true;
  }

  remove(token: number): void {
    if (this.#members[token] === undefined) return;
    this.pause(token);
    this.#members[token] = undefined;
    this.#free.push(token);
    this.#count--;
    if (this.#count === 0) this.#close();
  }

  #open(): void {
    this.#epoll = checked(this.binding.epollCreate(), 'epoll_create1', 'Sockets cannot be watched');
    this.#watcher = new this.binding.Watcher(this.#epoll, () => this.#ready());
    checked(this.#watcher.start(WatchEvent.Readable), 'epoll_ctl', 'Sockets cannot be watched');
    this.#watcher.ref();
  }

  #close(): void {
    this.#watcher!.close();
    this.#watcher = undefined;
    closeSync(this.#epoll);
    this.#epoll = -1;
  }

  #ready(): void {
    const events = this.#events;
    const ready = this.binding.epollWait(this.#epoll, events);
    for (let i = 0; i < ready; i++) {
      const token = events[i]!;
      // one before it may have closed or paused it, or have closed it and opened another
      if (this.#watched[token]) this.#members[token]!.readable(ready === 1);
    }
  }
}

let pump: SocketPump | undefined;

/** That of this thread; undefined without the addon. */
export function socketPump(): SocketPump | undefined {
  if (pump === undefined) {
    const binding = nativeBinding();
    if (binding !== undefined) pump = new SocketPump(binding);
  }
  return pump;
}
