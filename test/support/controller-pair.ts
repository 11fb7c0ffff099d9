/**
 * Two `nvmeferry dpu` that a controller moves between, the `nvmeferry front` of its VM, and a target that both reach: namespace 1 is a file of each,
 * namespace 2 the target's. Each party is a process, which may be killed and started again.
 */
import fs from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { LiveMigration } from '../../src/initiator/live-migration.ts';
import { FrontControl, type FrontReport } from '../../src/orchestrator/front-control.ts';
import { functionFigures } from '../../src/orchestrator/function-figures.ts';
import { CliTarget } from './cli.ts';
import { freePort, MOVER_NQN } from './move-pair.ts';

export type Side = 'a' | 'b';
export const OTHER: Readonly<Record<Side, Side>> = { a: 'b', b: 'a' };
export const COPIED_NSID = 1;
export const SHARED_NSID = 2;

const NQN = 'nqn.2026-01.test.nvmeferry:vm';
const FAR_NQN = 'nqn.2026-01.test.nvmeferry:far';
const CNTLID = 5;
const UUIDS = ['0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa', '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1ab'] as const;
const QUEUES = 4;
/** Of the parts of a state: the first version, the first format. */
const WHOLE_STATE = { csvi: 1, csuuidi: 1 };
/** Longer than any kill and restart takes. */
const FRONT_PATIENCE_MS = 30_000;

/** How the orchestrator comes to both ends. */
export interface Way {
  readonly ports?: Readonly<Record<Side, number>>;
  readonly katoS?: number;
}

export class ControllerPair {
  readonly folder: string;
  readonly #bytes: number;
  readonly #ports: Readonly<Record<Side | 'far', number>>;
  readonly #dpus = new Map<Side, CliTarget>();
  #far: CliTarget | undefined;
  #front: CliTarget | undefined;

  private constructor(folder: string, bytes: number, ports: Readonly<Record<Side | 'far', number>>) {
    this.folder = folder;
    this.#bytes = bytes;
    this.#ports = ports;
  }

  /** @param bytes of each namespace */
  static async start(bytes: number): Promise<ControllerPair> {
    const folder = await mkdtemp(join(tmpdir(), 'nvmeferry-pair-'));
    const ports = { a: await freePort(), b: await freePort(), far: await freePort() };
    const pair = new ControllerPair(folder, bytes, ports);
    try {
      await pair.#start();
    } catch (error) {
      await pair.close();
      throw error;
    }
    return pair;
  }

