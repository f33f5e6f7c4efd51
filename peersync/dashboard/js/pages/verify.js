/** Verify: whether databases are the same here and on a peer, row by row; and what makes them so again. */
import { act, ago, ask, b, badge, bar, below, button, card, col, command, count, databases, db, duration, errorBox, facts, field, fill, filtered, form, get, h, input, link, list, many, option, open, press, prop, query, quiet, right, row, section, segment, select, tell, toast, word } from './shared.js';

const WORST = ['failed', 'differs', 'in flight', 'partly', 'not compared', 'equal'];
const AT_ONCE = 100; // tables of one repair
const worst = (all) => all.toSorted((x, y) => WORST.indexOf(x.result) - WORST.indexOf(y.result));
const sure = (title, name = title.toLowerCase().replace(' ', '_')) => right(col(title, (one) => (one.exact === false && one[name] ? `about ${count(one[name])}` : count(one[name])), (one) => one[name]));
const DRIFT = ['Different', 'Missing', 'Extra'].map((name) => sure(name));
const named = (t) => `${t.schema}.${t.name}`;
const tableCol = (why) => col('Table', (t) => [b(named(t)), why(t).map((one) => below(one))], named);

const TABLES = [prop('Result', badge), tableCol((t) => [t.reason, ...t.notes]), sure('Rows there'), sure('Rows here'), sure('Matched'), ...DRIFT, sure('In flight')];
const PROOFS = [
  prop('Result', badge), tableCol((t) => [t.reason]), prop('Database'), prop('Peer'), prop('Proved identical', ago, 'proved_at'),
  prop('Differs since', (at) => (at ? ago(at) : ''), 'differs_since'), ...DRIFT, prop('Compared', ago, 'checked_at'),
];
const RUNS = [
  col('Result', (run) => badge(run.result ?? run.state)), col('Of', (run) => link(`#/verify/${run.id}`, `${run.database} with ${run.peer}`), (run) => run.peer), prop('Began', ago, 'started_at'),
  right(prop('Took', duration, 'seconds')), sure('Rows'), ...DRIFT, prop('By', String, 'requested_by'),
];

const text = (value) => (value === undefined ? '' : h('code', null, value === null ? 'NULL' : value.length > 200 ? `${value.slice(0, 200)}…` : value));
const both = ({ there, here, columns }) => columns?.map((name) => h('div', null, b(name), there || here ? [' there ', text(there?.[name]), ' here ', text(here?.[name])] : null));

/** The rows of one table that are not the same. */
function about(t) {
  const key = (one) => (t.key_columns.length ? one.key.map((value, i) => `${t.key_columns[i]}=${value}`).join(', ') : `whole row, hash ${one.key}`);
  const hidden = t.different + t.missing + t.extra - t.keys.length;
  return [
    t.keys.length ? list(`Rows of ${named(t)}`, t.keys, [prop('Row', badge, 'kind'), col('Key', key), col('Columns that differ', both)], { key: (one) => one.kind + one.key }) : quiet(t.result === 'equal' ? 'All rows are the same.' : 'No row to show.'),
    hidden > 0 && quiet(`${count(hidden)} more are not listed.`),
    facts({ 'Compared in': duration(t.seconds) }),
  ];
}

const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);

/** Both ways to make what differs the same: the command, and the full sync that it is. */
function repair({ peer, database, tables }) {
  const wrong = tables.filter((t) => t.result === 'differs').map((t) => `${quoted(t.schema)}.${quoted(t.name)}`);
  const few = wrong.length <= AT_ONCE;
  const side = (right_, changed, from, action) => h('div', { class: 'body' }, h('p', null, b(`${right_} is right:`), ` ${changed} is changed.`),
    command(`peersync ${few ? `repair ${word(peer)} --from ${from}` : `${action} ${word(peer)}`}${db(database)}`, ''),
    link(query('#/sync', { peer, database, action, method: 'delta', tables: few && wrong.join(' ') }), 'Plan it as a full sync'));
  return section(`Repair ${many(wrong.length, 'table')}`, h('div', { class: 'grid' }, side(peer, 'this server', 'peer', 'pull'), side('This server', peer, 'this', 'push')),
    quiet(few ? 'Only these tables are changed, in one transaction, and it can be undone. ' : `More than ${AT_ONCE} tables are a full sync of the database. `, 'Rows that only the changed side has stay, unless you choose Mirror (--mirror). --dry-run shows what would be done.'));
}

