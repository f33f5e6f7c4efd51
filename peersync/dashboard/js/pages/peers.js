/** Peers: who they are, what they may; who asks to become one; invite, join and remove; who is a member of what. */
import { ADMIN, PRIMARY, act, acts, ago, ask, b, badge, below, button, card, checkbox, cli, code, command, danger, db, del, duration, errorBox, every, everywhere, facts, field, fill, h, input, list, may, once, page, post, press, put, quiet, said, section, segment, sleep, small, tell, toast, word } from '../kit.js';

const RIGHTS = { pull: 'pull from here', push: 'push into this server', schema: 'bring table definitions' };
const OWNER = { ...ADMIN, ...PRIMARY };
const path = peer => `api/admin/peers/${segment(peer)}`;

const unlike = one => one.looks_like && h('p.warning', `${one.name} is not ${one.looks_like}, however alike they look.`);

/** Who waits to be accepted: the fingerprint is compared first. */
const requests = (rows, again) => rows.length > 0 && section('Who asks to be a peer', quiet('Accept only where the other server shows the same fingerprint.'), list('Requests', rows, {
  Server: one => [b(one.name), unlike(one)], Fingerprint: 'code short_id', 'Came from': one => [one.came_from, one.address && `, reached at ${one.address}`], Asked: 'ago asked_at', Invited: one => one.invited_by, Problem: one => one.problem && badge('blocked', one.problem),
  ...acts(({ id, name, short_id: shown, ...one }) => [
    press('Accept', `peer accept ${word(name)} --fingerprint ${shown}`, () => tell(`peers/pending/${id}/accept`, {}).then(() => `${name} is a peer now.`), { ...OWNER, again, ask: { title: `Accept ${name}?`, body: ['Its fingerprint has to be ', code(shown), ' over there, too.', unlike({ name, ...one })] } }),
    press('Refuse', `peer refuse ${word(name)}`, () => tell(`peers/pending/${id}/refuse`, {}), { ...ADMIN, kind: 'danger', again }),
  ]),
}, { line: 'peer pending' }));

const invites = (rows, again) => rows.length > 0 && list('Invitations', rows, {
  State: 'badge', Invitation: ({ id }) => code(id.slice(0, 8)), Address: 'text', Made: one => [ago(one.made_at), ` by ${one.made_by}`], Ends: one => (one.state === 'open' ? ago(one.expires_at) : one.used_by && ['used by ', code(one.used_by)]),
  Accept: one => (one.confirm ? `asks you${one.waiting ? `: ${one.waiting} wait` : ''}` : 'by itself'), 'Wrong tries': 'count wrong_proofs',
  ...acts(({ id, state, waiting }) => (state === 'open' || waiting > 0) && press('Revoke', `peer revoke ${id.slice(0, 8)}`, () => del(`api/admin/peers/invites/${id}`), { ...ADMIN, again })),
}, { line: 'peer invites' });

function invite(load) {
  const place = said();
  const address = input({ placeholder: 'as configured' });
  const confirm = checkbox();
  const open = load('peers/invites', invites);
  return section('Invite a server', field('Where the other server reaches this one', address, 'HOST:PORT'), field('Ask me first (--confirm)', confirm, 'Who uses the code waits above until an admin has compared the fingerprint.'), act('Make a code', 'peer invite', async () => {
    const told = await tell('peers/invite', { address: address.value || null, confirm: confirm.checked });
    once(place, 'The code', [command(told.line, 'Paste it on the other server’s page Peers:'), cli(`peer join ${told.line}`, 'or type there:')], 'A secret, for one use. It ends ', ago(told.expires_at), ' and leads to ', b(told.address), '.');
    return 'The code is ready.';
  }, { ...OWNER, again: open.again }), place, open);
}

function join(again, signal) {
  const place = said();
  const line = h('textarea', { rows: 3, spellcheck: 'false', required: true });
  /** Again until an admin over there has decided. */
  const send = async () => tell('peers/join', { line: line.value.trim() }).catch(async error => {
    if (error.code !== 'pairing-waits' || signal.aborted) throw error;
    if (!place.firstChild) fill(place, h('p.warning', 'Waits until it is accepted over there. The fingerprint of this server, to compare: ', code(error.data.short_id)));
    await sleep(2);
    return send();
  });
  return section('Join with a code', field('The code of the other server', line, 'It begins with psync1:'), act('Join', 'peer join CODE', async () => {
    const told = await send().finally(() => fill(place));
    line.value = '';
    return `${told.name} (${told.short_id}) is a peer now.`;
  }, { ...OWNER, needs: [line], busy: 'Joining …', again }), place);
}

