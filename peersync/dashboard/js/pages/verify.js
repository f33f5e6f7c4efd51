/** Verify: whether databases are the same here and on a peer, row by row; and what makes them so again. */
import { act, ago, ask, b, badge, bar, below, button, code, col, command, count, counted, databases, db, duration, errorBox, field, fill, filtered, form, h, input, link, list, many, num, open, option, patterns, press, prop, query, quiet, right, row, section, segment, select, tell, toast, word } from './shared.js';

const WORST = ['failed', 'differs', 'in flight', 'partly', 'not compared', 'equal'];
const AT_ONCE = 100; // tables of one repair
const worst = (all) => all.toSorted((x, y) => WORST.indexOf(x.result) - WORST.indexOf(y.result));
const named = (t) => `${t.schema}.${t.name}`;
const numbers = (...titles) => titles.map((title) => num(title, count));
const address = (run) => `#/verify/${run.id}`;
const RESULT = prop('Result', badge);
const TABLE = col('Table', (t) => [b(named(t)), [t.peer && `${t.database} with ${t.peer}`, t.reason, ...(t.notes ?? []), t.exact === false && 'about: not every row was looked at twice'].map((why) => below(why))], named);
const TABLES = [RESULT, TABLE, ...numbers('Rows there', 'Rows here', 'Matched', 'Different', 'Missing', 'Extra', 'In flight')];
const PROOFS = [RESULT, TABLE, prop('Proved identical', ago, 'proved_at'), prop('Differs since', (at) => at && ago(at)), prop('Compared', ago, 'checked_at')];
const RUNS = [
  col('Result', (run) => badge(run.result ?? run.state)), col('Of', (run) => link(address(run), `${run.database} with ${run.peer}`)), prop('Began', ago, 'started_at'), num('Took', duration, 'seconds'),
  ...numbers('Rows'), right(col('Differ', (run) => counted(run.different + run.missing + run.extra, address(run)))), prop('By', String, 'requested_by'),
];

const side = (name, values, column) => values && column in values && [` ${name} `, code(values[column] ?? 'NULL')];
const differing = ({ columns, there, here }) => columns?.map((name) => h('div', null, b(name), side('there', there, name), side('here', here, name)));

/** The rows of one table that are not the same. */
function about(t) {
  const key = (one) => (t.key_columns.length ? one.key.map((value, i) => `${t.key_columns[i]}=${value}`).join(', ') : `hash ${one.key}`);
  return [
    list(`Rows of ${named(t)}`, t.keys, [prop('Row', badge, 'kind'), col('Key', key), col('Columns that differ', differing)], { key: (one) => one.kind + one.key, empty: 'No row differs that could be shown.' }),
    t.different + t.missing + t.extra > t.keys.length && quiet(`The first ${many(t.keys.length, 'row')}.`),
  ];
}

const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);

/** Both ways to make what differs the same: the command, and the full sync that it is. */
function repair({ peer, database, tables }) {
  const wrong = tables.filter((t) => t.result === 'differs').map((t) => `${quoted(t.schema)}.${quoted(t.name)}`);
  const few = wrong.length <= AT_ONCE;
  const way = (good, changed, from, action) => h('div', null, h('p', null, b(`${good} is right:`), ` ${changed} is changed.`),
    command(`peersync ${few ? `repair ${word(peer)} --from ${from}` : `${action} ${word(peer)}`}${db(database)}`, ''),
    link(query('#/sync', { peer, database, action, method: 'delta', tables: few && wrong.join(' ') }), 'Plan it as a full sync'));
  return section(`Repair ${many(wrong.length, 'table')}`, h('div', { class: 'grid' }, way(peer, 'this server', 'peer', 'pull'), way('This server', peer, 'this', 'push')),
    quiet('It changes only what differs, and can be undone. Rows that only the changed side has stay without Mirror (--mirror).'));
}

