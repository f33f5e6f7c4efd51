/** Periodic sync: how far each link is, now and over time; schedules; table sets. */
import { act, acts, ago, ask, b, badge, bytes, card, count, counted, details, duration, facts, fill, h, hinted, items, link, list, many, num, oneWay, option, page, press, query, quiet, row, said, section, segment, select, tell, word } from '../kit.js';
import { line as chart } from '../chart.js';
import { now, pause } from './overview.js';

const SPANS = [['1', 'The last hour'], ['24', 'The last day'], ['168', 'The last week'], ['720', 'The last 30 days']];
const named = one => `${one.peer} ${one.database}`;

function about(one, say, then) {
  const here = { database: one.database };
  const waiting = query('#/quarantine', here);
  return [
    one.problem && [h('p.warning', one.problem, ` ${one.last_error ?? ''}`), hinted(one.hint)],
    facts({
      'In quarantine here': counted(one.quarantined, waiting), 'In quarantine there': count(one.peer_quarantined), 'Parked tables': counted(one.parked_tables, waiting),
      'Open conflicts': counted(one.conflicts, query('#/conflicts', { ...here, open: true })), 'Clock of the peer': one.clock_offset_s && `${one.clock_offset_s.toFixed(3)} s ahead`, 'Failures in a row': count(one.failures),
    }),
    one.paused_by ? pause(act, 'Resume', false, one, then) : pause(act, 'Pause', true, one, then), now(act, 'Sync now', one, { say }),
  ];
}

const backlog = (n, lag, size) => num(one => (one[n] ? [many(one[n], 'change'), one[size] > 0 && `, ${bytes(one[size])}`, `, the oldest ${duration(one[lag])}`] : count(one[n])), one => one[n]);
const COLUMNS = {
  State: one => [badge(one.state), one.paused_by && ` by ${one.paused_by}`, oneWay(one)], Peer: 'b', Database: 'text', Lag: 'duration lag_s',
  'To take': backlog('to_take', 'lag_s', 'bytes_to_take'), 'To give': backlog('to_give', 'peer_lag_s', 'bytes_to_give'), 'Last answer': 'ago last_contact',
};

const most = one => Math.max(...one.points.map(p => p.lag_p95_s ?? 0));

function lagChart(links, { since, step_s: step }) {
  if (!links.length) return quiet('Nothing was recorded in that time.');
  const first = Math.floor(Date.parse(since) / 1000 / step);
  const spans = Array.from({ length: Math.ceil(Date.now() / 1000 / step - first) }, (_, i) => (first + i) * step * 1000);
  const label = ms => new Date(ms).toLocaleString('sv').slice(step > 400 ? 5 : 11, 16);
  const series = links.toSorted((x, y) => most(y) - most(x)).slice(0, 6).map(one => {
    const lag = new Map(one.points.map(p => [Date.parse(p.at), p.lag_p95_s ?? p.behind_s]));
    return { name: named(one), points: spans.map(ms => ({ x: label(ms), y: lag.get(ms) ?? 0 })) };
  });
  return [
    chart({ title: 'Lag', unit: 'of 95 in 100 changes, from their commit there to that here; 0 where nothing came', format: duration, series }),
    links.length > 6 && quiet(`The 6 worst of ${links.length} links.`),
  ];
}

function schedules({ schedules: rows }, again) {
  if (rows.some(one => one.running_since)) setTimeout(again, 2000);
  const turn = ({ name }, verb, label) => press(label, `schedule ${verb} ${word(name)}`, () => tell(`schedules/${segment(name)}/${verb}`, {}), { again });
  return list('Schedules', rows, {
    Schedule: one => [b(one.name), ` ${one.what}, ${one.at}`], Next: one => (one.running_since ? badge('running') : one.paused_by ? [badge('paused'), ` by ${one.paused_by}`] : ago(one.next)),
    Last: one => [ago(one.last), ' ', one.result && badge(one.result), one.errors > 1 && ` ${one.errors} in a row`, ` ${one.message ?? ''}`],
    ...acts(one => [one.paused_by ? turn(one, 'resume', 'Resume') : turn(one, 'pause', 'Pause'), turn(one, 'run', 'Run now')]),
  }, { empty: 'Nothing runs by itself yet: add a [[schedule]] to the configuration.', line: 'schedule list' });
}

