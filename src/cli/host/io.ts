/** read, write, flush, write-zeroes, dsm. Block counts are 0's based, as nvme-cli's. */
import { readFile, writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { HostNamespace } from '../../initiator/namespace.ts';
import { IoOpcode } from '../../spec/opcode.ts';
import { ConfigError, NvmeStatusError } from '../../util/error.ts';
import { type AddressFlags, addAddress, parseBytes, parseInteger, resolveAddress } from './address.ts';
import { printHexDump, printJson, printLine, writeRaw } from './print.ts';
import { openNamespace, progress, requireNsid, runVerb, withIoHost } from './run.ts';

export interface IoFlags extends AddressFlags {
  startBlock: number;
  blockCount: number;
  dataSize?: number;
  data?: string;
  forceUnitAccess?: boolean;
  deac?: boolean;
}

/** Connects with one I/O queue, does the work, says how it went. */
export async function onNamespace(
  verb: string,
  uri: string | undefined,
  flags: AddressFlags,
  work: (namespace: HostNamespace, signal: AbortSignal) => Promise<object>,
): Promise<void> {
  await runVerb(async (signal) => {
    const address = resolveAddress(verb, uri, flags);
    const nsid = requireNsid(verb, address.nsid);
    const sized = { ioQueues: address.options.ioQueues ?? 1 };
    const said = await withIoHost(address, sized, signal, async (host) =>
      progress(verb, work(await openNamespace(verb, host, nsid), signal)),
    );
    if (flags.output === 'json') printJson({ [verb]: 'Success', nsid, ...said });
  });
}

/** @returns the blocks of `--block-count`, or those that `--data-size` takes */
export function blocksOf(verb: string, flags: IoFlags, namespace: HostNamespace): number {
  if (flags.dataSize === undefined) return flags.blockCount + 1;
  if (flags.dataSize === 0 || flags.dataSize % namespace.blockSize !== 0) {
    throw new ConfigError(
      `${verb} --data-size: found ${flags.dataSize}, allowed are multiples of the block size ${namespace.blockSize}`,
    );
  }
  const blocks = flags.dataSize / namespace.blockSize;
  if (flags.blockCount !== 0 && flags.blockCount + 1 !== blocks) {
    const told = `--block-count ${flags.blockCount} (0's based) and --data-size ${flags.dataSize}`;
    throw new ConfigError(`${verb}: found ${told}, which differ; give one of them`);
  }
  return blocks;
}

export const addRange = (command: Command): Command =>
  command
    .option('-s, --start-block <lba>', 'first block', parseInteger, 0)
    .option('-c, --block-count <n>', "blocks, 0's based", parseInteger, 0);

export function registerRead(program: Command): void {
  addRange(addAddress(program.command('read').description('read blocks'), 'sczd', true))
    .option('-z, --data-size <bytes>', 'instead of --block-count', parseBytes)
    .option('-d, --data <file>', 'where to put the data (default: stdout)')
    .action((uri: string | undefined, flags: IoFlags) =>
      onNamespace('read', uri, flags, async (namespace, signal) => {
        const blocks = blocksOf('read', flags, namespace);
        const data = await namespace.read(flags.startBlock, blocks, { signal });
        if (flags.data !== undefined) await writeFile(flags.data, data);
        else if (flags.output === 'json') return { data: Buffer.from(data).toString('base64') };
        else if (process.stdout.isTTY) printHexDump(data);
        else await writeRaw(data);
        if (flags.data !== undefined && flags.output === 'text') printLine('read: Success');
        return { bytes: data.length };
      }),
    );
}

export function registerWrite(program: Command): void {
  addRange(addAddress(program.command('write').description('write blocks'), 'sczdf', true))
    .option('-z, --data-size <bytes>', 'instead of --block-count', parseBytes)
    .option('-d, --data <file>', 'where the data is (default: stdin)')
    .option('-f, --force-unit-access', 'on stable media before it completes')
    .action((uri: string | undefined, flags: IoFlags) =>
      onNamespace('write', uri, flags, async (namespace, signal) => {
        const bytes = blocksOf('write', flags, namespace) * namespace.blockSize;
        const input = flags.data === undefined ? await readStdin() : await readFile(flags.data);
        const source = flags.data ?? 'stdin';
        if (input.length < bytes)
          throw new ConfigError(`write: ${source} has ${input.length} bytes, ${bytes} are needed`);
        const data = new Uint8Array(bytes);
        data.set(input.subarray(0, bytes));
        await namespace.write(flags.startBlock, data, { signal, fua: flags.forceUnitAccess ?? false });
        if (flags.output === 'text') printLine('write: Success');
        return { bytes };
      }),
    );
}

export async function readStdin(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

export function registerFlush(program: Command): void {
  addAddress(program.command('flush').description('make everything written durable'), '', true).action(
    (uri: string | undefined, flags: AddressFlags) =>
      onNamespace('flush', uri, flags, async (namespace, signal) => {
        await namespace.flush({ signal });
        if (flags.output === 'text') printLine('NVMe Flush: success');
        return {};
      }),
  );
}

interface WriteZeroesFlags extends IoFlags {
  nsz?: boolean;
}

export function registerWriteZeroes(program: Command): void {
  addRange(addAddress(program.command('write-zeroes').description('make blocks read as zeroes'), 'scdfZ', true))
    .option('-d, --deac', 'the blocks may be deallocated')
    .option('-f, --force-unit-access', 'on stable media before it completes')
    .option('-Z, --nsz', 'the whole namespace, deallocated')
    .action((uri: string | undefined, flags: WriteZeroesFlags) =>
      onNamespace('write-zeroes', uri, flags, async (namespace, signal) => {
        const blocks = flags.nsz ? namespace.blockCount : flags.blockCount + 1;
        const { deac: deallocate = false, forceUnitAccess: fua = false } = flags;
        if (flags.nsz) await namespace.zeroNamespace({ signal });
        else await namespace.writeZeroes(flags.startBlock, blocks, { signal, deallocate, fua });
        if (flags.output === 'text') printLine('NVME Write Zeroes Success');
        return { blocks };
      }),
    );
}

interface DsmFlags extends AddressFlags {
  ctxAttrs: number[];
  blocks: number[];
  slbs: number[];
  ad?: boolean;
  idw?: boolean;
  idr?: boolean;
}

const integers = (text: string): number[] => text.split(',').map(parseInteger);
const RANGES_MAX = 256;

export function registerDsm(program: Command): void {
  addAddress(program.command('dsm').description('Dataset Management'), 'abswrd', true)
    .option('-a, --ctx-attrs <list>', 'context attributes, one per range', integers, [])
    .option('-b, --blocks <list>', 'blocks of each range', integers, [])
    .option('-s, --slbs <list>', 'first block of each range', integers, [])
    .option('-d, --ad', 'deallocate')
    .option('-w, --idw', 'integral for writes')
    .option('-r, --idr', 'integral for reads')
    .action((uri: string | undefined, flags: DsmFlags) =>
      onNamespace('dsm', uri, flags, async (namespace) => {
        const { slbs, blocks, ctxAttrs } = flags;
        if (slbs.length === 0 || slbs.length !== blocks.length || slbs.length > RANGES_MAX) {
          throw new ConfigError(
            `dsm: found ${slbs.length} --slbs and ${blocks.length} --blocks, allowed are 1 to ${RANGES_MAX} of each`,
          );
        }
        const data = Buffer.alloc(slbs.length * 16);
        for (const [i, slb] of slbs.entries()) {
          data.writeUInt32LE(ctxAttrs[i] ?? 0, i * 16);
          data.writeUInt32LE(blocks[i]!, i * 16 + 4);
          data.writeBigUInt64LE(BigInt(slb), i * 16 + 8);
        }
        const cdw11 = (flags.idr ? 1 : 0) | (flags.idw ? 2 : 0) | (flags.ad ? 4 : 0);
        const { status, result } = await namespace.passthru({
          opcode: IoOpcode.DatasetManagement,
          cdw10: slbs.length - 1,
          cdw11,
          data,
        });
        if (status !== 0) throw new NvmeStatusError('Dataset Management', status, 'io', result);
        if (flags.output === 'text') printLine('NVMe DSM: success');
        return { ranges: slbs.length };
      }),
    );
}
