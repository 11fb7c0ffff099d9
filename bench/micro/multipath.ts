/** What several paths add to one I/O: choosing a path, the command object, the way back. Queue pairs that complete at once stand in for real ones. */
import { MultipathIo } from '../../src/initiator/multipath/multipath-io.ts';
import { NamespacePaths, type PathPolicy } from '../../src/initiator/multipath/namespace-paths.ts';
import type { MultipathPath } from '../../src/initiator/multipath/path.ts';
import type { CommandDone } from '../../src/initiator/queue-pair.ts';
import { bench, sink } from './harness.ts';

/** Answers each read in the call that submits it. */
class InstantQueuePair {
  activeCount = 0;
  submitted = 0;

  submitRead(
    _nsid: number,
    _slba: number,
    _blockCount: number,
    _buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): boolean {
    this.submitted++;
    onDone(0, 0, context);
    return true;
  }
}

class InstantPath {
  readonly queuePair: InstantQueuePair = new InstantQueuePair();
  readonly activeCount = 0;
  slotWaiter: unknown = undefined;

  pickFree(): InstantQueuePair {
    return this.queuePair;
  }
}

const buffer = new Uint8Array(new ArrayBuffer(4096));
let completed = 0;
const onDone: CommandDone = () => {
  completed++;
};

bench('submitRead on one queue pair', (count) => {
  const queuePair = new InstantQueuePair();
  for (let i = 0; i < count; i++) queuePair.submitRead(1, i & 1023, 8, buffer, onDone, undefined);
  sink[0] = completed;
});

function measure(policy: PathPolicy, pathCount: number): void {
  const io = new MultipathIo({ failed: () => {}, stuck: () => {} });
  const namespace = new NamespacePaths(1, {}, 512, policy);
  namespace.usable = Array.from({ length: pathCount }, () => new InstantPath() as unknown as MultipathPath);
  io.add(namespace);
  bench(`submitRead over ${pathCount} paths, ${policy}`, (count) => {
    for (let i = 0; i < count; i++) io.submitRead(1, i & 1023, 8, buffer, onDone, undefined);
    sink[0] = completed;
  });
}

measure('round-robin', 2);
measure('queue-depth', 2);
