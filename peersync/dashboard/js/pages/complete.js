/** Complete and bulk syncs: one database with all its peers, or all databases; live, and what ran. */
import { PRIMARY, act, ago, b, badge, databases, db, duration, errorBox, field, fill, form, get, h, input, link, list, many, noSuchPage, num, option, p, page, post, said, section, segment, select } from '../kit.js';

const why = one => (one.error ? errorBox(one.error) : one.reason);
const took = one => duration(one.seconds ?? one.duration_s);
const address = (kind, id) => `#/complete/${kind}/${id}`;
const linked = (href, text) => (href ? link(href, text) : text);
const SUMS = { Took: num(took), Rows: 'count', 'On the wire': 'bytes wire_bytes', Cost: num(one => one.cost) };
const STATE = { Result: 'badge status' };

const KINDS = {
  complete: {
    title: 'One database with all its peers', path: 'api/complete-sync', all: '/history', line: 'complete-sync', parts: 'peers',
    columns: { ...STATE, Peer: 'b', Way: one => linked(one.session && `#/job/${one.session}`, one.way), ...SUMS, Why: why }, plan: { Peer: 'b', Way: 'text', 'Passed over': 'text reason' },
  },
  bulk: {
    title: 'All databases of this server', path: 'api/admin/bulk-sync', all: '', line: 'bulk-sync', parts: 'databases',
    columns: { ...STATE, Database: one => linked(one.complete_id && address('complete', one.complete_id), b(one.database)), Peers: 'count', Failed: 'count peers_failed', ...SUMS, Why: why },
    plan: { ...STATE, Database: 'b', Peers: 'count', Why: why },
  },
};

async function start(kind, body) {
  location.hash = address(kind, (await post(KINDS[kind].path, { syncType: 'manual', ...body })).id);
  return 'It runs.';
}

function opened(load, kind, id, ended) {
  if (!Object.hasOwn(KINDS, kind)) throw noSuchPage();
  const { path, columns, parts, line } = KINDS[kind];
  const own = `${path}/${segment(id)}`;
  const short = id.slice(0, 8);
  const [result] = list(`Result by ${parts}`, [], columns);
  return section(`Run ${short}`, load(() => get(own), (run, again) => {
    const running = run.status === 'running';
    if (running) setTimeout(again, 1000);
    else ended();
    result.update(run[parts]);
    const failed = run[parts].filter(one => ['error', 'partial', 'not_run', 'interrupted'].includes(one.status)).map(one => one.database);
    const [how, rest] = run.database ? [` --retry-failed ${short}${db(run.database)}`, { database: run.database, retryFailed: id }] : [option('databases', failed.join(',')), { databases: failed }];
    return [
      p(badge(run.status), ' ', run.message ?? `${run.peers_successful} of ${many(run.peers_total, 'peer')} done, ${run.peers_failed} failed, ${run.peers_skipped} passed over`, `, ${took(run)}, began `, ago(run.started_at), ` by ${run.requested_by}.`),
      result,
      running && act('Cancel', `${line} cancel ${short}`, () => post(`${own}/cancel`).then(() => 'It stops: what was done stays.'), { kind: 'danger', again }),
      !running && failed.length > 0 && act('Retry what was not done', `${line}${how}`, () => start(kind, rest), PRIMARY),
    ];
  }));
}

function part({ body, load }, kind, names) {
  const { title, path, all, line, parts, plan } = KINDS[kind];
  const database = kind === 'complete' && select(names, names[0]);
  const same = line + (names.length > 1 && database ? ' --database NAME' : '');
  const only = input({ placeholder: 'all, or: one, two' });
  const told = said();
  const wanted = dryRun => ({ ...(database && { database: database.value }), [parts]: only.value.split(/[\s,]+/).filter(Boolean), dryRun });
  const ran = load(() => get(path + all), rows => list('What ran', rows, {
    ...STATE, Of: run => link(address(kind, run.id), run.database ?? many(run.total, 'database')), Began: 'ago started_at', ...SUMS, By: 'text requested_by',
  }, { empty: 'None has run yet.', file: line }));
  body.append(section(title, form(database && field('Database', database), field(`Only these ${parts}`, only)), act('Plan', `${same} --dry-run`, async () => {
    const found = await post(path, wanted(true));
    fill(told, found.reason && p(found.reason), list('Plan', found[parts], plan));
    return 'Nothing was changed.';
  }), act('Start', same, () => start(kind, wanted(false)), PRIMARY), told, h('h3', 'What ran'), ran));
  return ran;
}

export const show = page('Complete sync', 'Whole databases brought up to date; one that fails never stops the next.', async its => {
  const [kind, id] = its.params.id.split('/');
  const names = await databases();
  const parts = Object.keys(KINDS).map(one => part(its, one, names));
  if (id) its.body.prepend(opened(its.load, kind, id, () => parts.forEach(one => one.again())));
});
