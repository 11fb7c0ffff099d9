/** `nvmeferry front`: holds a VM's connection while the controller behind it is exchanged. */
import { type Command, Option } from 'commander';
import type { LogLevel } from '../config/types.ts';
import { createLogger, LOG_LEVELS } from '../log/logger.ts';
import { FrontControlServer } from '../transport/vfio-user/front/control-server.ts';
import { VfioUserFront } from '../transport/vfio-user/front/front.ts';
import { type FrontEvent, PATIENCE_MS_DEFAULT } from '../transport/vfio-user/front/front-options.ts';
import { ConfigError } from '../util/error.ts';
import { endSignal } from './end-signal.ts';
import { qemuArguments } from './qemu-arguments.ts';

interface FrontOptions {
  vfioUser?: string;
  dpu?: string;
  control?: string;
  patience: string;
  logLevel?: LogLevel;
  output: 'text' | 'json';
}

export function registerFrontCommand(program: Command): void {
  program
    .command('front')
    .description('hold the connection of a VM (QEMU) whose controller, an nvmeferry dpu, may be exchanged')
    .option('--vfio-user <socket>', 'where the VM connects')
    .option('--dpu <socket>', 'the controller: what its nvmeferry dpu has as --vfio-user')
    .option('--control <socket>', 'where nvmeferry migrate --front controls it (JSON lines)')
    .option(
      '--patience <ms>',
      'how long the VM waits for a controller; less than its x-msg-timeout',
      `${PATIENCE_MS_DEFAULT}`,
    )
    .addOption(new Option('--log-level <level>', 'what goes to stderr').choices([...LOG_LEVELS]))
    .addOption(new Option('-o, --output <format>', 'what is said on stdout').choices(['text', 'json']).default('text'))
    .action(run);
}

async function run(options: FrontOptions): Promise<void> {
  const { vfioUser, dpu, control } = options;
  if (vfioUser === undefined)
    throw new ConfigError('front: no socket for the VM is named; give --vfio-user /run/vm0.sock');
  if (dpu === undefined) throw new ConfigError('front: no controller is named; give --dpu /run/dpu0.sock');
  if (dpu === vfioUser) throw new ConfigError(`front: --vfio-user and --dpu are both ${dpu}; two sockets are needed`);
  const patienceMs = patience(options.patience);
  const log = createLogger({ level: options.logLevel });
  const front = new VfioUserFront({ path: vfioUser, controller: dpu, patienceMs, onEvent });
  function onEvent({ event, message, error }: FrontEvent): void {
    const isBad = event === 'warning' || event === 'controller-waited-for';
    log[isBad ? 'warn' : 'info']({ event, ...(error === undefined ? {} : { err: error }) }, message);
  }
  let controlled: FrontControlServer | undefined;
  try {
    if (control !== undefined) controlled = await FrontControlServer.listen(control, front);
    const ended = endSignal();
    say(options, { event: 'ready', vfioUser, dpu, ...(control === undefined ? {} : { control }) }, [
      `front of ${dpu} at ${vfioUser}, for QEMU 11.1 or later:`,
      `  ${qemuArguments(vfioUser).join(' ')}`,
      ...(control === undefined ? [] : [`control: ${control}`]),
      'ready',
    ]);
    await ended;
  } finally {
    await controlled?.close();
    await front.close();
  }
  say(options, { event: 'ended' }, ['ended']);
}

function patience(text: string): number {
  const ms = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(ms >= 1 && ms <= 3_600_000)) throw new ConfigError(`--patience: is ${text}, allowed are 1 to 3600000 ms`);
  return ms;
}

function say({ output }: FrontOptions, event: object, lines: readonly string[]): void {
  process.stdout.write(output === 'json' ? `${JSON.stringify(event)}\n` : `${lines.join('\n')}\n`);
}
