/** An SSD behind the fake addon: one namespace in memory, which checks every command against what it says it can do. */
import type { FakeAnswer, FakeOperation } from '../../src/native/fake-binding.ts';
import { Operation } from '../../src/native/operation-layout.ts';
import { IoOpcode } from '../../src/spec/opcode.ts';

export interface FakeSsdOptions {
  readonly blockSize: number;
  readonly blockCount: number;
  readonly nsid?: number;
  readonly transferBytesMax?: number;
  readonly boundaryBytes?: number;
  /** Bytes of separate metadata; with `protection` the device makes them itself. */
  readonly metadataBytes?: number;
  readonly protection?: boolean;
  readonly writeZeroesBlocksMax?: number;
  readonly verifyBlocksMax?: number;
  readonly deallocateBlocksMax?: number;
}

const HIGH = 0x1_0000_0000;

export class FakeSsd {
  readonly options: FakeSsdOptions;
  bytes: Uint8Array;
  /** What a command did wrong; tests want none. */
  readonly faults: string[] = [];
  readonly opcodes: number[] = [];
  flushCount = 0;
  /** Answers instead of executing. */
  script: ((operation: FakeOperation) => FakeAnswer | undefined) | undefined;

  constructor(options: FakeSsdOptions) {
    this.options = options;
    this.bytes = new Uint8Array(options.blockSize * options.blockCount);
  }

  grow(blockCount: number): void {
    const bytes = new Uint8Array(this.options.blockSize * blockCount);
    bytes.set(this.bytes);
    this.bytes = bytes;
  }

  readonly answer = (operation: FakeOperation): FakeAnswer => {
    const scripted = this.script?.(operation);
    if (scripted !== undefined) return scripted;
    this.opcodes.push(operation.opcode);
    if (operation.op !== Operation.NvmeIo) this.#fault(`operation ${operation.op} on a device`);
    if (operation.nsid !== (this.options.nsid ?? 1)) this.#fault(`NSID ${operation.nsid}`);
    switch (operation.opcode) {
      case IoOpcode.Flush:
        this.flushCount++;
        return { result: 0 };
      case IoOpcode.Copy:
        return this.#copy(operation);
      case IoOpcode.DatasetManagement:
        return this.#deallocate(operation);
      case IoOpcode.Read:
      case IoOpcode.Write:
      case IoOpcode.WriteZeroes:
      case IoOpcode.Verify:
      case IoOpcode.Compare:
        return this.#blocks(operation);
      default:
        this.#fault(`opcode ${operation.opcode}`);
        return { result: 0x4001 };
    }
  };

