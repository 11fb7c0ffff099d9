import { expect } from 'chai';
import {
  checkNqn,
  isDiscoveryNqn,
  nqnFieldProblem,
  nqnProblem,
  uuidFromBytes,
  uuidNqn,
  uuidOfNqn,
  uuidToBytes,
} from '../../../src/fabrics/nqn.ts';
import { ConfigError } from '../../../src/util/error.ts';
import { hex } from '../../vectors/layout.ts';

const UUID = 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6';
const UUID_NQN = `nqn.2014-08.org.nvmexpress:uuid:${UUID}`;
const PREFIX = 'nqn.2026-01.org.example:';

describe('fabrics/nqn', () => {
  it('takes the forms of Base 2.1 section 4.7', () => {
    for (const nqn of [
      'nqn.2014-08.org.nvmexpress.discovery',
      UUID_NQN,
      UUID_NQN.toUpperCase().replace('NQN.2014-08.ORG.NVMEXPRESS:UUID:', 'nqn.2014-08.org.nvmexpress:uuid:'),
      'nqn.2014-08.com.example:nvme.host.sys.xyz',
      'nqn.2016-06.io.spdk:cnode1',
      'nqn.1988-11.com.x-y.a1:a b:c/ö',
      'nqn.2019-08.org:x',
      PREFIX + 'x'.repeat(223 - PREFIX.length),
      `nqn.2026-01.${'a'.repeat(63)}.b:x`,
    ]) {
      expect(nqnProblem(nqn), nqn).to.equal(undefined);
      expect(checkNqn(nqn, 'nqn')).to.equal(nqn);
    }
  });

  it('refuses every other form', () => {
    for (const nqn of [
      'nqn',
      'eui.0123456789abcdef',
      'NQN.2026-01.org.example:x',
      'nqn.26-01.org.example:x',
      'nqn.2026-1.org.example:x',
      'nqn.2026-00.org.example:x',
      'nqn.2026-13.org.example:x',
      'nqn.2026-01.:x',
      'nqn.2026-01.org.example',
      'nqn.2026-01.org.example:',
      'nqn.2026-01.org..example:x',
      'nqn.2026-01.-org.example:x',
      'nqn.2026-01.org-.example:x',
      'nqn.2026-01.1org.example:x',
      'nqn.2026-01.org.exa_mple:x',
      `nqn.2026-01.${'a'.repeat(64)}.b:x`,
      ' nqn.2026-01.org.example:x',
      'nqn.2014-08.org.nvmexpress:uuid:',
      `${UUID_NQN}0`,
      UUID_NQN.slice(0, -1),
      'nqn.2014-08.org.nvmexpress:uuid:f81d4fae7dec11d0a76500a0c91e6bf6',
      'nqn.2014-08.org.nvmexpress:uuid:g81d4fae-7dec-11d0-a765-00a0c91e6bf6',
    ]) {
      expect(nqnProblem(nqn), nqn).to.be.a('string');
    }
  });

  it('asks of names that others chose only that they fit', () => {
    for (const name of ['testnqn', 'x', 'ö'.repeat(111), 'a'.repeat(223)])
      expect(nqnFieldProblem(name)).to.equal(undefined);
    expect(nqnFieldProblem('')).to.equal('is empty');
    expect(nqnFieldProblem('a'.repeat(224))).to.equal('is 224 bytes long, at most 223 are allowed');
    expect(nqnFieldProblem('ö'.repeat(112)), 'bytes count, not characters').to.contain('224 bytes');
    expect(nqnFieldProblem('a\0b')).to.equal('contains a NUL');
    expect(nqnFieldProblem('a\udc00')).to.contain('Unicode');
  });

  it('counts bytes in the full form, too', () => {
    expect(nqnProblem(PREFIX + 'x'.repeat(224 - PREFIX.length))).to.contain('224 bytes');
    expect(nqnProblem(PREFIX + 'ö'.repeat(100))).to.equal('is 224 bytes long, at most 223 are allowed');
  });

  it('says what is wrong, and where', () => {
    expect(() => checkNqn('foo', 'subsystems[0].nqn')).to.throw(
      ConfigError,
      'subsystems[0].nqn "foo" does not have the form nqn.yyyy-mm.reverse.domain:name',
    );
  });

  it('knows the discovery NQN, byte for byte', () => {
    expect(isDiscoveryNqn('nqn.2014-08.org.nvmexpress.discovery')).to.equal(true);
    expect(isDiscoveryNqn('nqn.2014-08.org.nvmexpress.Discovery')).to.equal(false);
  });

  it('turns UUIDs into NQNs and back', () => {
    expect(uuidNqn(UUID)).to.equal(UUID_NQN);
    expect(uuidNqn(UUID.toUpperCase())).to.equal(UUID_NQN);
    expect(uuidOfNqn(UUID_NQN)).to.equal(UUID);
    expect(uuidOfNqn(UUID_NQN.slice(0, -12) + UUID.slice(-12).toUpperCase())).to.equal(UUID);
    for (const nqn of ['nqn.2026-01.org.example:x', `${UUID_NQN}0`, UUID]) expect(uuidOfNqn(nqn)).to.equal(undefined);
    expect(() => uuidNqn('no')).to.throw(ConfigError, '"no" is not a UUID');
  });

  it('turns UUIDs into bytes, most significant first, and back', () => {
    const bytes = hex('f81d4fae7dec11d0a76500a0c91e6bf6');
    expect(uuidToBytes(UUID)).to.deep.equal(bytes);
    expect(uuidToBytes(UUID.toUpperCase())).to.deep.equal(bytes);
    expect(uuidFromBytes(bytes)).to.equal(UUID);
    expect(uuidFromBytes(new Uint8Array(16))).to.equal('00000000-0000-0000-0000-000000000000');
    expect(() => uuidFromBytes(new Uint8Array(15))).to.throw(ConfigError, '15');
    expect(() => uuidToBytes(`{${UUID}}`)).to.throw(ConfigError);
  });

  it('answers at once on names made to be slow', () => {
    const evil = `nqn.2026-01.${'a-'.repeat(100)}`;
    const start = performance.now();
    for (let i = 0; i < 1000; i++) nqnProblem(evil);
    expect(performance.now() - start).to.be.below(1000);
  });
});
