/** get-feature, set-feature. */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { Feature } from '../../spec/feature.ts';
import { ConfigError } from '../../util/error.ts';
import { type AddressFlags, addAddress, parseInteger, resolveAddress } from './address.ts';
import { hex, printHexDump, printJson, printLine, toHex, writeRaw } from './print.ts';
import { runVerb, withAdminHost } from './run.ts';

const NAMES = new Map<number, string>(
  Object.entries(Feature).map(([name, fid]) => [fid, name.replaceAll(/([a-z])([A-Z])/g, '$1 $2')]),
);
const SELECTED = ['Current', 'Default', 'Saved', 'Supported capabilities'];
/** Length of the data structure of features that have one. */
const DATA_BYTES: Readonly<Record<number, number>> = { 3: 4096, 12: 256, 14: 8, 22: 512, 129: 16 };

interface GetFlags extends AddressFlags {
  featureId?: number;
  sel?: number;
  dataLen?: number;
  cdw11?: number;
  rawBinary?: boolean;
}

const nameOf = (fid: number): string => NAMES.get(fid) ?? 'Unknown';
const hex2 = (fid: number): string => `0x${fid.toString(16).padStart(2, '0')}`;

export function registerGetFeature(program: Command): void {
  addAddress(program.command('get-feature').description('Get Features'), 'fslcb')
    .option('-f, --feature-id <fid>', 'feature', parseInteger)
    .option('-s, --sel <0-3>', '0 current, 1 default, 2 saved, 3 capabilities', parseInteger)
    .option('-l, --data-len <bytes>', 'length of its data structure', parseInteger)
    .option('-c, --cdw11 <value>', 'command dword 11', parseInteger)
    .option('-b, --raw-binary', 'its data structure as it came')
    .action((uri: string | undefined, flags: GetFlags) =>
      runVerb(async (signal) => {
        const { options, nsid } = resolveAddress('get-feature', uri, flags);
        const { featureId: fid, sel = 0 } = flags;
        if (fid === undefined) throw new ConfigError('get-feature: --feature-id is missing, e.g. --feature-id 7');
        if (sel > 3) throw new ConfigError(`--sel: found ${sel}, allowed are 0 to 3`);
        const readBytes = flags.dataLen ?? (sel === 3 ? 0 : (DATA_BYTES[fid] ?? 0));
        // host identifiers of 128 bits are the only ones on fabrics
        const cdw11 = flags.cdw11 ?? (fid === Feature.HostIdentifier ? 1 : 0);
        const { result, data } = await withAdminHost({ ...options, ioQueues: 0 }, signal, (controller) =>
          controller.getFeature(fid, { nsid: nsid ?? 0, select: sel, cdw11, readBytes }),
        );
        if (flags.rawBinary) await writeRaw(data);
        else if (flags.output === 'json') {
          const more = data.length === 0 ? {} : { data: toHex(data) };
          printJson({ feature: fid, name: nameOf(fid), select: SELECTED[sel], value: result, ...more });
        } else {
          printLine(`get-feature:${hex2(fid)} (${nameOf(fid)}), ${SELECTED[sel]} value:${hex(result)}`);
          if (data.length > 0) printHexDump(data);
        }
      }),
    );
}

interface SetFlags extends AddressFlags {
  featureId?: number;
  value?: number;
  cdw12?: number;
  data?: string;
  save?: boolean;
}

export function registerSetFeature(program: Command): void {
  addAddress(program.command('set-feature').description('Set Features'), 'fVcds')
    .option('-f, --feature-id <fid>', 'feature', parseInteger)
    .option('-V, --value <value>', 'command dword 11', parseInteger)
    .option('-c, --cdw12 <value>', 'command dword 12', parseInteger)
    .option('-d, --data <file>', 'its data structure')
    .option('-s, --save', 'keep the value over resets')
    .action((uri: string | undefined, flags: SetFlags) =>
      runVerb(async (signal) => {
        const { options, nsid } = resolveAddress('set-feature', uri, flags);
        const { featureId: fid, value = 0, cdw12 = 0, save = false } = flags;
        if (fid === undefined) throw new ConfigError('set-feature: --feature-id is missing, e.g. --feature-id 11');
        const data = flags.data === undefined ? new Uint8Array(0) : new Uint8Array(await readFile(flags.data));
        const { result } = await withAdminHost({ ...options, ioQueues: 0 }, signal, (controller) =>
          controller.setFeature(fid, { nsid: nsid ?? 0, cdw11: value, cdw12, save, data }),
        );
        if (flags.output === 'json') printJson({ feature: fid, name: nameOf(fid), value, cdw12, save, result });
        else {
          printLine(
            `set-feature:${hex2(fid)} (${nameOf(fid)}), value:${hex(value)}, cdw12:${hex(cdw12)}, save:${save ? 1 : 0}`,
          );
        }
      }),
    );
}
