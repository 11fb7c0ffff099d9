/** admin-passthru, io-passthru: any command. */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import type { PassthruCommand } from '../../initiator/admin-queue.ts';
import { ConfigError, NvmeStatusError } from '../../util/error.ts';
import { type AddressFlags, addAddress, parseInteger, resolveAddress } from './address.ts';
import { printHexDump, printJson, printLine, toHex, writeRaw } from './print.ts';
import { runVerb, withAdminHost } from './run.ts';

interface PassthruFlags extends AddressFlags {
  opcode?: number;
  cdw2?: number;
  cdw3?: number;
  cdw10?: number;
  cdw11?: number;
  cdw12?: number;
  cdw13?: number;
  cdw14?: number;
  cdw15?: number;
  dataLen?: number;
  inputFile?: string;
  read?: boolean;
  write?: boolean;
  rawBinary?: boolean;
}

const NVME_TO_HOST = 2;
const HOST_TO_NVME = 1;

export function registerPassthru(program: Command): void {
  for (const kind of ['admin', 'io'] as const) {
    const command = program.command(`${kind}-passthru`).description(`any ${kind === 'io' ? 'I/O' : 'Admin'} command`);
    addAddress(command, 'O23456789lirwb', kind === 'io')
      .option('-O, --opcode <code>', 'opcode', parseInteger)
      .option('-2, --cdw2 <value>', 'command dword 2', parseInteger)
      .option('-3, --cdw3 <value>', 'command dword 3', parseInteger)
      .option('-4, --cdw10 <value>', 'command dword 10', parseInteger)
      .option('-5, --cdw11 <value>', 'command dword 11', parseInteger)
      .option('-6, --cdw12 <value>', 'command dword 12', parseInteger)
      .option('-7, --cdw13 <value>', 'command dword 13', parseInteger)
      .option('-8, --cdw14 <value>', 'command dword 14', parseInteger)
      .option('-9, --cdw15 <value>', 'command dword 15', parseInteger)
      .option('-l, --data-len <bytes>', 'length of the data', parseInteger)
      .option('-i, --input-file <file>', 'data to send')
      .option('-r, --read', 'the data comes from the controller')
      .option('-w, --write', 'the data goes to the controller')
      .option('-b, --raw-binary', 'received data as it came')
      .action((uri: string | undefined, flags: PassthruFlags) => runVerb((signal) => run(kind, uri, flags, signal)));
  }
}

async function run(
  kind: 'admin' | 'io',
  uri: string | undefined,
  flags: PassthruFlags,
  signal: AbortSignal,
): Promise<void> {
  const verb = `${kind}-passthru`;
  const { options, nsid } = resolveAddress(verb, uri, flags);
  const command = await commandOf(verb, nsid, flags);
  const ioQueues = kind === 'admin' ? 0 : (options.ioQueues ?? 1);
  const { status, result, resultHigh, data } = await withAdminHost({ ...options, ioQueues }, signal, (controller) =>
    kind === 'admin' ? controller.adminPassthru(command) : controller.ioPassthru(command),
  );
  if (status !== 0) {
    const name = `${kind === 'admin' ? 'Admin' : 'I/O'} command 0x${command.opcode.toString(16).padStart(2, '0')}`;
    throw new NvmeStatusError(name, status, kind, result);
  }
  if (flags.rawBinary) {
    await writeRaw(data);
  } else if (flags.output === 'json') {
    printJson({
      opcode: command.opcode,
      status,
      result,
      result_high: resultHigh,
      ...(data.length > 0 ? { data: toHex(data) } : {}),
    });
  } else {
    const what = kind === 'admin' ? 'Admin Command' : 'IO Command';
    printLine(`NVMe ${what} is Success and result: 0x${result.toString(16).padStart(8, '0')}`);
    if (data.length > 0) printHexDump(data);
  }
}

async function commandOf(verb: string, nsid: number | undefined, flags: PassthruFlags): Promise<PassthruCommand> {
  const { opcode, dataLen = 0 } = flags;
  if (opcode === undefined || opcode > 0xff) {
    throw new ConfigError(`${verb} --opcode: found ${opcode ?? 'none'}, allowed are 0 to 0xff`);
  }
  const direction = opcode & 3;
  if (flags.read && direction !== NVME_TO_HOST) {
    throw new ConfigError(
      `${verb}: --read needs an opcode that moves data to the host (bits 1:0 = 2), found 0x${opcode.toString(16)}`,
    );
  }
  if (flags.write && direction !== HOST_TO_NVME) {
    throw new ConfigError(
      `${verb}: --write needs an opcode that moves data to the controller (bits 1:0 = 1), found 0x${opcode.toString(16)}`,
    );
  }
  const words = {
    cdw2: flags.cdw2 ?? 0,
    cdw3: flags.cdw3 ?? 0,
    cdw10: flags.cdw10 ?? 0,
    cdw11: flags.cdw11 ?? 0,
    cdw12: flags.cdw12 ?? 0,
    cdw13: flags.cdw13 ?? 0,
    cdw14: flags.cdw14 ?? 0,
    cdw15: flags.cdw15 ?? 0,
  };
  const data = new Uint8Array(direction === HOST_TO_NVME ? dataLen : 0);
  if (flags.inputFile !== undefined && direction === HOST_TO_NVME) {
    const input = await readFile(flags.inputFile);
    if (input.length < dataLen) {
      throw new ConfigError(`${verb}: ${flags.inputFile} has ${input.length} bytes, --data-len asks for ${dataLen}`);
    }
    data.set(input.subarray(0, dataLen));
  }
  return { opcode, nsid: nsid ?? 0, ...words, data, readBytes: direction === NVME_TO_HOST ? dataLen : 0 };
}
