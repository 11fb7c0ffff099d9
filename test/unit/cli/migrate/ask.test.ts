/** `--when-stuck ask`: what is typed at the prompt, as the terminal gives it, and what becomes of it. */
import { PassThrough } from 'node:stream';
import { expect } from 'chai';
import { askWhatToDo } from '../../../../src/cli/migrate/ask.ts';
import { Teller } from '../../../../src/cli/migrate/say.ts';

const STUCK = { bytesPerSecond: 5 << 20, blackoutMs: 740 };

class Prompt {
  readonly input = new PassThrough();
  readonly output = new PassThrough();
  readonly abort = new AbortController();
  said = '';
  told = '';
  interrupts = 0;
  readonly answer: Promise<string>;
  #wake: (() => void) | undefined;

  constructor() {
    this.output.setEncoding('utf8').on('data', (text: string) => {
      this.said += text;
      this.#wake?.();
    });
    const teller = new Teller('text', {
      write: (text) => {
        this.told += text;
      },
    });
    const ask = askWhatToDo(teller, {
      input: this.input,
      output: this.output,
      signal: this.abort.signal,
      onInterrupt: () => {
        this.interrupts++;
        this.abort.abort(new Error('Interrupted'));
      },
    });
    this.answer = ask(STUCK);
    this.answer.catch(() => {});
  }

  /** Waits until it has asked that often. */
  async asked(times = 1): Promise<void> {
    while (this.said.split('give [u]p? ').length <= times) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

describe('migrate --when-stuck ask', () => {
  for (const [typed, answer] of [
    ['c\r', 'cut'],
    ['cut\r', 'cut'],
    ['T\r', 'throttle'],
    [' again \r', 'again'],
    ['u\r', 'refuse'],
  ] as const) {
    it(`${JSON.stringify(typed)}: ${answer}`, async () => {
      const prompt = new Prompt();
      await prompt.asked();
      expect(prompt.told).to.equal('copying does not catch up: a cut now is a pause of about 740 ms\n');
      expect(prompt.said).to.match(/\[c\]ut now, \[t\]hrottle writes to 5\.0 MiB\/s, \[a\]gain, or give \[u\]p\? /);
      prompt.input.write(typed);
      expect(await prompt.answer).to.equal(answer);
      expect(prompt.input.listenerCount('keypress'), 'the terminal is let go').to.equal(0);
    });
  }

  it('asks again where it is not understood, and takes nothing for a yes', async () => {
    const prompt = new Prompt();
    await prompt.asked();
    prompt.input.write('yes\r');
    await prompt.asked(2);
    expect(prompt.said).to.match(/c, t, a or u is needed/);
    prompt.input.write('\r');
    await prompt.asked(3);
    prompt.input.write('cu\r');
    await prompt.asked(4);
    prompt.input.write('c\r');
    expect(await prompt.answer).to.equal('cut');
  });

  it('the end of the terminal, and Ctrl-D: gives up', async () => {
    for (const end of [(input: PassThrough) => input.end(), (input: PassThrough) => input.write('\x04')]) {
      const prompt = new Prompt();
      await prompt.asked();
      end(prompt.input);
      expect(await prompt.answer).to.equal('refuse');
    }
  });

  it('Ctrl-C interrupts the move, as it does anywhere else', async () => {
    const prompt = new Prompt();
    await prompt.asked();
    prompt.input.write('\x03');
    const failed = await prompt.answer.catch((error: Error) => error.message);
    expect(failed).to.equal('Interrupted');
    expect(prompt.interrupts).to.equal(1);
  });

  it('a signal while it asks ends it', async () => {
    const prompt = new Prompt();
    await prompt.asked();
    prompt.abort.abort(new Error('Terminated'));
    expect(await prompt.answer.catch((error: Error) => error.message)).to.equal('Terminated');
    const late = new Prompt();
    late.abort.abort(new Error('Terminated'));
    await late.asked();
    expect(await late.answer.catch((error: Error) => error.message)).to.equal('Terminated');
  });
});
