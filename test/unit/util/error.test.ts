import { expect } from 'chai';
import { ConfigError, NvmeofError, NvmeStatusError, TransportError } from '../../../src/util/error.ts';

describe('errors', () => {
  it('all are NvmeofErrors with a stable code and name', () => {
    const config = new ConfigError('ports[0].address: "x" is no address');
    expect(config).to.be.instanceOf(NvmeofError);
    expect([config.name, config.code]).to.deep.equal(['ConfigError', 'NVMEOF_ERR_CONFIG']);
    const cause = new Error('inner');
    const transport = new TransportError('NVMEOF_ERR_CLOSED', 'gone', { cause });
    expect([transport.name, transport.code, transport.cause]).to.deep.equal([
      'TransportError',
      'NVMEOF_ERR_CLOSED',
      cause,
    ]);
  });

  it('a status error names command, status and number', () => {
    const error = new NvmeStatusError('Read of namespace 1', 0x4080, 'io', 7);
    expect(error.message).to.match(/^Read of namespace 1 failed: .*LBA.* \(0x4080\)$/i);
    expect([error.status, error.result, error.code]).to.deep.equal([0x4080, 7, 'NVMEOF_ERR_STATUS']);
  });
});
