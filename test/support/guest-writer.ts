/**
 * A guest's load on both namespaces of its SSD, over two queues: blocks whose number grows, as fast as it is answered, and which of them were
 * acknowledged.
 */
import type { SteadyGuest } from './steady-guest.ts';

const BLOCK = 4096;
const LBAS = BLOCK / 512;
/** One for each namespace and queue. */
const LANES = 4;

export class GuestWriter {
  readonly #guest: SteadyGuest;
  /** Of each lane. */
  readonly #places: number;
  readonly #acknowledged: readonly Uint32Array[];
  count = 0;
  #stop = false;
  #gate: Promise<void> | undefined;
  #atGate = 0;
  readonly #lanes: Promise<unknown>;

  /** @param bytes of each namespace */
  constructor(guest: SteadyGuest, bytes: number) {
    this.#guest = guest;
    this.#places = bytes / BLOCK / 2;
    this.#acknowledged = Array.from({ length: LANES }, () => new Uint32Array(this.#places));
    this.#lanes = Promise.all(Array.from({ length: LANES }, (_, lane) => this.#lane(lane)));
    this.#lanes.catch(() => {});
  }

  async #lane(lane: number): Promise<void> {
    const numbers = this.#acknowledged[lane]!;
    for (let i = 0; !this.#stop; i++) {
      const place = (i * 37) % this.#places;
      const number = numbers[place]! + 1;
      await this.#guest.write(nsidOf(lane), lbaOf(lane, place), block(lane, place, number), qidOf(lane));
      numbers[place] = number;
      this.count++;
      if (i % 8 === 0) await this.#check(lane, place);
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (this.#gate !== undefined) {
        this.#atGate++;
        await this.#gate;
      }
    }
  }

  async #check(lane: number, place: number): Promise<void> {
    const found = await this.#guest.read(nsidOf(lane), lbaOf(lane, place), LBAS, qidOf(lane));
    const number = this.#acknowledged[lane]![place]!;
    const wanted = number === 0 ? new Uint8Array(BLOCK) : block(lane, place, number);
    if (Buffer.compare(found, wanted) === 0) return;
    const [, , has] = new Uint32Array(found.slice(0, 12).buffer);
    throw new Error(`lane ${lane}, place ${place}: has write ${has}, acknowledged is ${number}`);
  }

  /** It gets answers, and the right ones. */
  async goesOn(): Promise<void> {
    const enough = this.count + 100;
    const wait = async (): Promise<void> => {
      while (this.count < enough && !this.#stop) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    await Promise.race([wait(), this.#lanes]);
  }

  /** With nothing outstanding. @throws what the guest was told, and what it finds */
  async checkAll(): Promise<void> {
    let open = (): void => {};
    this.#atGate = 0;
    this.#gate = new Promise((resolve) => {
      open = resolve;
    });
    const quiet = async (): Promise<void> => {
      while (this.#atGate < LANES && !this.#stop) await new Promise((resolve) => setTimeout(resolve, 2));
    };
    await Promise.race([quiet(), this.#lanes]);
    this.#gate = undefined;
    await Promise.all(
      Array.from({ length: LANES }, async (_, lane) => {
        for (let place = 0; place < this.#places; place++) await this.#check(lane, place);
      }),
    );
    open();
  }

  stop(): void {
    this.#stop = true;
  }

  /** @throws what the guest was told */
  async end(): Promise<void> {
    this.stop();
    await this.#lanes;
  }
}

const nsidOf = (lane: number): number => 1 + (lane & 1);
const qidOf = (lane: number): number => 1 + (lane >> 1);
const lbaOf = (lane: number, place: number): number => (place * 2 + (lane >> 1)) * LBAS;

function block(lane: number, place: number, number: number): Buffer {
  const data = Buffer.alloc(BLOCK, number & 0xff);
  data.writeUInt32LE(lane, 0);
  data.writeUInt32LE(place, 4);
  data.writeUInt32LE(number, 8);
  data.writeUInt32LE(number, BLOCK - 4);
  return data;
}
