/**
 * The tools of the other suites, tried on themselves: what the capture must notice, and Linux against Linux. When these
 * pass and another suite fails, it is not the harness.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { expect } from 'chai';
import { Capture, dissectBytes } from './support/capture.ts';
import type { Dissection } from './support/dissect.ts';
import { GuestVm } from './support/guest-vm.ts';
import { type GuestKernel, kernelRelease } from './support/paths.ts';
import { freePorts } from './support/ports.ts';

const controllerPort = 4420;
const hostPort = 50_000;

describe('Capture and dissection', function () {
  this.timeout(600_000);

  const icreq = pdu(0, { bytes: 128 });
  const icresp = pdu(1, { bytes: 128 });
  const command = pdu(4, { bytes: 72 });
  const response = pdu(5, { bytes: 24 });
  const plain = { host: [icreq, command], controller: [icresp, response] };

  const exchanges: { what: string; host: Buffer[]; controller: Buffer[]; expected: RegExp | undefined }[] = [
    { ...plain, what: 'nothing wrong in a plain exchange', expected: undefined },
    {
      ...plain,
      what: 'an unknown PDU type',
      controller: [icresp, pdu(0x0c, { bytes: 24 })],
      expected: /PDU of type 12/,
    },
    {
      ...plain,
      what: 'a PDU of the other direction',
      controller: [icresp, command],
      expected: /CapsuleCmd from the contr/,
    },
    {
      ...plain,
      what: 'a command before ICReq',
      host: [command, icreq],
      expected: /CapsuleCmd as PDU number 1 of the host/,
    },
    { ...plain, what: 'a second ICResp', controller: [icresp, icresp], expected: /ICResp as PDU number 2/ },
    { ...plain, what: 'a wrong HLEN', controller: [icresp, pdu(5, { bytes: 24, hlen: 20 })], expected: /HLEN 20/ },
    { ...plain, what: 'C2HTermReq', controller: [icresp, pdu(3, { bytes: 24 })], expected: /gave up the connection/ },
    { ...plain, what: 'a completion too many', controller: [icresp, response, response], expected: /never sent/ },
    {
      ...plain,
      what: 'a digest not agreed',
      controller: [icresp, pdu(5, { bytes: 28, hlen: 24, flags: 1 })],
      expected: /HDGSTF/,
    },
    {
      ...plain,
      what: 'a cut PDU',
      controller: [icresp, response.subarray(0, 20)],
      expected: /controller sent 148 bytes/,
    },
    {
      what: 'a wrong header digest',
      host: [pdu(0, { bytes: 128, digests: 1 }), pdu(4, { bytes: 76, hlen: 72, flags: 1 })],
      controller: [pdu(1, { bytes: 128, digests: 1 })],
      expected: /wrong header digest/,
    },
  ];

  /** One capture of all exchanges; the connection's number is the exchange's. */
  let found: Dissection;

  before(async () => {
    const [port] = (await freePorts(1)) as [number];
    const capture = await Capture.start({ ports: [port] });
    for (const { host, controller } of exchanges) await exchange(port, host, controller);
    found = await capture.stop({ keep: false });
  });

  for (const [index, { what, expected }] of exchanges.entries()) {
    it(`notices ${what}`, () => {
      const violations = found.violations.filter((one) => /^connection (\d+)/.exec(one)?.[1] === String(index));
      if (expected) expect(violations.join('\n')).to.match(expected);
      else expect(violations).to.deep.equal([]);
    });
  }

  it('does not take an empty capture for a clean one', async () => {
    const [port] = (await freePorts(1)) as [number];
    const capture = await Capture.start({ ports: [port] });
    const error = await capture.stop().catch((reason: unknown) => reason);
    expect(error)
      .to.be.an('error')
      .with.property('message')
      .that.matches(/no NVMe\/TCP PDU/);
  });
});

describe('Captures out of order', () => {
  const icreq = pdu(0, { bytes: 128 });
  const icresp = pdu(1, { bytes: 128 });
  const command = pdu(4, { bytes: 72 });
  const start = [segment('host', 0, '', 'syn'), segment('controller', 0, '', 'syn'), segment('host', 1, icreq)];
  const end = [segment('host', 129 + 2 * 72, '', 'fin')];

  it('are put in order, each byte once', async () => {
    const commands = Buffer.concat([command, pdu(4, { bytes: 72, cid: 1 })]);
    const capture = pcap([
      ...start,
      segment('controller', 1, icresp),
      segment('host', 129 + 100, commands.subarray(100)), // overtook what comes before it
      segment('host', 129 + 20, commands.subarray(20, 110)), // overlaps it
      segment('host', 129, commands.subarray(0, 40)),
      segment('host', 129, commands.subarray(0, 40)), // sent again
      segment('controller', 129, pdu(5, { bytes: 24 })),
      segment('controller', 129 + 24, pdu(5, { bytes: 24, cid: 1 })),
      ...end,
    ]);
    const found = await dissectBytes(capture, { ports: [controllerPort] });
    expect(found.violations).to.deep.equal([]);
    expect(found.pdusByType.get(4)).to.equal(2);
  });

  it('are no evidence when a segment is missing', async () => {
    const capture = pcap([...start, segment('host', 129 + 72, command), ...end]);
    const found = await dissectBytes(capture, { ports: [controllerPort], mayBeCut: true }, { keep: false });
    expect(found.violations.join('\n')).to.match(/lacks what comes before 2 of its segments/);
  });
});

