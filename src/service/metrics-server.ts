/** `GET /metrics` over HTTP, for a Prometheus server. Without authentication: it belongs on loopback or a management network. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ConfigError } from '../util/error.ts';

export interface MetricsPage {
  readonly contentType: string;
  text(): Promise<string>;
}

const CONNECTIONS_MAX = 16;
const REQUEST_TIMEOUT_MS = 10_000;

/** Owns its listener and its connections, until `close`. */
export class MetricsServer {
  readonly #server: Server;
  readonly address: string;
  readonly service: number;

  private constructor(server: Server) {
    this.#server = server;
    const { address, port } = server.address() as AddressInfo;
    this.address = address;
    this.service = port;
  }

  /** @throws ConfigError if it cannot listen there */
  static async listen(address: string, service: number, page: MetricsPage): Promise<MetricsServer> {
    const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, (request, response) => {
      void answer(page, request, response);
    });
    server.maxConnections = CONNECTIONS_MAX;
    try {
      server.listen(service, address);
      await once(server, 'listening');
    } catch (cause) {
      const reason = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
      throw new ConfigError(
        `metrics: cannot listen on ${address}:${service} (${reason}); choose another address or port`,
        {
          cause,
        },
      );
    }
    return new MetricsServer(server);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}

async function answer(page: MetricsPage, request: IncomingMessage, response: ServerResponse): Promise<void> {
  response.setHeader('Connection', 'close');
  const [path] = (request.url ?? '').split('?');
  if (path !== '/metrics') {
    response.writeHead(404).end('There is /metrics\n');
    return;
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { Allow: 'GET, HEAD' }).end();
    return;
  }
  try {
    const text = await page.text();
    response.writeHead(200, { 'Content-Type': page.contentType }).end(text);
  } catch {
    response.writeHead(500).end();
  }
}
