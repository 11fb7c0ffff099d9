/** compare, verify, write-uncor, copy, get-lba-status. Block counts are 0's based, as nvme-cli's. */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { CopySource } from '../../initiator/copy.ts';
import { MediaStatus } from '../../spec/status.ts';
import { ConfigError, NvmeStatusError } from '../../util/error.ts';
import { type AddressFlags, addAddress, parseBytes, parseInteger, resolveAddress } from './address.ts';
import { addRange, blocksOf, type IoFlags, onNamespace, readStdin } from './io.ts';
import { printJson, printLine } from './print.ts';
import { openNamespace, requireNsid, runVerb, withController } from './run.ts';

interface CompareFlags extends IoFlags {
  andWrite?: string;
}

/** Exactly the blocks that the command is about. */
async function inputOf(verb: string, path: string | undefined, bytes: number): Promise<Uint8Array> {
  const input = path === undefined ? await readStdin() : await readFile(path);
  if (input.length < bytes) {
    throw new ConfigError(`${verb}: ${path ?? 'stdin'} has ${input.length} bytes, ${bytes} are needed`);
  }
  return Uint8Array.from(input.subarray(0, bytes));
}

export function registerCompare(program: Command): void {
  addRange(addAddress(program.command('compare').description('compare blocks with a file'), 'sczdf', true))
    .option('-z, --data-size <bytes>', 'instead of --block-count', parseBytes)
    .option('-d, --data <file>', 'what to compare with (default: stdin)')
    .option('-f, --force-unit-access', 'read from stable media')
    .option('--and-write <file>', 'if they are equal, write this, as one operation (fused Compare and Write)')
    .action((uri: string | undefined, flags: CompareFlags) =>
      onNamespace('compare', uri, flags, async (namespace, signal) => {
        const bytes = blocksOf('compare', flags, namespace) * namespace.blockSize;
        const expected = await inputOf('compare', flags.data, bytes);
        const options = { signal, fua: flags.forceUnitAccess ?? false };
        if (flags.andWrite === undefined) {
          await namespace.compare(flags.startBlock, expected, options);
        } else {
          const data = await inputOf('compare', flags.andWrite, bytes);
          if (!(await namespace.compareAndWrite(flags.startBlock, expected, data, options))) {
            throw new NvmeStatusError('Compare, and nothing was written:', MediaStatus.CompareFailure, 'io');
          }
        }
        if (flags.output === 'text') printLine('compare: Success');
        return { bytes };
      }),
    );
}

export function registerVerify(program: Command): void {
  addRange(addAddress(program.command('verify').description('have the controller read blocks'), 'scf', true))
    .option('-f, --force-unit-access', 'from stable media')
    .action((uri: string | undefined, flags: IoFlags) =>
      onNamespace('verify', uri, flags, async (namespace, signal) => {
        const blocks = flags.blockCount + 1;
        await namespace.verify(flags.startBlock, blocks, { signal, fua: flags.forceUnitAccess ?? false });
        if (flags.output === 'text') printLine('NVME Verify Success');
        return { blocks };
      }),
    );
}

export function registerWriteUncor(program: Command): void {
  addRange(
    addAddress(program.command('write-uncor').description('make blocks unreadable until they are written'), 'sc', true),
  ).action((uri: string | undefined, flags: IoFlags) =>
    onNamespace('write-uncor', uri, flags, async (namespace, signal) => {
      const blocks = flags.blockCount + 1;
      await namespace.writeUncorrectable(flags.startBlock, blocks, { signal });
      if (flags.output === 'text') printLine('NVME Write Uncorrectable Success');
      return { blocks };
    }),
  );
}

interface CopyFlags extends AddressFlags {
  sdlba: number;
  slbs: number[];
  blocks: number[];
  snsids: number[];
  sopts: number[];
  forceUnitAccess?: boolean;
  format?: number;
}

const integers = (text: string): number[] => text.split(',').map(parseInteger);
const SOPT_FAST_COPY_ONLY = 0x8000;

/** The ranges of the flags. @throws ConfigError */
function sourcesOf(flags: CopyFlags): CopySource[] {
  const { slbs, blocks, snsids, sopts } = flags;
  if (slbs.length === 0 || slbs.length !== blocks.length) {
    throw new ConfigError(
      `copy: found ${slbs.length} --slbs and ${blocks.length} --blocks, allowed are as many of both, at least 1`,
    );
  }
  if (snsids.length !== 0 && snsids.length !== slbs.length) {
    throw new ConfigError(`copy: found ${snsids.length} --snsids, allowed are none or ${slbs.length}`);
  }
  return slbs.map((slba, i) => ({
    slba,
    blockCount: blocks[i]! + 1,
    nsid: snsids[i],
    fastOnly: ((sopts[i] ?? 0) & SOPT_FAST_COPY_ONLY) !== 0,
  }));
}

const COPY_FORMATS = [0, 1, 2, 3] as const;

