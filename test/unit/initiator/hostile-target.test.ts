/** What hostile or broken targets did to the initiator, one by one: found by the fuzzers and by review, each once a bug. */
import { expect } from 'chai';
import { HostController } from '../../../src/initiator/controller.ts';
import { IoDispatcher } from '../../../src/initiator/io-dispatcher.ts';
import { KeepAlive } from '../../../src/initiator/keep-alive.ts';
import type { HostOptions } from '../../../src/initiator/options.ts';
import { HostConnection } from '../../../src/transport/tcp/host-connection.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { type ControllerShape, pdu, ScriptedController, ScriptedTarget } from '../../support/scripted-target.ts';
import { Bench, rejection, settle, until } from './support.ts';

describe('initiator against hostile targets', () => {
  let target: ScriptedTarget;
  let clock: ManualClock;
  let controller: HostController | undefined;

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    clock = new ManualClock();
    controller = undefined;
  });
  afterEach(async () => {
    await controller?.close();
    await target.close();
    expect(clock.timerCount, 'timers left').to.equal(0);
  });

  async function connect(shape: ControllerShape, extra: Partial<HostOptions> = {}): Promise<ScriptedController> {
    const peer = new ScriptedController(target, shape);
    controller = await HostController.connect({
      address: '127.0.0.1',
      port: target.port,
      subnqn: 'nqn.2024-01.test:sub',
      hostnqn: 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff',
      clock,
      katoMs: 0,
      ...extra,
    });
    return peer;
  }

  it('a wrong ICResp leaves no socket behind, even if the target stays connected', async () => {
    const failing = rejection(HostConnection.connect({ address: '127.0.0.1', port: target.port, slotCount: 4, clock }));
    const peer = await target.accept();
    await peer.nextOf(0);
    peer.send(pdu.icResp({ pfv: 1 }));
    expect((await failing).message).to.contain('PFV 1');
    expect((await peer.nextOf(2)).fes).to.equal(1);
    await peer.closed();
    expect(clock.timerCount, 'timers').to.equal(0);
  });

  for (const [what, shape, lbads] of [
    ['a block larger than MDTS', { mdts: 1 }, 16],
    ['LBADS 0', {}, 0],
    ['LBADS 255', {}, 255],
  ] as const) {
    it(`a namespace with ${what} is refused, not read for ever`, async () => {
      const peer = await connect(shape);
      const identify = peer.identify.bind(peer);
      peer.identify = (cns, nsid) => {
        const bytes = identify(cns, nsid);
        if (cns === 0) bytes[130] = lbads;
        return bytes;
      };
      const error = await rejection(controller!.namespace(1));
      expect(error.code).to.equal('NVMEOF_ERR_PROTOCOL');
    });
  }

  it('a list of namespaces that does not end is refused', async () => {
    const peer = await connect({});
    const identify = peer.identify.bind(peer);
    peer.identify = (cns, nsid) => {
      if (cns !== 2) return identify(cns, nsid);
      const bytes = Buffer.alloc(4096);
      for (let i = 0; i < 1024; i++) bytes.writeUInt32LE(nsid + 1 + i, i * 4);
      return bytes;
    };
    const error = await rejection(controller!.activeNamespaces());
    expect(error.code).to.equal('NVMEOF_ERR_PROTOCOL');
  });

  it('events faster than the host can read their log page do not pile up', async () => {
    const peer = await connect({ oaes: 0x100 });
    let pages = 0;
    let answering = false;
    const held: (() => void)[] = [];
    peer.override = (command, connection, qid) => {
      if (qid !== 0 || command.opcode !== 0x02) return false;
      pages++;
      const answer = (): void =>
        connection.send(pdu.c2hData(command.cid, new Uint8Array(command.sglLength)), pdu.capsuleResp(command.cid));
      if (answering) answer();
      else held.push(answer);
      return true;
    };
    const EVENTS = 100;
    let events = 0;
    controller!.on('asyncEvent', () => {
      events++;
    });
    for (let i = 0; i < EVENTS; i++) {
      await until(() => peer.aers.length > 0, 'an AER is outstanding');
      peer.event(0x0004_0002);
    }
    await until(() => events === EVENTS, 'all events are seen');
    answering = true;
    for (const answer of held.splice(0)) answer();
    await settle(40);
    // one for the first event, and one after it for all that came meanwhile
    expect(pages).to.equal(2);
  });

  it('a Keep Alive that finds no slot is tried again, and does not count as unanswered', () => {
    let sent = 0;
    let expired = 0;
    const tries: ((error?: Error) => void)[] = [];
    const keepAlive = new KeepAlive(
      clock,
      1000,
      undefined,
      () => {
        sent++;
        return new Promise((resolve, reject) =>
          tries.push((error) => (error === undefined ? resolve() : reject(error))),
        );
      },
      () => {
        expired++;
      },
    );
    return (async () => {
      clock.advance(500);
      tries.shift()!(new Error('no admin queue slot is free'));
      await settle(1);
      clock.advance(500);
      expect(sent).to.equal(2);
      tries.shift()!();
      await settle(1);
      clock.advance(500);
      tries.shift()!();
      await settle(1);
      expect({ sent, expired }).to.deep.equal({ sent: 3, expired: 0 });
      keepAlive.stop();
    })();
  });

  it('a lost queue pair has no free slot: commands wait for the next one', async () => {
    const bench = await Bench.open();
    const dispatcher = new IoDispatcher();
    bench.peer.destroy();
    await until(() => bench.lost !== undefined, 'the loss is seen');
    expect(bench.queuePair.freeCount).to.equal(0);
    dispatcher.attach([bench.queuePair]);
    const ends: number[] = [];
    dispatcher.submitFlush(1, (status) => ends.push(status), undefined);
    dispatcher.slotFree();
    expect(dispatcher.waitingCount).to.equal(1);
    dispatcher.failWaiting();
    expect(ends).to.have.length(1);
    await bench.close();
  });
});
