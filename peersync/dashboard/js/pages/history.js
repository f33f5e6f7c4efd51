/** Full syncs that ran: filters, details, export, and forgetting them. */
import { act, ago, badge, bytes, card, col, command, count, danger, db, del, duration, errorBox, facts, field, filtered, get, h, link, list, many, num, open, option, prop, query, right, section, session } from './shared.js';

const FIELDS = { state: ['Result', [['', 'Any'], 'done', 'partly', 'failed', 'cancelled', 'running']], peer: ['Peer'], limit: ['Newest', ['50', '200', '1000']] };
const took = (one) => one.progress?.elapsed_s ?? (one.completed_at && (Date.parse(one.completed_at) - Date.parse(one.started_at)) / 1000);

const COLUMNS = [
  prop('Result', badge, 'state'), col('Sync', (one) => link(`#/job/${one.id}`, one.role === 'target' ? `${one.peer} → here` : `here → ${one.peer}`), (one) => one.peer), prop('Database'), prop('Began', ago, 'started_at'),
  right(col('Took', (one) => duration(took(one)), took)), num('Rows', (p) => count(p?.rows), 'progress'), num('On the wire', (p) => bytes(p?.wire_bytes), 'progress'), prop('By', String, 'requested_by'),
];
const TABLE = [prop('Result', badge), col('Table', (t) => `${t.schema}.${t.name}`), ...['Inserted', 'Updated', 'Unchanged', 'Skipped'].map((name) => num(name, count)), col('Note', (t) => t.error ?? t.note)];

const about = (one) => [
  one.error && errorBox(one.error),
  facts({ Undo: one.undo, Resumable: one.resumable && 'yes', Steps: Object.entries(one.seconds).map(([name, s]) => `${name} ${duration(s)}`).join(', ') }),
  one.tables.length > 0 && list('Tables', one.tables, TABLE), command(`peersync jobs show ${one.id.slice(0, 8)}`),
];

function clear(place) {
  const keep = h('input', { type: 'checkbox', checked: true });
  return section('Clear', field('Keep the newest sync with each peer', keep), act('Clear the history', 'history clear --keep-latest', async () => {
    const told = await del(query('api/sync/history', { keep_latest: keep.checked && 'true', database: place.values().database }));
    return `${many(told.deleted, 'sync')} forgotten, ${count(told.kept)} kept.`;
  }, danger(place.again, 'Forget the syncs that have ended?', 'What is forgotten can’t be resumed or undone, and leaves the statistics. Meant is the database that is chosen above, or all of them. No table of yours is touched.', session.node)));
}

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = open(main, signal, 'History', 'Every full sync that this server took or gave.');
  const read = ({ peer, ...wanted }) => get(query('api/sync/history', wanted)).then((all) => all.filter((one) => one.peer.includes(peer)));
  body.append(clear(await filtered(body, 'history', { limit: '50', ...params }, FIELDS, read, (rows, { database, state, limit }) => card(list('Full syncs, newest first', rows, COLUMNS, {
    key: (one) => one.id, detail: about, empty: 'No full sync like that.', file: 'history', line: `history --limit ${limit}${db(database)}${option('state', state)}`,
  })))));
}
