/** The front's control socket, by the orchestrator's end of it, and by those who do not know how. */
import fs from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect } from 'chai';
import { FrontControl } from '../../../src/orchestrator/front-control.ts';
import { type Controlled, FrontControlServer } from '../../../src/transport/vfio-user/front/control-server.ts';
import type { FrontStatus } from '../../../src/transport/vfio-user/front/front-options.ts';
import { ConfigError } from '../../../src/util/error.ts';

const SOCKETS = { source: '/run/a.sock', destination: '/run/b.sock' };

class FakeFront implements Controlled {
  readonly calls: string[] = [];
  paused = false;
  /** Set: `pause` waits for it. */
  hold: Promise<void> | undefined;
  socket = '/run/a.sock';

  status(): FrontStatus {
    return {
      vm: 'connected',
      controller: { socket: this.socket, state: 'joined' },
      paused: this.paused,
      waiting: { messages: 0, bytes: 0 },
      memory: { maps: 0, bytes: 0, descriptors: 0 },
      interrupts: 0,
      stateLost: false,
    };
  }
  async pause(): Promise<void> {
    await this.hold;
    this.calls.push('pause');
    this.paused = true;
  }
  async attach(socket: string): Promise<void> {
    this.calls.push(`attach ${socket}`);
    if (!this.paused) throw new ConfigError('front: pause it first');
    this.socket = socket;
  }
  async resume(): Promise<void> {
    this.calls.push('resume');
    this.paused = false;
  }
}

async function errorOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('It did not fail');
}

