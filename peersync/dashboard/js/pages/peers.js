/** Peers: who they are, what they may; invite, join and remove; who is a member of what. */
import { act, acts, ago, ask, badge, button, card, code, col, command, count, danger, del, duration, errorBox, everywhere, facts, field, fill, h, inDatabase, input, list, loaded, num, page, press, put, quiet, section, segment, status, strong, tell, toast, word } from './shared.js';

const RIGHTS = { pull: 'pull from here', push: 'push into this server', schema: 'bring table definitions' };
const PRIMARY = { role: 'admin', kind: 'primary' };
const path = (peer) => `api/admin/peers/${segment(peer)}`;

function invite() {
  const said = status();
  const address = input({ placeholder: 'as configured' });
  return section('Invite a server', field('Where the other server reaches this one', address, 'HOST:PORT'), act('Make a code', 'peer invite', async () => {
    const told = await tell('peers/invite', { address: address.value || null });
    fill(said, command(told.line, 'Paste it on the other server’s page Peers:'), command(`peersync peer join ${told.line}`, 'or type there:'),
      quiet('A secret, for one use, until ', ago(told.expires_at), '. It leads to ', strong(told.address), '.'));
    return 'The code is ready.';
  }, PRIMARY), said);
}

function join(again) {
  const line = h('textarea', { rows: 3, spellcheck: 'false' });
  return section('Join with a code', field('The code of the other server', line, 'It begins with psync1:'), act('Join', 'peer join CODE', async () => {
    const told = await tell('peers/join', { line: line.value.trim().split(/\s/).pop() });
    line.value = '';
    again();
    return `${told.name} (${told.short_id}) is a peer now.`;
  }, PRIMARY));
}

function right(peer, database, name, given, again) {
  const change = (rights) => put(`${path(peer)}/rights`, { rights, database }).then(() => `${peer}: changed.`, (error) => error.message).then(toast).then(again);
  return field(RIGHTS[name], h('input', { type: 'checkbox', checked: given, onchange: (e) => change({ [name]: e.target.checked }) }));
}

function about(peer, again) {
  const name = word(peer.name);
  return [
    peer.problem && errorBox({ code: 'unreachable', message: peer.problem, hint: peer.hint }),
    facts({ Fingerprint: code(peer.node_id), Added: ago(peer.added_at), Reached: peer.reached }),
    Object.entries(peer.rights).map(([database, rights]) => h('fieldset', null, h('legend', null, `${peer.name} may, in ${database === '*' ? 'all databases' : database}`),
      Object.entries(rights).map(([one, given]) => right(peer.name, database, one, given, again)), command(`peersync peer allow ${name} --pull`), command(`peersync peer deny ${name} --push`))),
    act('Remove', `peer remove ${name}`, async () => { await del(path(peer.name)); again(); },
      danger(`Remove ${peer.name}?`, 'It is refused from its next request on. It still knows this server: remove it there too. Where it keeps a database in step, end that first, below.', peer.name)),
  ];
}

const reach = (one) => (one.reachable == null ? badge('unknown', one.reached ?? 'not tried') : one.reachable ? badge('ok', `reachable, ${one.reached}`) : badge('unreachable'));
const may = ({ rights }) => Object.entries(rights).map(([name, all]) => `${name === '*' ? '' : `${name}: `}${Object.keys(RIGHTS).filter((one) => all[one]).join(', ') || 'nothing'}`).join('; ');

const draw = (told, again) => [
  facts({ 'This server': strong(told.name), Fingerprint: code(told.short_id) }),
  list('Peers', told.peers, [col('State', reach), col('Peer', 'name', strong), col('Address', 'address', (text) => text ?? 'only it can connect'), col('May', may), col('Fingerprint', 'short_id', code)],
    { detail: (one) => about(one, again), empty: 'No peers yet. Make a code below, and use it on the other server.', line: 'peer list --probe' }),
];

const gone = (make, label, line, route, body, options, then) => make(label, line + inDatabase(body.database), async () => { await tell(route, body); then(); }, options);
const expire = ({ name, database }, then) => gone(press, 'Expire', `members expire ${word(name)}`, 'members/expire', { database, member: name },
  danger(`Expire ${name}?`, `Nothing is kept for it any more in ${database}. When it comes back, it takes everything anew.`, name), then);
const leave = (database, then) => gone(act, `Leave with ${database}`, 'leave', 'periodic/leave', { database },
  danger(`Leave the group of ${database}?`, 'The others fetch the changes of this server first. Its rows stay, and are no longer kept in step.', database), then);

const members = ({ rows, problems }, then) => [problems, list('Members', rows, [
  col('State', 'state', badge), col('Database', 'database'), col('Server', (one) => [strong(one.name), one.own && ' (this server)']), num('Applied here', 'applied', count), num('Has of ours', 'has', count),
  col('Heard', (one) => (one.own ? '' : one.heard_s == null ? 'never' : `${duration(one.heard_s)} ago`)), acts((one) => !one.own && ['member', 'joining'].includes(one.state) && expire(one, then)),
], { key: (one) => one.database + one.name + one.origin, empty: 'No database is kept in step yet: peersync join PEER', line: 'members list --all' }),
[...new Set(rows.map((one) => one.database))].map((database) => leave(database, then))];

/** Builds the page. */
export function show(main, _params, { signal }) {
  let probe = '';
  const tryAll = button('Try to reach each', () => { probe = '1'; return place.again(); }, { busy: 'Trying…', title: 'peersync peer list --probe' });
  const body = page(main, { title: 'Peers', lead: 'Servers that this one trusts, each by the fingerprint of its certificate.', actions: tryAll });
  const place = loaded(signal, () => ask('peers', { probe }), (told) => draw(told, place.again));
  const all = loaded(signal, () => everywhere('', async (database) => (await ask('members', { database })).members), (told) => members(told, all.again));
  body.append(card(place), invite(), join(place.again), section('Members', quiet('Who keeps which database in step with this server.'), all));
}
