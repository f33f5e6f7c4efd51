/** One conflict: both rows side by side, who and when, which rule decided and why, and the way back. */
import { PRIMARY, act, ago, ask, b, badge, below, code, db, details, dialog, errorBox, facts, fill, h, ident, link, list, p, page, query, quiet, rowOf, said, section, segment, small, tableOf, tell, word } from '../kit.js';
import { rowForm, sides, written } from '../rows.js';
import { stateOf } from './conflicts.js';

const node = side => side.node ?? `origin ${side.origin}`;
const HOW = { insert: 'inserted', update: 'updated', delete: 'deleted', truncate: 'truncated', none: 'has it by a full sync' };

function top(one, name) {
  const { op, at } = one[name];
  return h('span', b(node(one[name])), small(` ${name === 'kept' ? 'was here' : 'came in'}, ${HOW[op] ?? op} `, at && ago(at)), one.winner === name && one.state !== 'open' && [h('span.hide', ','), ' ', badge('ok', 'stands')]);
}

const about = one => facts({
  Rule: one.strategy, Decided: one.state === 'open' ? 'not yet: it waits for you' : one.winner === 'merged' ? 'both changes were merged' : `for the row of ${node(one[one.winner])}`,
  Why: one.reason, Kind: one.kind.replaceAll('_', ' '), Found: ago(one.at), Settled: one.settled_at && [ago(one.settled_at), ` by ${one.settled_by}: ${one.settled_how}`],
});

/** Writes; where the row has been changed since, asks whether to write all the same. */
async function write(one, verb, body) {
  const send = force => tell(`conflicts/${one.id}/${verb}`, { database: one.database, ...body, force });
  return send(false).catch(async error => {
    if (error.code === 'row-moved' && await dialog({ title: 'The row has been changed since', body: errorBox(error), confirm: 'Overwrite it', danger: true })) return send(true);
    throw error;
  });
}

function actions(one, say) {
  const go = (label, verb, rest, body, options) => act(label, `conflicts ${verb} ${one.id} ${rest}${db(one.database)}`, async () => {
    const told = await write(one, verb, body());
    say(told);
    return told.written ? 'Written; the change goes to all servers.' : 'The row is as it was.';
  }, options);
  if (one.state === 'open') {
    const here = (one[one.winner] ?? one.kept).row;
    const form = here && rowForm(here);
    return section('Decide, for all servers',
      go(`Keep the row of ${node(one.kept)}`, 'resolve', '--keep', () => ({ choice: 'keep' }), PRIMARY), go(`Take the row of ${node(one.incoming)}`, 'resolve', '--take', () => ({ choice: 'take' }), PRIMARY),
      form && details('Write values of your own', form, go('Write these values', 'resolve', '--set COLUMN=VALUE', () => ({ choice: 'set', values: form.values() }))));
  }
  const lost = one.winner === 'merged' ? ['kept', 'incoming'] : [one.winner === 'kept' ? 'incoming' : 'kept'];
  return section('Go back', quiet('An ordinary change is written: it goes to all servers, and can be overwritten again.'), lost.map(side => go(`Restore the row of ${node(one[side])}`, 'restore', `--side ${side}`, () => ({ side }))));
}

/** The values of a key, which is told as a record: `(1,"a, b")`. */
const keyOf = record => [...record.slice(1, -1).matchAll(/(?:^|,)(?:"((?:[^"\\]|""|\\.)*)"|([^,]*))/gs)].map(([, quoted, plain]) => quoted?.replace(/(["\\])(.)/gs, '$2') ?? plain);

const STATES = {
  Server: 'b node', Row: one => (one.problem ? [badge('unknown'), below(one.problem)] : one.present ? badge('ok', 'has it') : badge('idle', 'has none')), Change: 'text op', 'Made on': 'text origin_node', Made: ({ at }) => at && ago(at),
  Digest: ({ digest }) => digest && code(digest.slice(0, 8)), Waiting: one => [one.pending > 0 && `${one.pending} not sent yet `, one.quarantined > 0 && `${one.quarantined} in quarantine`],
};
const ENTRIES = { When: 'ago at', Server: 'b node', Change: 'text op', Columns: ({ changed }) => changed.join(', ') };

function trace(one) {
  const place = said();
  const key = keyOf(one.key);
  return [act('Trace the row', `trace ${word(tableOf(one))} ${key.map(word).join(' ')}${db(one.database)}`, async () => {
    const told = await tell('trace', { database: one.database, table: `${ident(one.schema)}.${ident(one.table)}`, key });
    fill(place, h('h3', 'The row on every server'), list('The row on every server', told.nodes, STATES),
      h('h3', 'Its changes in the log here, the oldest first'), list('Changes of the row', told.entries, ENTRIES, { detail: its => its.row && sides('The row then', ['Value'], its.row), empty: 'The log does not hold it any more.' }));
    return told.same ? 'All that answered have the same row.' : 'Not all have the same row.';
  }), place];
}

export const show = page(({ id }) => `Conflict ${id}`, ({ database }) => link(query('#/conflicts', { database }), 'All conflicts'), ({ params: { id, database }, load }) => {
  const told = said();
  const path = `conflicts/${segment(id)}`;
  return [load(() => ask(path, { database }), (found, again) => {
    const one = { ...found, database };
    return [
      p(stateOf(one), ' ', b(rowOf(one)), ` in ${database}`),
      section('Both rows', sides('Both rows, column by column', [top(one, 'kept'), top(one, 'incoming')], one.kept.row, one.incoming.row)),
      section('What happened', about(one)), section('What led here', trace(one)),
      actions(one, done => { fill(told, done.written && section('Written', written(done))); again(); }),
    ];
  }), told];
});
