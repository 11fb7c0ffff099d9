/** The misbehaving target of the conformance command, for tests that go beyond its cases. */
export * from '../../src/conformance/scripted-target.ts';
