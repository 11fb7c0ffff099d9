/** The host of the conformance command, for tests that go beyond its cases. */
export * from '../../src/conformance/raw-host.ts';
