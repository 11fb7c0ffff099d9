/** Gives a controller that has just come what the VM has set up before: its memory and its interrupts. */
import { IrqSetFlag, VfioUserCommand } from '../../../spec/vfio-user.ts';
import { setIrqsCodec } from '../../../wire/cold/vfio-user.ts';
import type { MessageLink } from '../client/message-link.ts';
import { VfioUserError } from '../vfio-user-error.ts';
import type { DmaLedger } from './dma-ledger.ts';
import type { IrqLedger } from './irq-ledger.ts';

export interface ReplayOptions {
  readonly memory: DmaLedger;
  readonly interrupts: IrqLedger;
  /** Descriptors that the controller takes in one message. */
  readonly fdsMax: number;
  /** It does not take a part of the memory, which is forgotten. */
  readonly onRefused: (error: VfioUserError) => void;
}

/** Sends all of it before it returns; what changes afterwards goes behind it. */
export async function replay(
  link: MessageLink,
  { memory, interrupts, fdsMax, onRefused }: ReplayOptions,
): Promise<void> {
  const work: Promise<unknown>[] = [];
  for (const entry of memory.entries()) {
    const fds = entry.file === undefined ? [] : [entry.file.fd];
    work.push(
      link.call(VfioUserCommand.DmaMap, entry.body, fds).catch((error: unknown) => {
        if (!(error instanceof VfioUserError)) throw error;
        onRefused(error);
        memory.drop(entry);
      }),
    );
  }
  for (const { index, start, fds } of interrupts.runs(fdsMax)) {
    const flags = IrqSetFlag.DataEventFd | IrqSetFlag.ActionTrigger;
    const body = setIrqsCodec.encode({ argsz: setIrqsCodec.size, flags, index, start, count: fds.length });
    work.push(link.call(VfioUserCommand.DeviceSetIrqs, body, fds));
  }
  await Promise.all(work);
}
