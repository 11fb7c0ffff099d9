/** Format NVM (80h). Base 2.1 section 5.1.10, NVM Command Set 1.2 section 4.1.2. */
import { NSID_ALL } from '../../spec/identify.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { sqeCdw10, sqeNsid } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import type { Controller } from '../controller.ts';
import { zeroNamespace } from '../erase.ts';
import type { Namespace } from '../namespace.ts';
import { becomeQuiet } from '../quiet.ts';
import type { Request } from '../request.ts';
import type { Subsystem } from '../subsystem.ts';
import { admitted } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';
import { settle } from './settle.ts';

const SecureErase = { None: 0, UserData: 1 } as const;
const ses = (cdw10: number): number => (cdw10 >>> 9) & 7;
const formatIndex = (cdw10: number): number => (cdw10 & 0xf) | ((cdw10 >>> 8) & 0x30);
const protection = (cdw10: number): number => (cdw10 >>> 5) & 7;

export function canFormat({ subsystem }: Controller): boolean {
  return !subsystem.isDiscovery;
}

export const formatNvm: CommandHandler = {
  isOffered: canFormat,
  prepare(request): number {
    if (sqeNsid(request.sqe, request.sqeBase) === NSID_ALL) return request.invalidField(4);
    const namespace = admitted(request, Access.Attached | Access.Write);
    if (namespace === undefined) return request.status;
    const cdw10 = sqeCdw10(request.sqe, request.sqeBase);
    // no encryption: no cryptographic erase
    if (ses(cdw10) > SecureErase.UserData) return request.invalidField(41, 1);
    if (protection(cdw10) !== 0) return request.fail(SpecificStatus.InvalidFormat, 40, 5);
    if (namespace.formatBlockSizes[formatIndex(cdw10)] === undefined) {
      return request.fail(SpecificStatus.InvalidFormat, 40);
    }
    return 0;
  },
  execute(request): void {
    const namespace = request.namespace!;
    request.namespace = undefined; // else it would wait for itself
    const { subsystem } = request.queuePair.controller!;
    settle(request, format(subsystem, namespace, blockSizeOf(request, namespace)));
  },
};

function blockSizeOf(request: Request, namespace: Namespace): number {
  return namespace.formatBlockSizes[formatIndex(sqeCdw10(request.sqe, request.sqeBase))]!;
}

/** The data goes whatever SES says: nothing of it could be read sensibly in blocks of another size. */
async function format(subsystem: Subsystem, namespace: Namespace, blockSize: number): Promise<number> {
  namespace.formatting = true;
  subsystem.accessChanged(namespace.nsid);
  try {
    await becomeQuiet(subsystem, namespace, Status.FormatInProgress, subsystem.clock);
    const status = await zeroNamespace(namespace);
    if (status !== 0) return status;
    if (blockSize !== namespace.blockSize) {
      await subsystem.manager.willFormat(namespace, blockSize);
      namespace.setBlockSize(blockSize);
    }
    return 0;
  } catch (error) {
    subsystem.events.warning?.(
      subsystem,
      `Namespace ${namespace.nsid} lost its data, but could not be formatted`,
      error,
    );
    return Status.InternalError | DNR;
  } finally {
    namespace.formatting = false;
    if (subsystem.namespaces[namespace.nsid] === namespace) subsystem.namespaceChanged(namespace.nsid);
  }
}
