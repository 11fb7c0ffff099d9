import { expect } from 'chai';
import { DeviceError, type NvmeAnswer, type NvmeCommand } from '../../../src/backend/nvme-device.ts';
import { NvmePassthrough } from '../../../src/backend/nvme-passthrough.ts';
import { DNR, Status } from '../../../src/spec/status.ts';

const command = { opcode: 0xc2, nsid: 'own', cdw2: 1, cdw3: 2, cdw10To15: [1, 2, 3, 4, 5, 6] } as const;

describe('NvmePassthrough', () => {
  const answering = (answer: () => Promise<NvmeAnswer>): { sent: NvmeCommand[]; passthrough: NvmePassthrough } => {
    const sent: NvmeCommand[] = [];
    const admin = (given: NvmeCommand): Promise<NvmeAnswer> => {
      sent.push(given);
      return answer();
    };
    return { sent, passthrough: new NvmePassthrough({ admin }, 'nvme3', 7) };
  };

  it('sends the NSID that the namespace has on the device, or the one given', async () => {
    const { sent, passthrough } = answering(async () => ({ status: 0, result0: 1, result1: 2 }));
    expect(await passthrough.admin(command)).to.deep.equal({ status: 0, result0: 1, result1: 2 });
    await passthrough.admin({ ...command, nsid: 0xffff_ffff });
    expect(sent).to.deep.equal([
      { ...command, nsid: 7 },
      { ...command, nsid: 0xffff_ffff },
    ]);
  });

  it("keeps a status, but not what in it refers to the device's own logs and delays", async () => {
    const { passthrough } = answering(async () => ({ status: 0x7802, result0: 0, result1: 0 }));
    expect((await passthrough.admin(command)).status).to.equal(0x4002);
  });

  for (const [errno, status] of [
    ['ENODEV', Status.NamespaceNotReady],
    ['EINTR', Status.NamespaceNotReady],
    ['EACCES', Status.OperationDenied | DNR],
    ['EINVAL', Status.InvalidField | DNR],
    ['ENOMEM', Status.InternalError],
  ] as const) {
    it(`${errno} of the kernel is status ${status.toString(16)}h`, async () => {
      const { passthrough } = answering(() => Promise.reject(new DeviceError('x', errno)));
      expect((await passthrough.admin(command)).status).to.equal(status);
    });
  }

  it('stop waits for what is under way, and takes nothing more', async () => {
    let answer: (answer: NvmeAnswer) => void = () => {};
    const { sent, passthrough } = answering(
      () =>
        new Promise((resolve) => {
          answer = resolve;
        }),
    );
    const running = passthrough.admin(command);
    let stopped = false;
    const stopping = passthrough.stop().then(() => {
      stopped = true;
    });
    expect((await passthrough.admin(command)).status).to.equal(Status.NamespaceNotReady);
    await new Promise((resolve) => setImmediate(resolve));
    expect([stopped, sent.length]).to.deep.equal([false, 1]);
    answer({ status: 0, result0: 0, result1: 0 });
    await running;
    await stopping;
  });
});
