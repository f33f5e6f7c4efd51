/** Conflicts of all databases: found, filtered, and settled many at a time after they were counted. */
import { act, badge, card, count, databases, db, everywhere, fill, h, items, link, list, many, option, page, query, rowOf, said, section, tableOf, tell } from '../kit.js';

const FIELDS = {
  state: ['State', [['', 'Any'], ['open', 'Waiting for you'], ['resolved', 'Decided'], ['restored', 'Restored']]], table: ['Table'],
  rule: ['Rule', [['', 'Any'], 'newer_wins', 'manual', 'merge_columns', 'delta', 'origin_priority', 'function']],
  side: ['Stands', [['', 'Either'], ['kept', 'What was here'], ['incoming', 'What came in'], ['merged', 'Both, merged']]], server: ['Server'],
};
const node = side => side.node ?? String(side.origin);
const winner = one => (one.winner === 'merged' ? 'both, merged' : node(one[one.winner]));
const toOne = one => link(query(`#/conflict/${one.id}`, { database: one.database }), rowOf(one));

export const stateOf = ({ state }) => (state === 'open' ? badge('conflict') : badge('done', state === 'resolved' ? 'decided' : state));

const COLUMNS = {
  State: [stateOf, one => one.state], Row: [toOne, rowOf], Database: 'text', Found: 'ago at',
  Between: one => h('span.tight', `${node(one.kept)}, ${node(one.incoming)}`), Rule: 'text strategy', Stands: [winner, winner],
};

const matches = ({ state, rule, side, server }) => one => (!state || one.state === state) && (!side || one.winner === side)
  && (!rule || one.strategy.startsWith(rule)) && (!server || [one.kept.node, one.incoming.node].includes(server));

async function read(wanted) {
  const { database, table, state } = wanted;
  const { rows, problems } = await everywhere('conflicts', { database, table, open: state === 'open' && 'true', limit: 1000 });
  return { problems, rows: rows.filter(matches(wanted)).sort((x, y) => (y.state === 'open') - (x.state === 'open') || (x.at < y.at ? 1 : -1)) };
}

const CHOICES = { keep: ['Keep what was here', 'resolve --all --keep'], take: ['Take what came in', 'resolve --all --take'], restore: ['Restore what lost', 'restore --all'] };

/** What each request tells: of every database, and several of one that has many. */
async function* settling(choice, { database: only, table, server, rule, upTo }, dryRun = false) {
  for (const database of only ? [only] : await databases()) {
    let before = dryRun ? null : upTo[database];
    if (!dryRun && !before) continue;
    do {
      const told = await tell('conflicts/settle', { database, choice, table: table || null, peer: server || null, strategy: rule || null, before, dryRun });
      yield { ...told, database };
      before = told.next;
    } while (before && !dryRun);
  }
}

async function question(label, choice, wanted) {
  let matched = 0;
  const sums = [], upTo = {};
  for await (const told of settling(choice, wanted, true)) {
    upTo[told.database] = told.next;
    matched += told.matched;
    sums.push(...told.tables.map(one => `${count(one.count)} of ${tableOf(one)} in ${told.database}`));
  }
  wanted.upTo = upTo; // what comes after this count is not settled by it
  if (!matched) throw new Error(`No conflict that ${choice === 'restore' ? 'is decided' : 'waits'} is meant by what is chosen above.`);
  return { title: `${label}: ${many(matched, 'conflict')}?`, body: [items(sums), 'A row that was changed since is left as it is.'] };
}

async function settle(choice, wanted, place) {
  let settled = 0;
  const refused = [];
  for await (const told of settling(choice, wanted)) {
    settled += told.settled;
    refused.push(...told.outcomes.filter(one => ['refused', 'moved'].includes(one.result)).map(one => ({ ...one, database: told.database })));
    fill(place, `${count(settled)} settled, ${count(told.left)} to go in ${told.database} …`);
  }
  fill(place, refused.length > 0 && section('Not settled', items(refused, one => [toOne(one), `: ${one.message}`])));
  return `${count(settled)} settled${refused.length ? `, ${count(refused.length)} not` : ''}.`;
}

/** All that are meant by what is chosen above, also those that are not listed. */
function bulk(rows, { side, rule, ...wanted }, place, again) {
  const rules = new Set(rows.map(one => one.strategy));
  const why = side ? 'Not by what stands: choose Either.' : rule && rules.size > 1 && 'Several rules of that kind are listed: choose one table.';
  const meant = { ...wanted, rule: rule && [...rules][0] };
  return section('All of them at once', Object.entries(CHOICES).map(([choice, [label, line]]) => act(label, `conflicts ${line}${db(meant.database)}${option('table', meant.table)}${option('peer', meant.server)}${option('strategy', meant.rule)}`, () => settle(choice, meant, place).finally(again), { ask: () => question(label, choice, meant), why, busy: 'Settling …' })));
}

export const show = page('Conflicts', 'Two servers changed one row, and neither had seen the other’s change. All servers end it the same way; what lost is kept here.', async ({ params, filtered }) => {
  const place = said();
  await filtered(FIELDS, { state: params.open && 'open' }, read, ({ rows, problems }, wanted, again) => [
    problems,
    card(list('Conflicts: those that wait, then the newest', rows, COLUMNS, {
      empty: 'No conflict like that. When two servers change one row at the same time, both rows are shown here.', file: 'conflicts', line: `conflicts list${db(wanted.database)}${option('table', wanted.table)}${wanted.state === 'open' ? ' --open' : ''}`,
    })),
    rows.length > 0 && bulk(rows, wanted, place, again),
  ]);
  return place;
});
