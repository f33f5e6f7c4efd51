/** What is configured and where it came from; notifications; users, tokens and sessions. */
import { ADMIN, act, acts, ago, b, badge, cli, command, danger, del, details, dialog, errorBox, facts, fail, field, filterBar, form, h, input, items, link, list, many, once, p, page, patch, post, press, quiet, said, section, segment, select, session, tell, word } from '../kit.js';

const API = 'api/admin/';
const roles = (role = 'viewer', ...more) => select(['viewer', 'operator', 'admin'], role, ...more);

/** "a.b" and its value, of every value; of a list of tables by their names. */
function flat(value, path = '') {
  if (value === null || typeof value !== 'object' || (Array.isArray(value) && typeof value[0] !== 'object')) return [[path, value]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${inner?.name ?? name}` : name));
}

function settings({ config, origins }) {
  const all = flat(config).map(([name, value]) => ({ name, value: JSON.stringify(value), from: origins[name] ?? origins[name.split('.')[0]] }));
  const part = (caption, rows) => list(caption, rows, { Setting: 'b name', Value: 'code', From: ({ from }) => h('span', { title: from }, from.split('/').pop().split(': ')[0]) }, { limit: 1000, empty: 'Nothing: all is as it came.' });
  const [chosen, defaults] = [false, true].map(is => all.filter(one => (one.from === 'default') === is));
  const rest = part('Defaults', defaults);
  const more = details(many(defaults.length, 'default'), filterBar({ text: ['Find a setting'] }, {}, ({ text }) => rest[0].update(defaults.filter(one => one.name.includes(text)))), rest);
  return [part('Settings that were chosen', chosen), more, cli('config show --origin')];
}

function channels({ quiet_until: until, channels: rows, incidents }, again) {
  const time = input({ type: 'datetime-local' });
  const silence = (label, line, when) => act(label, `notify quiet ${line}`, async () => tell('notify/quiet', { until: when() }), { again });
  const chosen = () => {
    if (!time.value) throw new Error('Choose a time first.');
    return new Date(time.value).toISOString();
  };
  const test = ({ name }) => press('Test', `notify test ${word(name)}`, async () => {
    const [tried] = await tell('notify/test', { channel: name });
    return `${name}: ${tried.sent ? 'sent.' : tried.error.message}`;
  }, { busy: 'Sending…', again });
  return [
    until && p(badge('paused', 'quiet'), ' until ', ago(until)),
    list('Channels', rows, { State: one => badge(one.error ? 'failed' : 'ok'), Channel: one => [b(one.name), ` ${one.kind}`], Sent: 'count', Waiting: 'count', 'Given up': 'count dropped', 'Last sent': 'ago', ...acts(test) },
      { detail: one => [facts({ Events: one.events.join(', ') }), one.error && errorBox(one.error)], empty: 'Nobody is told when something breaks: add a [[channel]] to the configuration.', line: 'notify list' }),
    rows.length > 0 && (until ? silence('Speak again', 'off', () => null) : [form(field('Quiet until', time)), silence('Be quiet', 'UNTIL', chosen)]),
    incidents.length > 0 && [h('h3', 'What lasts'), items(incidents, one => [b(one.title), ` ${one.impact}, since `, ago(one.since), one.hint && quiet(one.hint), press('Dismiss', `notify dismiss ${word(one.key)}`, () => tell('notify/dismiss', { key: one.key }), { again })])],
  ];
}

function users(rows, again, place) {
  const [name, role] = [input({ required: true }), roles()];
  const first = told => once(place, `The first login of ${told.user}`, command(told.link, ''), 'Works once; ends ', ago(told.expires_at), '.');
  const path = user => `${API}users/${segment(user.name)}`;
  const ended = ({ revoked_tokens: gone }) => gone?.length && `Its tokens have ended, too: ${gone.join(', ')}.`;
  const shown = list('Users', rows, {
    User: 'b name', Role: user => roles(user.role, role => dialog({ title: `Make ${user.name} ${role}?`, confirm: 'Change the role' }).then(yes => yes && patch(path(user), { role })).catch(fail).finally(again), { 'aria-label': `Role of ${user.name}` }),
    Password: user => (user.has_password ? 'set' : user.link_expires_at ? ['link, ends ', ago(user.link_expires_at)] : 'none'), Sessions: 'count',
    ...acts(user => [
      press('New link', `admin link --user ${word(user.name)}`, async () => first(await post(`${path(user)}/link`)), ADMIN),
      user.name !== session.user && press('Remove', `admin users remove ${word(user.name)}`, () => del(path(user)).then(ended), danger(again, `Remove ${user.name}?`, 'Its sessions and tokens end now.', user.name)),
    ]),
  });
  return [shown, form(field('Name', name), field('Role', role)), act('Add a user', 'admin users add NAME --role ROLE', async () => {
    const told = await tell('users', { name: name.value, role: role.value });
    first(told);
    shown[0].update([...rows, { name: told.user, role: role.value, link_expires_at: told.expires_at, sessions: 0 }]);
  }, { ...ADMIN, needs: [name] })];
}

function tokens(rows, again, place) {
  const [name, role, days] = [input({ required: true }), roles(), input({ type: 'number', required: true, min: 1, max: 3650, value: 90 })];
  const shown = list('Tokens', rows, {
    Token: 'b name', Role: 'text', Made: one => [ago(one.created_at), ` by ${one.created_by}`], Ends: one => (one.expired ? badge('expired') : ago(one.expires_at)), 'Last used': 'ago',
    ...acts(({ id, name: its }) => press('Revoke', `token revoke ${id}`, () => del(`${API}tokens/${id}`), danger(again, `Revoke ${its}?`, 'Who uses it is refused from now on.'))),
  }, { empty: 'No token. Scripts on this machine need none: they use the Unix socket.', line: 'token list' });
  return [shown, form(field('Name', name), field('Role', role), field('Days', days)), act('Make a token', 'token create NAME --role ROLE --days N', async () => {
    const told = await tell('tokens', { name: name.value, role: role.value, days: Number(days.value) });
    once(place, `Token ${told.name}`, command(told.token, ''), 'It is shown only now. Send it as: Authorization: Bearer TOKEN');
    shown[0].update([told, ...rows]);
  }, { ...ADMIN, needs: [name, days] })];
}

/** "Firefox, Windows"; all that it said of itself on hover. */
const browser = text => h('span', { title: text }, [/(Edg|Firefox|Chrome|Safari)(?!.*Edg)/, /Android|iP\w+|Windows|Mac|Linux(?!; A)/].map(one => text.match(one)?.[0].replace('Edg', 'Edge')).filter(Boolean).join(', ') || text.split(' ')[0]);

const sessions = (rows, again) => list('Sessions', rows, {
  User: one => [b(one.user), one.own && ' (this one)'], From: one => [`${one.address} `, browser(one.browser)], Began: 'ago created_at', Seen: 'ago seen_at', Ends: 'ago expires_at',
  ...acts(one => !one.own && press('End', `admin sessions --end ${one.id}`, () => del(`${API}sessions/${one.id}`), { ...ADMIN, again })),
}, { line: 'admin sessions' });

const PARTS = [['Notifications', 'notify', channels], ['Users', 'users', users], ['Tokens', 'tokens', tokens], ['Sessions', 'sessions', sessions], ['Configuration', 'settings', settings]];
const lead = () => ['You are ', b(session.user), `, ${session.role}. `, session.role !== 'admin' && 'Users, tokens, sessions and the configuration are for the role admin. ', link('#/password', 'Change the password')];

export const show = page('Settings', lead, ({ load }) => PARTS.slice(0, session.role === 'admin' ? 5 : 1).map(([title, path, draw]) => {
  const secret = said(); // stays when the list above is read anew
  return section(title, load(path, (told, again) => draw(told, again, secret)), secret);
}));