const runs = ({ runs: rows }) => list('Runs of table sets', rows, {
  Result: 'badge status', Set: one => `${one.set} ${one.direction === 'pull' ? '←' : '→'} ${one.peer}`, Began: 'ago started_at', Took: 'duration seconds',
  Rows: num(one => (one.session ? counted(one.rows, `#/job/${one.session}`) : count(one.rows))), Why: one => one.error?.message ?? one.reason,
}, { empty: 'None has run yet.', line: 'run --history' });

function sets({ sets: rows }, again, say) {
  const run = (make, label, set) => make(label, `run${option('set', set)}${set && ' --force'}`, async () => {
    const told = await tell('sets/run', { sets: set ? [set] : [], force: Boolean(set), syncType: 'manual' });
    say(card(told.runs.length > 0 && runs(told), items(told.not_run, one => `${one.set}: ${one.reason}`)));
    return `Table sets: ${told.result}.`;
  }, { busy: 'Running…', again });
  const plan = set => press('Plan', `run${option('set', set)} --force --dry-run`, async () => {
    const { sets: [told] } = await tell('sets/plan', { sets: [set], force: true });
    say(section(`Plan of ${set}`, facts({
      Travels: told.rows == null ? 'not known' : `about ${many(told.rows, 'row')}`, Direction: `${told.direction}, ${told.peers.join(', ')}`, 'Not run': told.reason, Refused: Object.entries(told.problems).map(one => one.join(': ')).join('\n'),
    })));
    return 'Nothing was changed.';
  });
  return [list('Table sets', rows, {
    Set: one => [b(one.set), ` ${one.tables.join(', ')} of ${one.database}`], Does: one => `${one.method}, ${one.direction}, ${one.peers.join(', ')}`, Last: 'ago',
    Next: one => one.reason ?? ago(one.next, 'when you run it'), ...acts(({ set }) => [plan(set), run(press, 'Run', set)]),
  }, { empty: 'A [[table_set]] in the configuration syncs chosen tables by rules of its own.' }), rows.length > 0 && run(act, 'Run all that are due', '')];
}

const lead = ({ peer }) => ['Databases that are kept in step, change by change. ', peer && [`Only with ${peer}. `, link('#/links', 'Show all')]];

export const show = page('Periodic sync', lead, ({ params: { peer = '' }, actions, load, on }) => {
  const place = said();
  const say = what => { fill(place, what); place.scrollIntoView({ block: 'nearest' }); };
  const then = () => links.again();
  actions(now(press, 'Sync all now', { peer }, { say }), pause(press, 'Pause all', true, { peer }, then), pause(press, 'Resume all', false, { peer }, then));
  const shown = list('Links, the worst first', [], COLUMNS, { detail: one => about(one, say, then), empty: 'No database is kept in step here. On the server that comes new: peersync join PEER', line: 'lag' });
  let all = [];
  const ours = one => !peer || one.peer === peer;
  const set = next => { all = next.filter(ours); shown[0].update(all); };
  const links = load('sync/lag', told => { set(told.links); return shown; });
  on('overview', ({ peers }) => {
    const fresh = new Map(peers.flatMap(one => one.databases.map(d => d.periodic)).filter(Boolean).map(one => [named(one), one]));
    set(all.map(one => fresh.get(named(one)) ?? one));
  });
  const span = select(SPANS, '24', () => trend.again(), { 'aria-label': 'How long' });
  const trend = load(() => ask('statistics/lag', { hours: span.value }), told => lagChart(told.links.filter(ours), told));
  return [place, card(links), section('Lag over time', row(span), trend), section('Schedules', load('schedules', schedules)),
    section('Table sets', load('sets', (told, again) => sets(told, again, say)), details('What ran', load('sets/history', runs)))];
});
