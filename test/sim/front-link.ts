/** The way of an orchestrator to the process that holds the VM's device. A connection that is lost is made again by the next call, once that can be. */
import type { DeviceFront } from '../../src/orchestrator/end.ts';
import { FRONT_GONE } from '../../src/orchestrator/front-control.ts';
import { TransportError } from '../../src/util/error.ts';
import type { Network } from './network.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party } from './scenario.ts';

/** What the process does, whoever asks. */
export interface FrontProcess {
  /** It has ended. */
  readonly isGone: boolean;
  pause(): Promise<void>;
  attach(end: Party): Promise<void>;
  resume(): Promise<void>;
}

const FRONT = 'front';

export class FrontLink {
  readonly #network: Network;
  readonly #front: FrontProcess;
  /** Connections so far. */
  #generation = 0;

  constructor(network: Network, front: FrontProcess) {
    this.#network = network;
    this.#front = front;
  }

  cut(ms: number): void {
    this.#network.cut(FRONT, ms);
    this.#generation++;
  }

  /** For one orchestrator. */
  of(process: Orchestrator): DeviceFront {
    const call = async (what: string, act: () => Promise<void>): Promise<void> => {
      this.#mustBeThere();
      const generation = this.#generation;
      await process.step(`${FRONT}: ${what}`, act);
      if (generation !== this.#generation) throw new TransportError('NVMEOF_ERR_FRONT', 'The connection is lost');
      this.#mustBeThere();
    };
    const front = this.#front;
    return {
      pause: () => call('pause', () => front.pause()),
      attach: (end) => call(`attach ${end}`, () => front.attach(end)),
      resume: () => call('resume', () => front.resume()),
      close: async () => {},
    };
  }

  #mustBeThere(): void {
    if (this.#front.isGone) throw new TransportError(FRONT_GONE, 'Front: nobody is there');
    if (this.#network.isCut(FRONT)) throw new TransportError('NVMEOF_ERR_FRONT', 'The front cannot be reached');
  }
}
