/** The JSON schema of a configuration file: its shape, types and ranges. What relates two places is checked by normalize.ts. */
import { ANA_STATE_NAMES } from '../wire/cold/log-ana.ts';
import { BLOCK_SIZES, BOUNDS } from './defaults.ts';

const size = { type: ['integer', 'string'] };
const service = { type: ['integer', 'string'] };
const text = { type: 'string' };
const flag = { type: 'boolean' };
const digest = { enum: ['allow', 'refuse'] };
const blockSize = { enum: BLOCK_SIZES };
const integer = (minimum: number, maximum: number): object => ({ type: 'integer', minimum, maximum });
const list = (items: object): object => ({ type: 'array', items });
const record = (properties: Record<string, object>, required: string[] = []): object => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
});
const portId = integer(1, BOUNDS.portIdMax);
const cntlid = integer(1, BOUNDS.cntlidMax);
const sized = (type: string): object => record({ type: { const: type }, size, blockSize }, ['type', 'size']);

const anagrpid = integer(1, BOUNDS.anaGroupsMax);

const path = { type: 'string', minLength: 1 };
const backend = {
  type: 'object',
  discriminator: { propertyName: 'type' },
  required: ['type'],
  oneOf: [
    sized('memory'),
    sized('null'),
    record({ type: { const: 'file' }, path, size, blockSize, direct: flag, force: flag }, ['type', 'path']),
    record({ type: { const: 'nvme' }, path, force: flag, ioctl: flag }, ['type', 'path']),
    record({ type: { const: 'remote' }, uri: text, paths: list(text) }, ['type', 'uri']),
  ],
};

const volumes = {
  type: 'object',
  discriminator: { propertyName: 'type' },
  required: ['type'],
  oneOf: [
    record({ type: { const: 'memory' }, capacity: size }, ['type', 'capacity']),
    record({ type: { const: 'file' }, directory: { type: 'string', minLength: 1 }, capacity: size }, [
      'type',
      'directory',
      'capacity',
    ]),
  ],
};
const duplicatePolicy = { enum: ['allow', 'refuse', 'replace'] };

const namespace = record(
  {
    nsid: integer(1, BOUNDS.nsidMax),
    backend,
    uuid: text,
    nguid: text,
    eui64: text,
    readOnly: flag,
    anagrpid,
    hosts: list(text),
    allowShrink: flag,
    closed: flag,
  },
  ['backend'],
);

const anaGroup = record(
  { anagrpid, states: { type: 'object', additionalProperties: { enum: Object.keys(ANA_STATE_NAMES) } } },
  ['anagrpid', 'states'],
);

const subsystem = record(
  {
    nqn: text,
    serial: text,
    model: text,
    allowAnyHost: flag,
    hosts: list(text),
    maxQueues: integer(1, BOUNDS.queuesMax),
    maxControllers: integer(1, BOUNDS.cntlidMax),
    cntlidMin: cntlid,
    cntlidMax: cntlid,
    controllerModel: { enum: ['dynamic', 'static'] },
    ports: list(portId),
    anaTransitionSeconds: integer(1, 255),
    anaGroups: list(anaGroup),
    migration: record({ managers: record({ hosts: list(text), ports: list(portId) }) }, ['managers']),
    volumes,
    allowSanitize: flag,
    adminPassthrough: record({ opcodes: list(integer(0, 255)), logPages: list(integer(0, 255)) }),
    duplicateHosts: record({ sameHostid: duplicatePolicy, otherHostid: duplicatePolicy }),
    namespaces: list(namespace),
  },
  ['nqn'],
);

const advertise = { if: text, else: { enum: [false] } };

const port = record({
  portId,
  address: text,
  service,
  subsystems: list(text),
  advertise,
  inCapsuleDataSize: size,
  maxH2cData: size,
  maxQueueSize: integer(BOUNDS.queueSizeMin, BOUNDS.queueSizeMax),
  headerDigest: digest,
  dataDigest: digest,
});

const pciFunction = record(
  {
    vfioUser: path,
    subsystem: text,
    hostnqn: text,
    cntlid,
    vectors: integer(1, BOUNDS.vectorsMax),
    queues: integer(1, BOUNDS.functionQueuesMax),
    queueSize: integer(2, BOUNDS.functionQueueSizeMax),
    dmaByMessage: flag,
  },
  ['vfioUser'],
);

/** @public */
export const CONFIG_SCHEMA: object = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'nvmeferry target configuration',
  ...record(
    {
      subsystems: list(subsystem),
      ports: list(port),
      functions: list(pciFunction),
      discovery: {
        if: { type: 'object' },
        // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON schema
        then: record({
          portId,
          address: text,
          service,
          nqn: text,
          advertise,
          mdns: flag,
          allSubsystemsFor: list(text),
        }),
        else: { enum: ['off', false] },
      },
      referrals: list(record({ portId, address: text, service, nqn: text }, ['portId', 'address', 'service'])),
      limits: record({
        connectionBuffers: size,
        totalBuffers: size,
        setupTimeoutMs: integer(100, 3_600_000),
        drainTimeoutMs: integer(0, 3_600_000),
      }),
      ioEngine: { enum: ['auto', 'io_uring', 'thread-pool', 'node'] },
      metrics: record({ address: text, service }),
      stateDirectory: { type: 'string', minLength: 1 },
      log: record({ level: { enum: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] } }),
    },
    ['subsystems'],
  ),
};
