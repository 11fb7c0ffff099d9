/** `nvmeferry dpu`: an NVMe controller on PCIe for a VM, whose namespaces are usually those of a target on the network. */
import { type Command, Option } from 'commander';
import type { TargetConfig } from '../config/types.ts';
import { LOG_LEVELS } from '../log/logger.ts';
import { ConfigError } from '../util/error.ts';
import { qemuArguments } from './qemu-arguments.ts';
import { type ServeOptions, serve } from './serve.ts';

const collect = (value: string, list: string[]): string[] => [...list, value];

export function registerDpuCommand(program: Command): void {
  program
    .command('dpu')
    .description('be the NVMe SSD of a VM (QEMU 11.1, vfio-user), backed by another target, memory or files')
    .option('-c, --config <file>', 'YAML or JSON with "functions"; SIGHUP reads it again')
    .option('--vfio-user <socket>', 'where the VM connects, repeatable: a controller each', collect, [])
    .option('--connect <uri[,opt...]>', 'namespace: nvme+tcp://host:port/nqn?nsid=1[,path=host[:port]]', collect, [])
    .option('--memory <size[,opt...]>', 'memory namespace, e.g. 1GiB,blockSize=512; repeatable', collect, [])
    .option('--file <path[,opt...]>', 'file namespace, e.g. disk.img,size=10GiB; repeatable', collect, [])
    .option('--nvme <device[,opt...]>', "a local SSD's namespace, e.g. /dev/ng0n1; repeatable", collect, [])
    .option('--null <size[,opt...]>', 'namespace that drops what is written; repeatable', collect, [])
    .option('--listen <address[:port]>', 'NVMe/TCP beside it: controllers there manage that of the VM', collect, [])
    .option('--subsystem <nqn>', 'NQN of the subsystem')
    .option('--serial <text>', 'serial number')
    .option('--model <text>', 'model number')
    .option('--queues <n>', 'I/O queues of a controller (default: one less than vectors)', Number)
    .option('--vectors <n>', 'MSI-X vectors of a controller (default: 64)', Number)
    .option('--dma-by-message', "write the VM's memory by messages: slow, but QEMU knows then what was written")
    .option('--state-directory <dir>', 'where reservations and other state survive a restart (default: nowhere)')
    .addOption(
      new Option('--io-engine <engine>', 'who does the I/O of files and devices').choices([
        'auto',
        'io_uring',
        'thread-pool',
        'node',
      ]),
    )
    .addOption(new Option('--log-level <level>', 'what goes to stderr').choices([...LOG_LEVELS]))
    .addOption(new Option('-o, --output <format>', 'what is said on stdout').choices(['text', 'json']).default('text'))
    .action(async (options: ServeOptions) => {
      if (options.config === undefined) check(options);
      await serve(options, qemuLines);
    });
}

function check({ vfioUser, connect, memory, file, nvme, null: none }: ServeOptions): void {
  if (vfioUser?.length === 0)
    throw new ConfigError('dpu: no socket is named; give --vfio-user /run/vm0.sock, or --config');
  const namespaces = [connect, memory, file, nvme, none].flatMap((list) => list ?? []);
  if (namespaces.length === 0)
    throw new ConfigError(
      'dpu: no namespace is named; give --connect nvme+tcp://host:port/nqn?nsid=1, --file or --memory',
    );
}

/** What to start QEMU with: memory that the controller can reach is as essential as the device. */
function qemuLines({ functions = [] }: TargetConfig): string[] {
  if (functions.length === 0)
    throw new ConfigError('dpu: the configuration has no "functions"; add functions: [{ vfioUser: /run/vm0.sock }]');
  return functions.flatMap((item) => [
    `controller of ${item.subsystem} at ${item.vfioUser}, for QEMU 11.1 or later:`,
    `  ${qemuArguments(item.vfioUser).join(' ')}`,
  ]);
}
