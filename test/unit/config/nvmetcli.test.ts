import { expect } from 'chai';
import { parseConfig } from '../../../src/config/load.ts';
import type { TargetConfig } from '../../../src/config/types.ts';
import { ConfigError } from '../../../src/util/error.ts';

// biome-ignore lint/suspicious/noExplicitAny: tests change single places of it
type Saved = any;

/** As `nvmetcli save` writes it: attributes as text. */
function saved(): Saved {
  return {
    hosts: [{ nqn: 'host-a' }],
    ports: [
      {
        addr: {
          adrfam: 'ipv4',
          traddr: '192.168.122.33',
          treq: 'not specified',
          trsvcid: '4420',
          trtype: 'tcp',
          tsas: 'none',
        },
        ana_groups: [{ ana: { state: 'optimized' }, grpid: 1 }],
        param: { inline_data_size: '16384', max_queue_size: '256', pi_enable: '0' },
        portid: 1,
        referrals: [
          {
            addr: {
              adrfam: 'ipv4',
              portid: '2',
              traddr: '10.0.0.8',
              treq: 'not specified',
              trsvcid: '8009',
              trtype: 'tcp',
            },
            enable: 0,
            name: 'off',
          },
          {
            addr: {
              adrfam: 'ipv4',
              portid: '2',
              traddr: '10.0.0.9',
              treq: 'not specified',
              trsvcid: '8009',
              trtype: 'tcp',
            },
            enable: 1,
            name: 'on',
          },
        ],
        subsystems: ['nvmet-always', 'nqn.2014-08.org.nvmexpress:b'],
      },
    ],
    subsystems: [
      {
        allowed_hosts: [],
        attr: {
          allow_any_host: '1',
          cntlid_max: '65519',
          cntlid_min: '1',
          firmware: '6.12.0',
          ieee_oui: '0x000000',
          model: 'Linux',
          pi_enable: '0',
          qid_max: '16',
          serial: '123456789abcdef',
          version: '1.3',
        },
        namespaces: [
          {
            ana_grpid: 1,
            device: { nguid: '00000000-0000-0000-0000-000000000000', path: '/srv/old.img' },
            enable: 0,
            nsid: 1,
          },
          {
            ana_grpid: 1,
            device: {
              nguid: 'ef90689c-6c46-d44c-89c1-4067801309a8',
              path: '/srv/disk.img',
              uuid: 'd592cdf3-5d1c-44e0-8412-3fcf7d99df27',
            },
            enable: 1,
            nsid: 2,
            resv: { enable: '0' },
          },
        ],
        nqn: 'nvmet-always',
      },
      {
        allowed_hosts: ['host-a'],
        attr: { allow_any_host: '0' },
        namespaces: [
          {
            device: {
              nguid: '00000000-0000-0000-0000-000000000000',
              path: '/srv/b.img',
              uuid: '00000000-0000-0000-0000-000000000000',
            },
            enable: 1,
            nsid: 1,
          },
        ],
        nqn: 'nqn.2014-08.org.nvmexpress:b',
      },
    ],
  };
}

const parse = (value: Saved): TargetConfig =>
  parseConfig(JSON.stringify(value, null, 2), { name: 'config.json', baseDirectory: '/' });

function refusal(change: (value: Saved) => void): string {
  const value = saved();
  change(value);
  try {
    parse(value);
  } catch (error) {
    expect(error).to.be.instanceOf(ConfigError);
    return (error as Error).message;
  }
  return expect.fail('should have been refused');
}

