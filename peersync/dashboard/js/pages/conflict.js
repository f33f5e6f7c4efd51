/** One conflict: both rows side by side, who and when, which rule decided and why, and the way back. */
import { act, ago, ask, b, badge, command, db, details, dialog, errorBox, facts, fill, h, link, open, query, quiet, rowForm, rowOf, said, section, segment, sides, tableOf, tell, word, written } from './shared.js';
import { stateOf } from './conflicts.js';

const node = (side) => side.node ?? `origin ${side.origin}`;
const HOW = { insert: 'inserted', update: 'updated', delete: 'deleted', truncate: 'truncated', none: 'has it by a full sync' };

function head(one, name) {
  const { op, at } = one[name];
  return h('span', null, b(node(one[name])), one.winner === name && one.state !== 'open' && [' ', badge('ok', 'stands')], h('small', null, ` ${name === 'kept' ? 'was here' : 'came in'}, ${HOW[op] ?? op} `, at && ago(at)));
}

const about = (one) => facts({
  Rule: one.strategy, Decided: one.state === 'open' ? 'not yet: it waits for you' : one.winner === 'merged' ? 'both changes were merged' : `for the row of ${node(one[one.winner])}`,
  Why: one.reason, Kind: one.kind.replaceAll('_', ' '), Found: ago(one.at), Settled: one.settled_at && [ago(one.settled_at), ` by ${one.settled_by}: ${one.settled_how}`],
});

/** Writes; where the row has been changed since, asks whether to write all the same. */
async function write(one, verb, body) {
  const send = (force) => tell(`conflicts/${one.id}/${verb}`, { database: one.database, ...body, force });
  return send(false).catch(async (error) => {
    if (error.code === 'row-moved' && await dialog({ title: 'The row has been changed since', body: errorBox(error), confirm: 'Overwrite it', danger: true })) return send(true);
    throw error;
  });
}

function actions(one, say) {
  const go = (label, verb, rest, body, kind) => act(label, `conflicts ${verb} ${one.id} ${rest}${db(one.database)}`, async () => {
    const told = await write(one, verb, body());
    say(told);
    return told.written ? 'Written; the change goes to all servers.' : 'The row is as it was.';
  }, { kind });
  if (one.state === 'open') {
    const here = (one[one.winner] ?? one.kept).row;
    const form = here && rowForm(here);
    return section('Decide, for all servers',
      go(`Keep the row of ${node(one.kept)}`, 'resolve', '--keep', () => ({ choice: 'keep' }), 'primary'), go(`Take the row of ${node(one.incoming)}`, 'resolve', '--take', () => ({ choice: 'take' }), 'primary'),
      form && details('Write values of your own', form, go('Write these values', 'resolve', '--set COLUMN=VALUE', () => ({ choice: 'set', values: form.values() }))));
  }
  const lost = one.winner === 'merged' ? ['kept', 'incoming'] : [one.winner === 'kept' ? 'incoming' : 'kept'];
  return section('Go back', quiet('An ordinary change is written: it goes to all servers, and can be overwritten again.'), lost.map((side) => go(`Restore the row of ${node(one[side])}`, 'restore', `--side ${side}`, () => ({ side }))));
}

/** Builds the page. */
export function show(main, { id, database }, { signal }) {
  const body = open(main, signal, `Conflict ${id}`, link(query('#/conflicts', { database }), 'All conflicts'));
  const told = said();
  const path = `conflicts/${segment(id)}`;
  const place = body.load(() => ask(path, { database }), (found, again) => {
    const one = { ...found, database };
    return [
      h('p', null, stateOf(one), ' ', b(rowOf(one)), ` in ${database}`),
      section('Both rows', sides('Both rows, column by column', [head(one, 'kept'), head(one, 'incoming')], one.kept.row, one.incoming.row)),
      section('What happened', about(one), command(`peersync trace ${word(tableOf(one))} KEY${db(database)}`, 'the row on every server:')),
      actions(one, (done) => { fill(told, done.written && section('Written', written(done))); again(); }),
    ];
  });
  body.append(place, told);
}
