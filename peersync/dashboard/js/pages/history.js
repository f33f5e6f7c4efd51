/** Full syncs that ran: filters, details, export, and forgetting them. */
import { act, ago, badge, bytes, card, col, command, count, danger, del, duration, errorBox, facts, field, filtered, get, h, inDatabase, list, many, num, option, page, query, section, session } from './shared.js';

const FIELDS = [
  { name: 'state', label: 'Result', options: [['', 'Any'], 'done', 'partly', 'failed', 'cancelled', 'running'] },
  { name: 'peer', label: 'Peer' }, { name: 'limit', label: 'Newest', options: ['50', '200', '1000'] },
];
const took = (one) => one.progress?.elapsed_s ?? (one.completed_at && (Date.parse(one.completed_at) - Date.parse(one.started_at)) / 1000);

const COLUMNS = [
  col('Result', 'state', badge), col('Sync', (one) => h('a', { href: `#/job/${one.id}` }, one.role === 'target' ? `${one.peer} → here` : `here → ${one.peer}`), (one) => one.peer),
  col('Database', 'database'), col('Began', 'started_at', ago), num('Took', (one) => duration(took(one)), took), num('Rows', (one) => count(one.progress?.rows)),
  num('On the wire', (one) => bytes(one.progress?.wire_bytes)), col('By', 'requested_by'),
];
const TABLE = [
  col('Result', 'result', badge), col('Table', (t) => `${t.schema}.${t.name}`), ...['inserted', 'updated', 'unchanged', 'skipped'].map((name) => num(name, name, count)), col('Note', (t) => t.error ?? t.note),
];

const about = (one) => [
  one.error && errorBox(one.error),
  facts({ Undo: one.undo, Resumable: one.resumable && 'yes', Steps: Object.entries(one.seconds).map(([name, s]) => `${name} ${duration(s)}`).join(', ') }),
  one.tables.length > 0 && list('Tables', one.tables, TABLE), command(`peersync jobs show ${one.id.slice(0, 8)}`),
];

function clear(place) {
  const keep = h('input', { type: 'checkbox', checked: true });
  return section('Clear', field('Keep the newest sync with each peer', keep), act('Clear the history', 'history clear --keep-latest', async () => {
    const told = await del(query('api/sync/history', { keep_latest: keep.checked && 'true', database: place.values().database }));
    place.again();
    return `${many(told.deleted, 'sync')} forgotten, ${count(told.kept)} kept.`;
  }, danger('Forget the syncs that have ended?', 'What is forgotten can’t be resumed or undone, and leaves the statistics. Meant is the database that is chosen above, or all of them. No table of yours is touched.', session.node)));
}

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'History', lead: 'Every full sync that this server took or gave.' });
  const place = await filtered(body, { name: 'history', params: { limit: '50', ...params }, signal }, FIELDS,
    ({ peer, ...wanted }) => get(query('api/sync/history', wanted)).then((all) => all.filter((one) => one.peer.includes(peer))),
    (rows, { database, state, limit }) => card(list('Full syncs, newest first', rows, COLUMNS, {
      key: (one) => one.id, detail: about, empty: 'No full sync like that.', file: 'history', line: `history --limit ${limit}${inDatabase(database)}${option('state', state)}`,
    })));
  body.append(clear(place));
}
