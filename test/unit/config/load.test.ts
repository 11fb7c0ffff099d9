import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { loadConfig, parseConfig } from '../../../src/config/load.ts';
import { ConfigError } from '../../../src/util/error.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:a';
const parse = (text: string): ReturnType<typeof parseConfig> =>
  parseConfig(text, { name: 'target.yaml', baseDirectory: '/etc/nvmeferry' });

/** The one line that the text is refused with. */
function refusal(text: string): string {
  try {
    parse(text);
  } catch (error) {
    expect(error).to.be.instanceOf(ConfigError);
    const { message } = error as Error;
    expect(message).to.not.contain('\n');
    return message;
  }
  return expect.fail('should have been refused');
}

/** A file with one subsystem; `more` is indented as its keys, `root` not at all. */
const file = (more = '', root = ''): string =>
  `subsystems:\n  - nqn: ${NQN}\n${more
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => `    ${line}\n`)
    .join('')}${root}`;
const namespaces = (...items: string[]): string => `namespaces:\n${items.map((item) => `  - ${item}\n`).join('')}`;

describe('config: a file', () => {
  it('with nothing but a subsystem gets every default', () => {
    expect(parse(file(namespaces('backend: { type: memory, size: 1GiB }')))).to.deep.equal({
      subsystems: [
        {
          nqn: NQN,
          serial: undefined,
          model: undefined,
          allowAnyHost: true,
          hosts: [],
          maxQueues: 128,
          maxControllers: 1024,
          cntlidMin: 1,
          cntlidMax: 0xffef,
          controllerModel: 'dynamic',
          anaTransitionSeconds: undefined,
          anaGroups: [],
          namespaces: [
            {
              nsid: 1,
              backend: { type: 'memory', sizeBytes: 2 ** 30, blockSize: 4096 },
              uuid: undefined,
              nguid: undefined,
              eui64: undefined,
              readOnly: false,
              anagrpid: 1,
            },
          ],
        },
      ],
      ports: [
        {
          portId: 1,
          address: '127.0.0.1',
          service: 4420,
          subsystems: ['*'],
          inCapsuleDataSize: 8192,
          maxH2cData: 1_048_576,
          maxQueueSize: 1024,
          headerDigest: true,
          dataDigest: true,
        },
      ],
      discovery: { portId: 65_535, address: '127.0.0.1', service: 8009 },
      referrals: [],
      limits: { connectionBuffers: 8 * 2 ** 20, totalBuffers: 2 ** 30, setupTimeoutMs: 30_000, drainTimeoutMs: 5_000 },
      log: { level: 'info' },
    });
  });

  it('takes every key', () => {
    const config = parse(
      `
subsystems:
  - nqn: ${NQN}
    serial: SN-1
    model: Test model
    hosts: [nqn.2014-08.org.nvmexpress:uuid:8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31]
    maxQueues: 4
    maxControllers: 2
    cntlidMin: 10
    cntlidMax: 20
    controllerModel: static
    anaTransitionSeconds: 4
    adminPassthrough: { opcodes: [0x82, 0xC1], logPages: [0xC0] }
    anaGroups:
      - anagrpid: 2
        states: { 3: non-optimized }
    namespaces:
      - nsid: 7
        anagrpid: 2
        backend: { type: file, path: disks/a.img, size: 10G, blockSize: 512 }
        uuid: 8D1C2F60-5F3A-4A52-9E1B-2F7D5C9A0B31
        nguid: ef90689c-6c46-d44c-89c1-4067801309a8
        eui64: 00:11:22:33:44:55:66:77
        readOnly: true
      - backend: { type: null, size: 4096 }
ports:
  - portId: 3
    address: '::1'
    service: '4421'
    subsystems: [${NQN}]
    inCapsuleDataSize: 16KiB
    maxH2cData: 128KiB
    maxQueueSize: 64
    headerDigest: refuse
    dataDigest: allow
discovery: { portId: 9, address: 127.0.0.2, service: 8010 }
referrals: [{ portId: 5, address: 10.0.0.9, service: 8009, nqn: nqn.2026-01.io.nvmeferry:discovery }]
limits: { connectionBuffers: 1MiB, totalBuffers: 64MiB, setupTimeoutMs: 1000, drainTimeoutMs: 0 }
stateDirectory: /var/lib/state
log: { level: debug }
`.replace('type: null', "type: 'null'"),
    );
    const [subsystem] = config.subsystems;
    expect(subsystem).to.include({ serial: 'SN-1', model: 'Test model', maxQueues: 4, maxControllers: 2 });
    expect(subsystem).to.include({ cntlidMin: 10, cntlidMax: 20, controllerModel: 'static', allowAnyHost: false });
    expect(subsystem!.anaTransitionSeconds).to.equal(4);
    expect(subsystem!.adminPassthrough).to.deep.equal({ opcodes: [0x82, 0xc1], logPages: [0xc0] });
    expect(subsystem!.anaGroups).to.deep.equal([{ anagrpid: 2, states: [{ portId: 3, state: 'non-optimized' }] }]);
    expect(subsystem!.namespaces[0]).to.deep.equal({
      anagrpid: 2,
      nsid: 7,
      backend: {
        type: 'file',
        path: '/etc/nvmeferry/disks/a.img',
        sizeBytes: 10 * 2 ** 30,
        blockSize: 512,
        readOnly: true,
      },
      uuid: '8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31',
      nguid: 'ef90689c6c46d44c89c14067801309a8',
      eui64: '0011223344556677',
      readOnly: true,
    });
    expect(subsystem!.namespaces[1]).to.include({ nsid: 1 });
    expect(config.ports[0]).to.deep.equal({
      portId: 3,
      address: '::1',
      service: 4421,
      subsystems: [NQN],
      inCapsuleDataSize: 16_384,
      maxH2cData: 131_072,
      maxQueueSize: 64,
      headerDigest: false,
      dataDigest: true,
    });
    expect(config.discovery).to.deep.equal({ portId: 9, address: '127.0.0.2', service: 8010 });
    expect(config.referrals[0]).to.deep.equal({
      portId: 5,
      address: '10.0.0.9',
      service: 8009,
      nqn: 'nqn.2026-01.io.nvmeferry:discovery',
    });
    expect(config.limits).to.deep.equal({
      connectionBuffers: 2 ** 20,
      totalBuffers: 2 ** 26,
      setupTimeoutMs: 1000,
      drainTimeoutMs: 0,
    });
    expect(config.stateDirectory).to.equal('/var/lib/state');
    expect(config.log.level).to.equal('debug');
  });

  it('may be JSON, with tabs', () => {
    const text = JSON.stringify({ subsystems: [{ nqn: NQN }], discovery: 'off' }, null, '\t');
    expect(parse(text).subsystems[0]!.nqn).to.equal(NQN);
    expect(parse(text).discovery).to.equal('off');
  });

  it('discovery listens where the first port does, and goes off by a word or by false', () => {
    expect(parse(file('', 'ports: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }]')).discovery).to.deep.equal({
      portId: 65_535,
      address: '10.0.0.1',
      service: 8009,
    });
    const more =
      'nqn: nqn.2026-01.io.nvmeferry:d, mdns: true, advertise: 203.0.113.1, allSubsystemsFor: [nqn.2026-01.io.nvmeferry:cdc]';
    expect(parse(file('', `discovery: { address: 10.0.0.3, ${more} }`)).discovery).to.deep.equal({
      portId: 65_535,
      address: '10.0.0.3',
      service: 8009,
      nqn: 'nqn.2026-01.io.nvmeferry:d',
      advertise: { address: '203.0.113.1' },
      mdns: true,
      allSubsystemsFor: ['nqn.2026-01.io.nvmeferry:cdc'],
    });
    expect(parse(file('', 'discovery: off')).discovery).to.equal('off');
    expect(parse(file('', 'discovery: false')).discovery).to.equal('off');
  });

  it('a port is advertised elsewhere, by its TCP port alone, or not at all; a subsystem keeps to ports', () => {
    const advertised = (text: string): unknown =>
      parse(file('', `ports: [{ advertise: ${text} }]`)).ports[0]!.advertise;
    expect(advertised('203.0.113.5')).to.deep.equal({ address: '203.0.113.5' });
    expect(advertised('"[2001:db8::5]:4421"')).to.deep.equal({ address: '2001:db8::5', service: 4421 });
    expect(advertised('":4421"')).to.deep.equal({ service: 4421 });
    expect(advertised('off')).to.equal('off');
    expect(advertised('false')).to.equal('off');
    expect(parse(file()).ports[0]).to.not.have.property('advertise');
    const [subsystem] = parse(JSON.stringify({ subsystems: [{ nqn: NQN, ports: [1] }] })).subsystems;
    expect(subsystem!.ports).to.deep.equal([1]);
  });

  it('numbers what has no number around what has one', () => {
    const backend = "backend: { type: 'null', size: 4096 }";
    const config = parse(
      file(
        namespaces(backend, `{ nsid: 1, ${backend} }`, backend, `{ nsid: 3, ${backend} }`),
        'ports: [{ service: 1 }, { portId: 1, service: 2 }]',
      ),
    );
    expect(config.subsystems[0]!.namespaces.map(({ nsid }) => nsid)).to.deep.equal([2, 1, 4, 3]);
    expect(config.ports.map(({ portId }) => portId)).to.deep.equal([2, 1]);
  });

  it('hosts listed close the subsystem to others; an empty list does what it says only with allowAnyHost', () => {
    expect(parse(file(`hosts: [${NQN}]`)).subsystems[0]!.allowAnyHost).to.equal(false);
    expect(parse(file('hosts: []')).subsystems[0]!.allowAnyHost).to.equal(true);
    expect(parse(file('hosts: []\nallowAnyHost: false')).subsystems[0]!.allowAnyHost).to.equal(false);
  });

  const memory = "backend: { type: 'null', size: 4096 }";
  for (const [name, text, wanted] of [
    ['empty', '', /^target\.yaml: found null; allowed: a mapping/],
    ['not a mapping', '- 1', /^target\.yaml:1: found \[1\]; allowed: a mapping/],
    ['broken YAML', 'a: [1\nb: 2', /^target\.yaml:2: /],
    ['a key twice', 'subsystems: []\nsubsystems: []', /^target\.yaml:2: Map keys must be unique/],
    ['no subsystems', 'ports: []', /the key "subsystems" is missing/],
    [
      'a key unknown',
      'subsystems: []\nadress: 1',
      /^target\.yaml:2: adress: this key is not known; known keys: subsystems, ports/,
    ],
    ['a key misspelt', file('alowAnyHost: true'), /:3: subsystems\[0\]\.alowAnyHost: .*did you mean "allowAnyHost"/],
    ['a wrong type', file('maxQueues: many'), /:3: subsystems\[0\]\.maxQueues: found "many"; allowed: a whole number/],
    ['a wrong boolean', file("allowAnyHost: 'yes'"), /allowAnyHost: found "yes"; allowed: true or false/],
    ['out of range', file('', 'ports:\n  - portId: 70000'), /:4: ports\[0\]\.portId: found 70000; allowed: 1 to 65535/],
    ['no such choice', file('', 'log: { level: loud }'), /log\.level: found "loud"; allowed: fatal, error, warn/],
    ['a wrong NQN', 'subsystems: [{ nqn: disk }]', /nqn: found "disk"; allowed: nqn\.yyyy-mm\.reverse\.domain:name/],
    ['a long NQN', `subsystems: [{ nqn: ${NQN}${'x'.repeat(200)} }]`, /at most 223 bytes/],
    ['the discovery NQN', 'subsystems: [{ nqn: nqn.2014-08.org.nvmexpress.discovery }]', /allowed: /],
    [
      'an NQN twice',
      `subsystems: [{ nqn: ${NQN} }, { nqn: ${NQN} }]`,
      /subsystems\[1\]\.nqn: .* used already \(by subsystems\[0\]\.nqn\)/,
    ],
    ['a wrong host', file('hosts: [me]'), /subsystems\[0\]\.hosts\[0\]: found "me"/],
    [
      'hosts and any host',
      file(`hosts: [${NQN}]\nallowAnyHost: true`),
      /:4: subsystems\[0\]\.allowAnyHost: found true/,
    ],
    ['an empty cntlid range', file('cntlidMin: 9\ncntlidMax: 8'), /cntlidMin: found 9; allowed: .*at most/],
    ['a reserved cntlid', file('cntlidMax: 65520'), /cntlidMax: found 65520; allowed: 1 to 65519/],
    ['a long serial', file('serial: ABCDEFGHIJKLMNOPQRSTU'), /serial: .*1 to 20 printable/],
    ['no backend', file(namespaces('nsid: 1')), /namespaces\[0\]: the key "backend" is missing/],
    ['no backend type', file(namespaces('backend: { size: 1 }')), /backend: the key "type" is missing/],
    [
      'a backend type unknown',
      file(namespaces('backend: { type: disk }')),
      /backend\.type: found "disk"; allowed: memory, file, null/,
    ],
    ['no size', file(namespaces('backend: { type: memory }')), /backend: the key "size" is missing/],
    ['no path', file(namespaces('backend: { type: file }')), /backend: the key "path" is missing/],
    [
      'a path for memory',
      file(namespaces('backend: { type: memory, size: 4096, path: x }')),
      /backend\.path: this key is not known/,
    ],
    [
      'a wrong size',
      file(namespaces('backend:\n        type: memory\n        size: 10Q')),
      /:6: .*backend\.size: found "10Q"; allowed: .*512MiB/,
    ],
    [
      'a size not in blocks',
      file(namespaces('backend: { type: memory, size: 5000 }')),
      /found 5000; allowed: a multiple of the block size 4096, such as 8192/,
    ],
    ['size zero', file(namespaces('backend: { type: memory, size: 0 }')), /at least one block/],
    [
      'a wrong block size',
      file(namespaces('backend: { type: memory, size: 4096, blockSize: 520 }')),
      /blockSize: found 520; allowed: 512, 1024/,
    ],
    ['an NSID too large', file(namespaces(`{ nsid: 1025, ${memory} }`)), /nsid: found 1025; allowed: 1 to 1024/],
    [
      'an NSID twice',
      file(namespaces(`{ nsid: 1, ${memory} }`, `{ nsid: 1, ${memory} }`)),
      /namespaces\[1\]\.nsid: 1 is used already \(by subsystems\[0\]\.namespaces\[0\]\.nsid\)/,
    ],
    ['a wrong UUID', file(namespaces(`{ uuid: 12, ${memory} }`)), /uuid: found 12; allowed: text/],
    [
      'the nil UUID',
      file(namespaces(`{ uuid: 00000000-0000-0000-0000-000000000000, ${memory} }`)),
      /uuid: .*allowed: a UUID/,
    ],
    ['a short NGUID', file(namespaces(`{ nguid: abcd, ${memory} }`)), /nguid: found "abcd"; allowed: 32 hex digits/],
    [
      'a file twice',
      file(namespaces('backend: { type: file, path: a }', 'backend: { type: file, path: ./a }')),
      /namespaces\[1\]\.backend\.path: \/etc\/nvmeferry\/a is used already/,
    ],
    [
      'a host name',
      file('', 'ports: [{ address: localhost }]'),
      /address: found "localhost"; allowed: an IPv4 or IPv6 address/,
    ],
    [
      'a wrong service',
      file('', 'ports: [{ service: http }]'),
      /service: found "http"; allowed: a TCP port from 0 to 65535/,
    ],
    ['an address twice', file('', 'ports: [{}, {}]'), /ports\[1\]\.service: .*used already \(by ports\[0\]\.service\)/],
    [
      'a port id twice',
      file('', 'ports: [{ portId: 2 }, { portId: 2, service: 1 }]'),
      /ports\[1\]\.portId: 2 is used already/,
    ],
    [
      'a subsystem unknown to a port',
      file('', 'ports: [{ subsystems: [nqn.2026-01.io.nvmeferry:b] }]'),
      /ports\[0\]\.subsystems\[0\]: found .*:b"/,
    ],
    [
      'in-capsule data in odd units',
      file('', 'ports: [{ inCapsuleDataSize: 100 }]'),
      /allowed: a multiple of 16 from 0/,
    ],
    [
      'MAXH2CDATA below what hosts take',
      file('', 'ports: [{ maxH2cData: 2048 }]'),
      /maxH2cData: found 2048; allowed: a multiple of 4 from 4096/,
    ],
    [
      'a port on the discovery service',
      file('', 'ports: [{ service: 8009 }]'),
      /127\.0\.0\.1:8009 is the discovery service/,
    ],
    [
      'an advertisement of a wildcard',
      file('', 'ports: [{ advertise: 0.0.0.0 }]'),
      /ports\[0\]\.advertise: found "0\.0\.0\.0"; allowed: the address that hosts use/,
    ],
    ['an advertisement of everything', file('', 'ports: [{ advertise: true }]'), /ports\[0\]\.advertise: found true/],
    [
      'a subsystem on a port that is not there',
      JSON.stringify({ subsystems: [{ nqn: NQN, ports: [1, 7] }] }),
      /subsystems\[0\]\.ports\[1\]: found 7; allowed: the id of a port in this configuration: 1/,
    ],
    [
      'an ANA state on a port that is not there',
      JSON.stringify({ subsystems: [{ nqn: NQN, anaGroups: [{ anagrpid: 1, states: { 7: 'inaccessible' } }] }] }),
      /subsystems\[0\]\.anaGroups\[0\]\.states: found 7; allowed: the id of a port of this configuration: 1/,
    ],
    [
      'an ANA state that there is not',
      JSON.stringify({ subsystems: [{ nqn: NQN, anaGroups: [{ anagrpid: 1, states: { 1: 'standby' } }] }] }),
      /states\.?.*1.*: found "standby"; allowed: optimized, non-optimized, inaccessible/,
    ],
    [
      'the same ANA group twice',
      JSON.stringify({ subsystems: [{ nqn: NQN, anaGroups: [1, 1].map((anagrpid) => ({ anagrpid, states: {} })) }] }),
      /anaGroups\[1\]\.anagrpid: 1 is used already/,
    ],
    [
      "an opcode to pass through that is the target's own",
      JSON.stringify({ subsystems: [{ nqn: NQN, adminPassthrough: { opcodes: [0xc0, 0x06] } }] }),
      /subsystems\[0\]\.adminPassthrough\.opcodes\[1\]: found "6 \(06h\)"; allowed: 0x14, 0x81, 0x82, or a vendor/,
    ],
    [
      "a log page to pass through that is the target's own",
      JSON.stringify({ subsystems: [{ nqn: NQN, adminPassthrough: { logPages: [2] } }] }),
      /adminPassthrough\.logPages\[0\]: found "2 \(02h\)"; allowed: 0x06, or a vendor/,
    ],
    [
      "a discovery NQN that is a subsystem's",
      file('', `discovery: { nqn: '${NQN}' }`),
      /discovery\.nqn: found .*; allowed: an NQN of its own/,
    ],
    ['a port with the discovery id', file('', 'ports: [{ portId: 65535 }]'), /65535 is the id of the discovery port/],
    ['discovery on', file('', 'discovery: on'), /discovery: found "on"; allowed: off, false/],
    [
      'a referral to nowhere',
      file('', 'referrals: [{ portId: 1, address: 10.0.0.1, service: 0 }]'),
      /referrals\[0\]\.service: found 0; allowed: a TCP port from 1/,
    ],
    [
      'buffers too small',
      file('', 'limits: { connectionBuffers: 1 }'),
      /limits\.connectionBuffers: found 1; allowed: at least 4096/,
    ],
  ] as const) {
    it(`refuses ${name}`, () => {
      expect(refusal(text)).to.match(wanted);
    });
  }

  it('a namespace is closed only where somebody may open it', () => {
    const item = '{ closed: true, backend: { type: memory, size: 1MiB } }';
    expect(refusal(file(namespaces(item)))).to.match(/namespaces\[0\]\.closed: .*migration\.managers/);
    expect(refusal(file(`migration: { managers: {} }\n${namespaces(item)}`))).to.match(/migration\.managers/);
    const managed = parse(file(`migration: { managers: { ports: [1] } }\n${namespaces(item)}`));
    expect(managed.subsystems[0]!.namespaces[0]!.closed).to.equal(true);
  });

  it('read-only namespaces may share a file', () => {
    const item = '{ readOnly: true, backend: { type: file, path: a } }';
    expect(parse(file(namespaces(item, item))).subsystems[0]!.namespaces).to.have.length(2);
    const writer = 'backend: { type: file, path: a }';
    expect(refusal(file(namespaces(item, writer)))).to.match(/namespaces\[1\]\.backend\.path: .*used already/);
    expect(refusal(file(namespaces(writer, item)))).to.match(/namespaces\[1\]\.backend\.path: .*used already/);
  });

  it('does not repeat a long value', () => {
    expect(refusal(file(`hosts: [${'x'.repeat(5000)}]`)).length).to.be.lessThan(300);
  });

  it('stops at an alias bomb', () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]'];
    for (let i = 1; i < 12; i++)
      lines.push(
        `a${i}: &a${i} [${Array(10)
          .fill(`*a${i - 1}`)
          .join(', ')}]`,
      );
    expect(refusal(lines.join('\n'))).to.match(/alias/i);
  });

  describe('on disk', () => {
    let directory: string;
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'nvmeferry-config-'));
    });
    afterEach(() => rm(directory, { recursive: true }));

    it('is read, its paths relative to its own directory', async () => {
      const path = join(directory, 'target.yaml');
      await writeFile(path, file(namespaces('backend: { type: file, path: disk.img }')));
      const [namespace] = (await loadConfig(path)).subsystems[0]!.namespaces;
      expect(namespace!.backend).to.have.property('path', join(directory, 'disk.img'));
    });

    it('is refused by name if it cannot be read', async () => {
      const message = async (path: string): Promise<string> =>
        loadConfig(path).then(
          () => '',
          (error: Error) => (error instanceof ConfigError ? error.message : ''),
        );
      const absent = join(directory, 'no.yaml');
      expect(await message(absent)).to.equal(`${absent}: no such file`);
      expect(await message(directory)).to.equal(`${directory}: is a directory; give the file in it`);
    });
  });
});
