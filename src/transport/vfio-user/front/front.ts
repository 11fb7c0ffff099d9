/**
 * Holds a VM's connection, with the descriptors of its memory and its interrupts, while the controller behind it comes, goes and changes: QEMU connects
 * once, and never again. Messages pass in order; the controller reaches memory and signals interrupts directly, past the front.
 *
 * Accesses of the guest reach a controller while the front is *open*: a controller is there, and nobody has paused it. Otherwise they are held. Memory
 * and interrupts are the front's own to know, so they are answered at any time: QEMU gives up the VM if a map fails.
 */
import fs from 'node:fs';
import type { FdSocketServer } from '../../../native/fd-socket.ts';
import { NativeError } from '../../../native/native-error.ts';
import { Property } from '../../../spec/property.ts';
import { Errno, RegionIndex, VFIO_USER_HEADER_BYTES, VfioUserCommand, VfioUserFlag } from '../../../spec/vfio-user.ts';
import { type Clock, systemClock, type Timer } from '../../../util/clock.ts';
import { ConfigError, TransportError } from '../../../util/error.ts';
import { messageCommand, messageErrno, messageFlags } from '../../../wire/vfio-user.ts';
import { MessageLink } from '../client/message-link.ts';
import { access } from '../client/vfio-user-client.ts';
import type { MessageReader } from '../message-reader.ts';
import { listenAt } from '../socket-path.ts';
import { errnoOf, invalid } from '../vfio-user-error.ts';
import { describeDevice, describeVersion } from './description.ts';
import { checkProfile, type DeviceProfile, readProfile } from './device-profile.ts';
import { DmaLedger, type HeldFile } from './dma-ledger.ts';
import { EnableWatch } from './enable-watch.ts';
import { type FrontEvent, type FrontStatus, PATIENCE_MS_DEFAULT, type VfioUserFrontOptions } from './front-options.ts';
import { HeldMessages } from './held-messages.ts';
import { answered, takesNoAnswer, viewOf } from './held-request.ts';
import { inTwoHalves } from './in-two-halves.ts';
import { IrqLedger } from './irq-ledger.ts';
import { replay } from './replay.ts';
import { VmSide } from './vm-side.ts';

/** What the front answers itself: memory and interrupts at any time, what the device is once it knows. */
const SET_UP: ReadonlySet<number> = new Set([
  VfioUserCommand.DmaMap,
  VfioUserCommand.DmaUnmap,
  VfioUserCommand.DeviceSetIrqs,
]);
const DESCRIBED: ReadonlySet<number> = new Set([
  VfioUserCommand.Version,
  VfioUserCommand.DeviceGetInfo,
  VfioUserCommand.DeviceGetRegionInfo,
  VfioUserCommand.DeviceGetIrqInfo,
]);

const JOIN_TIMEOUT_MS = 5000;
const RETRY_MS = 50;
const BAR = 0;
const NO_BYTES = new Uint8Array(0);

/** @public */
export class VfioUserFront {
  readonly path: string;
  readonly #options: VfioUserFrontOptions;
  readonly #clock: Clock;
  readonly #patienceMs: number;
  readonly #server: FdSocketServer;
  readonly #memory = new DmaLedger();
  readonly #interrupts = new IrqLedger();
  readonly #held = new HeldMessages();
  readonly #watch = new EnableWatch();
  #controllerPath: string;
  #vm: VmSide | undefined;
  #versionKnown = false;
  /** What the VM was told. */
  #profile: DeviceProfile | undefined;
  /** Joined: it has the VM's memory and interrupts. */
  #link: MessageLink | undefined;
  /** It is being given them. */
  #joining: MessageLink | undefined;
  #paused = false;
  /** Accesses pass. */
  #open = false;
  /** Accesses that a controller took with it, unanswered. */
  #unanswered: Uint8Array[] = [];
  /** DMA messages of the controller that the VM has not answered; and of controllers that are gone. */
  #dmaAsked = 0;
  #dmaStale = 0;
  /** One change at a time. */
  #turn: Promise<unknown> = Promise.resolve();
  #retry: Timer | undefined;
  #patience: Timer | undefined;
  #waitedFor = false;
  #closing: Promise<void> | undefined;

