/** Charts in SVG, each with the same figures as a table. */
import { h, s } from './dom.js';
import { UNKNOWN, count } from './format.js';
import { num, table } from './table.js';
import { details } from './ui.js';

const [W, H, LEFT, BOTTOM, TOP] = [440, 150, 76, 22, 18];
const text = (x, y, anchor, words) => s('text', { x, y, 'text-anchor': anchor }, words);

/** The end of the axis: a round number, not below `max`. */
function nice(max) {
  const ten = 10 ** Math.floor(Math.log10(max || 1));
  return [1, 2, 2.5, 5, 10].map(n => n * ten).find(n => n >= max);
}

const path = (values, x, y) => values.map((value, i) => (value == null ? '' : `${values[i - 1] == null ? 'M' : 'L'}${x(i).toFixed(1)} ${y(value).toFixed(1)}`)).join('');

function summary(title, series, format) {
  const words = series.map(({ name, points }) => {
    const known = points.map(p => p.y).filter(y => y != null);
    return `${name}: ${known.length ? `${format(Math.min(...known))} to ${format(Math.max(...known))}, last ${format(known.at(-1))}` : 'nothing known'}`;
  });
  return [title, ...words].join('; ');
}

function figure({ title, unit, format = count, points, series = [{ name: title, points }] }, draw) {
  const labels = series[0].points.map(p => p.x);
  const known = series.flatMap(one => one.points.map(p => p.y)).filter(y => y != null);
  const caption = h('figcaption', title, unit && h('small', ` ${unit}`));
  if (!known.length) return h('figure', caption, h('p.empty', 'Nothing recorded yet.'));
  const top = nice(Math.max(0, ...known));
  const x = i => LEFT + ((W - LEFT - 8) * (i + 0.5)) / labels.length;
  const y = value => H - BOTTOM - ((H - BOTTOM - TOP) * value) / top;
  const scale = [0, top / 2, top].map(value => [s('line', { x1: LEFT, x2: W, y1: y(value), y2: y(value) }), text(LEFT - 6, y(value) + 4, 'end', format(value))]);
  const every = Math.ceil(labels.length / 5);
  const names = labels.map((label, i) => i % every === 0 && text(x(i), H - 6, 'middle', label));
  const legend = series.length > 1 && series.map(({ name }, i) => [s(`path.s${i}`, { d: `M${LEFT + 120 * i} 7h16` }), text(LEFT + 120 * i + 20, 11, 'start', name)]);
  return h('figure', caption,
    s('svg.chart', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': summary(title, series, format) }, scale, names, draw({ series, x, y, format }), legend),
    details('As a table', table(title, [...labels.keys()],
      { When: i => labels[i], ...Object.fromEntries(series.map(one => [one.name, num(i => (one.points[i]?.y == null ? UNKNOWN : format(one.points[i].y)))])) }, { key: i => labels[i] })));
}

/** {title, unit, format, points: [{x, y}], or series: [{name, points}] with the same x} as lines; null is a gap. */
export const line = options => figure(options, ({ series, x, y }) => series.map(({ points }, i) => s(`path.s${i}`, { d: path(points.map(p => p.y), x, y) })));

export const bars = options => figure(options, ({ series, x, y, format }) => series.map(({ points }, i) => {
  const width = Math.max(1, (0.7 * (W - LEFT)) / points.length / series.length);
  return points.map((p, n) => p.y != null && s(`rect.s${i}`, { x: x(n) + width * (i - series.length / 2), y: y(p.y), width, height: y(0) - y(p.y) }, s('title', `${p.x}: ${format(p.y)}`)));
}));
