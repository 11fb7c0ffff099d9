// @hot
/**
 * A namespace: identity, geometry, and the one way to its blocks. Every command that changes user data passes `write`, `writeZeroes` or
 * `deallocate` here, after the gate and before the backend is told.
 */
import type { BlockBackend } from '../backend/block-backend.ts';
import { ANA_GROUP_DEFAULT, checkAnagrpid } from './ana-group.ts';
import type { Controller } from './controller.ts';
import type { Request } from './request.ts';

/** @public */
export interface NamespaceOptions {
  /** 1 to 1024 unless the subsystem says more. */
  readonly nsid: number;
  readonly backend: BlockBackend;
  /** 8-4-4-4-12 hex digits; made from subsystem and NSID if absent. */
  readonly uuid?: string | undefined;
  /** 32 hex digits. */
  readonly nguid?: string | undefined;
  /** 16 hex digits. */
  readonly eui64?: string | undefined;
  readonly readOnly?: boolean | undefined;
  /** ANA group, 1 to 128. Default 1. */
  readonly anagrpid?: number | undefined;
}

export class Namespace {
  readonly nsid: number;
  readonly backend: BlockBackend;
  readonly blockSize: number;
  /** log2 of the block size (LBADS). */
  readonly blockShift: number;
  blockCount: number;
  readonly readOnly: boolean;
  readonly uuid: Uint8Array;
  readonly nguid: Uint8Array | undefined;
  readonly eui64: Uint8Array | undefined;
  /** Changes through `Subsystem.setAnaGroup`. */
  anagrpid: number;
  /** Reads by this backend need a buffer each. */
  readonly readNeedsBuffer: boolean;
  // for SMART: blocks and commands since start
  readBytes = 0;
  writtenBytes = 0;
  readCommands = 0;
  writeCommands = 0;

  constructor(options: NamespaceOptions, uuid: Uint8Array) {
    this.nsid = options.nsid;
    this.backend = options.backend;
    this.blockSize = options.backend.blockSize;
    this.blockShift = 31 - Math.clz32(options.backend.blockSize);
    this.blockCount = options.backend.blockCount;
    this.readOnly = options.readOnly === true || options.backend.readOnly;
    this.uuid = uuid;
    this.nguid =
      options.nguid === undefined ? undefined : Uint8Array.from(Buffer.from(options.nguid.replaceAll('-', ''), 'hex'));
    this.eui64 =
      options.eui64 === undefined ? undefined : Uint8Array.from(Buffer.from(options.eui64.replaceAll('-', ''), 'hex'));
    this.anagrpid = checkAnagrpid(options.anagrpid ?? ANA_GROUP_DEFAULT);
    this.readNeedsBuffer = options.backend.lendsMemory !== true;
  }

  /** Its blocks are there for the hosts of that controller. */
  isAttachedTo(_controller: Controller): boolean {
    return true;
  }

  read(request: Request): void {
    this.readBytes += request.lengthBytes;
    this.readCommands++;
    this.backend.read(request);
  }

  write(request: Request): void {
    this.writtenBytes += request.lengthBytes;
    this.writeCommands++;
    this.backend.write(request);
  }

  writeZeroes(request: Request, mayDeallocate: boolean): void {
    this.backend.writeZeroes(request, mayDeallocate);
  }

  deallocate(request: Request): void {
    this.backend.deallocate(request);
  }

  flush(request: Request): void {
    this.backend.flush(request);
  }
}