  /** Listens. @throws ConfigError if the path cannot be used, NativeError */
  constructor(options: VfioUserFrontOptions) {
    this.path = options.path;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#patienceMs = options.patienceMs ?? PATIENCE_MS_DEFAULT;
    this.#controllerPath = options.controller;
    this.#server = listenAt(
      options.path,
      (fd) => this.#accept(fd),
      (error) => this.#tell('warning', `Socket ${options.path}: no connection could be taken`, error),
    );
  }

  #tell(event: FrontEvent['event'], message: string, error?: unknown): void {
    this.#options.onEvent?.(error === undefined ? { event, message } : { event, message, error });
  }

  // ---- control --------------------------------------------------------------------------------------------------------------------

  status(): FrontStatus {
    return {
      vm: this.#vm === undefined ? 'none' : 'connected',
      controller: { socket: this.#controllerPath, state: this.#link === undefined ? 'away' : 'joined' },
      paused: this.#paused,
      waiting: { messages: this.#held.count, bytes: this.#held.bytes },
      memory: { maps: this.#memory.size, bytes: this.#memory.mappedBytes, descriptors: this.#memory.fileCount },
      interrupts: this.#interrupts.armedCount,
      stateLost: this.#watch.isLost,
    };
  }

  /** No access of the guest reaches a controller any more, and those that did are done, when it resolves. Idempotent. */
  pause(): Promise<void> {
    return this.#exclusive(async () => {
      if (!this.#paused) this.#tell('paused', 'accesses of the guest wait');
      this.#paused = true;
      this.#open = false;
      this.#retry?.cancel();
      // the controller takes messages in order: when this is answered, so is everything before, and what was posted has arrived
      if (this.#link !== undefined) await this.#flush(this.#link);
    });
  }

  /** @throws ConfigError if it does not answer; one that ends meanwhile is done as well */
  async #flush(link: MessageLink): Promise<void> {
    let timer: Timer | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = inTwoHalves(this.#clock, JOIN_TIMEOUT_MS, () => {
        reject(new ConfigError(`Controller at ${link.path}: does not answer for ${JOIN_TIMEOUT_MS} ms; end it`));
      });
    });
    try {
      await Promise.race([link.call(VfioUserCommand.RegionRead, access(0, RegionIndex.Config, 4, NO_BYTES)), late]);
    } catch (error) {
      if (!link.isClosed) throw error;
    } finally {
      timer?.cancel();
    }
  }

  /**
   * Memory and interrupts go to the controller at that socket, which takes up its work as soon as it is not suspended. Only while paused; idempotent.
   * @throws ConfigError naming the socket and the remedy; the controller that is there stays unless it had to be left already
   */
  attach(path: string): Promise<void> {
    return this.#exclusive(async () => {
      if (!this.#paused) throw new ConfigError('front: attach while accesses of the guest pass; pause it first');
      const isThere = this.#link !== undefined && this.#controllerPath === path;
      if (this.#vm !== undefined && !isThere) await this.#join(path);
      this.#controllerPath = path;
    });
  }

  /** Accesses go on, those that waited first and in order. Without a controller they wait on for the one that was named last. Idempotent. */
  resume(): Promise<void> {
    return this.#exclusive(async () => {
      if (!this.#paused) return;
      this.#paused = false;
      this.#tell('resumed', 'accesses of the guest go on');
      if (this.#link === undefined) this.#seek();
      else {
        const link = this.#link;
        await this.#pass().catch((error: unknown) => {
          // it is looked for already
          if (!link.isClosed) throw error;
        });
      }
    });
  }

  /** Disconnects VM and controller; the path is free. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= (async (): Promise<void> => {
      this.#server.close();
      this.#vm?.close('the front is closed');
      await this.#turn;
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  // ---- the controller's side ------------------------------------------------------------------------------------------------------

  /** Looks for the controller until it is there. */
  #seek(delayMs = 0): void {
    this.#retry?.cancel();
    this.#retry = this.#clock.setTimer(() => {
      void this.#exclusive(async () => {
        if (this.#vm === undefined || this.#paused || this.#link !== undefined) return;
        try {
          await this.#join(this.#controllerPath);
          await this.#pass();
        } catch (error) {
          if (this.#vm === undefined || this.#link !== undefined) return;
          if (!this.#waitedFor) this.#tell('controller-waited-for', `waits for ${this.#controllerPath}`, error);
          this.#waitedFor = true;
          this.#seek(RETRY_MS);
        }
      });
    }, delayMs);
  }

  /** Connects, leaves the one before, and hands over memory and interrupts. @throws ConfigError, VfioUserError, TransportError */
  async #join(path: string): Promise<void> {
    const vm = this.#vm;
    const link = this.#connect(path);
    let isLate = false;
    const timer = inTwoHalves(this.#clock, JOIN_TIMEOUT_MS, () => {
      isLate = true;
      link.close();
    });
    try {
      const profile = await readProfile(link);
      if (this.#profile !== undefined) checkProfile(path, this.#profile, profile);
      if (this.#vm !== vm) throw gone();
      // one at a time
      this.#link?.close();
      const replayed = replay(link, {
        ...{ memory: this.#memory, interrupts: this.#interrupts, fdsMax: profile.limits.fdsMax },
        onRefused: (error) => this.#tell('warning', `Controller at ${path}: does not take memory of the VM`, error),
      });
      this.#joining = link;
      await replayed;
      // it is used from here on: what is in its queues, it finds without a doorbell
      await link.call(VfioUserCommand.RegionRead, access(Property.CC, BAR, 4, NO_BYTES));
      if (this.#vm !== vm || link.isClosed) throw gone();
      this.#profile ??= profile;
      this.#link = link;
      this.#waitedFor = false;
      this.#tell('controller-joined', `controller at ${path}`);
    } catch (error) {
      link.close();
      if (!(error instanceof TransportError)) throw error;
      const what = isLate
        ? `does not answer for ${JOIN_TIMEOUT_MS} ms; end it`
        : 'ended the connection; is it the controller of another VM?';
      throw new ConfigError(`Controller at ${path}: ${what}`, { cause: error });
    } finally {
      timer.cancel();
      if (this.#joining === link) this.#joining = undefined;
    }
  }

  #connect(path: string): MessageLink {
    try {
      const link: MessageLink = new MessageLink(path, {
        onCommand: (bytes, length) => this.#controllerAsks(link, bytes, length),
        onClose: (error) => this.#controllerGone(link, error),
        onDrain: () => this.#vm?.proceed(),
      });
      return link;
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      throw new ConfigError(
        `Controller at ${path}: nobody listens there (${error.errno}); start nvmeferry dpu --vfio-user ${path}`,
        { cause: error },
      );
    }
  }

  /** Lets the accesses through, those that waited first. */
  async #pass(): Promise<void> {
    const link = this.#link!;
    const cc = await link.call(VfioUserCommand.RegionRead, access(Property.CC, BAR, 4, NO_BYTES));
    const isLost = this.#watch.found(new DataView(cc.buffer, cc.byteOffset, cc.byteLength).getUint32(16, true));
    if (isLost) {
      const what = 'has not the state of the guest, which sees Controller Fatal Status until it resets it';
      this.#tell('warning', `Controller at ${link.path}: ${what}`);
    }
    if (this.#link !== link || this.#paused) return;
    this.#open = true;
    for (const { bytes } of this.#held.takeAll()) this.#deliver(bytes);
    this.#vm?.proceed();
  }

  #deliver(message: Uint8Array): void {
    if (this.#vm === undefined) return;
    const view = viewOf(message);
    const command = messageCommand(view, 0);
    if (DESCRIBED.has(command)) this.#describe(command, message);
    else this.#access(view, message, message.length, true);
  }

  /** DMA_READ, DMA_WRITE. */
  #controllerAsks(link: MessageLink, bytes: Uint8Array, length: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, length);
    if ((messageFlags(view, 0) & VfioUserFlag.NoReply) === 0) this.#dmaAsked++;
    if (this.#vm?.pass(bytes, length) === false) link.pause();
  }

  #controllerGone(link: MessageLink, error: Error | undefined): void {
    if (this.#joining === link) this.#joining = undefined;
    if (this.#link !== link) return;
    this.#link = undefined;
    this.#open = false;
    this.#dmaStale += this.#dmaAsked;
    this.#dmaAsked = 0;
    this.#held.putBack(this.#unanswered, this.#clock.nowMs());
    this.#unanswered = [];
    this.#armPatience();
    // what a full controller kept waiting is to be seen, and held
    this.#vm?.proceed();
    this.#tell('controller-left', `controller at ${link.path}`, error);
    if (this.#vm !== undefined && !this.#paused) this.#seek();
  }

  // ---- the VM's side --------------------------------------------------------------------------------------------------------------

  #accept(fd: number): void {
    if (this.#vm !== undefined || this.#closing !== undefined) {
      fs.closeSync(fd);
      this.#tell('warning', `Socket ${this.path}: a second VM was turned away, the first is still there`);
      return;
    }
    this.#versionKnown = false;
    this.#vm = new VmSide(fd, {
      message: (reader) => this.#message(reader),
      closed: (reason, error) => this.#vmGone(reason, error),
      drained: () => this.#link?.resume(),
    });
    this.#tell('vm-connected', 'VM connected');
    if (!this.#paused) this.#seek();
  }

  #vmGone(reason: string, error: Error | undefined): void {
    this.#vm = undefined;
    this.#open = false;
    this.#retry?.cancel();
    this.#joining?.close();
    this.#link?.close();
    this.#held.takeAll();
    this.#patience?.cancel();
    this.#patience = undefined;
    this.#memory.clear();
    this.#interrupts.clear();
    this.#watch.reset();
    this.#profile = undefined;
    this.#dmaStale = 0;
    this.#waitedFor = false;
    this.#tell('vm-disconnected', reason, error);
  }

  #message(reader: MessageReader): void {
    const { view, bytes, length } = reader;
    const flags = messageFlags(view, 0);
    const type = flags & VfioUserFlag.TypeMask;
    if (type === VfioUserFlag.Command) {
      const command = messageCommand(view, 0);
      // doorbells
      if (command === VfioUserCommand.RegionWrite && this.#open) this.#access(view, bytes, length, false);
      else this.#command(reader, command);
    } else if (type === VfioUserFlag.Reply) this.#vmReplied(bytes, length);
    else this.#vm!.close(`a message has type ${type}`);
  }

  #vmReplied(bytes: Uint8Array, length: number): void {
    if (this.#dmaStale > 0) this.#dmaStale--;
    else if (this.#dmaAsked > 0) {
      this.#dmaAsked--;
      this.#link?.pass(bytes, length);
    } else this.#vm!.close('a reply came to nothing asked');
  }

  #command(reader: MessageReader, command: number): void {
    const { view, bytes, length } = reader;
    if (!this.#versionKnown && command !== VfioUserCommand.Version) {
      this.#vm!.refuse(bytes, Errno.Invalid);
      return;
    }
    if (SET_UP.has(command)) {
      this.#guarded(bytes, () => this.#setUp(command, bytes.slice(0, length), reader.takeFds()));
    } else if (!DESCRIBED.has(command)) this.#access(view, bytes, length, false);
    else if (this.#profile === undefined) this.#hold(bytes.slice(0, length));
    else this.#describe(command, bytes.subarray(0, length));
  }

  /** A request that cannot be is refused. */
  #guarded(request: Uint8Array, work: () => void): void {
    try {
      work();
    } catch (error) {
      const errno = errnoOf(error) ?? (error instanceof Error && 'syscall' in error ? Errno.IoError : undefined);
      if (errno === undefined) throw error;
      this.#vm?.refuse(request, errno);
    }
  }

  // ---- set-up: what the front knows itself

  #describe(command: number, request: Uint8Array): void {
    this.#guarded(request, () => this.#vm!.answer(request, this.#description(command, request)));
  }

  #description(command: number, request: Uint8Array): Uint8Array {
    const body = request.subarray(VFIO_USER_HEADER_BYTES);
    if (command !== VfioUserCommand.Version) return describeDevice(this.#profile!, command, body);
    if (this.#versionKnown) throw invalid('The version was agreed upon already');
    const answer = describeVersion(this.#profile!, body);
    this.#versionKnown = true;
    return answer;
  }

  /** Memory and interrupts: noted once the controller has them, or at once where there is none. @param fds owned */
  #setUp(command: number, request: Uint8Array, fds: readonly number[]): void {
    const body = request.subarray(VFIO_USER_HEADER_BYTES);
    if (command === VfioUserCommand.DmaUnmap && fds.length > 0) {
      for (const fd of fds) fs.closeSync(fd);
      throw invalid('DMA unmap with descriptors');
    }
    const file = command === VfioUserCommand.DmaMap ? this.#memory.hold(body, fds) : undefined;
    const sent = file === undefined ? fds : [file.fd];
    const note = (): void => this.#note(command, body, file, fds);
    if (this.#link !== undefined) {
      this.#forwardSetUp(this.#link, request, sent, note, () => this.#forget(command, file, fds));
      return;
    }
    // one that joins just now has got what was before
    this.#joining?.send(answered(request), sent, () => {});
    note();
    this.#answerSetUp(command, request);
  }

  #forwardSetUp(
    link: MessageLink,
    request: Uint8Array,
    fds: readonly number[],
    note: () => void,
    forget: () => void,
  ): void {
    // the front has to know how it ends, even if the VM does not want to
    const isQuiet = takesNoAnswer(request);
    const message = isQuiet ? answered(request) : request;
    link.send(message, fds, (bytes, length) => {
      if (this.#vm === undefined) {
        forget();
        return;
      }
      if (bytes === undefined) {
        // a controller that has gone without an answer gets it again with all the rest
        this.#guarded(request, () => {
          note();
          this.#answerSetUp(messageCommand(viewOf(request), 0), request);
        });
        return;
      }
      if (messageErrno(new DataView(bytes.buffer, bytes.byteOffset, length), 0) === 0) this.#noteTaken(link, note);
      else forget();
      if (!isQuiet) this.#toVm(link, bytes, length);
    });
  }

  /** The controller has taken it: what the front does not understand of it is not there for the next one. */
  #noteTaken(link: MessageLink, note: () => void): void {
    try {
      note();
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      this.#tell('warning', `Controller at ${link.path}: took what the front cannot keep`, error);
    }
  }

  #answerSetUp(command: number, request: Uint8Array): void {
    const hasBody = command === VfioUserCommand.DmaUnmap;
    this.#vm?.answer(request, hasBody ? request.subarray(VFIO_USER_HEADER_BYTES) : undefined);
  }

  #note(command: number, body: Uint8Array, file: HeldFile | undefined, fds: readonly number[]): void {
    if (command === VfioUserCommand.DmaMap) this.#memory.add(body, file);
    else if (command === VfioUserCommand.DeviceSetIrqs) this.#interrupts.apply(body, fds);
    else this.#memory.remove(body);
  }

  #forget(command: number, file: HeldFile | undefined, fds: readonly number[]): void {
    if (command === VfioUserCommand.DmaMap) this.#memory.release(file);
    else for (const fd of fds) fs.closeSync(fd);
  }

  // ---- accesses

  /** To the controller, or held. @param isOurs `bytes` stay as they are */
  #access(view: DataView, bytes: Uint8Array, length: number, isOurs: boolean): void {
    if (!this.#open) {
      this.#hold(isOurs ? bytes : bytes.slice(0, length));
      return;
    }
    const link = this.#link!;
    this.#watch.sent(view, length);
    let isTaken: boolean;
    if ((messageFlags(view, 0) & VfioUserFlag.NoReply) !== 0) isTaken = link.pass(bytes, length);
    else isTaken = this.#ask(link, isOurs ? bytes : bytes.slice(0, length));
    if (!isTaken) this.#vm?.wait();
  }

  #ask(link: MessageLink, request: Uint8Array): boolean {
    return link.send(request, [], (bytes, length) => {
      if (bytes === undefined) {
        this.#unanswered.push(request);
        return;
      }
      this.#watch.answered(bytes, length);
      this.#toVm(link, bytes, length);
    });
  }

  #toVm(link: MessageLink, bytes: Uint8Array, length: number): void {
    if (this.#vm?.pass(bytes, length) === false) link.pause();
  }

  #hold(message: Uint8Array): void {
    this.#held.push(message, this.#clock.nowMs());
    if (this.#held.isFull) this.#vm?.wait();
    this.#armPatience();
  }

  /** An access that waits too long fails: otherwise the emulator would give up the device. */
  #armPatience(): void {
    const oldestMs = this.#held.oldestMs;
    if (oldestMs === undefined || this.#patience !== undefined) return;
    const leftMs = Math.max(0, oldestMs + this.#patienceMs - this.#clock.nowMs());
    this.#patience = this.#clock.setTimer(() => {
      this.#patience = undefined;
      const expired = this.#held.expire(this.#clock.nowMs() - this.#patienceMs);
      for (const { bytes } of expired) this.#vm?.refuse(bytes, Errno.IoError);
      if (expired.length > 0) {
        const text = `${expired.length} accesses of the guest failed: no controller was there for ${this.#patienceMs} ms`;
        this.#tell('warning', text);
      }
      this.#armPatience();
    }, leftMs);
  }
}

/** Whoever waited finds out by what it looks at next. */
function gone(): TransportError {
  return new TransportError('NVMEOF_ERR_VFIO_USER', 'The connection ended');
}
