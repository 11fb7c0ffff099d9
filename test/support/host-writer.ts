/** A host's load over whatever way multipath finds: it is told no error, and everything that was acknowledged is there. */
import type { HostNamespace } from '../../src/initiator/namespace.ts';

const BLOCK = 4096;
const LANES = 4;
const PLACES = 512;

/** Writes blocks whose number grows, as fast as it is answered, and knows which was acknowledged last. */
export class HostWriter {
  readonly #namespace: HostNamespace;
  readonly acknowledged: Uint32Array = new Uint32Array(PLACES);
  count = 0;
  #stop = false;
  readonly #lanes: Promise<unknown>;

  constructor(namespace: HostNamespace) {
    this.#namespace = namespace;
    this.#lanes = Promise.all(Array.from({ length: LANES }, (_, lane) => this.#lane(lane)));
    this.#lanes.catch(() => {});
  }

  async #lane(lane: number): Promise<void> {
    for (let i = 0; !this.#stop; i++) {
      const place = ((i * 37) % (PLACES / LANES)) * LANES + lane;
      const number = this.acknowledged[place]! + 1;
      await this.#namespace.write(this.#slba(place), block(place, number));
      this.acknowledged[place] = number;
      this.count++;
      if (i % 8 === 0) await this.#check(place);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  #slba(place: number): number {
    return (place * BLOCK) / this.#namespace.blockSize;
  }

  async #check(place: number): Promise<void> {
    const found = await this.#namespace.read(this.#slba(place), BLOCK / this.#namespace.blockSize);
    const number = this.acknowledged[place]!;
    if (number > 0 && Buffer.compare(found, block(place, number)) !== 0) {
      throw new Error(`place ${place} has lost its write ${number}`);
    }
  }

  /** It gets answers, and the right ones. */
  async goesOn(): Promise<void> {
    const enough = this.count + 100;
    const wait = async (): Promise<void> => {
      while (this.count < enough) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    await Promise.race([wait(), this.#lanes]);
  }

  /** @throws what the host was told, and what it finds */
  async end(): Promise<void> {
    this.#stop = true;
    await this.#lanes;
    for (let place = 0; place < PLACES; place++) await this.#check(place);
  }
}

function block(place: number, number: number): Buffer {
  const data = Buffer.alloc(BLOCK, number & 0xff);
  data.writeUInt32LE(place, 0);
  data.writeUInt32LE(number, 4);
  data.writeUInt32LE(number, BLOCK - 4);
  return data;
}
