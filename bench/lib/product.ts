/** `nvmeferry target` in a process of its own. */
import { createInterface } from 'node:readline';
import { type Child, PACKAGE_ROOT, pinned, SERVER_CORE, start, stop } from './machine.ts';

interface ReadyEvent {
  readonly event: 'ready';
  readonly subsystems: readonly { nqn: string; namespaces: readonly { nsid: number; kind: string }[] }[];
  readonly ports: readonly { address: string; service: number; subsystems: readonly string[] }[];
}

export class ProductTarget {
  readonly child: Child;
  readonly uri: string;
  /** Lines on stdout that are no events: what `--trace-gc` prints. */
  readonly otherLines: readonly string[];

  private constructor(child: Child, uri: string, otherLines: readonly string[]) {
    this.child = child;
    this.uri = uri;
    this.otherLines = otherLines;
  }

  get pid(): number {
    return this.child.pid!;
  }

  /**
   * @param flags of `nvmeferry target`: one namespace
   * @param nodeFlags before the script
   * @param root of the package: another checkout, to compare with
   */
  static async start(
    flags: readonly string[],
    nodeFlags: readonly string[] = [],
    root: string = PACKAGE_ROOT,
  ): Promise<ProductTarget> {
    const listen = ['--listen', '127.0.0.1:0', '--discovery', 'off', '--log-level', 'warn'];
    return ProductTarget.#start([...listen, ...flags], nodeFlags, root);
  }

  /**
   * @param path of a configuration: one subsystem with one namespace, one port
   * @param root of the package: another checkout, to compare with
   */
  static fromConfig(path: string, root: string = PACKAGE_ROOT): Promise<ProductTarget> {
    return ProductTarget.#start(['--config', path], [], root);
  }

  static async #start(flags: readonly string[], nodeFlags: readonly string[], root: string): Promise<ProductTarget> {
    const main = `${root}dist/cli/main.js`;
    const child = start(
      pinned(SERVER_CORE, [process.execPath, ...nodeFlags, main, 'target', '--output', 'json', ...flags]),
    );
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-4000);
    });
    const otherLines: string[] = [];
    const ready = await new Promise<ReadyEvent>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (!line.startsWith('{')) {
          otherLines.push(line);
          return;
        }
        const event = JSON.parse(line) as { event: string };
        if (event.event === 'ready') resolve(event as ReadyEvent);
      });
      child.once('close', () => reject(new Error(`The target ended before it was ready: ${stderr}`)));
    });
    const { nqn, namespaces } = ready.subsystems[0]!;
    const { address, service } = ready.ports[0]!;
    return new ProductTarget(child, `nvme+tcp://${address}:${service}/${nqn}?nsid=${namespaces[0]!.nsid}`, otherLines);
  }

  stop(): Promise<void> {
    return stop(this.child);
  }
}
