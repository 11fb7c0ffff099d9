/** What every verb does around its work: connect, say that it takes long, end cleanly when interrupted. */
import { HostController } from '../../initiator/controller.ts';
import { MultipathSubsystem } from '../../initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../initiator/namespace.ts';
import type { NamespaceOwner } from '../../initiator/namespace-owner.ts';
import type { HostOptions } from '../../initiator/options.ts';
import { ConfigError, NvmeofError } from '../../util/error.ts';
import { ExitCode } from '../exit.ts';
import { type AdminHost, isDevicePath, LocalController } from './local-device.ts';

/** SIGINT or SIGTERM ended the work. */
class Interrupted extends Error {}

/**
 * Runs the work of a verb. SIGINT and SIGTERM give its signal, upon which it ends early, everything closed, with exit code 130; a second one
 * ends the process.
 */
export async function runVerb(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  const onSignal = (): void => abort.abort(new Interrupted('Interrupted'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  process.stdout.on('error', onOutputError);
  try {
    await work(abort.signal);
    if (abort.signal.aborted) process.exitCode = ExitCode.Interrupted;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.exitCode = ExitCode.Interrupted;
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    process.stdout.off('error', onOutputError);
  }
}

/** The reader of a pipe has seen enough (`| head`): no error. */
function onOutputError(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit();
  throw error;
}

/** Connects, does the work, disconnects. A signal ends both early. */
export async function withController<T>(
  options: HostOptions,
  signal: AbortSignal,
  work: (controller: HostController) => Promise<T>,
): Promise<T> {
  // one shot: what is lost is reported, not waited for
  const once: HostOptions = { ...options, ctrlLossTimeoutMs: options.ctrlLossTimeoutMs ?? 0 };
  const controller = await progress(`connecting to ${options.address}`, HostController.connect({ ...once, signal }));
  const onAbort = (): void => void controller.close();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await work(controller);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await controller.close();
  }
}

/** As `withController`; on a local device if the address is one. */
export async function withAdminHost<T>(
  options: HostOptions,
  signal: AbortSignal,
  work: (host: AdminHost) => Promise<T>,
): Promise<T> {
  if (!isDevicePath(options.address)) return withController(options, signal, work);
  const device = new LocalController(options.address, options.adminTimeoutMs);
  try {
    return await work(device);
  } finally {
    device.close();
  }
}

/** What a verb that moves data works on: a controller, or a subsystem by several paths. */
export type IoHost = NamespaceOwner & Pick<HostController, 'namespace' | 'activeNamespaces'>;

/** As `withController`; over every path if there are several. */
export async function withIoHost<T>(
  { options, paths }: { readonly options: HostOptions; readonly paths: readonly HostOptions[] },
  sized: Partial<HostOptions>,
  signal: AbortSignal,
  work: (host: IoHost) => Promise<T>,
): Promise<T> {
  if (paths.length < 2) return withController({ ...options, ...sized }, signal, work);
  const connecting = MultipathSubsystem.connect({ paths: paths.map((path) => ({ ...path, ...sized })) });
  const subsystem = await progress(`connecting to ${options.address} and ${paths.length - 1} more`, connecting);
  const onAbort = (): void => void subsystem.close();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    signal.throwIfAborted();
    return await work(subsystem);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await subsystem.close();
  }
}

/** A namespace to work on. @throws ConfigError with the active ones if it is none of them */
export async function openNamespace(verb: string, controller: IoHost, nsid: number): Promise<HostNamespace> {
  try {
    return await controller.namespace(nsid);
  } catch (error) {
    if (!(error instanceof NvmeofError) || error.code !== 'NVMEOF_ERR_NO_NAMESPACE') throw error;
    const active = await controller.activeNamespaces();
    const some = active.length > 16 ? `${active.slice(0, 16).join(', ')}...` : active.join(', ') || 'none';
    throw new ConfigError(`${verb}: found namespace ${nsid}, active are ${some}`);
  }
}

export function requireNsid(verb: string, nsid: number | undefined): number {
  if (nsid === undefined) throw new ConfigError(`${verb}: no namespace is named; give ?nsid=1 in the URI, or -N 1`);
  return nsid;
}

const PROGRESS_AFTER_MS = 1000;
const PROGRESS_EVERY_MS = 500;

/** On a terminal, tells on stderr what takes longer than a second. @param state what to add, e.g. how far it is */
export async function progress<T>(what: string, work: Promise<T>, state: () => string = () => ''): Promise<T> {
  if (!process.stderr.isTTY) return work;
  const startMs = performance.now();
  let shown = false;
  const show = (): void => {
    shown = true;
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    process.stderr.write(`\r\x1b[K${what} ${state()} (${seconds} s)`);
  };
  let repeat: NodeJS.Timeout | undefined;
  const first = setTimeout(() => {
    show();
    repeat = setInterval(show, PROGRESS_EVERY_MS);
  }, PROGRESS_AFTER_MS);
  try {
    return await work;
  } finally {
    clearTimeout(first);
    clearInterval(repeat);
    if (shown) process.stderr.write('\r\x1b[K');
  }
}
