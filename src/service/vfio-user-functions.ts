/** The controllers behind PCIe of a running target: a function each, and the socket that a VM's emulator connects to. */
import type { FunctionConfig } from '../config/types.ts';
import type { Logger } from '../log/logger.ts';
import type { PciController } from '../target/pci.ts';
import type { Target } from '../target/target.ts';
import { VfioUserServer } from '../transport/vfio-user/server.ts';
import type { Clock } from '../util/clock.ts';

interface Served {
  readonly server: VfioUserServer;
  readonly made: PciController;
}

export class VfioUserFunctions {
  readonly #served: Served[] = [];
  readonly #clock: Clock;
  readonly #log: Logger;

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
  }

  /** @throws ConfigError, NativeError: one line naming the socket; what was added before stays */
  add(target: Target, config: FunctionConfig): void {
    const { vfioUser: path, subsystem, hostnqn, cntlid, vectors, queues, queueSize, dmaByMessage } = config;
    const made = target.addFunction(target.subsystem(subsystem)!, {
      hostnqn,
      cntlid,
      vectorCount: vectors,
      ioQueuesMax: queues,
      queueEntriesMax: queueSize,
    });
    const log = this.#log.child({ subnqn: subsystem, cntlid: made.controller.cntlid, socket: path });
    try {
      const server = new VfioUserServer({
        path,
        function: made.function,
        dmaByMessage,
        clock: this.#clock,
        onConnected: () => log.info('VM connected'),
        onDisconnected: (reason, err) => log.info({ reason, err }, 'VM disconnected'),
        onWarning: (message, err) => log.warn({ err }, message),
      });
      this.#served.push({ server, made });
    } catch (error) {
      made.function.close();
      throw error;
    }
  }

  /** Disconnects the VMs, lets their commands end, and takes the controllers out. Idempotent. */
  async close(): Promise<void> {
    await Promise.all(
      this.#served.splice(0).map(async ({ server, made }) => {
        await server.close();
        made.function.close();
      }),
    );
  }
}
