import { expect } from 'chai';
import { WireError } from '../../../src/wire.ts';

/** The WireError that `act` must throw. */
export function wireError(act: () => unknown): WireError {
  let thrown: unknown;
  try {
    act();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, 'a WireError must be thrown').to.be.instanceOf(WireError);
  return thrown as WireError;
}
