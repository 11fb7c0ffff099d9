/** What a running target counts, in the text format of Prometheus. Made when somebody asks: the hot path only has its own counters. */
import { Counter, Gauge, type Metric, Registry } from 'prom-client';
import type { IoEngine } from '../native/io-engine.ts';
import type { Target } from '../target/target.ts';
import { CRC32C_IMPLEMENTATION } from '../wire/crc32c.ts';

/** Since the start. */
export interface TargetTotals {
  controllersConnected: number;
  controllersClosed: number;
  controllersFatal: number;
  connectionsClosed: number;
}

export interface MetricsSource {
  readonly target: Target;
  readonly totals: TargetTotals;
  /** I/O engines that are open, and whether files go without one. */
  engines(): readonly IoEngine[];
  usesNodeFs(): boolean;
}

type Labels = Readonly<Record<string, string | number>>;
type Sample = readonly [labels: Labels, value: number];

interface Definition {
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge';
  readonly labels: readonly string[];
  samples(source: MetricsSource): Iterable<Sample>;
}

const one = (
  kind: Definition['kind'],
  name: string,
  help: string,
  value: (s: MetricsSource) => number,
): Definition => ({
  name,
  help,
  kind,
  labels: [],
  samples: (source) => [[{}, value(source)]],
});

function* namespaces({ target }: MetricsSource, value: (namespace: NamespaceCounters) => number): Generator<Sample> {
  for (const { nqn: subnqn, allocatedNamespaces } of subsystemsOf(target)) {
    for (const namespace of allocatedNamespaces) {
      yield [{ subnqn, nsid: namespace.nsid, backend: namespace.backend.kind }, value(namespace)];
    }
  }
}

interface NamespaceCounters {
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly readCommands: number;
  readonly writeCommands: number;
}

const subsystemsOf = (target: Target) =>
  [...target.subsystems].map((subsystem) => ({
    nqn: subsystem.nqn,
    controllers: [...subsystem.controllers],
    allocatedNamespaces: subsystem.allocatedNamespaces(),
  }));

const perNamespace = (name: string, help: string, value: (n: NamespaceCounters) => number): Definition => ({
  name,
  help,
  kind: 'counter',
  labels: ['subnqn', 'nsid', 'backend'],
  samples: (source) => namespaces(source, value),
});

const perEngine = (
  kind: Definition['kind'],
  name: string,
  help: string,
  value: (engine: IoEngine) => number,
): Definition => ({
  name,
  help,
  kind,
  labels: ['engine'],
  samples: (source) => source.engines().map((engine) => [{ engine: engine.mode }, value(engine)]),
});

const DEFINITIONS: readonly Definition[] = [
  {
    name: 'nvmeferry_io_engine_info',
    help: 'Who does the I/O of files and devices; refusal says why it is not io_uring though that was asked for',
    kind: 'gauge',
    labels: ['engine', 'refusal', 'passthrough'],
    *samples(source) {
      for (const { mode, refusal, passthrough } of source.engines()) {
        yield [{ engine: mode, refusal: refusal ?? '', passthrough }, 1];
      }
      if (source.usesNodeFs()) yield [{ engine: 'node', refusal: '', passthrough: 'none' }, 1];
    },
  },
  perEngine('counter', 'nvmeferry_io_engine_operations_total', 'Operations finished', (e) => e.completedCount),
  perEngine(
    'gauge',
    'nvmeferry_io_engine_pending_operations',
    'Operations taken and not finished',
    (e) => e.pendingCount,
  ),
  perEngine(
    'counter',
    'nvmeferry_io_engine_submits_total',
    'Calls into the kernel with new operations',
    (e) => e.enterCount,
  ),
  perEngine('counter', 'nvmeferry_io_engine_wakeups_total', 'Wake-ups for completions', (e) => e.wakeUpCount),
  perEngine(
    'counter',
    'nvmeferry_io_engine_thread_jobs_total',
    'Operations that a thread did',
    (e) => e.threadJobCount,
  ),
  perEngine(
    'counter',
    'nvmeferry_io_engine_inline_jobs_total',
    "Operations on files in memory, done without the kernel's help",
    (e) => e.inlineJobCount,
  ),
  {
    name: 'nvmeferry_crc32c_info',
    help: 'Who computes digests',
    kind: 'gauge',
    labels: ['implementation'],
    samples: () => [[{ implementation: CRC32C_IMPLEMENTATION }, 1]],
  },
  {
    name: 'nvmeferry_connections',
    help: 'TCP connections of hosts now',
    kind: 'gauge',
    labels: ['portid'],
    samples: ({ target }) => [...target.ports].map((port) => [{ portid: port.portId }, port.connections.size]),
  },
  one('counter', 'nvmeferry_connections_closed_total', 'TCP connections closed', (s) => s.totals.connectionsClosed),
  {
    name: 'nvmeferry_controllers',
    help: 'Controllers (associations with hosts) now',
    kind: 'gauge',
    labels: ['subnqn'],
    samples: ({ target }) => subsystemsOf(target).map(({ nqn, controllers }) => [{ subnqn: nqn }, controllers.length]),
  },
  one('counter', 'nvmeferry_controllers_connected_total', 'Controllers made', (s) => s.totals.controllersConnected),
  one('counter', 'nvmeferry_controllers_closed_total', 'Controllers closed', (s) => s.totals.controllersClosed),
  one(
    'counter',
    'nvmeferry_controllers_fatal_total',
    'Controllers with fatal status',
    (s) => s.totals.controllersFatal,
  ),
  perNamespace('nvmeferry_namespace_read_bytes_total', 'Bytes that hosts read', (n) => n.readBytes),
  perNamespace('nvmeferry_namespace_written_bytes_total', 'Bytes that hosts wrote', (n) => n.writtenBytes),
  perNamespace('nvmeferry_namespace_read_commands_total', 'Read commands', (n) => n.readCommands),
  perNamespace('nvmeferry_namespace_write_commands_total', 'Write commands', (n) => n.writeCommands),
  one('gauge', 'process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss()),
  one('gauge', 'nodejs_heap_size_used_bytes', 'JavaScript heap in use', () => process.memoryUsage().heapUsed),
  one('gauge', 'nodejs_external_memory_bytes', 'Memory outside the heap', () => process.memoryUsage().external),
  one('counter', 'process_cpu_seconds_total', 'User and system CPU time', () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  }),
];

/** @returns gives the page, and its content type */
export function targetMetrics(source: MetricsSource): { readonly contentType: string; text(): Promise<string> } {
  const registry = new Registry();
  for (const definition of DEFINITIONS) register(registry, definition, source);
  return { contentType: registry.contentType, text: () => registry.metrics() };
}

function register(
  registry: Registry,
  { name, help, kind, labels, samples }: Definition,
  source: MetricsSource,
): Metric {
  const common = { name, help, labelNames: [...labels], registers: [registry] };
  if (kind === 'gauge') {
    return new Gauge({
      ...common,
      collect() {
        this.reset(); // what is gone is not told any more
        for (const [label, value] of samples(source)) this.set({ ...label }, value);
      },
    });
  }
  return new Counter({
    ...common,
    collect() {
      this.reset();
      for (const [label, value] of samples(source)) this.inc({ ...label }, value);
    },
  });
}
