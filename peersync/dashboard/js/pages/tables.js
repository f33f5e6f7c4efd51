/** Tables of periodic sync: what is captured, what is not and why, how conflicts end; sequences. */
import { ADMIN, act, ask, b, badge, card, command, count, counted, databases, db, everywhere, facts, field, fill, input, list, num, p, page, query, quiet, said, section, select, tableOf, tell, word } from '../kit.js';

const state = one => (one.parked ? 'parked' : one.state);
const why = one => one.parked ?? one.reason;

function about(one, again) {
  const change = (label, action, rest, more, ask) => act(label, `tables ${action} ${word(tableOf(one))}${rest}${db(one.database)}`, () => tell('tables', { database: one.database, action, pattern: tableOf(one), ...more?.() }), { ...ADMIN, again, ask });
  const rule = input({ value: one.strategy });
  return [
    facts({ Why: why(one) }), field('How conflicts end', rule, 'newer_wins, manual, merge_columns, delta:COLUMN, origin_priority:NODE=NUMBER, function:SCHEMA.NAME. The same on all servers.'),
    change('Set the rule', 'strategy', ' RULE', () => ({ strategy: rule.value })),
    one.state === 'excluded' ? change('Take it back', 'add', '') : change('Leave it out', 'remove', '', null, { title: `Leave ${tableOf(one)} out?`, body: 'Changes of it are no longer caught here. Its rows stay.' }),
  ];
}

const COLUMNS = {
  State: [one => badge(state(one)), state], Table: [one => b(tableOf(one)), tableOf], Database: 'text', Rule: 'text strategy',
  Waiting: num(one => counted(one.waiting, query('#/quarantine', { database: one.database, table: tableOf(one) })), one => one.waiting), Why: why,
};

const sequenceList = ({ sequences, silent, applied }) => [
  Object.entries(silent).map(([name, reason]) => p(badge('unreachable', name), ` ${reason}`)),
  list('Sequences', sequences, {
    State: one => (one.problem ? badge('warning') : one.state === 'change' ? badge('planned', applied ? 'changed' : 'would change') : badge(one.state ?? 'fine')),
    Sequence: one => [b(`${one.schema}.${one.name}`), ` for ${one.table}.${one.column}`], 'Next number': num(one => [count(one.next_value), one.sql && ` → ${count(one.new_value)}`]), Left: 'count',
    Why: one => [one.problem ?? one.note ?? one.reason, one.sql && command(one.sql, '')],
  }, { empty: 'No captured table draws numbers from a sequence.' }),
];

const safe = ({ fine }) => (fine ? [badge('fine'), ' No two servers can draw the same number.'] : [badge('warning'), ' Two servers may draw the same number, or one could not be asked.']);
const placed = told => `This server has place ${told.slot} of ${told.step}. ${told.applied ? 'Written.' : 'Nothing was changed.'}`;

async function sequences() {
  const names = await databases();
  const place = said();
  const database = select(names, names[0], () => fill(place));
  const doing = (label, send, words, options) => act(label, `sequences ${label.toLowerCase()}`, async () => {
    const told = await send(`sequences/${label.toLowerCase()}`, { database: database.value });
    fill(place, p(words(told)), sequenceList(told));
  }, options);
  return section('Sequences', quiet('Two servers take the same numbers from their sequences, unless each has a place of its own.'), field('Database', database),
    doing('Check', ask, safe, { role: 'viewer' }), doing('Plan', tell, placed),
    doing('Apply', tell, placed, { ...ADMIN, ask: { title: 'Give this server numbers of its own?', body: 'Increments and next numbers are set as the plan says; numbers that were drawn stay.' } }), place);
}

export const show = page('Tables', 'Every table that periodic sync knows of.', async ({ filtered }) => {
  await filtered({ table: ['Table'] }, {}, wanted => everywhere('tables', wanted), ({ rows, problems }, { database }, again) => card(problems, list('Tables', rows, COLUMNS, {
    detail: one => about(one, again), empty: 'Periodic sync knows no such table. It begins with: peersync join PEER', file: 'tables', line: `tables list${db(database)}`,
  })));
  return sequences();
});
