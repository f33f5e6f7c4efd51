/** Everything that a sync needs, looked at by name; each problem with the line that mends it. */
import { ago, ask, badge, button, card, col, command, h, list, loaded, many, page, strong } from './shared.js';

const STATES = ['failed', 'warning', 'ok'];

function sentence(checks) {
  const [failed, warnings] = STATES.map((state) => checks.filter((one) => one.state === state).length);
  if (!failed && !warnings) return [badge('ok'), ` ${many(checks.length, 'check')}, nothing to mend. `];
  const words = [failed && `${many(failed, 'check')} failed`, warnings && many(warnings, 'warning')];
  return [badge(failed ? 'failed' : 'warning'), ` ${words.filter(Boolean).join(', ')}. `];
}

const draw = (checks) => [
  h('p', null, sentence(checks), 'Looked ', ago(new Date().toISOString()), '.'),
  list('Checks, failed ones first', checks.toSorted((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state)), [
    col('State', 'state', badge), col('Check', 'name', strong), col('Found', (one) => [one.text, one.fix && command(one.fix, 'fix:')]),
  ], { key: (one) => one.name + one.text, line: 'check', file: 'check' }),
];

/** Builds the page. */
export function show(main, _params, { signal }) {
  const again = button('Check again', () => place.again(), { kind: 'primary', busy: 'Checking…' });
  const body = page(main, { title: 'Check', lead: 'Databases, rights, peers, versions, clocks and disk of this server.', actions: again });
  const place = loaded(signal, () => ask('check'), draw);
  body.append(card(place));
}
