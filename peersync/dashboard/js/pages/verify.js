/** Verify: whether databases are the same here and on a peer, row by row; and what makes them so again. */
import { lost } from './sync.js';
import { PRIMARY, act, ago, ask, b, badge, bar, below, button, checkbox, cli, code, count, counted, databases, db, dialog, duration, errorBox, field, fill, form, h, ident, input, items, link, list, many, num, option, p, page, patterns, press, query, quiet, row, said, section, segment, select, sleep, tableOf, tell, toast, word, worst } from '../kit.js';

const WORST = ['failed', 'differs', 'in flight', 'partly', 'not compared', 'equal'];
const AT_ONCE = 100; // tables of one repair
const sorted = all => worst(all, WORST, 'result');
const address = run => `#/verify/${run.id}`;
const numbers = (...titles) => Object.fromEntries(titles.map(title => [title, 'count']));
const TABLE = { Result: 'badge', Table: [t => [b(tableOf(t)), [t.peer && `${t.database} with ${t.peer}`, t.reason, ...(t.notes ?? []), t.exact === false && 'about: not every row was looked at twice'].map(why => below(why))], tableOf] };
const TABLES = { ...TABLE, ...numbers('Rows there', 'Rows here', 'Matched', 'Different', 'Missing', 'Extra', 'In flight') };
const PROOFS = { ...TABLE, 'Proved identical': 'ago proved_at', 'Differs since': ({ differs_since: at }) => at && ago(at), Compared: 'ago checked_at' };
const RUNS = {
  Result: run => badge(run.result ?? run.state), Of: run => link(address(run), `${run.database} with ${run.peer}`), Began: 'ago started_at', Took: 'duration seconds', Rows: 'count',
  Differ: num(run => counted(run.different + run.missing + run.extra, address(run))), By: 'text requested_by',
};

const side = (name, values, column) => values && column in values && [` ${name} `, code(values[column] ?? 'NULL')];
const differing = ({ columns, there, here }) => columns?.map(name => h('div', b(name), side('there', there, name), side('here', here, name)));

function about(t) {
  const key = one => (t.key_columns.length ? one.key.map((value, i) => `${t.key_columns[i]}=${value}`).join(', ') : `hash ${one.key}`);
  return [
    list(`Rows of ${tableOf(t)}`, t.keys, { Row: 'badge kind', Key: key, 'Columns that differ': differing }, { empty: 'No row differs that could be shown.' }),
    t.different + t.missing + t.extra > t.keys.length && quiet(`The first ${many(t.keys.length, 'row')}.`),
  ];
}

const MENDED = ['planned', 'done', 'partly', 'failed', 'cancelled'];

/** Compares anew, says what would be lost, and writes it where that is confirmed. Goes on by itself when the page is left. */
async function mend(wanted, place) {
  let run = await tell('repair', { ...wanted, dryRun: true });
  const short = run.id.slice(0, 8);
  const follow = async () => {
    while (!MENDED.includes(run.state)) {
      await sleep(0.5);
      run = await ask(`repair/${run.id}`);
      fill(place, p(badge(MENDED.includes(run.state) ? run.state : 'running', run.state), ` Repair ${short} `, run.session && link(`#/job/${run.session}`, 'its full sync')),
        items(run.left_out, one => one.join(': ')), items(run.warnings), run.error && errorBox(run.error));
    }
  };
  await follow();
  if (run.state === 'planned' && run.plan) {
    const { target } = run.plan;
    const body = [p(`What is lost in the database ${run.database} of ${target}:`), items(lost(run.plan)), p('It can be undone while what that needs is kept.')];
    const yes = place.isConnected && await dialog({ title: `Repair ${target}?`, body, confirm: `Change ${target}`, name: run.database });
    run = await tell(`repair/${run.id}/${yes ? 'apply' : 'cancel'}`);
    await follow();
  }
  return { done: 'Both have the same rows.', cancelled: 'Nothing was changed.' }[run.state] ?? `Repair: ${run.state}.`;
}

function repair({ peer, database, tables }, begun) {
  const wrong = tables.filter(t => t.result === 'differs').map(t => `${ident(t.schema)}.${ident(t.name)}`);
  const few = wrong.length <= AT_ONCE;
  const place = said();
  const way = (good, changed, from, action) => h('div', p(b(`${good} is right:`), ` ${changed} is changed.`),
    few ? act('Repair …', `repair ${word(peer)} --from ${from}${db(database)}`, () => mend({ peer, database, from, tables: wrong }, place).finally(begun), { busy: 'Repairing …' }) : cli(`${action} ${word(peer)}${db(database)}`, ''),
    link(query('#/sync', { peer, database, action, method: 'delta', tables: few && wrong.join(' ') }), 'Plan it as a full sync'));
  return section(`Repair ${many(wrong.length, 'table')}`, h('div.grid', way(peer, 'this server', 'peer', 'pull'), way('This server', peer, 'this', 'push')),
    quiet('It changes only what differs, and can be undone. Rows that only the changed side has stay without Mirror (--mirror).'), place);
}