  async #start(): Promise<void> {
    const listen = ['--listen', `127.0.0.1:${this.#ports.far}`, '--discovery', 'off'];
    this.#far = await CliTarget.start([...listen, '--subsystem', FAR_NQN, '--memory', `${this.#bytes},blockSize=512`]);
    await Promise.all([this.startDpu('a'), this.startDpu('b')]);
    await this.startFront('a');
  }

  /** Again, if it was there. */
  async startFront(side: Side): Promise<void> {
    const sockets = ['--vfio-user', this.socket('vm'), '--dpu', this.socket(side), '--control', this.socket('control')];
    this.#front = await CliTarget.start([...sockets, '--patience', `${FRONT_PATIENCE_MS}`], { verb: 'front' });
  }

  get frontProcess(): CliTarget {
    return this.#front!;
  }

  socket(name: Side | 'vm' | 'control'): string {
    return join(this.folder, `${name}.sock`);
  }

  get journal(): string {
    return join(this.folder, 'journal');
  }

  /** Again, if it was there: with the files, the state and the sockets that it had. */
  async startDpu(side: Side): Promise<void> {
    const closed = side === 'b';
    const config = {
      subsystems: [
        {
          nqn: NQN,
          serial: 'MOVED0',
          migration: { managers: { hosts: [MOVER_NQN] } },
          namespaces: [
            {
              ...{ nsid: COPIED_NSID, uuid: UUIDS[0], closed },
              backend: { type: 'file', path: join(this.folder, `${side}.img`), size: this.#bytes, blockSize: 512 },
            },
            {
              ...{ nsid: SHARED_NSID, uuid: UUIDS[1], closed },
              backend: { type: 'remote', uri: `nvme+tcp://127.0.0.1:${this.#ports.far}/${FAR_NQN}?nsid=1` },
            },
          ],
        },
      ],
      functions: [{ vfioUser: this.socket(side), cntlid: CNTLID, vectors: QUEUES }],
      ports: [{ portId: 1, address: '127.0.0.1', service: this.#ports[side], subsystems: ['*'] }],
      discovery: 'off',
      stateDirectory: join(this.folder, `state-${side}`),
    };
    const path = join(this.folder, `${side}.json`);
    await writeFile(path, JSON.stringify(config));
    this.#dpus.set(side, await CliTarget.start(['--config', path], { verb: 'dpu' }));
  }

  dpu(side: Side): CliTarget {
    return this.#dpus.get(side)!;
  }

  /** Of its manager's controller. */
  port(side: Side): number {
    return this.#ports[side];
  }

  /** What `migrate` needs to know. @param way default: straight to both, with Keep Alive of 2 s */
  arguments(from: Side, way: Way = {}): string[] {
    const to = OTHER[from];
    const { ports = this.#ports, katoS = 2 } = way;
    const uri = (side: Side): string =>
      `nvme+tcp://127.0.0.1:${ports[side]}/${NQN}?hostnqn=${MOVER_NQN}&keep-alive-tmo=${katoS}`;
    return [
      ...[uri(from), uri(to), '--controller', `${CNTLID}`, '--shared', `${SHARED_NSID}`],
      ...['--front', this.socket('control'), '--from-socket', this.socket(from), '--to-socket', this.socket(to)],
      ...['--journal', this.journal],
    ];
  }

  /** Whether the guest may use the namespaces there: each. */
  open(side: Side): Promise<boolean[]> {
    return this.#asManager(side, async (migration) => {
      const fences = await Promise.all([COPIED_NSID, SHARED_NSID].map((nsid) => migration.fence(nsid)));
      return fences.map(({ isOpen }) => isOpen);
    });
  }

  /** What has become of the controller there. */
  controller(side: Side): Promise<{ readonly isSuspended: boolean; readonly isEnabled: boolean }> {
    return this.#asManager(side, async (migration) => {
      const { bytes, suspended } = await migration.getState(CNTLID, WHOLE_STATE);
      const { isSuspended, isEnabled } = functionFigures(bytes, suspended)!;
      return { isSuspended: isSuspended!, isEnabled };
    });
  }

  async #asManager<T>(side: Side, act: (migration: LiveMigration) => Promise<T>): Promise<T> {
    const options = { address: '127.0.0.1', port: this.#ports[side], subnqn: NQN, hostnqn: MOVER_NQN };
    const controller = await HostController.connect(options);
    try {
      return await act(new LiveMigration(controller));
    } finally {
      await controller.close();
    }
  }

  /** One side has both namespaces open, and the other lets nobody write. @returns which */
  async openSide(): Promise<Side> {
    const open = { a: await this.open('a'), b: await this.open('b') };
    const side = open.a[0] === true ? 'a' : 'b';
    expect(open).to.deep.equal({ [side]: [true, true], [OTHER[side]]: [false, false] });
    return side;
  }

  /** The guest has its device from there, and nothing waits or was lost. */
  async expectJoined(side: Side): Promise<void> {
    const front = await this.front();
    expect({ ...front.controller, paused: front.paused, stateLost: front.stateLost }).to.deep.equal({
      socket: this.socket(side),
      state: 'joined',
      paused: false,
      stateLost: false,
    });
  }

  async front(): Promise<FrontReport> {
    const path = this.socket('control');
    const control = await FrontControl.connect(path, { source: this.socket('a'), destination: this.socket('b') });
    try {
      return await control.status();
    } finally {
      await control.close();
    }
  }

  async close(): Promise<void> {
    for (const process of [this.#front, ...this.#dpus.values(), this.#far]) await process?.end('SIGKILL');
    fs.rmSync(this.folder, { recursive: true, force: true });
  }
}
