/** What was done, day by day: trends, peers and databases, cost, unusual days, two spans compared. */
import { ago, ask, badge, bytes, card, cli, count, db, duration, errorBox, facts, h, link, list, num, p, page, query, rate, section } from '../kit.js';
import { bars, line } from '../chart.js';

// name, how it is shown, and where what it counts is
const MEASURES = {
  ok: ['ended well'], partly: ['partly'], failed: ['failed', count, '#/history?state=failed'], seconds: ['time in runs', duration], rows: ['rows of full syncs'], changes: ['changes'], raw_bytes: ['bytes', bytes],
  wire_bytes: ['on the wire', bytes], conflicts: ['conflicts', count, '#/conflicts'], quarantined: ['quarantined', count, '#/quarantine?all=true'], errors: ['failed tries', count, '#/links'], behind_s: ['behind', duration],
  speed_bytes_s: ['speed', rate], lag_p50_s: ['lag (median)', duration], lag_p95_s: ['lag (95 %)', duration], cost: ['cost', String],
};
const FIELDS = { days: ['Span', [['7', '7 days'], ['30', '30 days'], ['90', '90 days'], ['365', 'A year']]] };
const of = measure => MEASURES[measure] ?? [measure];
const shown = (measure, n) => (n == null ? '–' : (of(measure)[1] ?? count)(n));
const linked = ({ measure }) => (of(measure)[2] ? link(of(measure)[2], of(measure)[0]) : of(measure)[0]);

function everyDay(days, since, until) {
  const known = new Map(days.map(one => [one.day, one]));
  const first = Date.parse(since);
  const day = i => new Date(first + i * 86_400_000).toISOString().slice(0, 10);
  return Array.from({ length: (Date.parse(until) - first) / 86_400_000 + 1 }, (_, i) => ({ ...known.get(day(i)), day: day(i) }));
}

function trends(one, { since, until }) {
  const days = everyDay(one.days, since, until);
  const chart = (draw, title, measures, none) => draw({ title, format: n => shown(measures[0], n), series: measures.map(m => ({ name: of(m)[0], points: days.map(d => ({ x: d.day.slice(5), y: d[m] ?? none })) })) });
  return h('div.charts', chart(bars, 'Changes', ['changes'], 0), chart(line, 'Lag', ['lag_p50_s', 'lag_p95_s']), chart(bars, 'Bytes on the wire', ['wire_bytes'], 0), chart(bars, 'Runs', ['ok', 'failed'], 0));
}

const amount = (name, measure) => num(one => shown(measure ?? one.measure, one[name]), one => one[name]);
const SUMS = Object.fromEntries(['ok', 'failed', 'rows', 'changes', 'wire_bytes', 'lag_p95_s', 'behind_s', 'conflicts', 'cost'].map(m => [of(m)[0], amount(m, m)]));
const sums = (caption, rows) => list(caption, rows, { Name: 'b', ...SUMS }, { empty: 'Nothing was recorded.' });
const COMPARED = { Measure: linked, Now: amount('now'), Before: amount('before'), Change: num(({ percent: n }) => (n == null ? '–' : `${n > 0 ? '+' : ''}${n} %`), one => one.percent) };

function database(one, told, days) {
  if (one.problem) return section(one.database, errorBox({ message: one.problem, hint: one.hint }));
  const { last_run: last, velocity } = one;
  return section(one.database,
    facts({
      'Ended well': one.success_rate == null ? 'no run has ended' : `${(100 * one.success_rate).toFixed(1)} %`, 'Last run': last && [badge(last.result), ` ${last.kind} ${last.peer ? `with ${last.peer}` : ''} `, ago(last.at)],
      Size: `${count(one.tables)} tables, about ${count(one.rows_live_estimated)} rows, ${count(one.rows_dead_estimated)} dead`, Changes: velocity && `${count(velocity.last_hour)} in the last hour, ${count(velocity.last_day)} in the last day`,
      Growth: Object.entries(one.growth_per_day).map(([m, n]) => `${n < 0 ? '−' : '+'}${shown(m, Math.abs(n))} ${of(m)[0]}`).join(', '),
    }),
    trends(one, told), h('h3', 'By peer'), sums(`Peers of ${one.database}`, one.peers.map(peer => ({ name: peer.peer, ...peer.totals }))),
    h('h3', `These ${days} days and the ${days} before`), list('Two spans compared', one.compared, COMPARED));
}

const DAYS = { Day: ({ day }) => h('time', day), Database: 'text', Peer: ({ peer }) => peer ?? 'all', What: linked, Was: amount('value'), Usual: amount('usual'), Why: 'text reason' };

const anomalies = ({ anomalies: rows, problems }) => [Object.entries(problems).map(one => errorBox({ message: one.join(': ') })), list('Unusual days', rows, DAYS, { empty: 'No day was unusual.' })];

function cost(one) {
  if (!one.total) return errorBox({ message: `${one.database}: ${one.problem}` });
  const money = n => `${n} ${one.currency}`;
  return [h('h3', one.database), list(`Cost of ${one.database}`, [one.total, ...one.peers, ...one.months], { What: 'text name', 'On the wire': 'bytes wire_bytes', Cost: num(of => money(of.cost), of => of.cost) }),
    one.forecasts.map(f => p(`${f.month}: about ${money(f.expected)} (${money(f.low)} to ${money(f.high)}), ${money(f.spent)} so far.`))];
}

const draw = ([told, unusual, costs], wanted) => [
  told.databases.length > 1 && section('All databases', sums('Databases', told.databases.map(one => ({ name: one.database, ...one.totals })))), told.databases.map(one => database(one, told, wanted.days)),
  section('Unusual days', anomalies(unusual), cli(`statistics anomalies --days ${wanted.days}`)), section('Cost', costs.map(cost), cli('statistics cost')),
  card(h('a', { href: query('api/admin/statistics/export', { ...wanted, format: 'csv' }), download: 'peersync-days.csv' }, 'Export every day as CSV'), cli(`statistics --days ${wanted.days} --compare${db(wanted.database)}`)),
];

const read = wanted => Promise.all(['', '/anomalies', '/cost'].map(part => ask(`statistics${part}`, wanted)));

export const show = page('Statistics', 'Added up from recorded runs, in days of UTC. Today is not over.', async ({ filtered }) => { await filtered(FIELDS, { days: '30' }, read, draw); });
