/** id-ctrl, id-ns, list-ns. */

import type { Command } from 'commander';
import { uuidFromBytes } from '../../fabrics/nqn.ts';
import { identify } from '../../initiator/controller-commands.ts';
import { NamespaceManagement } from '../../initiator/namespace-management.ts';
import { Cns } from '../../spec/identify.ts';
import type { IdentifyController } from '../../wire/cold/identify-controller.ts';
import type { IdentifyNamespace } from '../../wire/cold/identify-namespace.ts';
import { type AddressFlags, addAddress, resolveAddress } from './address.ts';
import { hex, printFields, printHexDump, printJson, printLine, toHex, writeRaw } from './print.ts';
import { requireNsid, runVerb, withAdminHost } from './run.ts';

interface IdentifyFlags extends AddressFlags {
  rawBinary?: boolean;
  vendorSpecific?: boolean;
}

/** Fields that nvme-cli prints in hex. */
const CONTROLLER_HEX = new Set(
  (
    'vid ssvid cmic cntlid ver rtd3r rtd3e oaes ctratt rrls bpcap nssl oacs frmw lpa avscc apsta rpmbs hctma sanicap domainid sqes ' +
    'cqes oncs fuses fna vwc ocfs sgls trattr'
  ).split(' '),
);
const NAMESPACE_HEX = new Set('nsze ncap nuse nsfeat flbas mc dpc dps nmic rescap fpi nsattr anagrpid'.split(' '));

function controllerJson(id: IdentifyController): Record<string, unknown> {
  const { psd, vs: _, ...scalars } = id;
  return {
    ...scalars,
    fguid: uuidFromBytes(id.fguid),
    psds: psd.slice(0, id.npss + 1).map((state) => ({
      max_power: state.mp,
      max_power_scale: state.flags & 1,
      'non-operational_state': (state.flags >> 1) & 1,
      entry_lat: state.enlat,
      exit_lat: state.exlat,
      read_tput: state.rrt,
      read_lat: state.rrl,
      write_tput: state.rwt,
      write_lat: state.rwl,
      idle_power: state.idlp,
      idle_scale: state.ips,
      active_power: state.actp,
      active_power_work: state.apws,
    })),
  };
}

function valueText(name: string, value: unknown, hexNames: ReadonlySet<string>): string {
  if (name === 'fguid') return uuidFromBytes(value as Uint8Array);
  if (value instanceof Uint8Array) return toHex(value);
  if (name === 'ieee') return Number(value).toString(16).padStart(6, '0');
  if (hexNames.has(name)) return hex(value as number | bigint);
  return String(value);
}

function printController(id: IdentifyController): void {
  printLine('NVME Identify Controller:');
  const { psd, vs: _, ...scalars } = id;
  printFields(Object.entries(scalars).map(([name, value]) => [name, valueText(name, value, CONTROLLER_HEX)] as const));
  for (let i = 0; i <= id.npss; i++) {
    const state = psd[i]!;
    const watts = state.mp * ((state.flags & 1) !== 0 ? 0.0001 : 0.01);
    const operational = (state.flags & 2) !== 0 ? 'non-operational' : 'operational';
    printLine(
      `ps   ${String(i).padStart(4)} : mp:${watts.toFixed(2)}W ${operational} enlat:${state.enlat} exlat:${state.exlat} rrt:${state.rrt} rrl:${state.rrl}`,
    );
    printLine(
      `          rwt:${state.rwt} rwl:${state.rwl} idle_power:${state.idlp || '-'} active_power:${state.actp || '-'}`,
    );
  }
}

export function registerIdCtrl(program: Command): void {
  addAddress(program.command('id-ctrl').description('Identify Controller'), 'b')
    .option('-b, --raw-binary', 'the 4,096 bytes as they came')
    .option('-V, --vendor-specific', 'dump the vendor specific part')
    .action((uri: string | undefined, flags: IdentifyFlags) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('id-ctrl', uri, flags);
        await withAdminHost({ ...options, ioQueues: 0 }, signal, async (controller) => {
          if (flags.rawBinary) {
            await writeRaw(await identify((what, command) => controller.executeAdmin(what, command), Cns.Controller));
            return;
          }
          const id = await controller.identifyController();
          if (flags.output === 'json') printJson(controllerJson(id));
          else printController(id);
          if (flags.vendorSpecific && flags.output !== 'json') {
            printLine('vs[]:');
            printHexDump(id.vs);
          }
        });
      }),
    );
}

function formatsOf(id: IdentifyNamespace): { ms: number; ds: number; rp: number }[] {
  return id.lbaf.slice(0, id.nlbaf + 1).map(({ ms, lbads, rp }) => ({ ms, ds: lbads, rp }));
}

function namespaceScalars(id: IdentifyNamespace): Record<string, unknown> {
  const { lbaf: _lbaf, vs: _vs, nguid, eui64, ...scalars } = id;
  return { ...scalars, nguid, eui64 };
}

const PERFORMANCE = ['Best', 'Better', 'Good', 'Degraded'];

function printNamespace(nsid: number, id: IdentifyNamespace): void {
  printLine(`NVME Identify Namespace ${nsid}:`);
  printFields(
    Object.entries(namespaceScalars(id)).map(([name, value]) => [name, valueText(name, value, NAMESPACE_HEX)] as const),
    8,
  );
  const inUse = (id.flbas & 0xf) | ((id.flbas >> 1) & 0x30);
  for (const [i, { ms, ds, rp }] of formatsOf(id).entries()) {
    const used = i === inUse ? ' (in use)' : '';
    printLine(
      `lbaf ${String(i).padStart(2)} : ms:${String(ms).padEnd(3)} lbads:${String(ds).padEnd(2)} rp:${hex(rp)} ${PERFORMANCE[rp]}${used}`.trimEnd(),
    );
  }
}

export function registerIdNs(program: Command): void {
  addAddress(program.command('id-ns').description('Identify Namespace'), 'b')
    .option('-b, --raw-binary', 'the 4,096 bytes as they came')
    .action((uri: string | undefined, flags: IdentifyFlags) =>
      runVerb(async (signal) => {
        const address = resolveAddress('id-ns', uri, flags);
        const nsid = requireNsid('id-ns', address.nsid);
        await withAdminHost({ ...address.options, ioQueues: 0 }, signal, async (controller) => {
          if (flags.rawBinary) {
            await writeRaw(
              await identify((what, command) => controller.executeAdmin(what, command), Cns.Namespace, nsid),
            );
            return;
          }
          const id = await controller.identifyNamespace(nsid);
          if (flags.output === 'json') printJson({ ...namespaceScalars(id), lbafs: formatsOf(id) });
          else printNamespace(nsid, id);
        });
      }),
    );
}

export function registerListNs(program: Command): void {
  addAddress(program.command('list-ns').description('identifiers of the active namespaces'))
    .option('--all', 'of all allocated ones, attached or not')
    .action((uri: string | undefined, flags: AddressFlags & { all?: boolean }) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('list-ns', uri, flags);
        const nsids = await withAdminHost({ ...options, ioQueues: 0 }, signal, (controller) =>
          flags.all === true
            ? new NamespaceManagement((what, command) => controller.executeAdmin(what, command)).allocated()
            : controller.activeNamespaces(),
        );
        if (flags.output === 'json') printJson({ nsid_list: nsids.map((nsid) => ({ nsid })) });
        else for (const [i, nsid] of nsids.entries()) printLine(`[${String(i).padStart(4)}]:${hex(nsid)}`);
      }),
    );
}
