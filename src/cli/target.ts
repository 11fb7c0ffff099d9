/** `nvmeferry target`: serves namespaces until it is told to end. */
import { type Command, Option } from 'commander';
import { LOG_LEVELS } from '../log/logger.ts';
import { type ServeOptions, serve } from './serve.ts';

const collect = (value: string, list: string[]): string[] => [...list, value];

export function registerTargetCommand(program: Command): void {
  program
    .command('target')
    .description('serve namespaces over NVMe/TCP (default: one 1 GiB memory namespace on loopback)')
    .option('-c, --config <file>', 'YAML or JSON, or a file saved by nvmetcli; SIGHUP reads it again')
    .option('-l, --listen <address[:port]>', 'where hosts connect, repeatable (default 127.0.0.1:4420)', collect, [])
    .option('--subsystem <nqn>', 'NQN of the subsystem')
    .option('--memory <size[,opt...]>', 'memory namespace, e.g. 1GiB,blockSize=512; repeatable', collect, [])
    .option('--file <path[,opt...]>', 'file namespace, e.g. disk.img,size=10GiB; repeatable', collect, [])
    .option('--nvme <device[,opt...]>', "a local SSD's namespace, e.g. /dev/ng0n1; repeatable", collect, [])
    .option('--remote <uri[,opt...]>', "another target's namespace: nvme+tcp://host:port/nqn?nsid=1", collect, [])
    .option('--null <size[,opt...]>', 'namespace that drops what is written; repeatable', collect, [])
    .option('--discovery <address[:port]|off>', 'discovery service (default port 8009 of the first address)')
    .option('--discovery-nqn <nqn>', "NQN of the discovery subsystem (default: made from this machine's identity)")
    .option('--mdns', 'publish the discovery service by multicast DNS')
    .option('--host <nqn>', 'host that may connect, repeatable (default: any host)', collect, [])
    .option('--serial <text>', 'serial number')
    .option('--model <text>', 'model number')
    .option('--max-queues <n>', 'I/O queues of one controller', Number)
    .option('--max-queue-size <n>', 'entries of one I/O queue', Number)
    .option('--in-capsule-data-size <size>', 'data that a command capsule may carry')
    .option('--max-h2c-data <size>', 'MAXH2CDATA')
    .addOption(new Option('--header-digest <policy>', 'header digests when the host asks').choices(['allow', 'refuse']))
    .addOption(new Option('--data-digest <policy>', 'data digests when the host asks').choices(['allow', 'refuse']))
    .option('--state-directory <dir>', 'where reservations and other state survive a restart (default: nowhere)')
    .addOption(
      new Option('--io-engine <engine>', 'who does the I/O of files and devices').choices([
        'auto',
        'io_uring',
        'thread-pool',
        'node',
      ]),
    )
    .option('--metrics <address[:port]>', 'counters for Prometheus over HTTP, e.g. 127.0.0.1:9464 (default: none)')
    .addOption(new Option('--log-level <level>', 'what goes to stderr').choices([...LOG_LEVELS]))
    .addOption(new Option('-o, --output <format>', 'what is said on stdout').choices(['text', 'json']).default('text'))
    .action(async (options: ServeOptions) => serve(options));
}