describe('Linux host on Linux target in one guest', function () {
  this.timeout(600_000);

  // the other suites find out about each kernel
  const kernels: readonly GuestKernel[] = process.env.NVMEFERRY_INTEROP === 'full' ? ['6.12', '7.x'] : ['6.12'];
  for (const kernel of kernels) {
    it(`kernel ${kernel}: discovers, connects, keeps data, and tshark agrees`, async () => {
      await using vm = await GuestVm.start({ kernel, cpus: 2 });
      expect((await vm.run('uname -r')).trim()).to.equal(kernelRelease(kernel));
      const output = await vm.run(linuxOnLinux, { timeoutMs: 300_000 });
      expect(output).to.include('verified 512\n').and.include('verified 4k\n').and.include('verified 1m\n');

      const found = await dissectBytes(await vm.readFile('/tmp/capture.pcap'), { ports: [4420] });
      expect(found.violations).to.deep.equal([]);
      // both digests, in-capsule data, R2T and all data directions were seen
      expect([...found.pdusByType.keys()].sort((a, b) => a - b)).to.deep.equal([0, 1, 4, 5, 6, 7, 9]);
    });
  }
});

const linuxOnLinux = `
modprobe null_blk nr_devices=1 gb=1 memory_backed=1 bs=512
nvmet_subsystem nqn.2026-01.test:a /dev/nullb0
nvmet_port 1 127.0.0.1 4420 nqn.2026-01.test:a
modprobe nvme-tcp
tcpdump -Z root -i lo -s 0 -B 65536 -w /tmp/capture.pcap tcp port 4420 2> /tmp/tcpdump.log &
wait_for 90 grep -q listening /tmp/tcpdump.log
nvme discover -t tcp -a 127.0.0.1 -s 4420 -o json | jq -e '[.records[].subnqn] | contains(["nqn.2026-01.test:a"])'
verify() {
  fio --name=v --filename="$1" --rw=randrw --bs="$2" --iodepth="$3" --size="$4" --verify=crc32c --ioengine=libaio --direct=1 > /tmp/fio.log
  echo "verified $2"
}
device=$(connect_to 127.0.0.1 4420 nqn.2026-01.test:a -i 2)
verify "$device" 512 16 512k
verify "$device" 1m 4 8m
disconnect_from nqn.2026-01.test:a
device=$(connect_to 127.0.0.1 4420 nqn.2026-01.test:a -i 1 --hdr-digest --data-digest --disable-sqflow)
verify "$device" 4k 16 2m
disconnect_from nqn.2026-01.test:a
sleep 2 # tcpdump writes what the kernel hands over in batches
pkill tcpdump
wait
cat /tmp/tcpdump.log >&2
`;

/** Plays PDUs over a loopback connection, in turn: one of the host's, one of the controller's. */
async function exchange(port: number, host: Buffer[], controller: Buffer[]): Promise<void> {
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  const client = connect(port, '127.0.0.1').setNoDelay();
  const [accepted] = (await once(server, 'connection')) as [Socket];
  for (let index = 0; index < Math.max(host.length, controller.length); index++) {
    await deliver(client, accepted, host[index]);
    await deliver(accepted, client, controller[index]);
  }
  for (const socket of [client, accepted]) socket.end().resume();
  await Promise.all([once(client, 'close'), once(accepted, 'close')]);
  server.close();
  await once(server, 'close');
}

async function deliver(from: Socket, to: Socket, bytes: Buffer | undefined): Promise<void> {
  if (!bytes) return;
  const arrived = once(to, 'data');
  from.write(bytes);
  await arrived;
}

function pdu(
  type: number,
  options: { bytes: number; hlen?: number; flags?: number; digests?: number; cid?: number },
): Buffer {
  const bytes = Buffer.alloc(options.bytes);
  bytes[0] = type;
  bytes[1] = options.flags ?? 0;
  bytes[2] = options.hlen ?? options.bytes;
  bytes.writeUInt32LE(options.bytes, 4);
  if (type <= 1) bytes[11] = options.digests ?? 0;
  if (type === 4) bytes.writeUInt16LE(options.cid ?? 0, 10);
  if (type === 5) bytes.writeUInt16LE(options.cid ?? 0, 20);
  return bytes;
}

/** One record of a capture: a TCP segment with a sequence number relative to its SYN. */
function segment(from: 'host' | 'controller', seq: number, data: Uint8Array | '', flag?: 'syn' | 'fin'): Buffer {
  const [source, destination] = from === 'host' ? [hostPort, controllerPort] : [controllerPort, hostPort];
  const packet = Buffer.alloc(14 + 20 + 20 + data.length);
  packet.writeUInt16BE(0x0800, 12); // IPv4
  packet[14] = 0x45;
  packet.writeUInt16BE(packet.length - 14, 16);
  packet[22] = 64; // time to live
  packet[23] = 6; // TCP
  packet.writeUInt32BE(0x7f000001, 26);
  packet.writeUInt32BE(0x7f000001, 30);
  packet.writeUInt16BE(source, 34);
  packet.writeUInt16BE(destination, 36);
  packet.writeUInt32BE((0xffffff00 + seq) >>> 0, 38); // wraps soon
  packet[46] = 0x50;
  packet[47] = flag === 'syn' && from === 'host' ? 0x02 : flag === 'syn' ? 0x12 : flag === 'fin' ? 0x11 : 0x10;
  packet.writeUInt16BE(0xffff, 48);
  if (data !== '') packet.set(data, 54);
  const header = Buffer.alloc(16);
  header.writeUInt32LE(packet.length, 8);
  header.writeUInt32LE(packet.length, 12);
  return Buffer.concat([header, packet]);
}

function pcap(records: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(262_144, 16);
  header.writeUInt32LE(1, 20); // Ethernet
  return Buffer.concat([header, ...records]);
}
