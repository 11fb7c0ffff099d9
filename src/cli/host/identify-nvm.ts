/** nvm-id-ctrl, nvm-id-ns, cmdset-ind-id-ns: what Identify says of the NVM Command Set alone, and of namespaces of any set. */
import type { Command } from 'commander';
import { identify } from '../../initiator/controller-commands.ts';
import { Cns } from '../../spec/identify.ts';
import { independentNamespaceCodec } from '../../wire/cold/identify-independent.ts';
import { type IdentifyNamespace, identifyNamespaceCodec } from '../../wire/cold/identify-namespace.ts';
import { type NvmNamespace, nvmControllerCodec, nvmNamespaceCodec } from '../../wire/cold/identify-nvm.ts';
import { type AddressFlags, addAddress, resolveAddress } from './address.ts';
import type { AdminHost } from './local-device.ts';
import { hex, printFields, printJson, printLine, writeRaw } from './print.ts';
import { requireNsid, runVerb, withAdminHost } from './run.ts';

interface IdentifyFlags extends AddressFlags {
  rawBinary?: boolean;
}

/** The 4,096 bytes of one Identify. */
type Ask = (cns: number, nsid?: number) => Promise<Uint8Array>;

/** A verb that asks for one structure; `show` may ask for more. */
function addIdentifyVerb(
  program: Command,
  name: string,
  description: string,
  cns: number,
  ofNamespace: boolean,
  show: (bytes: Uint8Array, nsid: number, json: boolean, ask: Ask) => Promise<void> | void,
): void {
  addAddress(program.command(name).description(description), 'b')
    .option('-b, --raw-binary', 'the 4,096 bytes as they came')
    .action((uri: string | undefined, flags: IdentifyFlags) =>
      runVerb(async (signal) => {
        const address = resolveAddress(name, uri, flags);
        const nsid = ofNamespace ? requireNsid(name, address.nsid) : 0;
        await withAdminHost({ ...address.options, ioQueues: 0 }, signal, async (host: AdminHost) => {
          const ask: Ask = (cnsOf, of = 0) => identify((what, command) => host.executeAdmin(what, command), cnsOf, of);
          const bytes = await ask(cns, nsid);
          if (flags.rawBinary) await writeRaw(bytes);
          else await show(bytes, nsid, flags.output === 'json', ask);
        });
      }),
    );
}

const text = (fields: object, hexNames: string): [string, string][] =>
  Object.entries(fields).map(([name, value]) => [
    name,
    hexNames.split(' ').includes(name) ? hex(value as number) : String(value),
  ]);

export function registerNvmIdCtrl(program: Command): void {
  addIdentifyVerb(
    program,
    'nvm-id-ctrl',
    'Identify Controller of the NVM Command Set',
    Cns.CommandSetController,
    false,
    (bytes, _nsid, json) => {
      const id = nvmControllerCodec.decode(bytes);
      if (json) {
        printJson(id);
        return;
      }
      printLine('NVMe Identify Controller NVM:');
      printFields(text(id, 'ver'), 7);
    },
  );
}

/** One extended LBA format: storage tag size, format of the protection information, and of the qualified one. */
interface ExtendedFormat {
  readonly sts: number;
  readonly pif: number;
  readonly qpif: number;
}

/** ELBAF of the formats that the namespace has. */
function formatsOf({ elbaf }: NvmNamespace, { nlbaf, nulbaf }: IdentifyNamespace): ExtendedFormat[] {
  return elbaf.slice(0, nlbaf + nulbaf + 1).map((bits) => ({
    sts: bits & 0x7f,
    pif: (bits >>> 7) & 3,
    qpif: (bits >>> 9) & 0xf,
  }));
}

export function registerNvmIdNs(program: Command): void {
  addIdentifyVerb(
    program,
    'nvm-id-ns',
    'Identify Namespace of the NVM Command Set',
    Cns.CommandSetNamespace,
    true,
    async (bytes, nsid, json, ask) => {
      const id = nvmNamespaceCodec.decode(bytes);
      // how many formats there are, and which is in use, is in CNS 00h
      const namespace = identifyNamespaceCodec.decode(await ask(Cns.Namespace, nsid));
      const formats = formatsOf(id, namespace);
      const { lbstm, pic, pifa, elbaf: _, ...rest } = id;
      if (json) {
        printJson({ lbstm, pic, pifa, elbafs: formats, ...rest });
        return;
      }
      printLine(`NVMe NVM Identify Namespace ${nsid}:`);
      printFields(text({ lbstm, pic, pifa }, ''), 6);
      const inUse = (namespace.flbas & 0xf) | ((namespace.flbas >> 1) & 0x30);
      for (const [i, { qpif, pif, sts }] of formats.entries()) {
        const used = i === inUse ? ' (in use)' : '';
        printLine(`elbaf ${String(i).padStart(2)} : qpif:${qpif} pif:${pif} sts:${sts} ${used}`.trimEnd());
      }
      printFields(text(rest, 'tlbaag'), 6);
    },
  );
}

export function registerCmdsetIndIdNs(program: Command): void {
  addIdentifyVerb(
    program,
    'cmdset-ind-id-ns',
    'Identify Namespace, independent of the I/O command set',
    Cns.IndependentNamespace,
    true,
    (bytes, nsid, json) => {
      const id = independentNamespaceCodec.decode(bytes);
      if (json) {
        printJson(id);
        return;
      }
      printLine(`NVME Identify Command Set Independent Namespace ${nsid}:`);
      printFields(text(id, 'nsfeat nmic rescap nstat'), 8);
    },
  );
}