const state = (run, running) => [
  p(badge(run.result ?? run.state), ` ${run.database} here and on ${run.peer}: ${many(run.rows, 'row')}, ${run.tables_total == null ? '' : `${count(run.tables_done)} of ${many(run.tables_total, 'table')}, `}${duration(run.seconds)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
  running && [bar(run.tables_total ? (100 * run.tables_done) / run.tables_total : null, 'Tables'), quiet(run.table ?? 'Preparing', run.rows_s && `: ${count(Math.round(run.rows_s))} rows/s`)],
  run.unmatched && quiet(run.unmatched), run.error && errorBox(run.error),
];

function opened(load, id, ended) {
  const short = id.slice(0, 8);
  const read = (more = '') => ask(`verify/${id}${more}`);
  const keys = (run, has) => run.tables.some(t => t.keys.some(has));
  const [result] = list('Result by table', [], TABLES, { key: tableOf, detail: about, empty: 'No table was compared.' });
  const values = async () => {
    const run = await read('/values');
    result.update(sorted(run.tables));
    if (!keys(run, one => one.there ?? one.here)) toast('Values were not asked for.');
  };
  const repairs = h('div');
  return [section(`Verification ${short}`, load(() => read(), (run, again) => {
    const running = !run.completed_at;
    if (running) setTimeout(again, 500);
    else ended();
    result.update(sorted(run.tables));
    fill(repairs, run.result === 'differs' && repair(run, ended));
    return [
      state(run, running),
      running ? act('Cancel', `verify cancel ${short}`, () => tell(`verify/${id}/cancel`).then(() => 'It ends, and nothing is recorded.'), { kind: 'danger' })
        : [result, row(keys(run, one => one.columns) && button('Show what is in them', values, { role: 'operator' }), cli(`verify show ${short}`))],
    ];
  })), repairs];
}

/** The form; `begun`: what is called where several have begun. */
function compare(peers, names, params, begun) {
  const [peer, database, only] = [select([...peers, ['', 'All']], params.peer || peers[0] || ''), select(names, params.database || names[0]), input({ placeholder: 'all, or: public.order_*' })];
  const [values, paranoid] = [checkbox(), checkbox()];
  const same = h('div');
  const show = () => fill(same, cli(['verify ', peer.value ? word(peer.value) : '--all', db(database.value), ...patterns(only.value).map(one => option('tables', one)), values.checked && ' --values', paranoid.checked && ' --paranoid'].filter(Boolean).join('')));
  show();
  return h('section', { oninput: show }, h('h2', 'Compare'), form(field('Peer', peer), field('Database', database), field('Only these tables', only)), h('div.grid',
    field('Columns and values', values, 'Which columns of a row differ; what is in them is kept until the agent restarts.'), field('Paranoid', paranoid, '128 bits of SHA-256 a row: several times slower.')), same,
  row(press('Verify', 'verify', async () => {
    const runs = await tell('verify', { peer: peer.value || null, database: database.value, tables: patterns(only.value), rows: values.checked, values: values.checked, paranoid: paranoid.checked });
    if (runs.length > 1) begun();
    else location.hash = address(runs[0]);
    return 'It runs.';
  }, { ...PRIMARY, why: peers.length ? null : 'There is no peer yet.' })));
}

export const show = page('Verify', 'Compares every row of a database here with a peer’s, while both are written to. Nothing is changed.', async ({ body, params: { id, ...params }, load, filtered }) => {
  const [names, peers] = await Promise.all([databases(), ask('peers').then(told => told.peers.map(one => one.name))]);
  const runs = load('verify', rows => list('Verifications, newest first', rows, RUNS, { empty: 'None has run yet.', line: 'verify list', file: 'verify' }));
  let proofs = null;
  if (id) body.append(...opened(load, segment(id), () => { runs.again(); proofs?.again(); }));
  body.append(compare(peers, names, params, () => runs.again()));
  proofs = await filtered({ peer: ['Peer', [['', 'All'], ...peers]] }, {}, wanted => ask('proofs', wanted), rows => section('Last proved identical',
    list('Tables with each peer', sorted(rows), PROOFS, { empty: 'No table was compared yet.', line: 'verify tables', file: 'proofs' })));
  return section('Verifications', runs);
});
