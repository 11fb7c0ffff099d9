/** A target with several ports in this process, and hosts that go to it by several paths. */
import { type MultipathOptions, MultipathSubsystem } from '../../../../src/initiator/multipath/multipath-subsystem.ts';
import type { MultipathPath } from '../../../../src/initiator/multipath/path.ts';
import type { HostOptions } from '../../../../src/initiator/options.ts';
import type { Port } from '../../../../src/target/port.ts';
import { SUBSYSTEM_NQN, TestTarget, type TestTargetOptions } from '../../../support/test-target.ts';
import { until } from '../support.ts';

export class Fabric {
  readonly t: TestTarget;
  readonly hosts: MultipathSubsystem[] = [];
  /** TCP port of each port id: it stays when the port goes and comes back. */
  readonly services: number[] = [];

  private constructor(t: TestTarget) {
    this.t = t;
  }

  static async start(portCount: number, options: TestTargetOptions = {}): Promise<Fabric> {
    const fabric = new Fabric(await TestTarget.start(options));
    fabric.services[1] = fabric.t.port.service;
    for (let portId = 2; portId <= portCount; portId++) {
      const port = await fabric.t.target.addPort({ portId, address: '127.0.0.1', service: 0, subsystems: ['*'] });
      fabric.services[portId] = port.service;
    }
    return fabric;
  }

  port(portId: number): Port {
    return this.t.target.port(portId)!;
  }

  path(portId: number, more: Partial<HostOptions> = {}): HostOptions {
    return {
      address: '127.0.0.1',
      port: this.services[portId]!,
      subnqn: SUBSYSTEM_NQN,
      reconnectDelayMs: 20,
      ...more,
    };
  }

  async connect(portIds: readonly number[], options: Partial<MultipathOptions> = {}): Promise<MultipathSubsystem> {
    const host = await MultipathSubsystem.connect({
      paths: portIds.map((portId) => this.path(portId)),
      quiesceMs: 0,
      ...options,
    });
    this.hosts.push(host);
    return host;
  }

  /** The path of `host` that leads to that port. */
  to(host: MultipathSubsystem, portId: number): MultipathPath {
    return host.paths.find(({ options }) => options.port === this.services[portId])!;
  }

  setAna(portId: number, state: number, anagrpid = 1): void {
    this.t.subsystem.ana.setState(anagrpid, portId, state);
  }

  /** Every connection of the port breaks; it goes on listening. */
  drop(portId: number): void {
    for (const connection of [...this.port(portId).connections]) connection.close('dropped by the test');
  }

  async stop(portId: number): Promise<void> {
    await this.t.target.removePort(portId);
  }

  async startAgain(portId: number): Promise<void> {
    await this.t.target.addPort({
      portId,
      address: '127.0.0.1',
      service: this.services[portId]!,
      subsystems: ['*'],
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.close()));
    await this.t.close();
    await until(() => [...this.t.target.ports].length === 0, 'all ports are closed');
  }
}