describe('config: a file saved by nvmetcli', () => {
  it('has its ANA states in every subsystem that the port shows', () => {
    const value = saved();
    value.ports[0].ana_groups.push({ ana: { state: 'inaccessible' }, grpid: 7 });
    value.subsystems[1].namespaces[0].ana_grpid = 7;
    value.subsystems.push({ ...value.subsystems[1], nqn: 'elsewhere', namespaces: [] });
    const { subsystems } = parse(value);
    const states = [{ anagrpid: 7, states: [{ portId: 1, state: 'inaccessible' }] }];
    expect(subsystems.map(({ anaGroups }) => anaGroups)).to.deep.equal([states, states, []]);
    expect(subsystems[1]!.namespaces[0]!.anagrpid).to.equal(7);
  });

  it('means what it means to the kernel', () => {
    const { subsystems, ports, discovery, referrals } = parse(saved());
    expect(subsystems[0]).to.deep.include({
      nqn: 'nvmet-always',
      allowAnyHost: true,
      hosts: [],
      serial: '123456789abcdef',
      model: 'Linux',
      cntlidMin: 1,
      cntlidMax: 65_519,
      maxQueues: 16,
    });
    expect(subsystems[0]!.namespaces, 'the disabled namespace is not served').to.deep.equal([
      {
        nsid: 2,
        backend: { type: 'file', path: '/srv/disk.img', blockSize: 4096, sizeBytes: undefined, readOnly: false },
        uuid: 'd592cdf3-5d1c-44e0-8412-3fcf7d99df27',
        nguid: 'ef90689c6c46d44c89c14067801309a8',
        eui64: undefined,
        readOnly: false,
        anagrpid: 1,
      },
    ]);
    expect(subsystems[1]).to.deep.include({ allowAnyHost: false, hosts: ['host-a'] });
    expect(subsystems[1]!.namespaces[0]).to.include({ uuid: undefined, nguid: undefined });
    expect(ports).to.have.length(1);
    expect(ports[0]).to.deep.include({
      portId: 1,
      address: '192.168.122.33',
      service: 4420,
      subsystems: ['nvmet-always', 'nqn.2014-08.org.nvmexpress:b'],
      inCapsuleDataSize: 16_384,
      maxQueueSize: 256,
    });
    expect(discovery).to.deep.include({ address: '192.168.122.33', service: 8009 });
    expect(referrals, 'the disabled referral is not served').to.deep.equal([
      { portId: 2, address: '10.0.0.9', service: 8009, nqn: undefined },
    ]);
  });

  it('takes the older form without parameters, and attributes as numbers', () => {
    const value = saved();
    value.hosts = [];
    value.ports[0].param = undefined;
    value.ports[0].ana_groups = undefined;
    value.subsystems[0].attr = { allow_any_host: 1 };
    const { subsystems, ports } = parse(value);
    expect(subsystems[0]!.allowAnyHost).to.equal(true);
    expect(ports[0]!.inCapsuleDataSize).to.equal(8192);
    value.ports[0].param = { inline_data_size: '-1' };
    expect(parse(value).ports[0]!.inCapsuleDataSize).to.equal(8192);
  });

  it('without allow_any_host nobody is let in but those listed', () => {
    const value = saved();
    value.subsystems[1].attr = {};
    value.subsystems[1].allowed_hosts = [];
    expect(parse(value).subsystems[1]!.allowAnyHost).to.equal(false);
  });

  for (const [name, change, wanted] of [
    [
      'RDMA',
      (v: Saved) => {
        v.ports[0].addr.trtype = 'rdma';
      },
      /^config\.json:\d+: ports\[0\]\.addr\.trtype: found "rdma"; allowed: tcp; remove this port/,
    ],
    [
      'the loop transport',
      (v: Saved) => {
        v.ports[0].addr = { adrfam: '', traddr: '', treq: '', trsvcid: '', trtype: 'loop' };
      },
      /trtype: found "loop"/,
    ],
    [
      'TLS',
      (v: Saved) => {
        v.ports[0].addr.treq = 'required';
      },
      /ports\[0\]\.addr\.treq: found "required"; .*TLS is not supported yet/,
    ],
    [
      'TLS by tsas',
      (v: Saved) => {
        v.ports[0].addr.tsas = 'tls1.3';
      },
      /tsas: found "tls1\.3"/,
    ],
    [
      'an ANA state that there is not',
      (v: Saved) => {
        v.ports[0].ana_groups[0].ana.state = 'gone';
      },
      /ana_groups\[0\]\.ana\.state: found "gone"; allowed: optimized, non-optimized, inaccessible/,
    ],
    [
      'passthrough',
      (v: Saved) => {
        v.subsystems[0].passthru = [{ device: { path: '/dev/nvme0' }, enable: 1 }];
      },
      /subsystems\[0\]\.passthru\[0\]: passthrough .* not supported yet/,
    ],
    [
      'protection information',
      (v: Saved) => {
        v.subsystems[0].attr.pi_enable = '1';
      },
      /attr\.pi_enable: found "1"/,
    ],
    [
      'reservations',
      (v: Saved) => {
        v.subsystems[0].namespaces[1].resv.enable = '1';
      },
      /resv\.enable: found "1"/,
    ],
    [
      'host keys',
      (v: Saved) => {
        v.hosts[0].dhchap_key = 'DHHC-1:00:secret';
      },
      /hosts\[0\]\.dhchap_key: authentication/,
    ],
    [
      'no nqn',
      (v: Saved) => {
        v.subsystems[0].nqn = undefined;
      },
      /subsystems\[0\]: the key "nqn" is missing/,
    ],
    [
      'a bad number',
      (v: Saved) => {
        v.subsystems[0].attr.qid_max = 'many';
      },
      /attr\.qid_max: found "many"; allowed: 1 to 65534/,
    ],
    [
      'a bad address',
      (v: Saved) => {
        v.ports[0].addr.traddr = 'host';
      },
      /ports\[0\]\.addr\.traddr: found "host"/,
    ],
    [
      'a bad UUID, behind a disabled namespace',
      (v: Saved) => {
        v.subsystems[0].namespaces[1].device.uuid = 'x';
      },
      /subsystems\[0\]\.namespaces\[1\]\.device\.uuid: found "x"/,
    ],
    [
      'a bad referral, behind a disabled one',
      (v: Saved) => {
        v.ports[0].referrals[1].addr.trsvcid = '0';
      },
      /ports\[0\]\.referrals\[1\]\.addr\.trsvcid: found "0"/,
    ],
    [
      'a subsystem that is not there',
      (v: Saved) => {
        v.ports[0].subsystems = ['other'];
      },
      /ports\[0\]\.subsystems\[0\]: found "other"/,
    ],
    [
      'a file twice',
      (v: Saved) => {
        v.subsystems[1].namespaces[0].device.path = '/srv/disk.img';
      },
      /subsystems\[1\]\.namespaces\[0\]\.device\.path: .*\(by subsystems\[0\]\.namespaces\[1\]\.device\.path\)/,
    ],
  ] as const) {
    it(`refuses ${name} by its place`, () => {
      const message = refusal(change);
      expect(message).to.match(wanted);
      expect(message).to.not.contain('secret');
    });
  }

  it('names the line', () => {
    const text = JSON.stringify(saved(), null, 2).replace(
      '"trtype": "tcp",\n        "tsas"',
      '"trtype": "fc",\n        "tsas"',
    );
    const line = text.split('\n').findIndex((part) => part.includes('"fc"')) + 1;
    expect(() => parseConfig(text, { name: 'c.json', baseDirectory: '/' })).to.throw(ConfigError, `c.json:${line}: `);
  });
});
