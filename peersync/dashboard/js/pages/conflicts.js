/** Conflicts of all databases: found, filtered, and settled many at a time after they were counted. */
import { act, ago, badge, card, col, count, db, everywhere, fill, filtered, h, items, link, list, many, open, option, prop, query, rowOf, said, section, tableOf, tell } from './shared.js';

const FIELDS = {
  state: ['State', [['', 'Any'], ['open', 'Waiting for you'], ['resolved', 'Decided'], ['restored', 'Restored']]], table: ['Table'],
  rule: ['Rule', [['', 'Any'], 'newer_wins', 'manual', 'merge_columns', 'delta', 'origin_priority', 'function']],
  side: ['Stands', [['', 'Either'], ['kept', 'What was here'], ['incoming', 'What came in'], ['merged', 'Both, merged']]], server: ['Server'],
};
const node = (side) => side.node ?? String(side.origin);
const winner = (one) => (one.winner === 'merged' ? 'both, merged' : node(one[one.winner]));
const toOne = (one) => link(query(`#/conflict/${one.id}`, { database: one.database }), rowOf(one));

/** The state in words. */
export const stateOf = ({ state }) => (state === 'open' ? badge('conflict', 'waits for you') : badge('done', state === 'resolved' ? 'decided' : state));

const COLUMNS = [
  col('State', stateOf, (one) => one.state), col('Row', toOne, rowOf), prop('Database'), prop('Found', ago, 'at'),
  col('Between', (one) => h('span', { class: 'tight' }, `${node(one.kept)}, ${node(one.incoming)}`)), prop('Rule', String, 'strategy'), col('Stands', winner, winner),
];

const matches = ({ state, rule, side, server }) => (one) => (!state || one.state === state) && (!side || one.winner === side)
  && (!rule || one.strategy.startsWith(rule)) && (!server || [one.kept.node, one.incoming.node].includes(server));

async function read(wanted) {
  const { database, table, state } = wanted;
  const { rows, problems } = await everywhere('conflicts', { database, table, open: state === 'open' && 'true', limit: 1000 });
  return { problems, rows: rows.filter(matches(wanted)).sort((x, y) => (y.state === 'open') - (x.state === 'open') || (x.at < y.at ? 1 : -1)) };
}

const WAYS = [
  ['Keep what was here', 'open', 'resolve', { choice: 'keep' }, ' --keep'], ['Take what came in', 'open', 'resolve', { choice: 'take' }, ' --take'],
  ['Restore what lost', 'resolved', 'restore', {}, ''],
];

/** One after the other: several may be of one row. */
async function settle(rows, verb, body, place) {
  const refused = [];
  for (const [i, one] of rows.entries()) {
    fill(place, `${count(i + 1)} of ${count(rows.length)}…`);
    await tell(`conflicts/${one.id}/${verb}`, { database: one.database, ...body }).catch((error) => refused.push([one, error]));
  }
  fill(place, refused.length > 0 && section('Not settled', items(refused, ([one, error]) => [toOne(one), `: ${error.message}`])));
  return `${count(rows.length - refused.length)} settled${refused.length ? `, ${count(refused.length)} not` : ''}.`;
}

/** How many of each table and rule: what somebody agrees to. */
const sums = (rows) => items([...Map.groupBy(rows, (one) => `${tableOf(one)} in ${one.database}, ${one.strategy}`)], ([name, some]) => `${count(some.length)} of ${name}`);

const bulk = (rows, place, again) => section('All that are listed', WAYS.map(([label, state, verb, body, how]) => {
  const some = rows.filter((one) => one.state === state && (state === 'open' || one.winner !== 'merged'));
  const question = { title: `${label}: ${many(some.length, 'conflict')}?`, body: [sums(some), 'A row that was changed since is left as it is.'] };
  return act(`${label} (${count(some.length)})`, `conflicts ${verb} ID${how}`, () => settle(some, verb, body, place).finally(again), { ask: question, why: some.length ? null : 'None of the listed ones can be settled so.' });
}));

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = open(main, signal, 'Conflicts', 'Two servers changed one row, and neither had seen the other’s change. All servers end it the same way; what lost is kept here.');
  const place = said();
  await filtered(body, 'conflicts', { state: params.open && 'open', ...params }, FIELDS, read, ({ rows, problems }, { database, table, state }, again) => [
    problems,
    card(list('Conflicts: those that wait, then the newest', rows, COLUMNS, {
      empty: 'No conflict like that. When two servers change one row at the same time, both rows are shown here.', file: 'conflicts', line: `conflicts list${db(database)}${option('table', table)}${state === 'open' ? ' --open' : ''}`,
    })),
    rows.length > 0 && bulk(rows, place, again),
  ]);
  body.append(place);
}
