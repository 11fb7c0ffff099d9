/** A TCP port that passes everything on to another, until it is cut: one of several ways to a target, where the target itself goes on. */
import { createConnection, createServer, type Server, type Socket } from 'node:net';

export class CuttableLink {
  readonly #far: number;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;
  /** Passed on, both ways, since it was made. */
  bytes = 0;

  private constructor(far: number) {
    this.#far = far;
  }

  /** @param far port of 127.0.0.1 */
  static async to(far: number): Promise<CuttableLink> {
    const link = new CuttableLink(far);
    await link.join();
    return link;
  }

  /** Port of 127.0.0.1. */
  get port(): number {
    return this.#port;
  }

  /** Connections end as by a pulled plug, and new ones are refused. */
  async cut(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = new Promise((resolve) => server?.close(resolve));
    for (const socket of this.#sockets) socket.resetAndDestroy();
    if (server !== undefined) await closed;
  }

  /** It is there (again), at the same port. */
  async join(): Promise<void> {
    const server = createServer((near) => {
      const far = createConnection(this.#far, '127.0.0.1');
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(from);
        from.setNoDelay(true);
        from.on('data', (chunk) => {
          this.bytes += chunk.length;
        });
        from.pipe(to);
        from.on('error', () => {});
        from.on('close', () => {
          this.#sockets.delete(from);
          to.destroy();
        });
      }
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
    this.#port = (server.address() as { port: number }).port;
    this.#server = server;
  }
}
