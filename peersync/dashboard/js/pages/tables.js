/** Tables of periodic sync: what is captured, what is not and why, how conflicts end; sequences. */
import { ADMIN, act, ask, b, badge, card, col, command, count, counted, databases, db, everywhere, facts, field, fill, filtered, h, input, list, num, open, prop, query, quiet, right, said, section, select, tableOf, tell, word } from './shared.js';

const state = (one) => (one.parked ? 'parked' : one.state);
const why = (one) => one.parked ?? one.reason;
const LOOKS = { captured: 'ok', refused: 'failed' };

function about(one, again) {
  const change = (label, action, rest, more, question) => act(label, `tables ${action} ${word(tableOf(one))}${rest}${db(one.database)}`, () => tell('tables', { database: one.database, action, pattern: tableOf(one), ...more() }), { ...ADMIN, again, ask: question });
  const rule = input({ value: one.strategy });
  return [
    facts({ Why: why(one) }), field('How conflicts end', rule, 'newer_wins, manual, merge_columns, delta:COLUMN, origin_priority:NODE=NUMBER, function:SCHEMA.NAME. The same on all servers.'),
    change('Set the rule', 'strategy', ' RULE', () => ({ strategy: rule.value })),
    one.state === 'excluded' ? change('Take it back', 'add', '', Object) : change('Leave it out', 'remove', '', Object, { title: `Leave ${tableOf(one)} out?`, body: 'Changes of it are no longer caught here. Its rows stay.' }),
  ];
}

const COLUMNS = [
  col('State', (one) => badge(LOOKS[state(one)] ?? state(one), state(one)), state), col('Table', (one) => b(tableOf(one)), tableOf), prop('Database'), prop('Rule', String, 'strategy'),
  right(col('Waiting', (one) => counted(one.waiting, query('#/quarantine', { database: one.database, table: tableOf(one) })), (one) => one.waiting)), col('Why', why),
];

const sequenceList = ({ sequences: rows, silent, applied }) => [
  Object.entries(silent).map(([name, reason]) => h('p', null, badge('unreachable', name), ` ${reason}`)),
  list('Sequences', rows, [
    col('State', (one) => (one.problem ? badge('warning') : one.state === 'change' ? badge('planned', applied ? 'changed' : 'would change') : badge(one.state ?? 'fine'))),
    col('Sequence', (one) => [b(`${one.schema}.${one.name}`), ` for ${one.table}.${one.column}`]), right(col('Next number', (one) => [count(one.next_value), one.sql && ` → ${count(one.new_value)}`])), num('Left', count),
    col('Why', (one) => [one.problem ?? one.note ?? one.reason, one.sql && command(one.sql, '')]),
  ], { empty: 'No captured table draws numbers from a sequence.' }),
];

async function sequences() {
  const names = await databases();
  const place = said();
  const database = select(names, names[0], () => fill(place));
  const doing = (label, verb, send, words, options) => act(label, `sequences ${verb}`, async () => {
    const told = await send(`sequences/${verb}`, { database: database.value });
    fill(place, h('p', null, words(told)), sequenceList(told));
  }, options);
  const safe = (told) => (told.fine ? [badge('fine'), ' No two servers can draw the same number.'] : [badge('warning'), ' Two servers may draw the same number, or one could not be asked.']);
  const placed = (told) => `This server has place ${told.slot} of ${told.step}. ${told.applied ? 'Written.' : 'Nothing was changed.'}`;
  const question = { title: 'Give this server numbers of its own?', body: 'Increments and next numbers are set as the plan says; numbers that were drawn stay.' };
  return section('Sequences', quiet('Two servers take the same numbers from their sequences, unless each has a place of its own.'), field('Database', database),
    doing('Check', 'check', ask, safe, { role: 'viewer' }), doing('Plan', 'plan', tell, placed), doing('Apply', 'apply', tell, placed, { ...ADMIN, ask: question }), place);
}

/** Builds the page. */
export async function show(main, params, { signal }) {
  const body = open(main, signal, 'Tables', 'Every table that periodic sync knows of.');
  await filtered(body, 'tables', params, { table: ['Table'] }, (wanted) => everywhere('tables', wanted), ({ rows, problems }, { database }, again) => card(problems, list('Tables', rows, COLUMNS, {
    detail: (one) => about(one, again), empty: 'Periodic sync knows no such table. It begins with: peersync join PEER', file: 'tables', line: `tables list${db(database)}`,
  })));
  body.append(await sequences());
}
