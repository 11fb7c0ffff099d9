/** connect: stays connected and tells what happens, until it is interrupted. */
import { once } from 'node:events';
import type { Command } from 'commander';
import { HostController } from '../../initiator/controller.ts';
import { NvmeofError, TransportError } from '../../util/error.ts';
import { type AddressFlags, addAddress, resolveAddress } from './address.ts';
import { decimalSize, printLine } from './print.ts';
import { progress, runVerb } from './run.ts';

export function registerConnect(program: Command): void {
  addAddress(
    program.command('connect').description('stay connected and print events until interrupted'),
    '',
    true,
  ).action((uri: string | undefined, flags: AddressFlags) => runVerb((signal) => run(uri, flags, signal)));
}

async function run(uri: string | undefined, flags: AddressFlags, signal: AbortSignal): Promise<void> {
  const { options } = resolveAddress('connect', uri, flags);
  const say = (event: string, text: string, fields: object = {}): void => {
    if (flags.output === 'json') printLine(JSON.stringify({ event, ...fields }));
    else printLine(text);
  };
  const controller = await progress(`connecting to ${options.address}`, HostController.connect({ ...options, signal }));
  let lost: TransportError | undefined;
  controller.on('state', (state) => say('state', `state ${state}`, { state }));
  controller.on('lost', (error) => {
    lost = error;
    say('lost', `lost: ${error.message}`, { code: error.code, message: error.message });
  });
  controller.on('reconnectFailed', (error, attempt) =>
    say('reconnect-failed', `attempt ${attempt}: ${error.message}`, { attempt, message: error.message }),
  );
  controller.on('asyncEvent', (event) => {
    const { type, info, lid } = event;
    say('async-event', `event type ${type} info 0x${info.toString(16)} log page 0x${lid.toString(16)}`, event);
  });
  controller.on('namespacesChanged', (nsids) =>
    say('namespaces-changed', `namespaces changed: ${nsids?.join(', ') ?? 'any'}`, { nsids: nsids ?? null }),
  );
  try {
    await sayConnected(controller, say);
    await ended(controller, signal);
  } finally {
    await controller.close();
  }
  if (!signal.aborted) throw lost ?? new TransportError('NVMEOF_ERR_PATH', 'The controller was given up');
}

async function sayConnected(
  controller: HostController,
  say: (event: string, text: string, fields?: object) => void,
): Promise<void> {
  const { subnqn, address, port } = controller.options;
  const queues = controller.association?.ioQueuePairs.length ?? 0;
  say(
    'connected',
    `connected to ${subnqn} at ${address}:${port}, controller ${controller.cntlid}, ${queues} I/O queues`,
    {
      subnqn,
      cntlid: controller.cntlid,
      ioQueues: queues,
    },
  );
  try {
    for (const { nsid, blockCount, blockSize, sizeBytes } of await controller.namespaces()) {
      say('namespace', `namespace ${nsid}: ${decimalSize(sizeBytes).trim()}, ${blockCount} blocks of ${blockSize}`, {
        nsid,
        blockCount,
        blockSize,
      });
    }
  } catch (error) {
    if (!(error instanceof NvmeofError)) throw error; // lost meanwhile: the events tell
  }
}

/** Until interrupted, or the controller is dead. */
async function ended(controller: HostController, signal: AbortSignal): Promise<void> {
  try {
    while (controller.state !== 'dead' && !signal.aborted) {
      await once(controller, 'state', { signal });
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
