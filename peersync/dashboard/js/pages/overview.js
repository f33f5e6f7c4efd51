/** Is everything fine? One sentence, then the peers, the worst first. */
import { ago, ask, badge, bar, below, button, bytes, cli, count, db, duration, fill, filterBar, h, hinted, icon, items, keyed, link, list, many, num, oneWay, page, percent, press, query, row, rows, s, said, section, sleep, small, table, tell, word } from '../kit.js';

const STEP = 100; // peers that the stream of events carries
const of = (page, peer) => query(`#/${page}`, { peer });
const whom = ({ peer, database }) => (peer ? ` ${word(peer)}` : '') + db(database);

/** Pauses or resumes a link, all links with a peer, or all of them. */
export const pause = (make, label, paused, { peer, database }, again) => make(label, `sync ${paused ? 'pause' : 'resume'}${whom({ peer, database })}`, async () => {
  const { links } = await tell('sync/pause', { paused, peer: peer || null, database });
  return `${many(links.length, 'link')} ${paused ? 'paused until you resume it. Nothing is lost meanwhile.' : 'resumed.'}`;
}, { again });

/** Syncs them now, and `say`s what came of it. */
export const now = (make, label, { peer, database }, { say, why } = {}) => make(label, `sync now${whom({ peer, database })} --wait`, async () => {
  const { result, links } = await tell('sync/now', { peer: peer || null, database, wait: true, timeoutS: 60 });
  const problem = links.find(one => one.problem)?.problem ?? '';
  say?.(section('Sync now', items(links, one => [badge(one.result), ` ${one.database} with ${one.peer} `, one.problem ?? `took ${duration(one.seconds)}`, oneWay(one)])));
  return result === 'done' ? `${links.every(one => one.direction === 'both') ? 'Both sides have everything' : 'All that goes that way is there'}, proved in ${duration(Math.max(0, ...links.map(one => one.seconds)))}.` : `Sync now: ${result}. ${problem}`;
}, { busy: 'Syncing …', why });

const COUNTS = { peers: ['peer', 'peers'], links: ['link', 'links'], conflicts: ['conflict', 'conflicts'], quarantined: ['change in quarantine', 'quarantine'], parked: ['parked table', 'quarantine'], running: ['running sync', 'sync'], requests: ['pairing request', 'peers'] };

function sentence(box, { sentence: text, fine, counts }) {
  if (box.dataset.key !== text + fine) {
    box.dataset.key = text + fine;
    const look = fine ? 'ok' : 'warn';
    fill(box, h(`p.says.${look}`, icon(look), text), h('ul.figures'));
  }
  const shown = Object.keys(COUNTS).filter(name => counts[name] || name === 'peers' || name === 'conflicts');
  fill(box.lastChild, shown.map(name => { const [word, to] = COUNTS[name]; return h('li', counts[name] ? link(`#/${to}`, many(counts[name], word)) : small(`no ${word}s`)); }));
}

/** The syncs that run, with what is taken here or given from here. */
export function running(box, { running: taken, giving }) {
  const all = [...taken, ...giving];
  if (!all.length) return fill(box);
  if (!box.firstChild) fill(box, section('Running now', h('div.body')));
  return keyed(box.querySelector('.body'), all, one => one.session, one => fill(h('div'), progress(one)), (node, one) => fill(node, progress(one)));
}

function progress(one) {
  const name = `${one.source} → ${one.target}: ${one.database}`;
  const left = one.waiting_for ? `waits for ${one.waiting_for}` : [`step ${one.step_number} of 5, ${one.step}`, one.eta_s != null && `${duration(Math.ceil(one.eta_s))} left`].filter(Boolean).join(', ');
  return [row(link(`#/job/${one.session}`, name), percent(one.percent), small(left)), bar(one.percent, name)];
}

const periodic = ({ databases }) => databases.map(one => one.periodic).filter(Boolean);

function next(peer) {
  if (peer.next_at) return ago(peer.next_at);
  return small(peer.paused ? 'when it is resumed' : periodic(peer).length ? 'at the next change' : 'when you start it');
}