function state(run) {
  const { tables_total: total, tables_done: done } = run;
  const running = !run.completed_at;
  return [
    h('p', null, badge(run.result ?? run.state), ` ${many(run.rows, 'row')}${total == null ? '' : `, ${running ? `${count(done)} of ` : ''}${many(total, 'table')}`}, ${duration(run.seconds)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
    running && [bar(total ? (100 * done) / total : null, 'Tables'), quiet(run.table ? `Compares ${run.table}` : 'Waits or prepares', run.rows_s != null && `, ${count(Math.round(run.rows_s))} rows/s`)],
    run.unmatched && h('p', { class: 'warning' }, run.unmatched), run.error && errorBox(run.error),
  ];
}

/** One verification, live while it runs. */
function opened(body, id, ended) {
  const short = id.slice(0, 8);
  const [result] = list('Result by table', [], TABLES, { key: named, detail: about, empty: 'No table is done yet.' });
  const title = h('h2', null, `Verification ${short}`);
  const mend = h('div');
  const show = (run) => result.update(worst(run.tables));
  const values = async () => {
    const run = await ask(`verify/${segment(id)}/values`);
    if (!run.tables.some((t) => t.keys.some((one) => one.there || one.here))) toast('Values were not kept: verify again and ask for them.');
    show(run);
  };
  return [h('section', null, title, body.load(() => ask(`verify/${segment(id)}`), (run, again) => {
    const running = !run.completed_at;
    fill(title, `${run.database} here and on ${run.peer}`);
    show(run);
    if (running) setTimeout(again, 500);
    else ended();
    fill(mend, run.result === 'differs' && repair(run));
    return [
      state(run), result, running && act('Cancel', `verify cancel ${short}`, () => tell(`verify/${segment(id)}/cancel`).then(() => 'It ends, and nothing is recorded.'), { kind: 'danger' }),
      row(run.tables.some((t) => t.keys.some((one) => one.columns)) && button('Show what is in them', values, { role: 'operator' }), command(`peersync verify show ${short}`)),
    ];
  })), mend];
}

/** The form. `started`: what is called where several have begun. */
function ask_(peers, names, params, started) {
  if (!peers.length) return section('Compare', quiet('It takes a second server. ', link('#/peers', 'Invite one')));
  const [peer, database] = [select([...peers, ['', 'All']], params.peer || peers[0]), select(names, params.database || names[0])];
  const [only, rows, paranoid] = [input({ placeholder: 'all, or: public.order_*' }), input({ type: 'checkbox' }), input({ type: 'checkbox' })];
  const tables = () => only.value.match(/("[^"]*"|[^\s,"])+/g) ?? [];
  const same = h('div');
  const line = () => `verify ${peer.value ? word(peer.value) : '--all'}${db(database.value)}${tables().map((one) => option('tables', one)).join('')}${rows.checked ? ' --values' : ''}${paranoid.checked ? ' --paranoid' : ''}`;
  const show = () => fill(same, command(`peersync ${line()}`));
  const start = press('Verify', 'verify PEER', async () => {
    const runs = await tell('verify', { peer: peer.value || null, database: database.value, tables: tables(), rows: rows.checked, values: rows.checked, paranoid: paranoid.checked });
    if (runs.length > 1) started();
    else location.hash = `#/verify/${runs[0].id}`;
    return 'It runs.';
  }, { kind: 'primary' });
  show();
  return h('section', { oninput: show }, h('h2', null, 'Compare'), form(field('Peer', peer), field('Database', database), field('Only these tables', only)),
    h('div', { class: 'grid' }, field('Columns and values', rows, 'Say which columns of a row differ, and keep what is in them until the agent restarts.'), field('Paranoid', paranoid, '128 bits of SHA-256 a row: several times slower.')), same, row(start));
}

/** Builds the page. @param {{id?: string, peer?: string, database?: string}} params */
export async function show(main, params, { signal }) {
  const body = open(main, signal, 'Verify', 'Compares every row of a database here with a peer’s, while both are written to. Nothing is changed.');
  const [names, peers] = await Promise.all([databases(), ask('peers').then((told) => told.peers.map((one) => one.name))]);
  const runs = body.load(() => ask('verify', { limit: 50 }), (rows) => list('Verifications, newest first', rows, RUNS, { empty: 'None has run yet.', line: 'verify list', file: 'verify' }));
  if (params.id) body.append(...opened(body, params.id, () => { runs.again(); proofs.again(); }));
  body.append(ask_(peers, names, params, () => runs.again()));
  const proofs = await filtered(body, 'verify', params, { peer: ['Peer', [['', 'All'], ...peers]] }, (wanted) => ask('proofs', wanted),
    (rows) => section('Last proved identical', list('Tables with each peer', worst(rows), PROOFS, { empty: 'No table was compared yet.', line: 'verify tables', file: 'proofs' })));
  body.append(section('Verifications', runs));
}
