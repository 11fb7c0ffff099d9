/** A process of its own that drains a queue, on the load's core. */
import { createInterface } from 'node:readline';
import { type Child, compiled, LOAD_CORE, pinned, start, stop } from './machine.ts';
import type { DrainPolicy } from './queue-drain.ts';
import type { DrainerCommand, DrainerReport, DrainerSetting } from './queue-drainer.ts';

export class QueueDrainer {
  readonly #child: Child;
  readonly #answers: AsyncIterator<string>;

  private constructor(child: Child) {
    this.#child = child;
    child.stderr.pipe(process.stderr);
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  static async start(uri: string, hostnqn: string): Promise<QueueDrainer> {
    const setting: DrainerSetting = { uri, hostnqn };
    const script = compiled('lib/queue-drainer.js');
    const drainer = new QueueDrainer(start(pinned(LOAD_CORE, [process.execPath, script, JSON.stringify(setting)])));
    await drainer.#answer();
    return drainer;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async #answer(): Promise<DrainerReport> {
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error('The drainer has ended');
    return JSON.parse(value) as DrainerReport;
  }

  #ask(command: DrainerCommand): Promise<DrainerReport> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    return this.#answer();
  }

  async begin(cntlid: number, policy: DrainPolicy): Promise<void> {
    await this.#ask({ what: 'begin', cntlid, policy });
  }

  /** The queue stays; what is off logs nothing. */
  async track(on: boolean): Promise<void> {
    await this.#ask({ what: 'track', on });
  }

  /** @returns entries drained since `begin`, once no drain is under way */
  async settle(): Promise<number> {
    return (await this.#ask({ what: 'settle' })).entries;
  }

  /** Drains the rest; the queue is gone then. */
  async end(): Promise<void> {
    await this.#ask({ what: 'end' });
  }

  stop(): Promise<void> {
    this.#child.stdin.end();
    return stop(this.#child);
  }
}
