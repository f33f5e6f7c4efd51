/** Is everything fine? One sentence, then the peers, the worst first. */
import { spark } from '../chart.js';
import { on } from '../live.js';
import { get, post, query } from '../api.js';
import { fill, h, keyed } from '../dom.js';
import { ago, bytes, count, duration, many, percent, rows } from '../format.js';
import { badge, bar, below, button, col, command, filterBar, icon, num, page, row, section, table, toast } from '../ui.js';

const STEP = 100; // peers that the stream of events carries
const of = (page, peer) => query(`#/${page}`, { peer });

/** @param {{filter?: string}} params */
export async function show(main, params, { signal }) {
  const wanted = { filter: params.filter ?? '', limit: STEP };
  const body = page(main, { title: 'Overview' });
  const says = h('div', { role: 'status' });
  const jobs = h('div');
  const more = h('div');
  const filter = filterBar([{ name: 'filter', label: 'Find a peer', value: wanted.filter }], (values) => reload(values));
  const list = peers(wanted, () => reload());
  body.append(says, jobs, section('Peers', filter, list, more));

  function draw(data) {
    sentence(says, data);
    running(jobs, data);
    filter.hidden = data.counts.peers < 8;
    list.update(data.peers);
    const left = data.peers_total - data.peers.length;
    fill(more, left > 0 && [`The worst ${count(data.peers.length)} of ${count(data.peers_total)}. `, button(`Show ${count(Math.min(STEP, left))} more`, () => reload({ limit: wanted.limit + STEP }))]);
  }
  async function reload(change) {
    Object.assign(wanted, change);
    draw(await get(query('/api/admin/overview', wanted), { signal }));
  }
  let last = 0;
  on('overview', (data) => {
    if (wanted.limit === STEP && !wanted.filter) draw(data);
    else if (Date.now() - last > 2000) { last = Date.now(); reload().catch(() => {}); }
  }, signal);
  on('jobs', (data) => running(jobs, data), signal);
  if (!says.firstChild) await reload();
}

const COUNTS = { peers: ['peer', 'peers'], links: ['link', 'links'], conflicts: ['conflict', 'conflicts'], quarantined: ['change in quarantine', 'quarantine'], parked: ['parked table', 'quarantine'], running: ['running sync', 'sync'] };

function sentence(box, { sentence: text, fine, counts }) {
  if (box.dataset.key !== text + fine) {
    box.dataset.key = text + fine;
    const look = fine ? 'ok' : 'warn';
    fill(box, h('p', { class: `says ${look}` }, icon(look), text), h('ul', { class: 'figures' }));
  }
  const shown = Object.entries(COUNTS).filter(([name]) => counts[name] || name === 'peers' || name === 'conflicts');
  fill(box.lastChild, shown.map(([name, [word, to]]) => h('li', null, counts[name] ? h('a', { href: `#/${to}` }, many(counts[name], word)) : h('small', null, `no ${word}s`))));
}

/** The syncs that run, with what is taken here or given from here. */
export function running(box, { running: taken, giving }) {
  const all = [...taken, ...giving];
  if (!all.length) return fill(box);
  if (!box.firstChild) fill(box, section('Running now', h('div', { class: 'body' })));
  return keyed(box.querySelector('.body'), all, (p) => p.session, (p) => fill(h('div'), progress(p)), (node, p) => fill(node, progress(p)));
}

function progress(p) {
  const name = `${p.source} → ${p.target}: ${p.database}`;
  const left = p.waiting_for ? `waits for ${p.waiting_for}` : [`step ${p.step_number} of 5, ${p.step}`, p.eta_s != null && `${duration(Math.ceil(p.eta_s))} left`].filter(Boolean).join(', ');
  return [row(h('a', { href: `#/job/${p.session}` }, name), percent(p.percent), h('small', null, left)), bar(p.percent, name)];
}

const peers = (wanted, reload) => table({
  caption: 'Peers, the worst first', limit: Infinity, key: (p) => p.peer, detail: databases, limit: 1000, 
  empty: () => (wanted.filter ? 'No peer has that in its name.' : ['No peers yet. ', h('a', { href: '#/peers' }, 'Invite one'), command('peersync peer invite')]),
  columns: [
    col('Peer', 'peer', (name) => h('b', null, name)),
    col('State', (p) => [badge(p.state), below(p.problem)]),
    col('Last sync', 'last_sync', ago),
    num('Lag', 'lag_s', duration),
    num('Waiting', (p) => h('a', { href: of('links', p.peer) }, rows(p.rows_waiting), p.bytes_waiting ? `, ${bytes(p.bytes_waiting)}` : '')),
    col('Next', next),
    col('Lag lately', (p) => p.history.length > 1 && spark(p.history, `Lag of ${p.peer} lately, up to ${duration(Math.max(...p.history))}`)),
    col('Actions', (p) => acts(p, reload)),
  ],
});

const periodic = (p) => p.databases.some((d) => d.periodic);

function next(p) {
  if (p.next_at) return ago(p.next_at);
  return h('small', null, p.state === 'paused' ? 'when it is resumed' : periodic(p) ? 'at the next change' : 'when you start it');
}

function acts({ peer, state, ...p }, reload) {
  if (!periodic(p)) return h('a', { href: of('sync', peer) }, 'Full sync');
  const paused = state === 'paused';
  const turn = async () => {
    await post('/api/admin/sync/pause', { peer, paused: !paused });
    toast(paused ? `${peer} goes on.` : `${peer} is paused until you resume it. Nothing is lost meanwhile.`);
    await reload();
  };
  return row(
    button('Sync now', () => now(peer), { busy: 'Syncing …', role: 'operator', why: paused ? `${peer} is paused: resume it first.` : null, title: `peersync sync now ${peer} --wait` }),
    button(paused ? 'Resume' : 'Pause', turn, { role: 'operator', title: `peersync sync ${paused ? 'resume' : 'pause'} ${peer}` }),
  );
}

async function now(peer) {
  const { result, links } = await post('/api/admin/sync/now', { peer, wait: true, timeoutS: 60 });
  const problem = links.find((link) => link.problem)?.problem ?? '';
  toast(result === 'done' ? `${peer}: both sides have everything, proved in ${duration(Math.max(...links.map((l) => l.seconds)))}.` : `${peer}: ${result}. ${problem}`);
}

/** Whether all rows were the same when they were compared last. */
function proof({ peer, database, proof: known }) {
  const says = known?.differs_since ? [badge('differs'), ' since ', ago(known.differs_since)] : known?.proved_at ? ['identical ', ago(known.proved_at)] : 'never proved identical';
  return h('a', { href: query('#/verify', { peer, database }) }, says);
}

function databases(p) {
  const left = p.databases_total - p.databases.length;
  return [
    p.hint && h('p', null, p.hint),
    table({
      caption: `Databases with ${p.peer}`, rows: p.databases, key: (d) => d.database,
      columns: [
        col('Database', 'database'), col('State', (d) => [badge(d.state), below(d.problem, ' ', d.hint)]),
        num('To take', (d) => count(d.periodic?.to_take)), num('To give', (d) => count(d.periodic?.to_give)), col('Rows', proof),
        col('Last full sync', (d) => (d.last_job ? h('a', { href: `#/job/${d.last_job}` }, ago(d.last_sync)) : ago(d.last_sync))),
      ],
    }),
    left > 0 && h('a', { href: of('links', p.peer) }, `${count(left)} more`),
    periodic(p) && command(`peersync sync now ${p.peer} --wait`),
  ];
}