const state = (run, running) => [
  h('p', null, badge(run.result ?? run.state), ` ${run.database} here and on ${run.peer}: ${many(run.rows, 'row')}, ${run.tables_total == null ? '' : `${count(run.tables_done)} of ${many(run.tables_total, 'table')}, `}${duration(run.seconds)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
  running && [bar(run.tables_total ? (100 * run.tables_done) / run.tables_total : null, 'Tables'), quiet(run.table ?? 'Preparing', run.rows_s && `: ${count(Math.round(run.rows_s))} rows/s`)],
  run.unmatched && quiet(run.unmatched), run.error && errorBox(run.error),
];

/** One verification, live while it runs. */
function opened(body, id, ended) {
  const short = id.slice(0, 8);
  const read = (more = '') => ask(`verify/${id}${more}`);
  const keys = (run, has) => run.tables.some((t) => t.keys.some(has));
  const [result] = list('Result by table', [], TABLES, { key: named, detail: about, empty: 'No table was compared.' });
  const values = async () => {
    const run = await read('/values');
    result.update(worst(run.tables));
    if (!keys(run, (one) => one.there ?? one.here)) toast('Values were not asked for.');
  };
  const mend = h('div');
  return [section(`Verification ${short}`, body.load(read, (run, again) => {
    const running = !run.completed_at;
    if (running) setTimeout(again, 500);
    else ended();
    result.update(worst(run.tables));
    fill(mend, run.result === 'differs' && repair(run));
    return [
      state(run, running),
      running ? act('Cancel', `verify cancel ${short}`, () => tell(`verify/${id}/cancel`).then(() => 'It ends, and nothing is recorded.'), { kind: 'danger' })
        : [result, row(keys(run, (one) => one.columns) && button('Show what is in them', values, { role: 'operator' }), command(`peersync verify show ${short}`))],
    ];
  })), mend];
}

/** The form; `begun`: what is called where several have begun. */
function compare(peers, names, params, begun) {
  const [peer, database, only] = [select([...peers, ['', 'All']], params.peer || peers[0] || ''), select(names, params.database || names[0]), input({ placeholder: 'all, or: public.order_*' })];
  const [rows, paranoid] = [input({ type: 'checkbox' }), input({ type: 'checkbox' })];
  const same = h('div');
  const show = () => fill(same, command(['peersync verify ', peer.value ? word(peer.value) : '--all', db(database.value), ...patterns(only.value).map((one) => option('tables', one)), rows.checked && ' --values', paranoid.checked && ' --paranoid'].filter(Boolean).join('')));
  show();
  return h('section', { oninput: show }, h('h2', null, 'Compare'), form(field('Peer', peer), field('Database', database), field('Only these tables', only)), h('div', { class: 'grid' },
    field('Columns and values', rows, 'Which columns of a row differ; what is in them is kept until the agent restarts.'), field('Paranoid', paranoid, '128 bits of SHA-256 a row: several times slower.')), same,
  row(press('Verify', 'verify', async () => {
    const runs = await tell('verify', { peer: peer.value || null, database: database.value, tables: patterns(only.value), rows: rows.checked, values: rows.checked, paranoid: paranoid.checked });
    if (runs.length > 1) begun();
    else location.hash = address(runs[0]);
    return 'It runs.';
  }, { kind: 'primary', why: peers.length ? null : 'There is no peer yet.' })));
}

/** Builds the page. @param {{id?: string, peer?: string, database?: string}} params */
export async function show(main, { id, ...params }, { signal }) {
  const body = open(main, signal, 'Verify', 'Compares every row of a database here with a peer’s, while both are written to. Nothing is changed.');
  const [names, peers] = await Promise.all([databases(), ask('peers').then((told) => told.peers.map((one) => one.name))]);
  const runs = body.load(() => ask('verify'), (rows) => list('Verifications, newest first', rows, RUNS, { empty: 'None has run yet.', line: 'verify list', file: 'verify' }));
  let proofs = null;
  if (id) body.append(...opened(body, segment(id), () => { runs.again(); proofs?.again(); }));
  body.append(compare(peers, names, params, () => runs.again()));
  proofs = await filtered(body, 'verify', params, { peer: ['Peer', [['', 'All'], ...peers]] }, (wanted) => ask('proofs', wanted), (rows) => section('Last proved identical',
    list('Tables with each peer', worst(rows), PROOFS, { empty: 'No table was compared yet.', line: 'verify tables', file: 'proofs' })));
  body.append(section('Verifications', runs));
}