/** Format 0, or 2 where sources name their namespace. @throws ConfigError */
function copyFormatOf({ format, snsids, sopts }: CopyFlags): (typeof COPY_FORMATS)[number] {
  if (format === undefined) return snsids.length > 0 || sopts.length > 0 ? 2 : 0;
  const known = COPY_FORMATS.find((one) => one === format);
  if (known === undefined) throw new ConfigError(`copy --format: found ${format}, allowed are 0 to 3`);
  return known;
}

export function registerCopy(program: Command): void {
  addAddress(program.command('copy').description('have the controller copy blocks'), 'dsbNOfF', true)
    .option('-d, --sdlba <lba>', 'first block of the destination', parseInteger, 0)
    .option('-s, --slbs <list>', 'first block of each source', integers, [])
    .option('-b, --blocks <list>', "blocks of each source, 0's based", integers, [])
    .option('-N, --snsids <list>', 'namespace of each source (formats 2 and 3)', integers, [])
    .option('-O, --sopts <list>', 'options of each source: 0x8000 fast copy only (formats 2 and 3)', integers, [])
    .option('-f, --force-unit-access', 'on stable media before it completes')
    .option('-F, --format <0..3>', 'descriptor format (default: 2 with --snsids, else 0)', parseInteger)
    .action((uri: string | undefined, flags: CopyFlags) =>
      onNamespace('copy', uri, flags, async (namespace, signal) => {
        const sources = sourcesOf(flags);
        const format = copyFormatOf(flags);
        await namespace.copy(flags.sdlba, sources, {
          signal,
          fua: flags.forceUnitAccess ?? false,
          format,
        });
        if (flags.output === 'text') printLine('NVMe Copy: success');
        return { ranges: sources.length, blocks: sources.reduce((sum, { blockCount }) => sum + blockCount, 0) };
      }),
    );
}

interface LbaStatusFlags extends AddressFlags {
  startLba: number;
  maxDw?: number;
  action?: number;
  rangeLen: number;
}

const COMPLETIONS = [
  'No indication of the completion condition',
  'Completed transferring as much as was asked for; there is more',
  'Completed for the range of blocks',
];
const DESCRIPTOR_DWORDS = 4;
const HEADER_DWORDS = 2;
const hexPadded = (value: number, digits: number): string => `0x${value.toString(16).padStart(digits, '0')}`;

export function registerGetLbaStatus(program: Command): void {
  addAddress(program.command('get-lba-status').description('which blocks are known to be unreadable'), 'smal')
    .option('-s, --start-lba <lba>', 'first block', parseInteger, 0)
    .option('-m, --max-dw <n>', "dwords to return, 0's based (default: 255 ranges)", parseInteger)
    .option('-a, --action <atype>', '0x10 scan, 0x11 tracked, 0x02 allocated (default: 0x11)', parseInteger)
    .option('-l, --range-len <n>', 'blocks; 0: all that follow', parseInteger, 0)
    .action((uri: string | undefined, flags: LbaStatusFlags) =>
      runVerb(async (signal) => {
        const address = resolveAddress('get-lba-status', uri, flags);
        const nsid = requireNsid('get-lba-status', address.nsid);
        const { startLba: slba, rangeLen: blockCount, maxDw } = flags;
        const rangesMax = maxDw === undefined ? 255 : Math.floor((maxDw + 1 - HEADER_DWORDS) / DESCRIPTOR_DWORDS);
        if (rangesMax < 0) throw new ConfigError(`get-lba-status --max-dw: found ${maxDw}, allowed are 1 and more`);
        const options = { ...address.options, ioQueues: 0 };
        const { completion, ranges } = await withController(options, signal, async (controller) => {
          const namespace = await openNamespace('get-lba-status', controller, nsid);
          return namespace.getLbaStatus({ slba, blockCount, rangesMax, action: flags.action ?? 0x11 });
        });
        if (flags.output === 'json') {
          const entries = ranges.map((range, i) => [
            `LSD entry ${i}`,
            [
              { DSLBA: hexPadded(range.slba, 16) },
              { NLB: hexPadded(range.blockCount - 1, 8) },
              { Status: hexPadded(range.status, 2) },
            ],
          ]);
          printJson({
            'Number of LBA Status Descriptors (NLSD)': ranges.length,
            'Completion Condition (CMPC)': completion,
            'cmpc-definition': COMPLETIONS[completion] ?? 'unknown',
            ...Object.fromEntries(entries),
          });
          return;
        }
        printLine(`Number of LBA Status Descriptors(NLSD): ${ranges.length}`);
        printLine(`Completion Condition(CMPC): ${completion}`);
        printLine(`\t${COMPLETIONS[completion] ?? 'unknown'}`);
        for (const range of ranges) {
          const fields = `DSLBA: ${hexPadded(range.slba, 16)}, NLB: ${hexPadded(range.blockCount - 1, 8)}`;
          printLine(`{ ${fields}, Status: ${hexPadded(range.status, 2)} }`);
        }
      }),
    );
}
