/**
 * The framing of what a host sends, judged a second time: which commands a target may have seen in a stream of bytes, right or wrong. Written from
 * the specification (TCP 1.0 section 3.6.2), shares nothing with the product.
 */

const HLEN: Readonly<Record<number, number>> = { 0: 128, 4: 72, 6: 24 };

export class HostStream {
  #bytes: Buffer = Buffer.alloc(0);
  #commandSeen = false;
  #initialized = false;
  #headerDigest = false;
  /** What stands in the stream next is no PDU that a target may accept: it must end the connection. */
  broken = false;
  /** The host said that it ends the connection. */
  terminated = false;
  readonly #onCommand: (sqe: Buffer) => void;

  /** @param onCommand an SQE that a target may have taken: it may be answered, once */
  constructor(onCommand: (sqe: Buffer) => void) {
    this.#onCommand = onCommand;
  }

  /** A PDU is incomplete: the target has to wait for the rest. */
  get inMiddle(): boolean {
    return this.#bytes.length > 0;
  }

  push(chunk: Uint8Array): void {
    if (this.broken || this.terminated) return;
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    while (this.#next());
  }

  /** @returns true if a whole PDU was taken off */
  #next(): boolean {
    const bytes = this.#bytes;
    if (bytes.length < 8) return false;
    const type = bytes[0]!;
    const hlen = bytes[2]!;
    const plen = bytes.readUInt32LE(4);
    if (type === 2) {
      this.terminated = true;
      return false;
    }
    const header = (HLEN[type] ?? 0) + (this.#headerDigest && type !== 0 ? 4 : 0);
    if (HLEN[type] !== hlen || (type === 0) === this.#initialized || plen < header) {
      this.broken = true;
      return false;
    }
    if (type === 4 && !this.#commandSeen && bytes.length >= header) {
      this.#commandSeen = true;
      this.#onCommand(Buffer.from(bytes.subarray(8, 72)));
    }
    if (bytes.length < plen) return false;
    if (type === 0) {
      this.#initialized = true;
      this.#headerDigest = (bytes[11]! & 1) !== 0;
    }
    this.#commandSeen = false;
    this.#bytes = bytes.subarray(plen);
    return true;
  }
}
