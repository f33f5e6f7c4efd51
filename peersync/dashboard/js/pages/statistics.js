/** What was done, day by day: trends, peers and databases, cost, unusual days, two spans compared. */
import { ago, ask, badge, bytes, card, col, command, count, duration, errorBox, facts, filtered, h, inDatabase, list, num, page, query, rate, section, strong } from './shared.js';
import { bars, line } from '../chart.js';

// name, how it is shown, and where what it counts is
const MEASURES = {
  ok: ['ended well'], partly: ['partly'], failed: ['failed', , '#/history?state=failed'], seconds: ['time in runs', duration], rows: ['rows of full syncs'], changes: ['changes'], raw_bytes: ['bytes', bytes],
  wire_bytes: ['on the wire', bytes], conflicts: ['conflicts', , '#/conflicts'], quarantined: ['quarantined', , '#/quarantine?all=true'], errors: ['failed tries', , '#/links'], behind_s: ['behind', duration],
  speed_bytes_s: ['speed', rate], lag_p50_s: ['lag (median)', duration], lag_p95_s: ['lag (95 %)', duration], cost: ['cost', String],
};
const said = (measure) => MEASURES[measure]?.[0] ?? measure;
const shown = (measure, n) => (n == null ? '–' : (MEASURES[measure]?.[1] ?? count)(n));
const linked = (measure) => (MEASURES[measure]?.[2] ? h('a', { href: MEASURES[measure][2] }, said(measure)) : said(measure));
const DAYS = { name: 'days', label: 'Span', options: [['7', '7 days'], ['30', '30 days'], ['90', '90 days'], ['365', 'A year']] };

/** Every day of the span, also those without a record. */
function everyDay(days, since, until) {
  const known = new Map(days.map((one) => [one.day, one]));
  const all = [];
  for (let t = Date.parse(since); t <= Date.parse(until); t += 86_400_000) {
    const day = new Date(t).toISOString().slice(0, 10);
    all.push({ day, ...known.get(day) });
  }
  return all;
}

function trends(one, { since, until }) {
  const days = everyDay(one.days, since, until);
  const chart = (draw, title, measures, none) => draw({
    title, format: (n) => shown(measures[0], n), series: measures.map((m) => ({ name: said(m), points: days.map((d) => ({ x: d.day.slice(5), y: d[m] ?? none })) })),
  });
  return h('div', { class: 'charts' }, chart(bars, 'Changes', ['changes'], 0), chart(line, 'Lag', ['lag_p50_s', 'lag_p95_s']), chart(bars, 'Bytes on the wire', ['wire_bytes'], 0), chart(bars, 'Runs', ['ok', 'failed'], 0));
}

const SUMS = ['ok', 'failed', 'rows', 'changes', 'wire_bytes', 'lag_p95_s', 'behind_s', 'conflicts', 'cost'];
const sums = (caption, rows) => list(caption, rows, [col('Name', 'name', strong), ...SUMS.map((m) => num(said(m), m, (n) => shown(m, n)))], { empty: 'Nothing was recorded.' });
const amount = (title, name) => num(title, (one) => shown(one.measure, one[name]));

function database(one, told, days) {
  if (one.problem) return section(one.database, errorBox({ message: one.problem, hint: one.hint }));
  const { last_run: last, velocity } = one;
  return section(one.database,
    facts({
      'Ended well': one.success_rate == null ? 'no run has ended' : `${(100 * one.success_rate).toFixed(1)} %`,
      'Last run': last && [badge(last.result), ` ${last.kind} ${last.peer ? `with ${last.peer}` : ''} `, ago(last.at)],
      Size: `${count(one.tables)} tables, about ${count(one.rows_live_estimated)} rows, ${count(one.rows_dead_estimated)} dead`,
      Changes: velocity && `${count(velocity.last_hour)} in the last hour, ${count(velocity.last_day)} in the last day`,
      Growth: Object.entries(one.growth_per_day).map(([m, n]) => `${n < 0 ? '−' : '+'}${shown(m, Math.abs(n))} ${said(m)}`).join(', '),
    }),
    trends(one, told), h('h3', null, 'By peer'), sums(`Peers of ${one.database}`, one.peers.map((peer) => ({ name: peer.peer, ...peer.totals }))),
    h('h3', null, `These ${days} days and the ${days} before`), list('Two spans compared', one.compared, [
      col('Measure', 'measure', linked), amount('Now', 'now'), amount('Before', 'before'), num('Change', 'percent', (n) => (n == null ? '–' : `${n > 0 ? '+' : ''}${n} %`)),
    ]));
}

const anomalies = ({ anomalies: rows, problems }) => [
  Object.entries(problems).map(([name, why]) => errorBox({ message: `${name}: ${why}` })),
  list('Unusual days', rows, [col('Day', 'day', (day) => h('time', null, day)), col('Database', 'database'), col('Peer', 'peer', (peer) => peer ?? 'all'), col('What', 'measure', linked), amount('Was', 'value'), amount('Usual', 'usual'), col('Why', 'reason')], { empty: 'No day was unusual.' }),
];

function cost(one) {
  if (!one.total) return errorBox({ message: `${one.database}: ${one.problem}` });
  const money = (n) => `${n} ${one.currency}`;
  return [h('h3', null, one.database), list(`Cost of ${one.database}`, [one.total, ...one.peers, ...one.months], [col('What', 'name'), num('On the wire', 'wire_bytes', bytes), num('Cost', 'cost', money)]),
    one.forecasts.map((f) => h('p', null, `${f.month}: about ${money(f.expected)} (${money(f.low)} to ${money(f.high)}), ${money(f.spent)} so far.`))];
}

const read = (wanted) => Promise.all(['', '/anomalies', '/cost'].map((part) => ask(`statistics${part}`, wanted)));

const draw = ([told, unusual, costs], wanted) => [
  told.databases.length > 1 && section('All databases', sums('Databases', told.databases.map((one) => ({ name: one.database, ...one.totals })))),
  told.databases.map((one) => database(one, told, wanted.days)),
  section('Unusual days', anomalies(unusual), command(`peersync statistics anomalies --days ${wanted.days}`)), section('Cost', costs.map(cost), command('peersync statistics cost')),
  card(h('a', { href: query('api/admin/statistics/export', { ...wanted, format: 'csv' }), download: 'peersync-days.csv' }, 'Export every day as CSV'), command(`peersync statistics --days ${wanted.days} --compare${inDatabase(wanted.database)}`)),
];

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'Statistics', lead: 'Added up from recorded runs, in days of UTC. Today is not over.' });
  await filtered(body, { name: 'statistics', params: { days: '30', ...params }, signal }, [DAYS], read, draw);
}
