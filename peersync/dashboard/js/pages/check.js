/** Everything that a sync needs, looked at by name; each problem with the line that mends it. */
import { ago, ask, b, badge, button, card, col, command, h, list, many, open, prop } from './shared.js';

const STATES = ['failed', 'warning', 'ok'];

function draw(checks) {
  const found = STATES.map((state) => [state, checks.filter((one) => one.state === state).length]).filter(([, n]) => n);
  return [
    h('p', null, badge(found[0]?.[0]), ` ${many(checks.length, 'check')}: ${found.map(([state, n]) => `${n} ${state}`).join(', ')}. Looked `, ago(new Date().toISOString()), '.'),
    list('Checks, failed ones first', checks.toSorted((x, y) => STATES.indexOf(x.state) - STATES.indexOf(y.state)),
      [prop('State', badge), prop('Check', b, 'name'), col('Found', (one) => [one.text, one.fix && command(one.fix, 'fix:')])], { key: (one) => one.name + one.text, line: 'check', file: 'check' }),
  ];
}

/** Builds the page. */
export function show(main, _params, { signal }) {
  const again = button('Check again', () => place.again(), { kind: 'primary', busy: 'Checking…' });
  const body = open(main, signal, 'Check', 'Databases, rights, peers, versions, clocks and disk of this server.', again);
  const place = body.load(() => ask('check'), draw);
  body.append(card(place));
}