  #fault(text: string): void {
    this.faults.push(text);
  }

  #blocks({ opcode, cdw10To15, length, data, metadata }: FakeOperation): FakeAnswer {
    const { blockSize, transferBytesMax = Number.POSITIVE_INFINITY, boundaryBytes = 0 } = this.options;
    const [low, high, cdw12, , reference] = cdw10To15 as [number, number, number, number, number];
    const first = low + high * HIGH;
    const blocks = (cdw12 & 0xffff) + 1;
    const from = first * blockSize;
    const bytes = blocks * blockSize;
    if (from + bytes > this.bytes.length) return { result: 0x4080 };
    if (opcode === IoOpcode.Verify) {
      if (length !== 0) this.#fault('Verify with data');
      if ((cdw12 & 0x2000_0000) !== 0) this.#fault('Verify with PRACT');
      if (blocks > (this.options.verifyBlocksMax ?? 0x1_0000)) this.#fault(`Verify of ${blocks} blocks`);
      return { result: 0 };
    }
    if (opcode === IoOpcode.WriteZeroes) {
      if (length !== 0) this.#fault('Write Zeroes with data');
      if (blocks > (this.options.writeZeroesBlocksMax ?? 0x1_0000)) this.#fault(`Write Zeroes of ${blocks} blocks`);
      this.bytes.fill(0, from, from + bytes);
      return { result: 0 };
    }
    if (bytes > transferBytesMax) this.#fault(`${bytes} bytes in one command`);
    if (boundaryBytes > 0 && Math.floor(from / boundaryBytes) !== Math.floor((from + bytes - 1) / boundaryBytes)) {
      this.#fault(`a command across the boundary: ${first} and ${blocks} blocks`);
    }
    if (length !== bytes) this.#fault(`${length} bytes of data for ${blocks} blocks`);
    this.#checkMetadata(opcode, cdw12, blocks, first, reference, metadata);
    const views = data instanceof Uint8Array ? [data] : (data ?? []);
    let at = from;
    for (const view of views) {
      const piece = Math.min(view.length, from + bytes - at);
      if (opcode === IoOpcode.Compare) {
        if (Buffer.compare(view.subarray(0, piece), this.bytes.subarray(at, at + piece)) !== 0)
          return { result: 0x285 };
      } else if (opcode === IoOpcode.Read) view.set(this.bytes.subarray(at, at + piece));
      else this.bytes.set(view.subarray(0, piece), at);
      at += piece;
    }
    return { result: 0 };
  }

  /** Format 0, one source after the other. */
  #copy({ cdw10To15, data, length }: FakeOperation): FakeAnswer {
    const { blockSize } = this.options;
    const [low, high, cdw12] = cdw10To15 as [number, number, number];
    const list = data as Uint8Array;
    const view = new DataView(list.buffer, list.byteOffset, list.length);
    const count = (cdw12 & 0xff) + 1;
    if ((cdw12 & 0xf00) !== 0) this.#fault('not descriptor format 0');
    if (length !== count * 32) this.#fault(`${length} bytes for ${count} sources`);
    let to = (low + high * HIGH) * blockSize;
    for (let at = 0; at < count * 32; at += 32) {
      for (const reserved of [0, 4, 18, 20, 24, 28])
        if (view.getUint16(at + reserved, true) !== 0) this.#fault(`byte ${reserved} of a source is not zero`);
      const from = (view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * HIGH) * blockSize;
      const bytes = (view.getUint16(at + 16, true) + 1) * blockSize;
      if (from + bytes > this.bytes.length || to + bytes > this.bytes.length)
        return { result: 0x4080, result0: at / 32 };
      this.bytes.copyWithin(to, from, from + bytes);
      to += bytes;
    }
    return { result: 0 };
  }

  #checkMetadata(
    opcode: number,
    cdw12: number,
    blocks: number,
    first: number,
    reference: number,
    metadata: Uint8Array | undefined,
  ): void {
    const { metadataBytes = 0, protection = false } = this.options;
    const action = (cdw12 & 0x2000_0000) !== 0;
    if (action !== (protection && metadataBytes > 0)) this.#fault(`PRACT is ${action}`);
    if (protection && reference !== first % HIGH) this.#fault(`reference tag ${reference} for block ${first}`);
    const expected = protection ? 0 : metadataBytes * blocks;
    if ((metadata?.length ?? 0) !== expected) this.#fault(`${metadata?.length} bytes of metadata, not ${expected}`);
    if (opcode === IoOpcode.Write && metadata?.some((byte) => byte !== 0)) this.#fault('metadata of someone else');
  }

  #deallocate({ data, cdw10To15 }: FakeOperation): FakeAnswer {
    const { blockSize, deallocateBlocksMax = 0xffff_ffff } = this.options;
    const range = data as Uint8Array;
    const view = new DataView(range.buffer, range.byteOffset, range.length);
    if (cdw10To15[0] !== 0 || cdw10To15[1] !== 4) this.#fault('not one range to deallocate');
    const blocks = view.getUint32(4, true);
    const first = view.getUint32(8, true) + view.getUint32(12, true) * HIGH;
    if (blocks === 0 || blocks > deallocateBlocksMax) this.#fault(`a range of ${blocks} blocks`);
    this.bytes.fill(0, first * blockSize, (first + blocks) * blockSize);
    return { result: 0 };
  }
}
