export * from '../../src/conformance/raw-pdu.ts';
