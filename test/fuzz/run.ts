/** `npm run fuzz`: the fuzzers for longer than `npm test` has time for, or one round again. */
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';

const USAGE = `Usage: npm run fuzz -- [option...]

  --seconds N    each fuzzer runs for N seconds (default: 60)
  --rounds N     each fuzzer runs N rounds instead
  --seed N       the first round's seed (default: another one each time; it is printed)
  --only TEXT    only fuzzers whose title contains TEXT
  --trace        prints the seed of every round before it runs: for what ends the process, or hangs
`;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    seed: { type: 'string' },
    only: { type: 'string' },
    trace: { type: 'boolean' },
    help: { type: 'boolean' },
  },
});
const counts = [values.seconds, values.rounds, values.seed].filter((value) => value !== undefined);
if (values.help === true || counts.some((value) => !/^\d{1,10}$/.test(value))) {
  process.stdout.write(USAGE);
  process.exit(values.help === true ? 0 : 2);
}

const seed = values.seed ?? String(Math.floor(Math.random() * 0x7fff_ffff));
console.log(`seed ${seed}`);
const { status } = spawnSync(
  process.execPath,
  [
    'node_modules/mocha/bin/mocha.js',
    ...['--no-config', '--require', 'dist-test/test/support/hooks.js', '--spec', 'dist-test/test/fuzz/**/*.test.js'],
    ...(values.only === undefined ? [] : ['--fgrep', values.only]),
  ],
  {
    stdio: 'inherit',
    env: {
      ...process.env,
      NVMEFERRY_FUZZ_SEED: seed,
      ...(values.rounds === undefined
        ? { NVMEFERRY_FUZZ_SECONDS: values.seconds ?? '60' }
        : { NVMEFERRY_FUZZ_ROUNDS: values.rounds }),
      ...(values.trace === true ? { NVMEFERRY_FUZZ_TRACE: '1' } : {}),
    },
  },
);
process.exit(status ?? 1);
