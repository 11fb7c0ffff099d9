/** What the errors of a file become in the SMART log. */
import { expect } from 'chai';
import { FileHealth } from '../../../src/backend/file-health.ts';
import { DNR, MediaStatus, Status } from '../../../src/spec/status.ts';

describe('FileHealth', () => {
  it('errors of the media are counted and make the subsystem unreliable; each is told', () => {
    const health = new FileHealth();
    let told = 0;
    health.watch(() => told++);
    expect(health.now).to.deep.equal({ criticalWarning: 0, mediaErrors: 0n });
    health.failed(MediaStatus.UnrecoveredReadError);
    health.failed(MediaStatus.WriteFault | DNR);
    expect(health.now).to.deep.equal({ criticalWarning: 0x04, mediaErrors: 2n });
    expect(told).to.equal(2);
  });

  it('a file system that became read only is media that became read only', () => {
    const health = new FileHealth();
    health.failed(Status.NamespaceWriteProtected);
    expect(health.now).to.deep.equal({ criticalWarning: 0x08, mediaErrors: 0n });
  });

  it('a full disk, or one that is short of memory, is no warning', () => {
    const health = new FileHealth();
    let told = 0;
    health.watch(() => told++);
    for (const status of [Status.CapacityExceeded | DNR, Status.InternalError, Status.NamespaceNotReady]) {
      health.failed(status);
    }
    expect([health.now.criticalWarning, health.now.mediaErrors, told]).to.deep.equal([0, 0n, 0]);
  });
});
