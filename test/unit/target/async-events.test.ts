import { expect } from 'chai';
import { AER_LIMIT, AsyncEvents } from '../../../src/target/async-events.ts';
import type { Request } from '../../../src/target/request.ts';

/** An AER that notes its answer. */
function aer(): Request & { answers: number[] } {
  const answers: number[] = [];
  const request = { answers, result0: 0, complete: () => answers.push(request.result0) };
  return request as unknown as Request & { answers: number[] };
}
const BIT = 0x100;

describe('AsyncEvents', () => {
  it('answers one AER per event, oldest AER first', () => {
    const events = new AsyncEvents();
    events.configuration = BIT;
    const first = aer();
    const second = aer();
    events.add(first);
    events.add(second);
    events.notice(0, 4, BIT);
    expect([first.answers, second.answers]).to.deep.equal([[0x0004_0002], []]);
  });

  it('masks its type until the log page of the event is read; other types pass', () => {
    const events = new AsyncEvents();
    events.configuration = BIT | 0x800;
    const requests = [aer(), aer(), aer(), aer()];
    for (const request of requests) events.add(request);
    events.notice(0, 4, BIT);
    events.notice(0, 4, BIT);
    events.notice(3, 0x0c, 0x800);
    events.report(6, 1, 0x81);
    const answers = (): number[][] => requests.map((request) => request.answers);
    expect(answers()).to.deep.equal([[0x0004_0002], [0x0081_0106], [], []]);
    events.logRead(0x81);
    expect(answers()[2], 'only its own page clears it').to.deep.equal([]);
    events.logRead(4);
    expect(answers().slice(2), 'what waited is reported, but not what the page told').to.deep.equal([
      [0x000c_0302],
      [],
    ]);
    events.notice(0, 4, BIT);
    expect(answers()[3], 'and masks the type in its turn').to.deep.equal([]);
    events.logRead(0x0c);
    expect(answers()[3]).to.deep.equal([0x0004_0002]);
  });

  it('what waits behind the mask is void once its own page was read', () => {
    const events = new AsyncEvents();
    events.configuration = BIT | 0x800;
    const requests = [aer(), aer()];
    for (const request of requests) events.add(request);
    events.notice(0, 4, BIT);
    events.notice(3, 0x0c, 0x800);
    events.logRead(0x0c);
    events.logRead(4);
    expect(requests[1]!.answers).to.deep.equal([]);
  });

  it('holds at most its limit of AERs, and gives one back', () => {
    const events = new AsyncEvents();
    const requests = Array.from({ length: AER_LIMIT }, aer);
    for (const request of requests) expect(events.add(request)).to.equal(true);
    expect(events.add(aer())).to.equal(false);
    expect(events.remove(requests[1]!)).to.equal(true);
    expect(events.remove(requests[1]!)).to.equal(false);
    expect(events.add(aer())).to.equal(true);
  });

  it('keeps an event for an AER that comes later, once', () => {
    const events = new AsyncEvents();
    events.configuration = BIT;
    for (let i = 0; i < 100; i++) events.notice(0, 4, BIT);
    const first = aer();
    const second = aer();
    events.add(first);
    events.add(second);
    expect([first.answers.length, second.answers.length]).to.deep.equal([1, 0]);
  });

  it('forgets everything with a reset, and answers none', () => {
    const events = new AsyncEvents();
    events.configuration = BIT;
    const request = aer();
    events.add(request);
    events.add(aer());
    expect(events.reset().length).to.equal(2);
    expect(request.answers).to.deep.equal([]);
    expect(events.configuration).to.equal(0);
    events.configuration = BIT;
    const after = aer();
    events.add(after);
    events.notice(0, 4, BIT);
    expect(after.answers).to.deep.equal([0x0004_0002]);
  });
});
