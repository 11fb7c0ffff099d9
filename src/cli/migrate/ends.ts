/** The ends of a move by what is on the command line, or in the journal of one that was begun. */
import { resolve } from 'node:path';
import type { HostOptions } from '../../initiator/options.ts';
import { parseNvmeUri } from '../../initiator/uri.ts';
import type { DeviceFront, End, GuestMemoryMover } from '../../orchestrator/end.ts';
import { FabricEnd } from '../../orchestrator/fabric-end.ts';
import { FrontControl } from '../../orchestrator/front-control.ts';
import { HypervisorProgram } from '../../orchestrator/hypervisor-program.ts';
import type { MoveRecord } from '../../orchestrator/move-spec.ts';
import { VmMemory, type VmMemoryRegion } from '../../orchestrator/vm-memory.ts';
import { NVMEOF_PORT } from '../../spec/nqn.ts';
import { ConfigError } from '../../util/error.ts';
import type { MigrateFlags } from './flags.ts';

interface EndAddress {
  readonly uri: string;
  readonly hostnqn: string | undefined;
  readonly hostid: string | undefined;
  readonly headerDigest: boolean | undefined;
  readonly dataDigest: boolean | undefined;
}

/** What the journal keeps of how the ends were found. */
export interface MoveContext {
  readonly source: EndAddress;
  readonly destination: EndAddress;
  readonly front?: { readonly control: string; readonly source: string; readonly destination: string } | undefined;
  readonly hypervisor?: string | undefined;
}

export function contextOf(source: string, destination: string, flags: MigrateFlags): MoveContext {
  const { hostnqn, hostid, hdrDigest, dataDigest, front, fromSocket, toSocket, hypervisor } = flags;
  const end = (uri: string): EndAddress => ({ uri, hostnqn, hostid, headerDigest: hdrDigest, dataDigest });
  return {
    source: end(source),
    destination: end(destination),
    ...(front === undefined ? {} : { front: { control: resolve(front), source: fromSocket!, destination: toSocket! } }),
    // of another process, which may work elsewhere
    ...(hypervisor === undefined ? {} : { hypervisor: resolve(hypervisor) }),
  };
}

/** @throws ConfigError if the journal is not one of this command */
export function contextIn(record: MoveRecord): MoveContext {
  const context = record.context as Partial<MoveContext> | undefined;
  if (typeof context?.source?.uri !== 'string' || typeof context.destination?.uri !== 'string') {
    throw new ConfigError('migrate: the journal does not say where the ends are; it was written by another program');
  }
  return context as MoveContext;
}

function optionsOf(address: EndAddress, signal?: AbortSignal): HostOptions {
  const { nsid: _nsid, subnqn, ...uri } = parseNvmeUri(address.uri);
  if (subnqn === undefined) {
    throw new ConfigError(`migrate: ${address.uri} names no subsystem; give nvme+tcp://host:port/SUBNQN`);
  }
  return {
    ...uri,
    subnqn,
    hostnqn: address.hostnqn ?? uri.hostnqn,
    hostid: address.hostid ?? uri.hostid,
    headerDigest: address.headerDigest ?? uri.headerDigest,
    dataDigest: address.dataDigest ?? uri.dataDigest,
    signal,
  };
}

export interface Ends {
  readonly source: End;
  readonly destination: End;
  readonly front: DeviceFront | undefined;
  readonly memory: GuestMemoryMover | undefined;
  close(): Promise<void>;
}

/** Both ends, there and willing. @param memory of the VM; another process that undoes or finishes the move needs none */
export async function connectEnds(
  context: MoveContext,
  signal: AbortSignal,
  memory: readonly VmMemoryRegion[],
): Promise<Ends> {
  return opened(context, (address) => FabricEnd.connect(optionsOf(address, signal)), FrontControl.connect, memory);
}

/** Of a move that was begun: either end, and the front, may be gone, and is connected to when it is needed. */
export async function reachableEnds(context: MoveContext): Promise<Ends> {
  return opened(
    context,
    async (address) => new FabricEnd(optionsOf(address)),
    async (...args) => new FrontControl(...args),
  );
}

async function opened(
  context: MoveContext,
  open: (address: EndAddress) => Promise<FabricEnd>,
  openFront: (...args: ConstructorParameters<typeof FrontControl>) => Promise<FrontControl>,
  regions: readonly VmMemoryRegion[] = [],
): Promise<Ends> {
  const all: { close(): Promise<void> }[] = [];
  try {
    const source = await open(context.source);
    all.push(source);
    const destination = await open(context.destination);
    all.push(destination);
    let front: DeviceFront | undefined;
    let memory: VmMemory | undefined;
    if (regions.length > 0) {
      memory = await VmMemory.open(regions);
      all.push(memory);
    }
    if (context.hypervisor !== undefined) {
      const program = new HypervisorProgram(context.hypervisor);
      await program.check();
      front = program;
    }
    if (context.front !== undefined) {
      const control = await openFront(context.front.control, context.front);
      all.push(control);
      front = control;
    }
    return { source, destination, front, memory, close: () => closeAll(all) };
  } catch (error) {
    await closeAll(all);
    throw error;
  }
}

async function closeAll(all: readonly { close(): Promise<void> }[]): Promise<void> {
  await Promise.all(all.map((one) => one.close()));
}

/** Where hosts are told to find the destination. */
export function peerOf(destination: string, announce: string): { address: string; service: number } | undefined {
  if (announce === 'off') return undefined;
  if (announce !== 'uri') {
    const match = /^(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})$/.exec(announce);
    if (match === null) throw new ConfigError(`--announce: found ${announce}, needed is ADDRESS:PORT, or off`);
    return { address: (match[1] ?? match[2])!, service: Number(match[3]) };
  }
  const { address, port } = parseNvmeUri(destination);
  return { address, service: port ?? NVMEOF_PORT };
}
