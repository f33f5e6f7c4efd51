/** Periodic sync: how far each link is, now and over time; schedules; table sets. */
import { act, acts, ago, ask, b, badge, card, col, command, count, counted, db, details, duration, facts, fill, h, items, link, list, many, num, open, option, press, prop, query, quiet, right, row, said, section, segment, select, tell, word } from './shared.js';
import { line as chart } from '../chart.js';
import { on } from '../live.js';

const SPANS = [['1', 'The last hour'], ['24', 'The last day'], ['168', 'The last week'], ['720', 'The last 30 days']];
const named = (one) => `${one.peer} ${one.database}`;
const of = ({ peer, database }) => (peer ? ` ${word(peer)}` : '') + db(database);
const whom = ({ peer, database }) => ({ peer: peer || null, database });

const pause = (make, paused, label, one, again) => make(label, `sync ${paused ? 'pause' : 'resume'}${of(one)}`, async () => {
  const { links } = await tell('sync/pause', { paused, ...whom(one) });
  return `${many(links.length, 'link')} ${paused ? 'paused' : 'resumed'}.`;
}, { again });

const now = (make, label, one, say) => make(label, `sync now${of(one)} --wait`, async () => {
  const told = await tell('sync/now', { ...whom(one), wait: true });
  say(card(items(told.links, (link) => [badge(link.result), ` ${link.database} with ${link.peer} `, link.problem ?? `took ${duration(link.seconds)}`])));
  return `Sync now: ${told.result}.`;
}, { busy: 'Syncing…' });

function about(one, say, then) {
  const here = { database: one.database };
  return [
    one.problem && [h('p', { class: 'warning' }, one.problem, ` ${one.last_error ?? ''}`), one.hint && command(one.hint, 'What you can do:')],
    facts({
      'In quarantine here': counted(one.quarantined, query('#/quarantine', here)), 'In quarantine there': count(one.peer_quarantined), 'Parked tables': counted(one.parked_tables, query('#/quarantine', here)),
      'Open conflicts': counted(one.conflicts, query('#/conflicts', { ...here, open: true })), 'Clock of the peer': one.clock_offset_s && `${one.clock_offset_s.toFixed(3)} s ahead`, 'Failures in a row': count(one.failures),
    }),
    pause(act, !one.paused_by, one.paused_by ? 'Resume' : 'Pause', one, then), now(act, 'Sync now', one, say),
  ];
}

const backlog = (title, n, lag) => right(col(title, (one) => (one[n] ? `${many(one[n], 'change')}, the oldest ${duration(one[lag])}` : count(one[n])), (one) => one[n]));
const COLUMNS = [
  col('State', (one) => [badge(one.state), one.paused_by && ` by ${one.paused_by}`]), prop('Peer', b), prop('Database'), num('Lag', duration, 'lag_s'),
  backlog('To take', 'to_take', 'lag_s'), backlog('To give', 'to_give', 'peer_lag_s'), prop('Last answer', ago, 'last_contact'),
];

const worst = (one) => Math.max(...one.points.map((p) => p.lag_p95_s ?? 0));

function lagChart(links, { since, step_s: step }) {
  if (!links.length) return quiet('Nothing was recorded in that time.');
  const first = Math.floor(Date.parse(since) / 1000 / step);
  const spans = Array.from({ length: Math.ceil(Date.now() / 1000 / step - first) }, (_, i) => (first + i) * step * 1000);
  const label = (ms) => new Date(ms).toLocaleString('sv').slice(step > 400 ? 5 : 11, 16);
  const series = links.toSorted((x, y) => worst(y) - worst(x)).slice(0, 6).map((one) => {
    const lag = new Map(one.points.map((p) => [Date.parse(p.at), p.lag_p95_s ?? p.behind_s]));
    return { name: named(one), points: spans.map((ms) => ({ x: label(ms), y: lag.get(ms) ?? 0 })) };
  });
  return [
    chart({ title: 'Lag', unit: 'of 95 in 100 changes, from their commit there to that here; 0 where nothing came', format: duration, series }),
    links.length > 6 && quiet(`The 6 worst of ${links.length} links.`),
  ];
}

