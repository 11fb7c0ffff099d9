/** The thread of the watchdog: it looks, and at the end asks the main thread, by the debugger's protocol, where it is. */
import { writeSync } from 'node:fs';
import { Session } from 'node:inspector';
import { workerData } from 'node:worker_threads';

export interface WatchdogData {
  /** Events so far; runs under way. */
  readonly cells: Int32Array;
  readonly looks: number;
  readonly lookMs: number;
}

const STANDARD_ERROR = 2;
/** The debugger has to get at a thread that is busy. */
const ANSWER_MS = 5000;

const { cells, looks, lookMs } = workerData as WatchdogData;
let seen = -1;
let idle = 0;

// looks are counted, not milliseconds: a machine that is stopped stops the looks as well
setInterval(() => {
  const events = Atomics.load(cells, 0);
  idle = events === seen && Atomics.load(cells, 1) > 0 ? idle + 1 : 0;
  seen = events;
  if (idle === looks) giveUp(events);
}, lookMs);

function giveUp(events: number): void {
  const end = (text: string): void => {
    writeSync(STANDARD_ERROR, `The simulator stands still after ${events} events, and never comes back:\n${text}\n`);
    process.kill(process.pid, 'SIGKILL');
  };
  const session = new Session();
  session.connectToMainThread();
  const urls = new Map<string, string>();
  session.on('Debugger.scriptParsed', ({ params: { scriptId, url } }) => void urls.set(scriptId, url));
  session.on('Debugger.paused', ({ params }) => {
    const frames = params.callFrames.map(({ functionName, location: { scriptId, lineNumber } }) => {
      return `    at ${functionName || '(anonymous)'} (${urls.get(scriptId) ?? '?'}:${lineNumber + 1})`;
    });
    end(frames.join('\n'));
  });
  session.post('Debugger.enable');
  session.post('Debugger.pause');
  setTimeout(() => end('    (not in JavaScript)'), ANSWER_MS);
}
