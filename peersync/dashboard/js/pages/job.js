/** One full sync: how far it is, on whichever server the page is open; then how it ended. */
import { on } from '../live.js';
import { get, post, query, session } from '../api.js';
import { fill, h } from '../dom.js';
import { ago, at, bytes, count, duration, many, percent, rate, rows, segment } from '../format.js';
import { badge, bar, below, button, col, command, details, dialog, errorBox, facts, flow, num, page, row, section, table, toast } from '../ui.js';

const DOING = { backup: 'reading on the source', transfer: 'transferring the backup', convert: 'converting', restore: 'restoring', verify: 'verifying' };
const ended = ({ state }) => ['done', 'partly', 'failed', 'cancelled'].includes(state);
const url = (view, action = '') => `/api/admin/jobs/${segment(view.id)}${action}`;

/** A column of tables, with what `notes` has to say about each. */
export const tableColumn = (notes) => col('Table', (t) => [`${t.schema}.${t.name}`, notes(t).map((note) => below(note))], (t) => `${t.schema}.${t.name}`);

/** @param {{id: string}} params the id, or its beginning */
export async function show(main, { id }, { signal }) {
  const job = new Job(main, await get(url({ id }), { signal }), signal);
  on('jobs', ({ running, giving }) => job.heard([...running, ...giving]), signal);
  on('ended', (view) => view.id === job.view.id && job.refresh(), signal);
  on('open', () => job.refresh(), signal);
  const timer = setInterval(() => ended(job.view) || job.refresh(), 5000); // the stream may be down
  signal.addEventListener('abort', () => clearInterval(timer));
}

class Job {
  constructor(main, view, signal) {
    const [flowing, end, waits, figures] = [h('div'), h('div', { class: 'body' }), h('p', { class: 'warning' }), h('ul', { class: 'figures' })];
    Object.assign(this, { signal, flowing, end, waits, figures, state: h('div', { role: 'status' }), bar: bar(null, 'The whole'), acts: row(), steps: steps(), log: h('ul'), said: new Set() });
    const body = page(main, { title: `${view.action === 'pull' ? 'Pull' : 'Push'} of ${view.database}: ${sides(view).join(' → ')}`, lead: ['Started ', ago(view.started_at), ` by ${view.requested_by}`] });
    const log = details('Log', h('small', null, 'Since this page was opened. The agent’s own: ', h('code', null, 'journalctl -u peersync-agent')), this.log);
    body.append(flowing, end, section('Progress', this.state, this.bar, figures, waits, this.acts, this.steps, log, command(`peersync jobs watch ${view.id.slice(0, 8)}`)));
    this.draw(view);
  }

  heard(list) {
    if (ended(this.view)) return;
    const mine = list.find((p) => p.session === this.view.id);
    if (mine) this.progress(mine);
    else this.refresh();
  }

  async refresh() {
    this.asked ??= get(url(this.view), { signal: this.signal }).finally(() => { this.asked = null; });
    await this.asked.then((view) => this.draw(view), () => {}); // the badge says that it is down
  }

  async draw(view) {
    const same = this.view?.state === view.state && this.view.undo === view.undo;
    this.view = view;
    if (view.progress) this.progress(view.progress);
    else fill(this.state, badge(view.state));
    if (same) return;
    const over = ended(view);
    const changed = ['done', 'partly'].includes(view.state) ? 'was changed' : 'was to be changed';
    fill(this.flowing, flow(...sides(view), session.node, over ? ['gave', changed] : undefined));
    fill(this.acts, over || cancel(view));
    fill(this.end, over && this.closing(await before(view, this.signal)));
  }

  progress(p) {
    const over = ended(p);
    const words = over ? ` after ${duration(p.elapsed_s)}` : ` Step ${p.step_number} of 5: ${DOING[p.step]}`;
    if (this.words !== p.state + words) fill(this.state, h('p', { class: 'says' }, badge(p.state), words));
    this.words = p.state + words;
    this.bar.hidden = over;
    this.bar.set(p.percent);
    fill(this.figures, figures(p, over).map(([value, name]) => h('li', null, h('b', null, value), ` ${name}`)));
    this.waits.textContent = over ? '' : p.waiting_for ? `Waits for ${p.waiting_for}` : p.message ?? '';
    this.steps.update(p.steps.map((step) => (step.state === 'failed' && p.state === 'cancelled' ? { ...step, state: 'stopped' } : step)));
    for (const text of [`${p.state}: ${DOING[p.step]}`, p.resumed && `taken up again, ${p.resumed} so far`, p.waiting_for, p.message, ...p.notes]) this.note(p, text);
  }

  note(p, text) {
    if (!text || this.said.has(text)) return;
    this.said.add(text);
    this.log.append(h('li', null, h('small', null, at(p.updated_at)), ` ${text}`));
  }

  closing(last) {
    const { view } = this;
    const { tables, error } = view;
    const cancelled = view.state === 'cancelled';
    return [
      error && !cancelled && errorBox(error, view.resumable ? 'What has arrived is kept, so the sync can be taken up again.' : null),
      section('Summary', facts({ Result: cancelled ? error?.message : '', ...summary(view, last) }), row(
        view.undo === 'kept' && button('Undo …', () => this.undo(), { role: 'admin', kind: 'danger', busy: 'Looking …' }),
        view.resumable && !theirs(view) && button('Take it up again', () => post(url(view, '/resume')).then(() => this.refresh()), { role: 'operator', kind: 'primary', title: `peersync jobs resume ${view.id.slice(0, 8)}` }),
        h('a', { href: query('#/sync', { peer: view.peer, database: view.database }) }, 'Another full sync'),
      ), view.undo === 'kept' && command(`peersync undo ${view.id.slice(0, 8)}`)),
      tables.length > 0 && section('Tables', results(tables)),
    ];
  }