function schedules({ schedules: rows }, again) {
  if (rows.some((one) => one.running_since)) setTimeout(again, 2000);
  const button = ({ name }, verb, label) => press(label, `schedule ${verb} ${word(name)}`, () => tell(`schedules/${segment(name)}/${verb}`), { again });
  return list('Schedules', rows, [
    col('Schedule', (one) => [b(one.name), ` ${one.what}, ${one.at}`]), col('Next', (one) => (one.running_since ? badge('running') : one.paused_by ? [badge('paused'), ` by ${one.paused_by}`] : ago(one.next))),
    col('Last', (one) => [ago(one.last), ' ', one.result && badge(one.result), one.errors > 1 && ` ${one.errors} in a row`, ` ${one.message ?? ''}`]),
    acts((one) => [one.paused_by ? button(one, 'resume', 'Resume') : button(one, 'pause', 'Pause'), button(one, 'run', 'Run now')]),
  ], { empty: 'Nothing runs by itself yet: add a [[schedule]] to the configuration.', line: 'schedule list' });
}

const runs = ({ runs: rows }) => list('Runs of table sets', rows, [
  prop('Result', badge, 'status'), col('Set', (one) => `${one.set} ${one.direction === 'pull' ? '←' : '→'} ${one.peer}`), prop('Began', ago, 'started_at'), num('Took', duration, 'seconds'),
  right(col('Rows', (one) => (one.session ? counted(one.rows, `#/job/${one.session}`) : count(one.rows)))), col('Why', (one) => one.error?.message ?? one.reason),
], { empty: 'None has run yet.', line: 'run --history' });

function sets({ sets: rows }, again, say) {
  const run = (make, label, set) => make(label, `run${option('set', set)}${set && ' --force'}`, async () => {
    const told = await tell('sets/run', { sets: set ? [set] : [], force: Boolean(set), syncType: 'manual' });
    say(card(told.runs.length > 0 && runs(told), items(told.not_run, (one) => `${one.set}: ${one.reason}`)));
    return `Table sets: ${told.result}.`;
  }, { busy: 'Running…', again });
  const plan = (set) => press('Plan', `run${option('set', set)} --force --dry-run`, async () => {
    const { sets: [told] } = await tell('sets/plan', { sets: [set], force: true });
    say(section(`Plan of ${set}`, facts({
      Travels: told.rows == null ? 'not known' : `about ${many(told.rows, 'row')}`, Direction: `${told.direction}, ${told.peers.join(', ')}`, 'Not run': told.reason, Refused: Object.entries(told.problems).map((one) => one.join(': ')).join('\n'),
    })));
    return 'Nothing was changed.';
  });
  return [list('Table sets', rows, [
    col('Set', (one) => [b(one.set), ` ${one.tables.join(', ')} of ${one.database}`]), col('Does', (one) => `${one.method}, ${one.direction}, ${one.peers.join(', ')}`), prop('Last', ago),
    col('Next', (one) => one.reason ?? ago(one.next, 'when you run it')), acts((one) => [plan(one.set), run(press, 'Run', one.set)]),
  ], { empty: 'A [[table_set]] in the configuration syncs chosen tables by rules of its own.' }), rows.length > 0 && run(act, 'Run all that are due', '')];
}

/** Builds the page. */
export function show(main, { peer = '' }, { signal }) {
  const place = said();
  const say = (what) => { fill(place, what); place.scrollIntoView({ block: 'nearest' }); };
  const then = () => links.again();
  const body = open(main, signal, 'Periodic sync', ['Databases that are kept in step, change by change. ', peer && [`Only with ${peer}. `, link('#/links', 'Show all')]],
    [now(press, 'Sync all now', { peer }, say), pause(press, true, 'Pause all', { peer }, then), pause(press, false, 'Resume all', { peer }, then)]);
  const shown = list('Links, the worst first', [], COLUMNS, { detail: (one) => about(one, say, then), empty: 'No database is kept in step here. On the server that comes new: peersync join PEER', line: 'lag' });
  let all = [];
  const ours = (one) => !peer || one.peer === peer;
  const set = (next) => { all = next.filter(ours); shown[0].update(all); };
  const links = body.load(() => ask('sync/lag'), (told) => { set(told.links); return shown; });
  on('overview', ({ peers }) => {
    const fresh = new Map(peers.flatMap((one) => one.databases.map((d) => d.periodic)).filter(Boolean).map((one) => [named(one), one]));
    set(all.map((one) => fresh.get(named(one)) ?? one));
  }, signal);
  const span = select(SPANS, '24', () => trend.again(), { 'aria-label': 'How long' });
  const trend = body.load(() => ask('statistics/lag', { hours: span.value }), (told) => lagChart(told.links.filter(ours), told));
  body.append(place, card(links), section('Lag over time', row(span), trend), section('Schedules', body.load(() => ask('schedules'), schedules)),
    section('Table sets', body.load(() => ask('sets'), (told, again) => sets(told, again, say)), details('What ran', body.load(() => ask('sets/history'), runs))));
}
