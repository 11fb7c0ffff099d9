/** Two `nvmeferry target` of one subsystem, A with data and hosts, B empty and closed; and a host that follows from one to the other. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostController } from '../../src/initiator/controller.ts';
import { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../src/initiator/namespace.ts';
import { CliTarget } from './cli.ts';

export const MOVED_NQN = 'nqn.2026-01.test.nvmeferry:moved';
export const MOVER_NQN = 'nqn.2026-01.test.nvmeferry:mover';
export const HOST_NQN = 'nqn.2026-01.test.nvmeferry:host';
const UUID = '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa';

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export interface PairOptions {
  readonly sizeMiB?: number;
  readonly destinationSize?: number;
  readonly destinationUuid?: string;
  readonly isDurable?: boolean;
  /** B as well as A is open at first. */
  readonly destinationIsOpen?: boolean;
  readonly withoutManagers?: boolean;
}

export class MovePair {
  readonly folder: string;
  readonly ports: { readonly a: number; readonly b: number };
  readonly #options: PairOptions;
  readonly #targets = new Map<'a' | 'b', CliTarget>();

  private constructor(folder: string, ports: { a: number; b: number }, options: PairOptions) {
    this.folder = folder;
    this.ports = ports;
    this.#options = options;
  }

  static async start(options: PairOptions = {}): Promise<MovePair> {
    const folder = await mkdtemp(join(tmpdir(), 'nvmeferry-move-'));
    const pair = new MovePair(folder, { a: await freePort(), b: await freePort() }, options);
    await pair.startTarget('a');
    await pair.startTarget('b');
    return pair;
  }

  async startTarget(which: 'a' | 'b'): Promise<void> {
    const { sizeMiB = 64, isDurable = true, destinationIsOpen = false, withoutManagers = false } = this.#options;
    const isDestination = which === 'b';
    const size = isDestination ? (this.#options.destinationSize ?? sizeMiB) : sizeMiB;
    const uuid = isDestination ? (this.#options.destinationUuid ?? UUID) : UUID;
    const config = `
ports: [{ portId: 1, address: 127.0.0.1, service: ${this.ports[which]}, subsystems: ['*'] }]
discovery: off
${isDurable ? `stateDirectory: ${join(this.folder, `state-${which}`)}` : ''}
subsystems:
  - nqn: ${MOVED_NQN}
    ${withoutManagers ? '' : `migration: { managers: { hosts: ['${MOVER_NQN}'] } }`}
    namespaces:
      - nsid: 1
        uuid: ${uuid}
        ${isDestination && !destinationIsOpen ? 'closed: true' : ''}
        backend: { type: file, path: ${join(this.folder, `${which}.img`)}, size: ${size}MiB }
`;
    const path = join(this.folder, `${which}.yaml`);
    await writeFile(path, config);
    this.#targets.set(which, await CliTarget.start(['--config', path]));
  }

  target(which: 'a' | 'b'): CliTarget {
    return this.#targets.get(which)!;
  }

  uri(which: 'a' | 'b'): string {
    return `nvme+tcp://127.0.0.1:${this.ports[which]}/${MOVED_NQN}?hostnqn=${MOVER_NQN}`;
  }

  /** A host that knows both, as one that follows discovery does. */
  host(): Promise<MultipathSubsystem> {
    const path = (port: number): { address: string; port: number; subnqn: string; hostnqn: string } => ({
      address: '127.0.0.1',
      port,
      subnqn: MOVED_NQN,
      hostnqn: HOST_NQN,
    });
    return MultipathSubsystem.connect({ paths: [path(this.ports.a), path(this.ports.b)] });
  }

  /** The namespace of one end, by the manager's way. */
  async managed<T>(which: 'a' | 'b', act: (namespace: HostNamespace) => Promise<T>): Promise<T> {
    const controller = await HostController.connect({
      address: '127.0.0.1',
      port: this.ports[which],
      subnqn: MOVED_NQN,
      hostnqn: MOVER_NQN,
    });
    try {
      return await act(await controller.namespace(1));
    } finally {
      await controller.close();
    }
  }

  async close(): Promise<void> {
    for (const target of this.#targets.values()) await target.end('SIGKILL');
    await rm(this.folder, { recursive: true, force: true });
  }
}
