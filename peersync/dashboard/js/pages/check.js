/** Everything that a sync needs, looked at by name; each problem with the line that mends it. */
import { PRIMARY, ago, badge, button, card, hinted, list, many, p, page, worst } from '../kit.js';

const STATES = ['failed', 'warning', 'ok'];
const COLUMNS = { State: 'badge', Check: 'b name', Found: one => [one.text, hinted(one.fix)] };

function draw(checks) {
  const found = STATES.map(state => [checks.filter(one => one.state === state).length, state]).filter(([n]) => n);
  return [
    p(badge(found[0]?.[1]), ` ${many(checks.length, 'check')}: ${found.map(one => one.join(' ')).join(', ')}. Looked `, ago(new Date().toISOString()), '.'),
    list('Checks, failed ones first', worst(checks, STATES, 'state'), COLUMNS, { key: one => one.name + one.text, line: 'check', file: 'check' }),
  ];
}

export const show = page('Check', 'Databases, rights, peers, versions, clocks and disk of this server.', ({ actions, load }) => {
  const place = load('check', draw);
  actions(button('Check again', place.again, { ...PRIMARY, busy: 'Checking…' }));
  return card(place);
});
