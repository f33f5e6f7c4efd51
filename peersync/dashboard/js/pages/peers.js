/** Peers: who they are, what they may; invite, join and remove; who is a member of what. */
import { ADMIN, act, acts, ago, ask, b, badge, button, card, code, col, command, count, danger, db, del, duration, errorBox, everywhere, facts, field, fill, h, input, list, may, num, open, post, press, prop, put, quiet, said, section, segment, tell, toast, word } from './shared.js';

const RIGHTS = { pull: 'pull from here', push: 'push into this server', schema: 'bring table definitions' };
const PRIMARY = { ...ADMIN, kind: 'primary' };
const path = (peer) => `api/admin/peers/${segment(peer)}`;

function invite() {
  const place = said();
  const address = input({ placeholder: 'as configured' });
  return section('Invite a server', field('Where the other server reaches this one', address, 'HOST:PORT'), act('Make a code', 'peer invite', async () => {
    const told = await tell('peers/invite', { address: address.value || null });
    fill(place, command(told.line, 'Paste it on the other server’s page Peers:'), command(`peersync peer join ${told.line}`, 'or type there:'), quiet('A secret, for one use. It ends ', ago(told.expires_at), ' and leads to ', b(told.address), '.'));
    return 'The code is ready.';
  }, PRIMARY), place);
}

function join(again) {
  const line = h('textarea', { rows: 3, spellcheck: 'false' });
  return section('Join with a code', field('The code of the other server', line, 'It begins with psync1:'), act('Join', 'peer join CODE', async () => {
    const told = await tell('peers/join', { line: line.value.trim() });
    line.value = '';
    return `${told.name} (${told.short_id}) is a peer now.`;
  }, { ...PRIMARY, again }));
}

function grant(peer, database, name, has, again) {
  const change = (rights) => put(`${path(peer)}/rights`, { rights, database }).then(() => `${peer}: changed.`, (error) => error.message).then(toast).then(again);
  return field(RIGHTS[name], h('input', { type: 'checkbox', checked: has, disabled: !may('admin'), onchange: (e) => change({ [name]: e.target.checked }) }));
}

function about(peer, again) {
  const name = word(peer.name);
  return [
    peer.problem && errorBox({ code: 'unreachable', message: peer.problem, hint: peer.hint }),
    facts({ Fingerprint: code(peer.node_id), Added: ago(peer.added_at), Reached: peer.reached }),
    Object.entries(peer.rights).map(([database, rights]) => h('fieldset', null, h('legend', null, `${peer.name} may, in ${database === '*' ? 'all databases' : database}`), Object.entries(rights).map(([one, has]) => grant(peer.name, database, one, has, again)))),
    command(`peersync peer allow ${name} --pull`), command(`peersync peer deny ${name} --push`),
    act('Remove', `peer remove ${name}`, () => del(path(peer.name)),
      danger(again, `Remove ${peer.name}?`, 'It is refused from its next request on. It still knows this server: remove it there too. Where it keeps a database in step, end that first, below.', peer.name)),
  ];
}

const reach = (one) => (one.reachable == null ? badge('unknown', one.reached ?? 'not tried') : one.reachable ? badge('ok', `reachable, ${one.reached}`) : badge('unreachable'));
const given = ({ rights }) => Object.entries(rights).map(([name, all]) => `${name === '*' ? '' : `${name}: `}${Object.keys(RIGHTS).filter((one) => all[one]).join(', ') || 'nothing'}`).join('; ');

const draw = (told, again) => [
  facts({ 'This server': b(told.name), Fingerprint: code(told.short_id) }),
  list('Peers', told.peers, [col('State', reach), prop('Peer', b, 'name'), prop('Address', (text) => text ?? 'only it can connect'), col('May', given), prop('Fingerprint', code, 'short_id')],
    { detail: (one) => about(one, again), empty: 'No peers yet. Make a code below, and use it on the other server.', line: 'peer list --probe' }),
];

const expire = ({ name, database }, again) => press('Expire', `members expire ${word(name)}${db(database)}`, () => tell('members/expire', { database, member: name }),
  danger(again, `Expire ${name}?`, `Nothing is kept for it any more in ${database}. When it comes back, it takes everything anew.`, name));
const leave = (database, again) => act(`Leave with ${database}`, `leave${db(database)}`, () => post('api/admin/periodic/leave', { database }),
  danger(again, `Leave the group of ${database}?`, 'The others fetch the changes of this server first. Its rows stay, and are no longer kept in step.', database));

const members = ({ rows, problems }, then) => [problems, list('Members', rows, [
  prop('State', badge), prop('Database'), col('Server', (one) => [b(one.name), one.own && ' (this server)']), num('Applied here', count, 'applied'), num('Has of ours', count, 'has'),
  col('Heard', (one) => (one.own ? '' : one.heard_s == null ? 'never' : `${duration(one.heard_s)} ago`)), acts((one) => !one.own && ['member', 'joining'].includes(one.state) && expire(one, then)),
], { key: (one) => one.database + one.name + one.origin, empty: 'No database is kept in step yet: peersync join PEER', line: 'members list --all' }), [...new Set(rows.map((one) => one.database))].map((database) => leave(database, then))];

/** Builds the page. */
export function show(main, _params, { signal }) {
  let probe = '';
  const body = open(main, signal, 'Peers', 'Servers that this one trusts, each by the fingerprint of its certificate.', button('Try to reach each', () => { probe = '1'; return place.again(); }, { busy: 'Trying…', title: 'peersync peer list --probe' }));
  const place = body.load(() => ask('peers', { probe }), draw);
  body.append(card(place), invite(), join(place.again), section('Members', quiet('Who keeps which database in step with this server.'), body.load(() => everywhere('members', {}, (told) => told.members), members)));
}
