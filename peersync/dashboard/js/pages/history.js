/** Full syncs that ran: filters, details, export, and forgetting them. */
import { act, card, checkbox, cli, count, danger, db, del, duration, errorBox, facts, field, get, link, list, many, num, option, page, query, section, session, tableOf } from '../kit.js';

const FIELDS = { state: ['Result', [['', 'Any'], 'done', 'partly', 'failed', 'cancelled', 'running']], peer: ['Peer'], limit: ['Newest', ['50', '200', '1000']] };
const took = one => one.progress?.elapsed_s ?? (one.completed_at && (Date.parse(one.completed_at) - Date.parse(one.started_at)) / 1000);
export const COLUMNS = {
  Result: 'badge state', Sync: [one => link(`#/job/${one.id}`, one.role === 'target' ? `${one.peer} → here` : `here → ${one.peer}`), one => one.peer], Database: 'text', Began: 'ago started_at',
  Took: num(one => duration(took(one)), took), Rows: 'count progress.rows', 'On the wire': 'bytes progress.wire_bytes', By: 'text requested_by',
};
const TABLE = { Result: 'badge', Table: tableOf, Inserted: 'count', Updated: 'count', Unchanged: 'count', Skipped: 'count', Note: t => t.error ?? t.note };

const about = one => [
  one.error && errorBox(one.error),
  facts({ Undo: one.undo, Resumable: one.resumable && 'yes', Steps: Object.entries(one.seconds).map(([name, s]) => `${name} ${duration(s)}`).join(', ') }),
  one.tables.length > 0 && list('Tables', one.tables, TABLE), cli(`jobs show ${one.id.slice(0, 8)}`),
];

function clear(place) {
  const keep = checkbox({ checked: true });
  return section('Clear', field('Keep the newest sync with each peer', keep), act('Clear the history', 'history clear --keep-latest', async () => {
    const told = await del(query('api/sync/history', { keep_latest: keep.checked && 'true', database: place.values().database }));
    return `${many(told.deleted, 'sync')} forgotten, ${count(told.kept)} kept.`;
  }, danger(place.again, 'Forget the syncs that have ended?', 'What is forgotten can’t be resumed or undone, and leaves the statistics. Meant is the database that is chosen above, or all of them. No table of yours is touched.', session.node)));
}

const read = ({ peer, ...wanted }) => get(query('api/sync/history', wanted)).then(all => all.filter(one => one.peer.includes(peer)));

export const show = page('History', 'Every full sync that this server took or gave.', async ({ filtered }) => clear(await filtered(FIELDS, { limit: '50' }, read, (rows, { database, state, limit }) => (
  card(list('Full syncs, newest first', rows, COLUMNS, { detail: about, empty: 'No full sync like that.', file: 'history', line: `history --limit ${limit}${db(database)}${option('state', state)}` }))))));
