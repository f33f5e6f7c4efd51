/** One full sync: how far it is, on whichever server the page is open; then how it ended. */
import * as live from '../live.js';
import { PRIMARY, ago, ask, at, b, badge, bar, below, button, bytes, cli, code, count, details, dialog, duration, errorBox, every, facts, fill, flow, get, h, head, link, many, num, p, percent, press, query, rate, row, rows, said, section, segment, session, small, table, tableOf, tell, toast } from '../kit.js';

const DOING = { backup: 'reading on the source', transfer: 'transferring the backup', convert: 'converting', restore: 'restoring', verify: 'verifying' };
const ended = ({ state }) => ['done', 'partly', 'failed', 'cancelled'].includes(state);
const url = ({ id }, action = '') => `jobs/${segment(id)}${action}`;
const short = ({ id }) => id.slice(0, 8);

/** A column of tables, with what `notes` has to say about each. */
export const tableColumn = notes => [t => [tableOf(t), notes(t).map(note => below(note))], tableOf];

/** `id`: or its beginning. */
export async function show(main, { id }, { signal }) {
  const job = new Job(main, await ask(url({ id }), {}, { signal }), signal);
  live.on('jobs', ({ running, giving }) => job.heard([...running, ...giving]), signal);
  live.on('ended', view => view.id === job.view.id && job.refresh(), signal);
  live.on('open', () => job.refresh(), signal);
  every(5, signal, () => ended(job.view) || job.refresh()); // the stream may be down
}

class Job {
  constructor(main, view, signal) {
    Object.assign(this, {
      signal, flowing: h('div'), end: h('div.body'), waits: h('p.warning'), figures: h('ul.figures'), state: said(), bar: bar(null, 'The whole'), acts: row(), steps: steps(), log: h('ul'), said: new Set(),
      parts: parts(), partsOf: h('summary'),
    });
    const body = head(main, `${view.action === 'pull' ? 'Pull' : 'Push'} of ${view.database}: ${sides(view).join(' → ')}`, ['Started ', ago(view.started_at), ` by ${view.requested_by}`]);
    this.byTable = h('details', { hidden: true }, this.partsOf, this.parts);
    const log = details('Log', small('Since this page was opened. The agent’s own: ', code('journalctl -u peersync-agent')), this.log);
    body.append(this.flowing, this.end, section('Progress', this.state, this.bar, this.figures, this.waits, this.acts, this.steps, this.byTable, log, cli(`jobs watch ${short(view)}`)));
    this.draw(view);
  }

  heard(list) {
    if (ended(this.view)) return;
    const mine = list.find(one => one.session === this.view.id);
    if (mine) this.progress(mine);
    else this.refresh();
  }

