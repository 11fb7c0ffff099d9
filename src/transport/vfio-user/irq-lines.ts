// @hot
/** Interrupts by eventfd, as the client arms them. Owns the descriptors. */
import fs from 'node:fs';
import { EventFd } from '../../native/event-fd.ts';
import { Errno, IRQ_INDEX_COUNT, IrqIndex, IrqInfoFlag, IrqSetFlag } from '../../spec/vfio-user.ts';
import type { InterruptSink, PciFunction } from '../pcie/pci-function.ts';
import { InterruptMode } from '../pcie/pci-function.ts';
import { VfioUserError } from './vfio-user-error.ts';

/** What SET_IRQS says. */
export interface IrqRequest {
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
}

const EVENTFD = IrqInfoFlag.EventFd;

export class IrqLines implements InterruptSink {
  readonly #function: PciFunction;
  /** By index, then vector. */
  readonly #lines: (EventFd | undefined)[][];
  /** Messages that came while the vector had no eventfd, as the pending bits of a masked vector. */
  readonly #pending: Uint8Array;
  /** The pin was signalled, or is masked: the client unmasks it. */
  #pinMasked = false;
  /** It was unmasked, and nobody has looked since whether it is asserted. */
  #pinDue = false;

  constructor(pciFunction: PciFunction, hasPin: boolean) {
    this.#function = pciFunction;
    const counts = [hasPin ? 1 : 0, pciFunction.msiCount, pciFunction.vectorCount, 1, 1];
    this.#lines = counts.map((count) => new Array<EventFd | undefined>(count).fill(undefined));
    this.#pending = new Uint8Array(Math.max(pciFunction.msiCount, pciFunction.vectorCount));
  }

  /** DEVICE_GET_IRQ_INFO. @throws VfioUserError */
  info(index: number): { readonly flags: number; readonly count: number } {
    const lines = this.#lines[index];
    if (index >= IRQ_INDEX_COUNT || lines === undefined)
      throw new VfioUserError(Errno.Invalid, `There is no interrupt index ${index}`);
    const flags = index === IrqIndex.Intx ? EVENTFD | IrqInfoFlag.Maskable | IrqInfoFlag.AutoMasked : EVENTFD;
    return { flags: lines.length === 0 ? 0 : flags, count: lines.length };
  }

  // ---- InterruptSink

  message(vector: number): void {
    const lines = this.#lines[this.#function.interruptMode === InterruptMode.Msi ? IrqIndex.Msi : IrqIndex.MsiX]!;
    const line = lines[vector];
    if (line !== undefined) line.signal();
    else if (vector < this.#pending.length) this.#pending[vector] = 1;
  }

  pin(asserted: boolean): void {
    if (!asserted || this.#pinMasked) return;
    const line = this.#lines[IrqIndex.Intx]![0];
    if (line === undefined) return;
    // level by edges: nothing more until the client says that the guest is done
    this.#pinMasked = true;
    line.signal();
  }

  // ---- SET_IRQS

  /** @param data the bytes of a request with booleans. @param fds owned by this. @throws VfioUserError, NativeError */
  set(request: IrqRequest, data: Uint8Array, fds: readonly number[]): void {
    let taken = 0;
    try {
      this.#check(request, data, fds);
      const action = request.flags & IrqSetFlag.ActionsMask;
      if (action !== IrqSetFlag.ActionTrigger) {
        this.#mask(request, data, action === IrqSetFlag.ActionMask);
        return;
      }
      switch (request.flags & IrqSetFlag.DataMask) {
        case IrqSetFlag.DataEventFd:
          for (let i = 0; i < request.count; i++) {
            const fd = fds[i];
            if (fd !== undefined) taken++;
            this.#arm(request.index, request.start + i, fd === undefined ? undefined : EventFd.adopt(fd));
          }
          return;
        case IrqSetFlag.DataNone:
          if (request.count === 0) this.#disable(request.index);
          else for (let i = 0; i < request.count; i++) this.#lines[request.index]![request.start + i]?.signal();
          return;
        default:
          for (let i = 0; i < request.count; i++)
            if (data[i] !== 0) this.#lines[request.index]![request.start + i]?.signal();
      }
    } finally {
      for (let i = taken; i < fds.length; i++) fs.closeSync(fds[i]!);
    }
  }

  #check({ flags, index, start, count }: IrqRequest, data: Uint8Array, fds: readonly number[]): void {
    const what = flags & IrqSetFlag.DataMask;
    const action = flags & IrqSetFlag.ActionsMask;
    const isOne = (bits: number): boolean => bits !== 0 && (bits & (bits - 1)) === 0;
    const lines = this.#lines[index];
    if (!isOne(what) || !isOne(action) || (flags & ~(IrqSetFlag.DataMask | IrqSetFlag.ActionsMask)) !== 0)
      throw new VfioUserError(Errno.Invalid, `Interrupts set with flags ${flags}`);
    const disables = what === IrqSetFlag.DataNone && action === IrqSetFlag.ActionTrigger && count === 0;
    if (lines === undefined || start + count > lines.length || (count === 0 && !disables))
      throw new VfioUserError(Errno.Invalid, `Interrupts ${start} to ${start + count} of index ${index} set`);
    // no descriptor at all: the vectors get none
    if (what === IrqSetFlag.DataEventFd ? fds.length !== 0 && fds.length !== count : fds.length !== 0)
      throw new VfioUserError(Errno.Invalid, `${count} interrupts set with ${fds.length} descriptors`);
    if (what === IrqSetFlag.DataBool && data.length < count)
      throw new VfioUserError(Errno.Invalid, `${count} interrupts set with ${data.length} bytes`);
    if (action !== IrqSetFlag.ActionTrigger && (index !== IrqIndex.Intx || what === IrqSetFlag.DataEventFd))
      throw new VfioUserError(Errno.Invalid, `Interrupt index ${index} is not masked this way`);
  }

  #arm(index: number, vector: number, line: EventFd | undefined): void {
    const lines = this.#lines[index]!;
    lines[vector]?.close();
    lines[vector] = line;
    if (line === undefined) return;
    if (index === IrqIndex.Intx) {
      this.#pinMasked = false;
      this.pin(this.#function.pinAsserted);
    } else if (index !== IrqIndex.Error && index !== IrqIndex.Request && this.#pending[vector] === 1) {
      this.#pending[vector] = 0;
      line.signal();
    }
  }

  #mask({ flags, count }: IrqRequest, data: Uint8Array, masked: boolean): void {
    if (count === 0 || ((flags & IrqSetFlag.DataBool) !== 0 && data[0] === 0)) return;
    this.#pinMasked = masked;
    this.#pinDue = !masked;
  }

  /**
   * The function has worked: if the pin was unmasked before, and is asserted still, it is signalled now. Not earlier: the guest may ring its doorbells
   * in memory, and QEMU takes the next register access for the end of the interrupt; the function first has to ask for that access.
   */
  worked(): void {
    if (!this.#pinDue) return;
    this.#pinDue = false;
    this.pin(this.#function.pinAsserted);
  }

  #disable(index: number): void {
    const lines = this.#lines[index]!;
    for (let i = 0; i < lines.length; i++) {
      lines[i]?.close();
      lines[i] = undefined;
    }
    if (index === IrqIndex.Msi || index === IrqIndex.MsiX) this.#pending.fill(0);
  }

  /** True if some vector of that index can be signalled. */
  isArmed(index: number): boolean {
    return this.#lines[index]!.some((line) => line !== undefined);
  }

  close(): void {
    for (let index = 0; index < this.#lines.length; index++) this.#disable(index);
    this.#pinMasked = false;
  }
}
