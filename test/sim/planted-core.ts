/**
 * Bugs that the core of a target could have, planted by taking a method's place while a run goes on. As with those of the engine, the simulator is
 * worth something only as long as it finds each of them.
 */
import { ChangeBitmap } from '../../src/migration/change-bitmap.ts';
import { MemoryTracker } from '../../src/migration/memory-tracker.ts';
import { Controller } from '../../src/target/controller.ts';
import { DiscoveryPeers } from '../../src/target/discovery-peers.ts';
import { Fence } from '../../src/target/fence.ts';
import { Migration } from '../../src/target/migration/migration.ts';
import { Namespace, type NamespaceIo } from '../../src/target/namespace.ts';
import { QueuePair } from '../../src/target/queue-pair.ts';
import { Subsystem } from '../../src/target/subsystem.ts';
import { SimBackend } from './sim-backend.ts';
import { SimStateStore } from './sim-state-store.ts';
import type { Where } from './sweep.ts';

/** Plants a bug. @returns what takes it out again */
export type PlantInCore = () => () => void;

type Descriptor = PropertyDescriptor & ThisType<unknown>;

/** Another property in place of one of a prototype. */
function instead(prototype: object, name: string, make: (was: Descriptor) => Descriptor): () => void {
  const was = Object.getOwnPropertyDescriptor(prototype, name) ?? { configurable: true, writable: true };
  Object.defineProperty(prototype, name, { ...make(was), configurable: true });
  return () => {
    if ('value' in was || was.get !== undefined) Object.defineProperty(prototype, name, was);
    else delete (prototype as Record<string, unknown>)[name];
  };
}

type Method = (this: never, ...args: never[]) => unknown;

const method = <T extends object>(
  prototype: T,
  name: keyof T & string,
  make: (was: (self: T, ...args: unknown[]) => unknown) => (this: T, ...args: never[]) => unknown,
): (() => void) =>
  instead(prototype, name, ({ value }) => ({
    value: make((self, ...args) => (value as Method).apply(self as never, args as never[])),
    writable: true,
  }));

const nothing = (): void => {};

/** Values of that name are not on the disk, whatever the store says. */
const notKept =
  (prefix: string): PlantInCore =>
  () =>
    method(
      SimStateStore.prototype,
      'save',
      (was) =>
        async function (this: SimStateStore, name: string, value: unknown) {
          if (!name.includes(prefix)) await was(this, name, value);
        },
    );

export const PLANTED_IN_CORE: Readonly<Record<string, PlantInCore>> = {
  'a fence is not durable': notKept('fence-'),
  'a fence turns nobody away': () => method(Subsystem.prototype, 'fenceChanged', () => nothing),
  'hosts are not told that access has changed': () => method(Controller.prototype, 'anaChanged', () => nothing),
  'changes are marked before they are made': () => {
    const restores = [
      method(
        ChangeBitmap.prototype,
        'mark',
        (was) =>
          function (this: ChangeBitmap, slba: number, blocks: number) {
            if (isEarly) was(this, slba, blocks);
          },
      ),
      method(
        SimBackend.prototype,
        'write',
        (was) =>
          function (this: SimBackend, io: NamespaceIo) {
            const { controller, offsetBytes, lengthBytes } = io;
            const namespace = controller.subsystem.allocatedNamespaces().find(({ backend }) => backend === this);
            isEarly = true;
            namespace?.changes?.bitmap.mark(offsetBytes / namespace.blockSize, lengthBytes / namespace.blockSize);
            isEarly = false;
            was(this, io);
          },
      ),
    ];
    let isEarly = false;
    return () => {
      for (const restore of restores) restore();
    };
  },
  'what is changed while changes are copied is forgotten with them': () =>
    method(
      ChangeBitmap.prototype,
      'acknowledge',
      (was) =>
        function (this: ChangeBitmap, epoch: number) {
          const done = was(this, epoch);
          this.takeSnapshot();
          was(this, this.epoch);
          return done;
        },
    ),
  'zeroes that are written are not followed': () =>
    method(
      Namespace.prototype,
      'writeZeroes',
      () =>
        function (this: Namespace, io: NamespaceIo, deallocates: boolean) {
          this.backend.writeZeroes(io, deallocates);
        },
    ),
  'a controller does not go on when it is resumed': () => method(Controller.prototype, 'resume', () => nothing),
  'what a manager has caused does not end with it': () =>
    method(Migration.prototype, 'controllerClosed', () => nothing),
  'reservations that were taken over are not durable': notKept('reservations'),
  "a controller's writes into memory are not followed": () => method(MemoryTracker.prototype, 'mark', () => nothing),
  'an announcement is not taken back': () =>
    method(
      DiscoveryPeers.prototype,
      'change',
      (was) =>
        async function (this: DiscoveryPeers, ...args: never[]) {
          return args[1] === true ? was(this, ...args) : true;
        },
    ),
  'a closed fence is answered before its hosts are quiet': () =>
    method(QueuePair.prototype, 'isBusyWith', () => () => false),
  'a fence that has seen a newer epoch obeys an older one': () => method(Fence.prototype, 'isStale', () => () => false),
  'the same epoch once more is refused': () =>
    method(
      Fence.prototype,
      'isStale',
      () =>
        function (this: Fence, epoch: bigint) {
          return epoch <= this.epoch;
        },
    ),
  'a suspended controller executes': () =>
    method(
      Controller.prototype,
      'suspend',
      () =>
        function (this: Controller, onQuiet: () => void) {
          onQuiet();
        },
    ),
};

/** Where they show, of those that hardly show elsewhere. */
export const SHOWN_IN_CORE: Readonly<Record<string, Where>> = {
  'a fence that has seen a newer epoch obeys an older one': { entry: 'close-source begun', fault: 'late source' },
  // with nothing in their way
  'a closed fence is answered before its hosts are quiet': { entry: 'clean-up done', fault: 'resize source' },
  'zeroes that are written are not followed': { entry: 'clean-up done', fault: 'resize source' },
  'a suspended controller executes': { entry: 'clean-up done', fault: 'resize source' },
};
