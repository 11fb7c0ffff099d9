/** What a guest's kernel must not say about a disk of ours, unless a case provokes it. @param words said of nvme besides the usual ones */
export function kernelTrouble(...words: readonly string[]): RegExp {
  const nvme = ['unusual', 'error', 'fail', 'invalid', 'timeout', 'timed out', 'lost', ...words].join('|');
  return new RegExp(
    `I/O error|critical .* error|EXT4-fs (error|warning)|WARNING:|BUG:|Call Trace|hung task|nvme.*(${nvme})`,
    'i',
  );
}