  async undo() {
    const { view } = this;
    const plan = await post(url(view, '/undo'), { dryRun: true });
    const body = [undone(plan.tables), plan.created.length > 0 && h('p', null, `Created by the sync, and stays: ${plan.created.join(', ')}`)];
    if (!(await dialog({ title: `Undo this sync of ${view.database}?`, body, confirm: 'Undo it', confirmName: view.database }))) return;
    const { tables } = await post(url(view, '/undo'));
    const left = tables.some((t) => t.newer || t.error);
    toast(left ? 'Undone, but for rows that are newer than the sync: those were left as they are.' : 'Undone: the rows are as they were before.');
    this.draw({ ...view, undo: left ? 'kept' : 'undone' });
  }
}

function sides({ progress, role, peer }) {
  if (progress) return [progress.source, progress.target];
  return role === 'target' ? [peer, session.node] : [session.node, peer];
}

function figures(p, over) {
  const total = p.steps[0]?.total;
  return [
    !over && [percent(p.percent), 'of the whole'],
    [bytes(p.raw_bytes), total ? `of ${bytes(total)} read` : 'read'], [bytes(p.wire_bytes), 'on the wire'],
    p.saved_bytes && [bytes(p.saved_bytes), 'not sent again'], [rows(p.rows), 'taken in'],
    !over && [rate(p.rate_bytes_s), ''], !over && (p.eta_s == null ? ['time left', 'not known yet'] : [duration(Math.ceil(p.eta_s)), 'left']),
  ].filter(Boolean);
}

function far({ name, state, unit, done, total }) {
  if (state === 'waiting') return '';
  const amount = unit === 'bytes' ? bytes : count;
  return [amount(done), total != null && total !== done && ` of ${amount(total)}`, unit !== 'bytes' && ` ${unit}`, state === 'running' && bar(total ? (100 * done) / total : null, name)];
}

const steps = () => table({
  caption: 'The five steps', key: (step) => step.name,
  columns: [col('Step', (step) => step.name), col('State', ({ state }) => badge(state === 'waiting' ? 'to come' : state)), col('Done', far), num('Time', ({ seconds }) => (seconds ? duration(seconds) : ''))],
});

/** Whether the peer does it by itself, so that only it can stop it. */
const theirs = ({ role, action }) => role === 'source' && action === 'pull';

const meaning = (view) => (['restore', 'verify'].includes(view.progress?.step)
  ? `Nothing is committed yet: ${sides(view)[1]} is put back as it was. What was committed table by table stays, and if the commit is under way already, the sync ends as done.`
  : `Nothing has been changed on ${sides(view)[1]}, and nothing will be.`);

function cancel(view) {
  const ask = async () => {
    const body = [h('p', null, meaning(await get(url(view)))), command(`peersync jobs cancel ${view.id.slice(0, 8)}`)];
    if (await dialog({ title: 'Cancel this sync?', body, confirm: 'Cancel the sync', cancel: 'Let it run', danger: true })) await post(url(view, '/cancel'));
  };
  return [button('Cancel …', ask, { role: 'operator', kind: 'danger', why: view.state === 'cancelling' ? 'It is being cancelled already.' : theirs(view) && `${view.peer} pulls it, and can cancel it there.` }), h('small', null, 'Closing this page stops nothing.')];
}

/** The one before it, to compare; nothing where there is none. */
async function before(view, signal) {
  const list = await get(query('/api/sync/history', { database: view.database, state: 'done', limit: 20 }), { signal }).catch(() => []);
  return list.find((j) => j.peer === view.peer && j.role === view.role && j.started_at < view.started_at && j.progress?.elapsed_s);
}

const AMOUNTS = { inserted: 'Inserted', updated: 'Updated', unchanged: 'Unchanged', deleted: 'Deleted', skipped: 'Left out', kept_local: 'Kept, changed there and not sent', target_only: 'Only on the target' };
const UNDO = { undone: 'It has been undone.', too_large: 'Too much was changed to keep what it needs.', expired: 'What it needs is no longer kept.' };

function summary({ tables, progress: p, state, undo, completed_at: end }, last) {
  const sums = Object.entries(AMOUNTS).map(([name, said]) => [tables.reduce((n, t) => n + t[name], 0), said]).filter(([n]) => n);
  return {
    Rows: sums.map(([n, said]) => `${count(n)} ${said.toLowerCase()}`).join('; '),
    Bytes: p?.wire_bytes ? `${bytes(p.raw_bytes)} read, ${bytes(p.wire_bytes)} on the wire` : '',
    Time: p && `${duration(p.elapsed_s)}${last && state === 'done' ? `; the time before it was ${duration(last.progress.elapsed_s)}` : ''}`,
    Ended: end && ago(end),
    Undo: UNDO[undo],
  };
}

const key = (t) => `${t.schema}.${t.name}`;
const notes = tableColumn((t) => [t.error, t.note, t.way_reason && `sent whole: ${t.way_reason}`, t.way === 'delta' && `compared: ${count(t.differing_blocks)} of ${many(t.blocks, 'block')} differed`]);

const undone = (tables) => table({
  caption: 'What the undo does', rows: tables, key, empty: 'Nothing is left to undo.',
  columns: [notes, num('Old values back', 'restored', count), num('Back again', 'reinserted', count), num('Taken away', 'deleted', count), num('Newer, stay', 'newer', count)],
});

const results = (tables) => table({
  caption: 'What was done to each table', rows: tables, key,
  columns: [notes, col('Result', 'result', badge), ...Object.keys(AMOUNTS).filter((name, i) => i < 3 || tables.some((t) => t[name])).map((name) => num(AMOUNTS[name], name, count)), num('Size', 'raw_bytes', bytes)],
});
