/** Changes that arrived and could not be written, and tables whose changes wait; each with its way out. */
import { act, ago, ask, badge, card, col, command, details, everywhere, facts, fill, filtered, inDatabase, items, list, loaded, many, option, page, quiet, rowForm, rowName, section, status, strong, tableName, tell, written } from './shared.js';

const told = (results) => section('What came of it', items(results, (one) => [
  badge(one.result === 'refused' ? 'failed' : 'done', one.result), ` ${rowName(one)} ${one.reason ?? ''}`, one.after && details('The row', written(one))]));

/** An action on changes; says what came of each. */
const doing = (label, line, path, body, say, options) => act(label, `quarantine ${line}`, async () => {
  const results = [await tell(`quarantine/${path}`, body())].flat();
  const refused = results.filter((one) => one.result === 'refused').length;
  say(results);
  return refused ? `${many(refused, 'change')} refused again.` : `${many(results.length, 'change')} settled.`;
}, options);

function about({ id, database, ...one }, say, signal) {
  const line = (verb, rest = '') => `${verb} ${id}${rest}${inDatabase(database)}`;
  const question = { title: `Give up change ${id}?`, body: `It is lost on this server: ${rowName(one)} differs between the servers until it is changed again.`, danger: true };
  return loaded(signal, () => ask(`quarantine/${id}`, { database }), (full) => {
    const form = full.row && rowForm(full.row);
    return [
      facts({ Reason: full.reason, SQLSTATE: full.sqlstate, Changed: full.changed_at && ago(full.changed_at), Tries: `${full.tries}`, 'Last try': full.tried_at && ago(full.tried_at), Settled: full.settled_at && [ago(full.settled_at), ` by ${full.settled_by}`] }),
      form,
      full.state === 'waiting' && [
        form && doing('Write these values', line('edit', ' COLUMN=VALUE'), `${id}/edit`, () => ({ database, values: form.values() }), say),
        doing('Retry', line('retry'), 'retry', () => ({ database, ids: [id] }), say),
        doing('Give up', line('skip'), `${id}/skip`, () => ({ database }), say, { ask: question, kind: 'danger' }),
      ],
    ];
  });
}

const COLUMNS = [
  col('State', 'state', badge), col('Row', (one) => strong(rowName(one)), rowName), col('Database', 'database'), col('Change', (one) => `${one.op} by ${one.node ?? one.origin}`),
  col('Arrived', 'at', ago), col('Reason', (one) => (one.cause === 'table' ? 'its table is parked' : one.reason.split('\n')[0])),
];

/** A table whose changes wait, with the statement that helps. */
function parkedTable(one) {
  const [reason, sql = ''] = one.parked.split('. What helps: ');
  const [, there, statement] = /^(at the peer[^:]*: )?(.*)$/s.exec(sql);
  return [badge('parked'), ' ', strong(tableName(one)), ` in ${one.database}: ${reason}. Waiting: ${many(one.waiting, 'change')}.`, statement && command(statement, there ?? 'type here, in psql:')];
}

function parked({ rows, problems }) {
  const waiting = rows.filter((one) => one.parked);
  return [problems, waiting.length > 0 && section('Parked tables', quiet('Their changes wait, and go on by themselves once this is typed.'), items(waiting, parkedTable))];
}

const retryAll = (rows, table, say) => [...Map.groupBy(rows.filter((one) => one.state === 'waiting'), (one) => one.database)].map(([database, some]) => doing(`Retry all of ${database} (${some.length})`,
  `retry --all${option('table', table)}${inDatabase(database)}`, 'retry', () => ({ database, table: table || null }), say));

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'Quarantine', lead: 'A change that this database refused waits here, with the reason; everything else goes on.' });
  const result = status();
  const say = (results) => { fill(result, told(results)); place.again(); tables.again(); };
  const tables = loaded(signal, () => everywhere('', (database) => ask('tables', { database })), parked);
  body.append(tables, result);
  const fields = [{ name: 'table', label: 'Table' }, { name: 'all', label: 'State', options: [['', 'Waiting'], ['true', 'Also settled ones']] }];
  const place = await filtered(body, { name: 'quarantine', params, signal }, fields, (wanted) => everywhere(wanted.database, (database) => ask('quarantine', { ...wanted, database, limit: 1000 })),
    ({ rows, problems }, { database, table }) => card(problems, list('Changes in quarantine', rows, COLUMNS, {
      detail: (one) => about(one, say, signal), empty: 'Nothing is in quarantine: every change that arrived was written.', file: 'quarantine', line: `quarantine list${inDatabase(database)}${option('table', table)}`,
    }), retryAll(rows, table, say)));
}