describe("the front's control socket", () => {
  let folder: string;
  let path: string;
  let front: FakeFront;
  let server: FrontControlServer;
  let controls: FrontControl[];

  beforeEach(async () => {
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-front-'));
    path = join(folder, 'front.sock');
    front = new FakeFront();
    controls = [];
    server = await FrontControlServer.listen(path, front);
  });
  afterEach(async () => {
    for (const control of controls) await control.close();
    await server.close();
    fs.rmSync(folder, { recursive: true, force: true });
  });

  async function connect(): Promise<FrontControl> {
    const control = await FrontControl.connect(path, SOCKETS);
    controls.push(control);
    return control;
  }

  /** Sends text as it is. @returns the lines that came until the front closed, or `count` of them */
  function raw(text: string, count: number): Promise<string[]> {
    return new Promise((resolve) => {
      const lines: string[] = [];
      const socket = net.connect(path, () => socket.write(text));
      socket.on('error', () => {});
      createInterface({ input: socket }).on('line', (line) => {
        lines.push(line);
        if (lines.length === count) socket.destroy();
      });
      socket.on('close', () => resolve(lines));
    });
  }

  it('pauses, attaches and resumes', async () => {
    const control = await connect();
    await control.pause();
    await control.attach('destination');
    expect(await control.status()).to.deep.include({
      paused: true,
      controller: { socket: '/run/b.sock', state: 'joined' },
    });
    await control.attach('source');
    await control.resume();
    expect(front.calls).to.deep.equal(['pause', 'attach /run/b.sock', 'attach /run/a.sock', 'resume']);
  });

  it('passes on why something cannot be', async () => {
    const control = await connect();
    expect(await errorOf(control.attach('destination'))).to.equal(`Front at ${path}: front: pause it first`);
    await control.pause();
  });

  it('has one owner; others may look, and one of them takes over when it has ended', async () => {
    const [first, second] = [await connect(), await connect()];
    await first.pause();
    expect(await errorOf(second.resume())).to.match(/another connection controls it; end that one/);
    expect((await second.status()).paused).to.equal(true);
    await first.close();
    while ((await errorOfOrNone(second.attach('destination'))) !== undefined);
    expect(front.paused, 'an owner that ends leaves it as it is').to.equal(true);
    await second.resume();
  });

  it('answers in order, and not before it is done', async () => {
    let go: () => void = () => {};
    front.hold = new Promise((resolve) => {
      go = resolve;
    });
    const lines = raw('{"id":1,"command":"pause"}\n{"id":2,"command":"status"}\n', 2);
    const control = await connect();
    expect((await control.status()).paused).to.equal(false);
    go();
    expect((await lines).map((line) => JSON.parse(line) as { id: number }).map(({ id }) => id)).to.deep.equal([1, 2]);
  });

  it('says what is wrong with a line, and goes on', async () => {
    const lines = await raw(
      'x\n[]\n{"id":"a"}\n{"id":4,"command":"toString"}\n{"id":5,"command":"attach"}\n{"id":6,"command":"attach","socket":7}\n\n{"id":7,"command":"status"}\n',
      7,
    );
    const answers = lines.map((line) => JSON.parse(line) as { id?: unknown; error?: string; ok?: boolean });
    expect(answers.map(({ id }) => id)).to.deep.equal([undefined, undefined, 'a', 4, 5, 6, 7]);
    expect(answers[0]!.error).to.match(/no JSON; wanted is/);
    expect(answers[1]!.error).to.match(/no JSON object/);
    expect(answers[3]!.error).to.equal('command is "toString"; allowed are status, pause, attach, resume');
    expect(answers[4]!.error).to.match(/socket is undefined, the path of a controller's socket is needed/);
    expect(answers[6]!.ok).to.equal(true);
    expect(front.calls).to.deep.equal([]);
  });

  it('a line without end, and requests without end: told, and disconnected', async () => {
    const endless = await raw('x'.repeat(20_000), 9);
    expect(endless).to.have.length(1);
    expect(endless[0]).to.match(/longer than 16384 bytes/);
    const many = await raw('{"command":"status"}\n'.repeat(1000), 5000);
    expect(many.length).to.be.at.most(65);
    expect((await (await connect()).status()).vm, 'others are served').to.equal('connected');
  });

  it('a front that ends: what was asked fails, and so does what is asked later', async () => {
    front.hold = new Promise(() => {});
    const control = await connect();
    const asked = errorOf(control.pause());
    await connect().then((other) => other.status());
    await server.close();
    expect(await asked).to.match(/ended the connection/);
    expect(await errorOf(control.status())).to.match(/front\.sock: is gone \(E\w+\), and with it the device of its VM/);
    front.hold = undefined;
    server = await FrontControlServer.listen(path, front);
    expect((await control.status()).vm, 'one that is there again is found').to.equal('connected');
  });

  it('what is no front: told so', async () => {
    const other = join(folder, 'other.sock');
    const strange = net.createServer((socket) => socket.resume().end('hello\n'));
    await new Promise<void>((resolve) => strange.listen(other, resolve));
    const control = await FrontControl.connect(other, SOCKETS);
    expect(await errorOf(control.pause())).to.match(/does not speak as a front does/);
    await control.close();
    await new Promise((resolve) => strange.close(resolve));
    expect(await errorOf(FrontControl.connect(join(folder, 'none'), SOCKETS))).to.match(
      /ENOENT.*start nvmeferry front/,
    );
  });

  it('only its user reaches it; a socket in use is not taken, one of a killed process is', async () => {
    expect(fs.statSync(path).mode & 0o777).to.equal(0o600);
    expect(await errorOf(FrontControlServer.listen(path, front))).to.match(/in use by another program/);
    await connect().then((control) => control.status());
    const stale = join(folder, 'stale.sock');
    fs.copyFileSync('/dev/null', join(folder, 'file'));
    expect(await errorOf(FrontControlServer.listen(join(folder, 'file'), front))).to.match(/in use/);
    // a socket that nobody listens at
    const dead = net.createServer();
    await new Promise<void>((resolve) => dead.listen(stale, resolve));
    fs.renameSync(stale, join(folder, 'kept'));
    await new Promise((resolve) => dead.close(resolve));
    fs.renameSync(join(folder, 'kept'), stale);
    const made = await FrontControlServer.listen(stale, front);
    await made.close();
    expect(fs.existsSync(stale)).to.equal(false);
  });

  it("a front that does not answer has failed, and its late answer is nobody's", async () => {
    const control = new FrontControl(path, SOCKETS, { callMs: 30 });
    controls.push(control);
    let release = (): void => {};
    front.hold = new Promise((resolve) => {
      release = resolve;
    });
    expect(await errorOf(control.pause())).to.match(/no answer for 30 ms; see whether its process is stopped/);
    release();
    front.hold = undefined;
    await control.attach('destination');
    expect(front.calls).to.deep.equal(['pause', 'attach /run/b.sock']);
  });
});

async function errorOfOrNone(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
