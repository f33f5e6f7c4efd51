/** Complete and bulk syncs: one database with all its peers, or all databases; live, and what ran. */
import { act, ago, badge, bytes, col, count, databases, duration, errorBox, field, fill, get, h, inDatabase, input, list, loaded, many, num, page, post, section, select, session, status, strong } from './shared.js';

const why = (one) => (one.error ? errorBox(one.error) : one.reason);
const STATE = col('Result', 'status', badge);
const SUMS = [num('Rows', 'rows', count), num('On the wire', 'wire_bytes', bytes), num('Cost', 'cost'), col('Why', why)];
const took = (one) => duration(one.seconds ?? one.duration_s);
const target = (run) => run.database ?? many(run.total, 'database');
const address = (kind, id) => `#/complete/${kind}/${id}`;

const KINDS = {
  complete: {
    title: 'One database with all its peers', path: 'api/complete-sync', all: '/history', line: 'complete-sync', parts: 'peers',
    columns: [STATE, col('Peer', 'peer', strong), col('Way', (one) => (one.session ? h('a', { href: `#/job/${one.session}` }, one.way) : one.way)), num('Took', took), ...SUMS],
    plan: [col('Peer', 'peer', strong), col('Way', 'way'), col('Passed over', 'reason')],
  },
  bulk: {
    title: 'All databases of this server', path: 'api/admin/bulk-sync', all: '', line: 'bulk-sync', parts: 'databases',
    columns: [STATE, col('Database', (one) => (one.complete_id ? h('a', { href: address('complete', one.complete_id) }, one.database) : strong(one.database))), num('Peers', 'peers'), num('Failed', 'peers_failed'), num('Took', took), ...SUMS],
    plan: [STATE, col('Database', 'database', strong), num('Peers', 'peers'), col('Why', why)],
  },
};

/** Starts a run and shows it. */
async function start({ path, kind }, body) {
  const run = await post(path, { syncType: 'manual', requestedBy: session.user, ...body });
  location.hash = address(kind, run.id);
  return 'It runs.';
}

function opened(kind, id, signal, ended) {
  const { path, columns, parts, line } = KINDS[kind];
  const [result] = list(`Result by ${parts}`, [], columns);
  const place = loaded(signal, () => get(`${path}/${id}`), (run) => {
    const running = run.status === 'running';
    if (running) setTimeout(place.again, 1000);
    else ended();
    result.update(run[parts]);
    const short = id.slice(0, 8);
    return [
      h('p', null, badge(run.status), ' ', run.message ?? `${run.peers_successful} of ${many(run.peers_total, 'peer')} done, ${run.peers_failed} failed, ${run.peers_skipped} passed over`, `, ${took(run)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
      result,
      running && act('Cancel', `${line} cancel ${short}`, async () => { await post(`${path}/${id}/cancel`); place.again(); return 'It stops: what was done stays.'; }, { kind: 'danger' }),
      !running && kind === 'complete' && run.peers_failed > 0 && act('Retry what was not done', `${line} --retry-failed ${short}${inDatabase(run.database)}`, () => start({ path, kind }, { database: run.database, retryFailed: id }), { kind: 'primary' }),
    ];
  });
  return section(`Run ${id.slice(0, 8)}`, place);
}

function part(kind, names, signal) {
  const { title, path, all, line, parts, plan } = KINDS[kind];
  const database = kind === 'complete' && select(names, names[0]);
  const only = input({ placeholder: 'all' });
  const told = status();
  const body = (dryRun) => ({ ...(database && { database: database.value }), [parts]: only.value.split(/[\s,]+/).filter(Boolean), dryRun });
  const plans = act('Plan', `${line} --dry-run`, async () => {
    const found = await post(path, body(true));
    fill(told, found.reason && h('p', null, found.reason), list('Plan', found[parts], plan));
    return 'Nothing was changed.';
  });
  const ran = loaded(signal, () => get(path + all), (rows) => list('What ran', rows, [
    STATE, col('Of', (one) => h('a', { href: address(kind, one.id) }, target(one))), col('Began', 'started_at', ago), num('Took', took), ...SUMS.slice(0, 3), col('By', 'requested_by'),
  ], { empty: 'None has run yet.', file: line }));
  const node = section(title, h('div', { class: 'filter' }, database && field('Database', database), field(`Only these ${parts}, with commas`, only)), plans,
    act('Start', line, () => start({ path, kind }, body(false)), { kind: 'primary' }), told, h('h3', null, 'What ran'), ran);
  node.again = ran.again;
  return node;
}

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'Complete sync', lead: 'Whole databases brought up to date; one that fails never stops the next.' });
  const [kind, id] = params.id.split('/');
  const names = await databases();
  const parts = Object.keys(KINDS).map((one) => part(one, names, signal));
  body.append(...(id ? [opened(kind, id, signal, () => parts.forEach((one) => one.again()))] : []), ...parts);
}
