/** The sections of a script's output, each begun by a line "### name". */
export function answersOf(output: string): Map<string, string> {
  const answers = new Map<string, string>();
  for (const section of output.split(/^### /m).slice(1)) {
    const end = section.indexOf('\n');
    answers.set(section.slice(0, end), section.slice(end + 1));
  }
  return answers;
}
