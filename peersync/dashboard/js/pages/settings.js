/** What is configured and where it came from; notifications; users, tokens and sessions. */
import { act, acts, ago, ask, badge, card, code, col, command, danger, del, errorBox, facts, fail, field, fill, filterBar, h, input, items, list, loaded, num, page, patch, press, quiet, section, segment, select, session, status, strong, word, post } from './shared.js';

const ROLES = ['viewer', 'operator', 'admin'];
const ADMIN = { role: 'admin' };
const form = (...fields) => h('div', { class: 'filter' }, fields);

/** "a.b" and its value, of every value; of a list of tables by their names. */
function flat(value, path = '') {
  if (value === null || typeof value !== 'object' || (Array.isArray(value) && typeof value[0] !== 'object')) return [[path, value]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${inner?.name ?? name}` : name));
}

function settings({ config, origins }) {
  const all = flat(config).map(([name, value]) => ({ name, value: JSON.stringify(value), origin: origins[name] ?? origins[name.split('.')[0]] }))
    .sort((a, b) => (a.origin === 'default') - (b.origin === 'default'));
  const shown = list('Settings', all, [col('Setting', 'name', strong), col('Value', 'value', code), col('From', 'origin')], { line: 'config show --origin' });
  return [filterBar([{ name: 'text', label: 'Find a setting' }], ({ text }) => shown[0].update(all.filter((one) => one.name.includes(text)))), shown];
}

function channels({ quiet_until: until, channels: rows, incidents }, again) {
  const time = input({ type: 'datetime-local' });
  const silence = (label, line, when) => act(label, `notify quiet ${line}`, async () => { await post('api/admin/notify/quiet', { until: when() }); again(); });
  const chosen = () => {
    if (!time.value) throw new Error('Choose a time first.');
    return new Date(time.value).toISOString();
  };
  const test = ({ name }) => press('Test', `notify test ${word(name)}`, async () => {
    const [tried] = await post('api/admin/notify/test', { channel: name });
    again();
    return `${name}: ${tried.sent ? 'sent.' : tried.error.message}`;
  }, { busy: 'Sending…' });
  return [
    until && h('p', null, badge('paused', 'quiet'), ' until ', ago(until)),
    list('Channels', rows, [
      col('State', (one) => badge(one.error ? 'failed' : 'ok')), col('Channel', (one) => [strong(one.name), ` ${one.kind}`]), num('Sent', 'sent'), num('Waiting', 'waiting'), num('Given up', 'dropped'), col('Last sent', 'last_sent', ago), acts(test),
    ], { detail: (one) => [facts({ Events: one.events.join(', ') }), one.error && errorBox(one.error)], empty: 'Nobody is told when something breaks: add a [[channel]] to the configuration.', line: 'notify list' }),
    rows.length > 0 && (until ? silence('Speak again', 'off', () => null) : [form(field('Quiet until', time)), silence('Be quiet', 'UNTIL', chosen)]),
    incidents.length > 0 && [h('h3', null, 'What lasts'), items(incidents, (one) => [strong(one.title), ` ${one.impact}, since `, ago(one.since), one.hint && quiet(one.hint)])],
  ];
}

/** A secret that is told once. */
const once = (place, title, secret, ...note) => fill(place, h('h3', null, title), command(secret, ''), quiet(...note));

function users(rows, again) {
  const said = status();
  const [name, role] = [input(), select(ROLES, 'viewer')];
  const link = (told) => { once(said, `The first login of ${told.user}`, told.link, 'Works once, until ', ago(told.expires_at), '.'); };
  const path = (user) => `api/admin/users/${segment(user.name)}`;
  const change = (user) => select(ROLES, user.role, (value) => patch(path(user), { role: value }).catch(fail).finally(again), { 'aria-label': `Role of ${user.name}` });
  return [list('Users', rows, [
    col('User', 'name', strong), col('Role', change), col('Password', (user) => (user.has_password ? 'set' : user.link_expires_at ? ['link, until ', ago(user.link_expires_at)] : 'none')), num('Sessions', 'sessions'),
    acts((user) => [
      press('New link', `admin link --user ${word(user.name)}`, async () => link(await post(`${path(user)}/link`)), ADMIN),
      user.name !== session.user && press('Remove', `admin users remove ${word(user.name)}`, async () => { await del(path(user)); again(); }, danger(`Remove ${user.name}?`, 'Its sessions end now.', user.name)),
    ]),
  ]), form(field('Name', name), field('Role', role)), act('Add a user', 'admin users add NAME --role ROLE', async () => link(await post('api/admin/users', { name: name.value, role: role.value })), ADMIN), said];
}

function tokens(rows, again) {
  const said = status();
  const [name, role, days] = [input(), select(ROLES, 'viewer'), input({ type: 'number', min: 1, max: 3650, value: 90 })];
  const revoke = (one) => press('Revoke', `token revoke ${one.id}`, async () => { await del(`api/admin/tokens/${one.id}`); again(); }, danger(`Revoke ${one.name}?`, 'Who uses it is refused from now on.'));
  const shown = list('Tokens', rows, [
    col('Token', 'name', strong), col('Role', 'role'), col('Made', (one) => [ago(one.created_at), ` by ${one.created_by}`]), col('Ends', (one) => (one.expired ? badge('expired') : ago(one.expires_at))), col('Last used', 'last_used', ago), acts(revoke),
  ], { empty: 'No token. Scripts on this machine need none: they use the Unix socket.', line: 'token list' });
  return [shown, form(field('Name', name), field('Role', role), field('Days', days)), act('Make a token', 'token create NAME --role ROLE --days N', async () => {
    const told = await post('api/admin/tokens', { name: name.value, role: role.value, days: Number(days.value) });
    once(said, `Token ${told.name}`, told.token, 'It is shown only now. Send it as: Authorization: Bearer TOKEN');
    shown[0].update(await ask('tokens'));
  }, ADMIN), said];
}

const sessions = (rows, again) => list('Sessions', rows, [
  col('User', (one) => [strong(one.user), one.own && ' (this one)']), col('From', (one) => `${one.address} ${one.browser}`), col('Began', 'created_at', ago), col('Seen', 'seen_at', ago), col('Ends', 'expires_at', ago),
  acts((one) => !one.own && press('End', `admin sessions --end ${one.id}`, async () => { await del(`api/admin/sessions/${one.id}`); again(); }, ADMIN)),
], { line: 'admin sessions' });

const PARTS = [['Notifications', 'notify', channels], ['Users', 'users', users], ['Tokens', 'tokens', tokens], ['Sessions', 'sessions', sessions], ['Configuration', 'settings', settings]];

/** Builds the page. */
export function show(main, _params, { signal }) {
  const body = page(main, { title: 'Settings', lead: ['You are ', strong(session.user), `, ${session.role}. `, h('a', { href: '#/password' }, 'Change the password')] });
  const admin = session.role === 'admin';
  for (const [title, path, draw] of admin ? PARTS : PARTS.slice(0, 1)) {
    const place = loaded(signal, () => ask(path), (told) => draw(told, place.again));
    body.append(section(title, place));
  }
  if (!admin) body.append(card(quiet('Users, tokens, sessions and the configuration are for the role admin.')));
}
