import { expect } from 'chai';
import * as wire from '../../../src/wire.ts';

describe('spec/status', () => {
  it('packs SCT above SC', () => {
    expect(wire.SpecificStatus.InvalidLogPage).to.equal((1 << 8) | 0x09);
    expect(wire.FabricsStatus.ConnectInvalidParameters).to.equal((1 << 8) | 0x82);
    expect(wire.MediaStatus.CompareFailure).to.equal((2 << 8) | 0x85);
    expect(wire.PathStatus.AnaTransition).to.equal((3 << 8) | 0x03);
    expect([wire.DNR, wire.MORE, wire.STATUS_CODE_MASK]).to.deep.equal([1 << 14, 1 << 13, 0x7ff]);
  });

  it('gives no value twice within a set', () => {
    const common = [wire.Status, wire.SpecificStatus, wire.MediaStatus, wire.PathStatus].flatMap((set) =>
      Object.values(set),
    );
    for (const set of [wire.IoStatus, wire.FabricsStatus]) {
      const values = [...common, ...Object.values(set)];
      expect(new Set<number>(values).size).to.equal(values.length);
    }
  });

  it('names every status, whatever DNR and M say', () => {
    const kinds = [
      ['admin', [wire.Status, wire.SpecificStatus, wire.MediaStatus, wire.PathStatus]],
      ['io', [wire.Status, wire.IoStatus, wire.MediaStatus, wire.PathStatus]],
      ['fabrics', [wire.Status, wire.FabricsStatus]],
    ] as const;
    for (const [kind, sets] of kinds) {
      for (const value of sets.flatMap((set): number[] => Object.values(set))) {
        const name = wire.statusName(value, kind);
        expect(name, `${kind} ${value}`).not.to.match(/^Status SCT/);
        expect(wire.statusName(value | wire.DNR | wire.MORE, kind)).to.equal(name);
      }
    }
  });

  it('tells I/O and Fabrics meanings of the same code apart', () => {
    expect(wire.statusName(0x180, 'io')).to.equal('Conflicting Attributes');
    expect(wire.statusName(0x180, 'fabrics')).to.equal('Connect Incompatible Format');
    expect(wire.statusName(0x7ff)).to.equal('Status SCT 7 SC 0xff');
  });
});

describe('spec/pdu', () => {
  it('has the direction in bit 0 of the type', () => {
    const { ICReq, H2CTermReq, CapsuleCmd, H2CData, ICResp, C2HTermReq, CapsuleResp, C2HData, R2T } = wire.PduType;
    for (const type of [ICReq, H2CTermReq, CapsuleCmd, H2CData]) expect(type & 1).to.equal(0);
    for (const type of [ICResp, C2HTermReq, CapsuleResp, C2HData, R2T]) expect(type & 1).to.equal(1);
  });

  it('has the HLEN of every type', () => {
    expect(wire.PDU_HLEN[wire.PduType.CapsuleCmd]).to.equal(8 + 64);
    expect(wire.PDU_HLEN[wire.PduType.CapsuleResp]).to.equal(8 + 16);
    expect(wire.PDU_HLEN[8]).to.equal(0);
    for (const type of Object.values(wire.PduType)) expect(wire.PDU_HLEN[type]).to.be.greaterThan(0);
    expect(wire.PDU_HLEN).to.have.length(10);
  });

  it('names every FES', () => {
    for (const fes of Object.values(wire.Fes)) expect(wire.fesName(fes)).not.to.match(/^Reserved/);
    expect(wire.fesName(7)).to.equal('Reserved FES 0x7');
  });
});

describe('spec/opcode', () => {
  it('has the direction of the data in bits 1:0', () => {
    expect(wire.AdminOpcode.Identify & 3).to.equal(wire.Direction.ControllerToHost);
    expect(wire.AdminOpcode.SetFeatures & 3).to.equal(wire.Direction.HostToController);
    expect(wire.IoOpcode.Write & 3).to.equal(wire.Direction.HostToController);
    expect(wire.IoOpcode.Read & 3).to.equal(wire.Direction.ControllerToHost);
    expect(wire.IoOpcode.WriteZeroes & 3).to.equal(wire.Direction.None);
    expect(wire.Fctype.Connect & 3).to.equal(wire.Direction.HostToController);
    expect(wire.Fctype.PropertyGet & 3).to.equal(wire.Direction.None);
  });

  it('gives no opcode twice', () => {
    for (const set of [wire.AdminOpcode, wire.IoOpcode, wire.Fctype]) {
      const values: number[] = Object.values(set);
      expect(new Set(values).size).to.equal(values.length);
    }
  });
});
