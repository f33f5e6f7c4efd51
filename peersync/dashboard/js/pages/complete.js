/** Complete and bulk syncs: one database with all its peers, or all databases; live, and what ran. */
import { act, ago, b, badge, bytes, col, count, databases, db, duration, errorBox, field, fill, form, get, h, input, link, list, many, noSuchPage, num, open, option, post, prop, right, said, section, segment, select, session } from './shared.js';

const why = (one) => (one.error ? errorBox(one.error) : one.reason);
const took = (one) => duration(one.seconds ?? one.duration_s);
const address = (kind, id) => `#/complete/${kind}/${id}`;
const linked = (href, text) => (href ? link(href, text) : text);
const STATE = prop('Result', badge, 'status');
const SUMS = [right(col('Took', took)), num('Rows', count), num('On the wire', bytes, 'wire_bytes'), num('Cost')];

const KINDS = {
  complete: {
    title: 'One database with all its peers', path: 'api/complete-sync', all: '/history', line: 'complete-sync', parts: 'peers',
    columns: [STATE, prop('Peer', b), col('Way', (one) => linked(one.session && `#/job/${one.session}`, one.way)), ...SUMS, col('Why', why)], plan: [prop('Peer', b), prop('Way'), prop('Passed over', String, 'reason')],
  },
  bulk: {
    title: 'All databases of this server', path: 'api/admin/bulk-sync', all: '', line: 'bulk-sync', parts: 'databases',
    columns: [STATE, col('Database', (one) => linked(one.complete_id && address('complete', one.complete_id), b(one.database))), num('Peers'), num('Failed', String, 'peers_failed'), ...SUMS, col('Why', why)],
    plan: [STATE, prop('Database', b), num('Peers'), col('Why', why)],
  },
};

/** Starts a run and shows it. */
async function start(kind, body) {
  const run = await post(KINDS[kind].path, { syncType: 'manual', requestedBy: session.user, ...body });
  location.hash = address(kind, run.id);
  return 'It runs.';
}

function opened(body, kind, id, ended) {
  if (!Object.hasOwn(KINDS, kind)) throw noSuchPage();
  const { path, columns, parts, line } = KINDS[kind];
  const own = `${path}/${segment(id)}`;
  const short = id.slice(0, 8);
  const [result] = list(`Result by ${parts}`, [], columns);
  return section(`Run ${short}`, body.load(() => get(own), (run, again) => {
    const running = run.status === 'running';
    if (running) setTimeout(again, 1000);
    else ended();
    result.update(run[parts]);
    const failed = run[parts].filter((one) => ['error', 'partial', 'not_run', 'interrupted'].includes(one.status)).map((one) => one.database);
    const [how, rest] = run.database ? [` --retry-failed ${short}${db(run.database)}`, { database: run.database, retryFailed: id }] : [option('databases', failed.join(',')), { databases: failed }];
    return [
      h('p', null, badge(run.status), ' ', run.message ?? `${run.peers_successful} of ${many(run.peers_total, 'peer')} done, ${run.peers_failed} failed, ${run.peers_skipped} passed over`, `, ${took(run)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
      result,
      running && act('Cancel', `${line} cancel ${short}`, () => post(`${own}/cancel`).then(() => 'It stops: what was done stays.'), { kind: 'danger', again }),
      !running && failed.length > 0 && act('Retry what was not done', `${line}${how}`, () => start(kind, rest), { kind: 'primary' }),
    ];
  }));
}

function part(body, kind, names) {
  const { title, path, all, line, parts, plan } = KINDS[kind];
  const database = kind === 'complete' && select(names, names[0]);
  const which = names.length > 1 && database ? ' --database NAME' : '';
  const only = input({ placeholder: 'all, or: one, two' });
  const told = said();
  const wanted = (dryRun) => ({ ...(database && { database: database.value }), [parts]: only.value.split(/[\s,]+/).filter(Boolean), dryRun });
  const ran = body.load(() => get(path + all), (rows) => list('What ran', rows, [
    STATE, col('Of', (run) => link(address(kind, run.id), run.database ?? many(run.total, 'database'))), prop('Began', ago, 'started_at'), ...SUMS, prop('By', String, 'requested_by'),
  ], { empty: 'None has run yet.', file: line }));
  body.append(section(title, form(database && field('Database', database), field(`Only these ${parts}`, only)), act('Plan', `${line}${which} --dry-run`, async () => {
    const found = await post(path, wanted(true));
    fill(told, found.reason && h('p', null, found.reason), list('Plan', found[parts], plan));
    return 'Nothing was changed.';
  }), act('Start', line + which, () => start(kind, wanted(false)), { kind: 'primary' }), told, h('h3', null, 'What ran'), ran));
  return ran;
}

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = open(main, signal, 'Complete sync', 'Whole databases brought up to date; one that fails never stops the next.');
  const [kind, id] = params.id.split('/');
  const names = await databases();
  const parts = Object.keys(KINDS).map((one) => part(body, one, names));
  if (id) body.prepend(opened(body, kind, id, () => parts.forEach((one) => one.again())));
}
