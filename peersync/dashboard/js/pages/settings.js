/** What is configured and where it came from; notifications; users, tokens and sessions. */
import { ADMIN, act, acts, ago, ask, b, badge, code, col, command, danger, del, errorBox, facts, fail, field, fill, filterBar, form, h, input, items, link, list, num, open, patch, post, press, prop, quiet, said, section, segment, select, session, word } from './shared.js';

const API = 'api/admin/';
const roles = (role = 'viewer', ...more) => select(['viewer', 'operator', 'admin'], role, ...more);

/** "a.b" and its value, of every value; of a list of tables by their names. */
function flat(value, path = '') {
  if (value === null || typeof value !== 'object' || (Array.isArray(value) && typeof value[0] !== 'object')) return [[path, value]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${inner?.name ?? name}` : name));
}

function settings({ config, origins }) {
  const all = flat(config).map(([name, value]) => ({ name, value: JSON.stringify(value), from: origins[name] ?? origins[name.split('.')[0]] })).sort((x, y) => (x.from === 'default') - (y.from === 'default'));
  const shown = list('Settings', all, [prop('Setting', b, 'name'), prop('Value', code), prop('From')], { line: 'config show --origin' });
  return [filterBar([{ name: 'text', label: 'Find a setting' }], ({ text }) => shown[0].update(all.filter((one) => one.name.includes(text)))), shown];
}

function channels({ quiet_until: until, channels: rows, incidents }, again) {
  const time = input({ type: 'datetime-local' });
  const silence = (label, line, when) => act(label, `notify quiet ${line}`, async () => post(`${API}notify/quiet`, { until: when() }), { again });
  const chosen = () => {
    if (!time.value) throw new Error('Choose a time first.');
    return new Date(time.value).toISOString();
  };
  const test = ({ name }) => press('Test', `notify test ${word(name)}`, async () => {
    const [tried] = await post(`${API}notify/test`, { channel: name });
    return `${name}: ${tried.sent ? 'sent.' : tried.error.message}`;
  }, { busy: 'Sending…', again });
  return [
    until && h('p', null, badge('paused', 'quiet'), ' until ', ago(until)),
    list('Channels', rows, [col('State', (one) => badge(one.error ? 'failed' : 'ok')), col('Channel', (one) => [b(one.name), ` ${one.kind}`]), num('Sent'), num('Waiting'), num('Given up', String, 'dropped'), prop('Last sent', ago), acts(test)],
      { detail: (one) => [facts({ Events: one.events.join(', ') }), one.error && errorBox(one.error)], empty: 'Nobody is told when something breaks: add a [[channel]] to the configuration.', line: 'notify list' }),
    rows.length > 0 && (until ? silence('Speak again', 'off', () => null) : [form(field('Quiet until', time)), silence('Be quiet', 'UNTIL', chosen)]),
    incidents.length > 0 && [h('h3', null, 'What lasts'), items(incidents, (one) => [b(one.title), ` ${one.impact}, since `, ago(one.since), one.hint && quiet(one.hint), press('Dismiss', `notify dismiss ${word(one.key)}`, () => post(`${API}notify/dismiss`, { key: one.key }), { again })])],
  ];
}

/** A secret that is told once. */
const once = (place, title, secret, ...note) => { fill(place, h('h3', null, title), command(secret, ''), quiet(...note)); };

function users(rows, again) {
  const place = said();
  const [name, role] = [input(), roles()];
  const first = (told) => once(place, `The first login of ${told.user}`, told.link, 'Works once; ends ', ago(told.expires_at), '.');
  const path = (user) => `${API}users/${segment(user.name)}`;
  return [list('Users', rows, [
    prop('User', b, 'name'), col('Role', (user) => roles(user.role, (value) => patch(path(user), { role: value }).catch(fail).finally(again), { 'aria-label': `Role of ${user.name}` })),
    col('Password', (user) => (user.has_password ? 'set' : user.link_expires_at ? ['link, ends ', ago(user.link_expires_at)] : 'none')), num('Sessions'),
    acts((user) => [
      press('New link', `admin link --user ${word(user.name)}`, async () => first(await post(`${path(user)}/link`)), ADMIN),
      user.name !== session.user && press('Remove', `admin users remove ${word(user.name)}`, () => del(path(user)), danger(again, `Remove ${user.name}?`, 'Its sessions end now.', user.name)),
    ]),
  ]), form(field('Name', name), field('Role', role)), act('Add a user', 'admin users add NAME --role ROLE', async () => first(await post(`${API}users`, { name: name.value, role: role.value })), ADMIN), place];
}

function tokens(rows, again) {
  const place = said();
  const [name, role, days] = [input(), roles(), input({ type: 'number', min: 1, max: 3650, value: 90 })];
  const revoke = (one) => press('Revoke', `token revoke ${one.id}`, () => del(`${API}tokens/${one.id}`), danger(again, `Revoke ${one.name}?`, 'Who uses it is refused from now on.'));
  const shown = list('Tokens', rows, [prop('Token', b, 'name'), prop('Role'), col('Made', (one) => [ago(one.created_at), ` by ${one.created_by}`]), col('Ends', (one) => (one.expired ? badge('expired') : ago(one.expires_at))), prop('Last used', ago), acts(revoke)],
    { empty: 'No token. Scripts on this machine need none: they use the Unix socket.', line: 'token list' });
  return [shown, form(field('Name', name), field('Role', role), field('Days', days)), act('Make a token', 'token create NAME --role ROLE --days N', async () => {
    const told = await post(`${API}tokens`, { name: name.value, role: role.value, days: Number(days.value) });
    once(place, `Token ${told.name}`, told.token, 'It is shown only now. Send it as: Authorization: Bearer TOKEN');
    shown[0].update(await ask('tokens'));
  }, ADMIN), place];
}

const sessions = (rows, again) => list('Sessions', rows, [
  col('User', (one) => [b(one.user), one.own && ' (this one)']), col('From', (one) => `${one.address} ${one.browser}`), prop('Began', ago, 'created_at'), prop('Seen', ago, 'seen_at'), prop('Ends', ago, 'expires_at'),
  acts((one) => !one.own && press('End', `admin sessions --end ${one.id}`, () => del(`${API}sessions/${one.id}`), { ...ADMIN, again })),
], { line: 'admin sessions' });

const PARTS = [['Notifications', 'notify', channels], ['Users', 'users', users], ['Tokens', 'tokens', tokens], ['Sessions', 'sessions', sessions], ['Configuration', 'settings', settings]];

/** Builds the page. */
export function show(main, _params, { signal }) {
  const admin = session.role === 'admin';
  const body = open(main, signal, 'Settings', ['You are ', b(session.user), `, ${session.role}. `, !admin && 'Users, tokens, sessions and the configuration are for the role admin. ', link('#/password', 'Change the password')]);
  body.append(...PARTS.slice(0, admin ? 5 : 1).map(([title, path, draw]) => section(title, body.load(() => ask(path), draw))));
}
