/** Conflicts of all databases: found, filtered, and settled many at a time after they were counted. */
import { act, ago, ask, badge, card, col, count, everywhere, fill, filtered, h, inDatabase, items, list, many, option, page, query, rowName, section, status, tableName, tell } from './shared.js';

const LIMIT = 1000;
const FIELDS = Object.entries({
  state: ['State', [['', 'Any'], ['open', 'Waiting for you'], ['resolved', 'Decided'], ['restored', 'Restored']]],
  table: ['Table'],
  rule: ['Rule', [['', 'Any'], 'newer_wins', 'manual', 'merge_columns', 'delta', 'origin_priority', 'function']],
  side: ['Stands', [['', 'Either'], ['kept', 'What was here'], ['incoming', 'What came in'], ['merged', 'Both, merged']]],
  server: ['Server'],
}).map(([name, [label, options]]) => ({ name, label, options }));

const node = (side) => side.node ?? String(side.origin);
const winner = (one) => (one.winner === 'merged' ? 'both, merged' : node(one[one.winner])) + (one.state === 'open' ? ', for now' : '');
const link = (one) => h('a', { href: query(`#/conflict/${one.id}`, { database: one.database }) }, rowName(one));

/** The state in words. */
export const stateOf = ({ state }) => (state === 'open' ? badge('conflict', 'waits for you') : badge('done', state === 'resolved' ? 'decided' : state));

const COLUMNS = [
  col('State', stateOf, (one) => one.state), col('Row', link, rowName), col('Database', 'database'), col('Found', 'at', ago),
  col('Between', (one) => `${node(one.kept)}, ${node(one.incoming)}`), col('Rule', 'strategy'), col('Stands', winner, winner),
];

const order = (a, b) => (b.state === 'open') - (a.state === 'open') || (a.at < b.at ? 1 : -1);

const matches = ({ state, rule, side, server }) => (one) => (!state || one.state === state) && (!side || one.winner === side)
  && (!rule || one.strategy.startsWith(rule)) && (!server || [one.kept.node, one.incoming.node].includes(server));

async function read(wanted) {
  const { rows, problems } = await everywhere(wanted.database, (database) => ask('conflicts', { database, table: wanted.table, open: wanted.state === 'open' && 'true', limit: LIMIT }));
  return { problems, rows: rows.filter(matches(wanted)).sort(order) };
}

const WAYS = [
  ['Keep what was here', 'open', 'resolve', { choice: 'keep' }, 'resolve ID --keep'],
  ['Take what came in', 'open', 'resolve', { choice: 'take' }, 'resolve ID --take'],
  ['Restore what lost', 'resolved', 'restore', {}, 'restore ID'],
];

/** One after the other: several may be of one row. */
async function settle(rows, verb, body, told) {
  const refused = [];
  for (const [i, one] of rows.entries()) {
    fill(told, `${count(i + 1)} of ${count(rows.length)}…`);
    await tell(`conflicts/${one.id}/${verb}`, { database: one.database, ...body }).catch((error) => refused.push([one, error]));
  }
  fill(told, refused.length > 0 && section('Not settled', items(refused, ([one, error]) => [link(one), `: ${error.message}`])));
  return `${count(rows.length - refused.length)} settled${refused.length ? `, ${count(refused.length)} not` : ''}.`;
}

/** How many of each table and rule: what somebody agrees to. */
const sums = (rows) => items([...Map.groupBy(rows, (one) => `${tableName(one)} in ${one.database}, ${one.strategy}`)], ([name, some]) => `${count(some.length)} of ${name}`);

const bulk = (rows, told, again) => section('All that are listed', WAYS.map(([label, state, verb, body, line]) => {
  const some = rows.filter((one) => one.state === state && (state === 'open' || one.winner !== 'merged'));
  const question = { title: `${label}: ${many(some.length, 'conflict')}?`, body: [sums(some), 'A row that was changed since is left as it is.'] };
  return act(`${label} (${count(some.length)})`, `conflicts ${line}`, () => settle(some, verb, body, told).finally(again), { ask: question, why: some.length ? null : 'None of the listed ones can be settled so.' });
}));

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'Conflicts', lead: 'Two servers changed one row, and neither had seen the other’s change. All servers end it the same way; what lost is kept here.' });
  const told = status();
  const place = await filtered(body, { name: 'conflicts', params: { state: params.open && 'open', ...params }, signal }, FIELDS, read, ({ rows, problems }, { database, table, state }) => [
    problems,
    card(list('Conflicts: those that wait, then the newest', rows, COLUMNS, {
      empty: 'No conflict like that. When two servers change one row at the same time, both rows are shown here.', file: 'conflicts',
      line: `conflicts list${inDatabase(database)}${option('table', table)}${state === 'open' ? ' --open' : ''}`,
    })),
    rows.length > 0 && bulk(rows, told, () => place.again()),
  ]);
  body.append(told);
}