function actions({ peer, paused, paused_databases: some, ...its }, again) {
  if (!periodic(its).length) return link(of('sync', peer), 'Full sync');
  return row(now(press, 'Sync now', { peer }, { why: paused && `${peer} is paused: resume it first.` }), !paused && pause(press, 'Pause', true, { peer }, again), some > 0 && pause(press, 'Resume', false, { peer }, again));
}

function spark(points, label) {
  const top = Math.max(1, ...points);
  const d = points.map((value, i) => `${i ? 'L' : 'M'}${((98 * i) / (points.length - 1) + 1).toFixed(1)} ${(22 - (20 * value) / top).toFixed(1)}`).join('');
  return s('svg.spark', { viewBox: '0 0 100 24', preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, s('path', { d, 'vector-effect': 'non-scaling-stroke' }));
}

const columns = again => ({
  Peer: 'b', State: [one => [badge(one.state), one.state !== 'paused' && one.paused_databases > 0 && [' ', badge('paused', one.paused ? 'paused' : `${one.paused_databases} paused`)], below(one.problem)], one => one.state], 'Last sync': 'ago', Lag: 'duration lag_s',
  Waiting: num(one => link(of('links', one.peer), rows(one.rows_waiting), one.bytes_waiting ? `, ${bytes(one.bytes_waiting)}` : ''), one => one.rows_waiting), Next: next,
  'Lag lately': one => one.history.length > 1 && spark(one.history, `Lag of ${one.peer} lately, up to ${duration(Math.max(...one.history))}`), Actions: one => actions(one, again),
});

function proof({ peer, database, proof: known }) {
  const says = known?.differs_since ? [badge('differs'), ' since ', ago(known.differs_since)] : known?.proved_at ? ['identical ', ago(known.proved_at)] : 'never proved identical';
  return link(query('#/verify', { peer, database }), says);
}

const DATABASES = {
  Database: 'text', State: one => [badge(one.state), one.periodic && oneWay(one.periodic), below(one.problem), hinted(one.hint)], 'To take': 'count periodic.to_take', 'To give': 'count periodic.to_give', Rows: proof,
  'Last full sync': one => (one.last_job ? link(`#/job/${one.last_job}`, ago(one.last_sync)) : ago(one.last_sync)),
};

const about = one => [
  !one.databases.length && hinted(one.hint), list(`Databases with ${one.peer}`, one.databases, DATABASES),
  one.databases_total > one.databases.length && link(of('links', one.peer), `${count(one.databases_total - one.databases.length)} more`),
  periodic(one).length > 0 && cli(`sync now ${word(one.peer)} --wait`),
];

export const show = page('Overview', null, async ({ body, params, on, signal }) => {
  const wanted = { filter: params.filter ?? '', limit: STEP };
  const [says, jobs, more] = [said(), h('div'), h('div')];
  const filter = filterBar({ filter: ['Find a peer'] }, wanted, values => reload(values));
  const none = () => (wanted.filter ? 'No peer has that in its name.' : ['No peers yet. ', link('#/peers', 'Invite one'), cli('peer invite')]);
  const peers = table('Peers, the worst first', [], columns(() => reload()), { limit: 1000, empty: none, detail: about });
  let shown = '';
  function draw(data) {
    if (data.generated_at < shown) return; // an answer that was overtaken by the stream
    if (!shown) body.append(says, jobs, section('Peers', filter, peers, more));
    shown = data.generated_at;
    sentence(says, data);
    running(jobs, data);
    filter.hidden = data.counts.peers < 8;
    peers.update(data.peers);
    const left = data.peers_total - data.peers.length;
    fill(more, left > 0 && [`The worst ${count(data.peers.length)} of ${count(data.peers_total)}. `, button(`Show ${count(Math.min(STEP, left))} more`, () => reload({ limit: wanted.limit + STEP }))]);
  }
  async function reload(change) {
    Object.assign(wanted, change);
    draw(await ask('overview', wanted, { signal }));
  }
  let last = 0;
  on('overview', data => {
    if (wanted.limit === STEP && !wanted.filter) draw(data);
    else if (Date.now() - last > 2000) { last = Date.now(); reload().catch(() => {}); }
  });
  on('jobs', data => running(jobs, data));
  if (wanted.filter) await reload();
  else if (!shown) await Promise.race([new Promise(done => { on('overview', done); }), sleep(0.5).then(() => shown || reload())]); // what the stream brings need not be asked for
});
