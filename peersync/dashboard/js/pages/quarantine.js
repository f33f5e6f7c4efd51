/** Changes that arrived and could not be written, and tables whose changes wait; each with its way out. */
import { act, ago, b, badge, card, command, ask, db, details, everywhere, facts, fill, items, list, many, option, page, quiet, rowOf, said, section, tableOf, tell } from '../kit.js';
import { rowForm, written } from '../rows.js';

const FIELDS = { table: ['Table'], all: ['State', [['', 'Waiting'], ['true', 'Also settled ones']]] };

const told = results => section('What came of it', items(results, one => [badge(one.result), ` ${rowOf(one)} ${one.reason ?? ''}`, one.after && details('The row', written(one))]));

const doing = (label, line, path, body, say, options) => act(label, `quarantine ${line}`, async () => {
  const results = [await tell(`quarantine/${path}`, body())].flat();
  const refused = results.filter(one => one.result === 'refused').length;
  say(results);
  return refused ? `${many(refused, 'change')} refused again.` : `${many(results.length, 'change')} settled.`;
}, options);

function about({ id, database, ...one }, load, say) {
  const change = (label, verb, body, options, rest = '') => doing(label, `${verb} ${id}${rest}${db(database)}`, verb === 'retry' ? verb : `${id}/${verb}`, () => ({ database, ...body?.() }), say, options);
  const question = { title: `Give up change ${id}?`, body: `It is lost on this server: ${rowOf(one)} differs between the servers until it is changed again.`, danger: true };
  return load(() => ask(`quarantine/${id}`, { database }), ({ row, ...full }) => {
    const form = row && rowForm(row);
    return [
      facts({ Reason: full.reason, SQLSTATE: full.sqlstate, Changed: full.changed_at && ago(full.changed_at), Tries: `${full.tries}`, 'Last try': full.tried_at && ago(full.tried_at), Settled: full.settled_at && [ago(full.settled_at), ` by ${full.settled_by}`] }),
      form,
      full.state === 'waiting' && [
        form && change('Write these values', 'edit', () => ({ values: form.values() }), {}, ' COLUMN=VALUE'),
        change('Retry', 'retry', () => ({ ids: [id] })), change('Give up', 'skip', null, { ask: question, kind: 'danger' }),
      ],
    ];
  });
}

const COLUMNS = {
  State: 'badge', Row: [one => b(rowOf(one)), rowOf], Database: 'text', Change: one => `${one.op} by ${one.node ?? one.origin}`,
  Arrived: 'ago at', Reason: one => (one.cause === 'table' ? 'its table is parked' : one.reason.split('\n')[0]),
};

function parkedTable(one) {
  const [reason, sql = ''] = one.parked.split('. What helps: ');
  const [, there, statement] = /^(at the peer[^:]*: )?(.*)$/s.exec(sql);
  return [badge('parked'), ' ', b(tableOf(one)), ` in ${one.database}: ${reason}. Waiting: ${many(one.waiting, 'change')}.`, statement && command(statement, there ?? 'type here, in psql:')];
}

function parked({ rows, problems }) {
  const waiting = rows.filter(one => one.parked);
  return [problems, waiting.length > 0 && section('Parked tables', quiet('Their changes wait, and go on by themselves once this is typed.'), items(waiting, parkedTable))];
}

const retryAll = (rows, table, say) => [...Map.groupBy(rows.filter(one => one.state === 'waiting'), one => one.database)].map(([database, some]) => (
  doing(`Retry all of ${database} (${some.length})`, `retry --all${option('table', table)}${db(database)}`, 'retry', () => ({ database, table: table || null }), say)));

export const show = page('Quarantine', 'A change that this database refused waits here, with the reason; everything else goes on.', async ({ body, load, filtered }) => {
  const result = said();
  const say = results => { fill(result, told(results)); place.again(); tables.again(); };
  const tables = load(() => everywhere('tables'), parked);
  body.append(tables, result);
  const place = await filtered(FIELDS, {}, wanted => everywhere('quarantine', { ...wanted, limit: 1000 }), ({ rows, problems }, { database, table }) => card(problems, list('Changes in quarantine', rows, COLUMNS, {
    detail: one => about(one, load, say), empty: 'Nothing is in quarantine: every change that arrived was written.', file: 'quarantine', line: `quarantine list${db(database)}${option('table', table)}`,
  }), retryAll(rows, table, say)));
});