function grant(peer, database, name, has, again) {
  const change = rights => put(`${path(peer)}/rights`, { rights, database }).then(() => `${peer}: changed.`, error => error.message).then(toast).then(again);
  return field(RIGHTS[name], checkbox({ checked: has, disabled: !may('admin'), onchange: e => change({ [name]: e.target.checked }) }));
}

function about(peer, again) {
  const name = word(peer.name);
  return [
    peer.problem && errorBox({ code: 'unreachable', message: peer.problem, hint: peer.hint }),
    facts({ Fingerprint: code(peer.node_id), Added: ago(peer.added_at), Reached: peer.reached }),
    Object.entries(peer.rights).map(([database, rights]) => h('fieldset', h('legend', `${peer.name} may, in ${database === '*' ? 'all databases' : database}`), Object.entries(rights).map(([one, has]) => grant(peer.name, database, one, has, again)))),
    cli(`peer allow ${name} --pull`), cli(`peer deny ${name} --push`),
    act('Remove', `peer remove ${name}`, () => del(path(peer.name)),
      danger(again, `Remove ${peer.name}?`, 'It is refused from its next request on. It still knows this server: remove it there too. Where it keeps a database in step, end that first, below.', peer.name)),
  ];
}

const COLUMNS = {
  State: one => (one.reachable == null ? small(one.reached ?? 'not tried') : one.reachable ? badge('ok', `reachable, ${one.reached}`) : badge('unreachable')), Peer: 'b name', Address: ({ address }) => address ?? 'only it can connect',
  May: ({ rights }) => Object.entries(rights).map(([name, all]) => `${name === '*' ? '' : `${name}: `}${Object.keys(RIGHTS).filter(one => all[one]).join(', ') || 'nothing'}`).join('; '), Fingerprint: 'code short_id',
};

const draw = (told, again) => [
  facts({ 'This server': b(told.name), Fingerprint: code(told.short_id) }),
  list('Peers', told.peers, COLUMNS, { detail: one => about(one, again), empty: 'No peers yet. Make a code below, and use it on the other server.', line: 'peer list --probe' }),
];

const expire = ({ name, database }, again) => press('Expire', `members expire ${word(name)}${db(database)}`, () => tell('members/expire', { database, member: name }),
  danger(again, `Expire ${name}?`, `Nothing is kept for it any more in ${database}. When it comes back, it takes everything anew.`, name));
const leave = (database, again) => act(`Leave with ${database}`, `leave${db(database)}`, () => post('api/admin/periodic/leave', { database }),
  danger(again, `Leave the group of ${database}?`, 'The others fetch the changes of this server first. Its rows stay, and are no longer kept in step.', database));

const DIRECTIONS = { receive: 'only receives', give: 'only gives' };
const members = ({ rows, problems }, again) => [problems, list('Members', rows, {
  State: 'badge', Database: 'text', Server: one => [b(one.name), one.own && ' (this server)', below(DIRECTIONS[one.direction])], 'Applied here': 'count applied', 'Has of ours': 'count has',
  Heard: one => (one.own ? '' : one.heard_s == null ? 'never' : `${duration(one.heard_s)} ago`), ...acts(one => !one.own && ['member', 'joining'].includes(one.state) && expire(one, again)),
}, { empty: 'No database is kept in step yet: peersync join PEER', line: 'members list --all' }), [...new Set(rows.map(one => one.database))].map(database => leave(database, again))];

export const show = page('Peers', 'Servers that this one trusts, each by the fingerprint of its certificate.', ({ actions, load, signal }) => {
  let probe = '';
  const place = load(() => ask('peers', { probe }), draw);
  actions(button('Try to reach each', () => { probe = '1'; return place.again(); }, { busy: 'Trying…', title: 'peersync peer list --probe' }));
  const waiting = load('peers/pending', rows => requests(rows, () => { waiting.again(); place.again(); }));
  every(5, signal, () => document.hidden || waiting.again());
  return [waiting, card(place), invite(load), join(place.again, signal), section('Members', quiet('Who keeps which database in step with this server.'), load(() => everywhere('members', {}, told => told.members), members))];
});
