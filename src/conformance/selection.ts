/** `--only tcp-28,nvme-40..nvme-48,digests`: cases by number, range, or tag. */
import { ConfigError } from '../util/error.ts';
import type { ConformanceCase } from './case.ts';

type Named = Pick<ConformanceCase, 'id' | 'tags'>;

const numberOf = (id: string): [prefix: string, number: number] => {
  const dash = id.lastIndexOf('-');
  return [id.slice(0, dash), Number(id.slice(dash + 1))];
};

/** Whether a case is meant by one word. */
function matcher(word: string, flag: string, all: readonly Named[]): (one: Named) => boolean {
  const range = /^([a-z]+)-(\d+)\.\.(?:([a-z]+)-)?(\d+)$/.exec(word);
  let meant: (one: Named) => boolean;
  if (range !== null) {
    const [, prefix, from, otherPrefix = prefix, to] = range;
    if (otherPrefix !== prefix) throw new ConfigError(`${flag}: range ${word} crosses two checklists`);
    meant = ({ id }) => {
      const [own, number] = numberOf(id);
      return own === prefix && number >= Number(from) && number <= Number(to);
    };
  } else meant = ({ id, tags }) => id === word || tags.includes(word);
  if (!all.some(meant)) {
    const tags = [...new Set(all.flatMap((one) => one.tags))].sort();
    throw new ConfigError(
      `${flag}: found ${word}, which is no case; allowed are numbers (--list shows them), ranges such as ${all[0]!.id}..${numberOf(all.at(-1)!.id)[1]}, and the tags ${tags.join(', ')}`,
    );
  }
  return meant;
}

/**
 * @param only words of `--only`; none means all
 * @throws ConfigError naming the word that means nothing
 */
export function selectCases<T extends Named>(all: readonly T[], only: readonly string[], skip: readonly string[]): T[] {
  const wanted = only.map((word) => matcher(word, '--only', all));
  const unwanted = skip.map((word) => matcher(word, '--skip', all));
  return all.filter(
    (one) => (wanted.length === 0 || wanted.some((meant) => meant(one))) && !unwanted.some((meant) => meant(one)),
  );
}