  async refresh() {
    this.asked ??= ask(url(this.view), {}, { signal: this.signal }).finally(() => { this.asked = null; });
    await this.asked.then(view => this.draw(view), () => {}); // the badge says that it is down
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

  progress(one) {
    const over = ended(one);
    const words = over ? ` after ${duration(one.elapsed_s)}${one.cancelled_by ? `, by ${one.cancelled_by}` : ''}` : ` Step ${one.step_number} of 5: ${DOING[one.step]}`;
    if (this.words !== one.state + words) fill(this.state, h('p.says', badge(one.state), words));
    this.words = one.state + words;
    this.bar.hidden = over;
    this.bar.set(one.percent);
    fill(this.figures, figures(one, over).map(([value, name]) => h('li', b(value), ` ${name}`)));
    this.waits.textContent = over ? '' : one.waiting_for ? `Waits for ${one.waiting_for}` : one.message ?? '';
    this.steps.update(one.steps.map(step => (step.state === 'failed' && one.state === 'cancelled' ? { ...step, state: 'stopped' } : step)));
    this.tables(one.tables);
    for (const text of [`${one.state}: ${DOING[one.step]}`, one.resumed && `taken up again, ${one.resumed} so far`, one.waiting_for, one.message, ...one.notes]) this.note(one, text);
  }

  tables(known) {
    this.byTable.hidden = !known;
    if (!known) return;
    const left = known.total - known.shown.length;
    const words = [`${count(known.done)} of ${many(known.total, 'table')} have come`, known.active && `${count(known.active)} at work`, known.failed && `${count(known.failed)} failed`, left > 0 && `the ${count(known.shown.length)} that matter now`].filter(Boolean).join(', ');
    if (this.partsOf.textContent !== words) fill(this.partsOf, words);
    this.parts.update(known.shown);
  }

  note(one, text) {
    if (!text || this.said.has(text)) return;
    this.said.add(text);
    this.log.append(h('li', small(at(one.updated_at)), ` ${text}`));
  }

  closing(last) {
    const { view } = this;
    const { tables, error, undo } = view;
    const cancelled = view.state === 'cancelled';
    return [
      error && !cancelled && errorBox(error, view.resumable && 'What has arrived is kept, so the sync can be taken up again.'),
      section('Summary', facts({ Result: cancelled && error?.message, ...summary(view, last) }), row(
        undo === 'kept' && button('Undo …', () => this.undo(), { role: 'admin', kind: 'danger', busy: 'Looking …' }),
        view.resumable && !theirs(view) && press('Take it up again', `jobs resume ${short(view)}`, () => tell(url(view, '/resume')).then(() => this.refresh()), PRIMARY),
        link(query('#/sync', { peer: view.peer, database: view.database }), 'Another full sync'),
      ), undo === 'kept' && cli(`undo ${short(view)}`)),
      tables.length > 0 && section('Tables', results(tables)),
    ];
  }

  async undo() {
    const { view } = this;
    const plan = await tell(url(view, '/undo'), { dryRun: true });
    const body = [undone(plan.tables), plan.created.length > 0 && p(`Created by the sync, and stays: ${plan.created.join(', ')}`)];
    if (!(await dialog({ title: `Undo this sync of ${view.database}?`, body, confirm: 'Undo it', name: view.database }))) return;
    const { tables } = await tell(url(view, '/undo'));
    const left = tables.some(t => t.newer || t.error);
    toast(left ? 'Undone, but for rows that are newer than the sync: those were left as they are.' : 'Undone: the rows are as they were before.');
    this.draw({ ...view, undo: left ? 'kept' : 'undone' });
  }
}

function sides({ progress, role, peer }) {
  if (progress) return [progress.source, progress.target];
  return role === 'target' ? [peer, session.node] : [session.node, peer];
}

function figures(one, over) {
  const total = one.steps[0]?.total;
  return [
    !over && [percent(one.percent), 'of the whole'],
    [bytes(one.raw_bytes), total && !over ? `of ${bytes(total)} read` : 'read'], [bytes(one.wire_bytes), 'on the wire'],
    one.saved_bytes && [bytes(one.saved_bytes), 'not sent again'], [rows(one.rows), 'taken in'],
    !over && [rate(one.rate_bytes_s), ''], !over && (one.eta_s == null ? ['time left', 'not known yet'] : [duration(Math.ceil(one.eta_s)), 'left']),
  ].filter(Boolean);
}

const of = (amount, done, total) => [amount(done), total != null && amount(total) !== amount(done) && ` of ${amount(total)}`];
const moving = (done, total, name) => bar(total ? Math.min(100, (100 * done) / total) : null, name);

function far({ name, state, unit, done, total }) {
  if (state === 'waiting') return '';
  return [of(unit === 'bytes' ? bytes : count, done, total), unit !== 'bytes' && ` ${unit}`, state === 'running' && moving(done, total, name)];
}

const stateOf = ({ state }) => badge(state === 'waiting' ? 'to come' : state);
const steps = () => table('The five steps', [], { Step: 'text name', State: stateOf, Done: far, Time: num(({ seconds }) => (seconds ? duration(seconds) : '')) });

const BUSY = ['comparing', 'copying'];
const parts = () => table('How far each table is', [], {
  Table: tableOf, State: stateOf,
  Rows: num(t => [of(count, t.rows, t.rows_total), BUSY.includes(t.state) && moving(t.rows, t.rows_total, tableOf(t))]), Bytes: num(t => of(bytes, t.bytes, t.bytes_total)),
});

/** Whether the peer does it by itself, so that only it can stop it. */
const theirs = ({ role, action }) => role === 'source' && action === 'pull';

const meaning = view => (['restore', 'verify'].includes(view.progress?.step)
  ? `Nothing is committed yet: ${sides(view)[1]} is put back as it was. What was committed table by table stays, and if the commit is under way already, the sync ends as done.`
  : `Nothing has been changed on ${sides(view)[1]}, and nothing will be.`);

const cancel = view => [press('Cancel …', `jobs cancel ${short(view)}`, () => tell(url(view, '/cancel')).then(() => 'It stops.'), {
  ask: async () => ({ title: 'Cancel this sync?', body: meaning(await ask(url(view))), confirm: 'Cancel the sync', cancel: 'Let it run', danger: true }),
  kind: 'danger', why: view.state === 'cancelling' ? 'It is being cancelled already.' : theirs(view) && `${view.peer} pulls it, and can cancel it there.`,
}), small('Closing this page stops nothing.')];

async function before(view, signal) {
  const list = await get(query('/api/sync/history', { database: view.database, state: 'done', limit: 20 }), { signal }).catch(() => []);
  return list.find(j => j.peer === view.peer && j.role === view.role && j.started_at < view.started_at && j.progress?.elapsed_s);
}

const AMOUNTS = { inserted: 'Inserted', updated: 'Updated', unchanged: 'Unchanged', deleted: 'Deleted', skipped: 'Left out', kept_local: 'Kept, changed there and not sent', target_only: 'Only on the target' };
const UNDO = { undone: 'It has been undone.', too_large: 'Too much was changed to keep what it needs.', expired: 'What it needs is no longer kept.' };

function summary({ tables, progress, state, undo, completed_at: end }, last) {
  const sums = Object.entries(AMOUNTS).map(([name, said]) => [tables.reduce((n, t) => n + t[name], 0), said]).filter(([n]) => n);
  return {
    Rows: sums.map(([n, said]) => `${count(n)} ${said.toLowerCase()}`).join('; '),
    Bytes: progress?.wire_bytes > 0 && `${bytes(progress.raw_bytes)} read, ${bytes(progress.wire_bytes)} on the wire`,
    Time: progress && `${duration(progress.elapsed_s)}${last && state === 'done' ? `; the time before it was ${duration(last.progress.elapsed_s)}` : ''}`,
    Ended: end && ago(end), Undo: UNDO[undo],
  };
}

const Table = tableColumn(t => [t.error, t.note, t.way_reason && `sent whole: ${t.way_reason}`, t.way === 'delta' && `compared: ${count(t.differing_blocks)} of ${many(t.blocks, 'block')} differed`]);

const undone = tables => table('What the undo does', tables,
  { Table, 'Old values back': 'count restored', 'Back again': 'count reinserted', 'Taken away': 'count deleted', 'Newer, stay': 'count newer' }, { empty: 'Nothing is left to undo.' });

function results(tables) {
  const amounts = Object.entries(AMOUNTS).filter(([name], i) => i < 3 || tables.some(t => t[name])).map(([name, title]) => [title, `count ${name}`]);
  return table('What was done to each table', tables, { Table, Result: 'badge', ...Object.fromEntries(amounts), Size: 'bytes raw_bytes' });
}
