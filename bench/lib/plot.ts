/** A line plot as SVG: a few series over a few places. */

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Plot {
  readonly title: string;
  /** What the axes are. */
  readonly x: string;
  readonly y: string;
  readonly series: readonly Series[];
}

const WIDTH = 640;
const HEIGHT = 320;
const MARGIN = { left: 64, right: 24, top: 44, bottom: 48 };
const COLOURS = ['#1d4ed8', '#c2410c', '#15803d', '#7e22ce'];
const TICKS = 4;

/** Both axes begin at 0. */
export function linePlot({ title, x: xName, y: yName, series }: Plot): string {
  const points = series.flatMap((one) => one.points);
  const xMost = Math.max(1, ...points.map(([at]) => at));
  const yMost = Math.max(1, ...points.map(([, value]) => value)) * 1.1;
  const inner = { width: WIDTH - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const x = (at: number): number => MARGIN.left + (at / xMost) * inner.width;
  const y = (value: number): number => MARGIN.top + (1 - value / yMost) * inner.height;
  const ticks = Array.from({ length: TICKS + 1 }, (_, i) => i / TICKS);
  const lines = series.map(({ name, points: own }, i) => {
    const colour = COLOURS[i % COLOURS.length]!;
    const path = own.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
    const dots = own.map(
      ([at, value]) => `<circle cx="${x(at).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3.5" fill="${colour}"/>`,
    );
    const key = `<text x="${MARGIN.left + 8 + i * 150}" y="36" fill="${colour}">&#9679; ${name}</text>`;
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${dots.join('')}${key}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#4b5563">
<title>${title}: ${yName} by ${xName}</title>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
<text x="${MARGIN.left}" y="18" font-size="14" fill="#111827">${title}</text>
${ticks.map((t) => `<path d="M${MARGIN.left} ${y(t * yMost).toFixed(1)}H${WIDTH - MARGIN.right}" stroke="#e5e7eb"/><text x="${MARGIN.left - 8}" y="${(y(t * yMost) + 4).toFixed(1)}" text-anchor="end">${Math.round(t * yMost)}</text><text x="${x(t * xMost).toFixed(1)}" y="${HEIGHT - 28}" text-anchor="middle">${Math.round(t * xMost)}</text>`).join('\n')}
<text x="${WIDTH - MARGIN.right}" y="${HEIGHT - 10}" text-anchor="end">${xName}</text>
<text x="12" y="${MARGIN.top - 8}">${yName}</text>
${lines.join('\n')}
</svg>
`;
}
