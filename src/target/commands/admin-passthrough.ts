/**
 * Admin commands and log pages that go to the local SSD below as they came: those on the subsystem's list, and no others. A command that names a
 * namespace goes to the device of that namespace, with the NSID it has there; one that names none, or all, goes to the only device there is.
 */
import type { DeviceAnswer, DevicePassthrough } from '../../backend/device-passthrough.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { AdminOpcode, Direction } from '../../spec/opcode.ts';
import { PASSTHROUGH_OPCODES } from '../../spec/passthrough.ts';
import { Status } from '../../spec/status.ts';
import { sqeCdw10, sqeCdw11, sqeDword, sqeNsid, sqeOpcode, sqeSglLength } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import type { Controller } from '../controller.ts';
import type { Request } from '../request.ts';
import { admitted } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';
import { settle } from './settle.ts';

/** The devices below the namespaces that the controller has. */
function devicesOf(controller: Controller): Map<string, DevicePassthrough> {
  const devices = new Map<string, DevicePassthrough>();
  for (const { backend } of controller.activeNamespaces()) {
    const { passthrough } = backend;
    if (passthrough !== undefined && !devices.has(passthrough.device)) devices.set(passthrough.device, passthrough);
  }
  return devices;
}

/** True if the opcode is on the list of the subsystem, and there is a device to send it to. */
export function passesOpcode(controller: Controller, opcode: number): boolean {
  const { subsystem } = controller;
  return !subsystem.isDiscovery && subsystem.passthrough.opcodes.has(opcode) && devicesOf(controller).size > 0;
}

/** The same of a log page. */
export function passesLogPage(controller: Controller, lid: number): boolean {
  const { subsystem } = controller;
  return !subsystem.isDiscovery && subsystem.passthrough.logPages.has(lid) && devicesOf(controller).size > 0;
}

const namesNamespace = (nsid: number): boolean => nsid !== 0 && nsid !== NSID_ALL;

/** Where the command goes; a status where it cannot go anywhere. */
function deviceOf(request: Request): DevicePassthrough | number {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  if (namesNamespace(nsid)) {
    const namespace = request.namespace ?? admitted(request, Access.Attached);
    if (namespace === undefined) return request.status;
    return namespace.backend.passthrough ?? request.fail(Status.InvalidField, 4);
  }
  const devices = [...devicesOf(request.queuePair.controller!).values()];
  // which of several is for the host to say
  return devices.length === 1 ? devices[0]! : request.fail(Status.InvalidNamespaceOrFormat, 4);
}

function prepare(request: Request, direction: Direction, bytes: number): number {
  const device = deviceOf(request);
  if (typeof device === 'number') return device;
  if (direction === Direction.Bidirectional) return request.fail(Status.InvalidField, 0);
  if (direction === Direction.None) return 0;
  if (bytes > TRANSFER_BYTES_MAX) return request.fail(Status.InvalidField, 32);
  request.direction = direction;
  request.transferBytes = bytes;
  return 0;
}

function execute(request: Request): void {
  const device = deviceOf(request);
  if (typeof device === 'number') request.finish(device);
  else settle(request, send(request, device));
}

async function send(request: Request, device: DevicePassthrough): Promise<number> {
  const { sqe, sqeBase, direction, transferBytes } = request;
  const nsid = sqeNsid(sqe, sqeBase);
  const reads = direction === Direction.ControllerToHost && transferBytes > 0;
  request.retain();
  const data = reads ? new Uint8Array(transferBytes) : transferBytes > 0 ? request.data() : undefined;
  const answer: DeviceAnswer = await device.admin({
    opcode: sqeOpcode(sqe, sqeBase),
    nsid: namesNamespace(nsid) ? 'own' : nsid,
    cdw2: sqeDword(sqe, sqeBase, 2),
    cdw3: sqeDword(sqe, sqeBase, 3),
    cdw10To15: [10, 11, 12, 13, 14, 15].map((n) => sqeDword(sqe, sqeBase, n)),
    data,
  });
  request.result0 = answer.result0;
  request.result1 = answer.result1;
  if (reads && answer.status === 0) request.answer(data!);
  return answer.status;
}

/** How much data moves is the transport's to say: not every command has a field for it. */
const handlerOf = (opcode: number): CommandHandler => ({
  isOffered: (controller) => passesOpcode(controller, opcode),
  prepare: (request) => prepare(request, (opcode & 3) as Direction, sqeSglLength(request.sqe, request.sqeBase)),
  execute,
});

/** By opcode: every one that may be on a list. */
export const passthroughCommands: Readonly<Record<number, CommandHandler>> = Object.fromEntries(
  PASSTHROUGH_OPCODES.map((opcode) => [opcode, handlerOf(opcode)]),
);

/** Get Log Page of a page on the list. */
export const passedLogPage: CommandHandler = {
  prepare(request): number {
    const { sqe, sqeBase } = request;
    const dwords = (sqeCdw10(sqe, sqeBase) >>> 16) + (sqeCdw11(sqe, sqeBase) & 0xffff) * 0x1_0000 + 1;
    return prepare(request, Direction.ControllerToHost, dwords * 4);
  },
  execute,
};

/** What the list adds to OACS: bits 0 (Security Send and Receive) and 4 (Device Self-test). */
export function passthroughOacs(controller: Controller): number {
  const passes = (...opcodes: number[]): boolean => opcodes.every((opcode) => passesOpcode(controller, opcode));
  return (
    (passes(AdminOpcode.SecuritySend, AdminOpcode.SecurityReceive) ? 0x01 : 0) |
    (passes(AdminOpcode.DeviceSelfTest) ? 0x10 : 0)
  );
}
