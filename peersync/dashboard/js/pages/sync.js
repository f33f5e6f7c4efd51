/** A full sync: with whom, in which direction, how; the plan; and only then the start. */
import { on } from '../live.js';
import { tableColumn } from './job.js';
import { running } from './overview.js';
import {
  ago, badge, button, bytes, col, command, count, details, dialog, duration, empty, facts, field, fill, flow, get, h, input, items, many,
  num, option, page, post, radios, row, rows, section, select, session, table, word,
} from './shared.js';

const CHECKS = [
  ['compress', 'Compress', 'Less on the wire, for a little more work.', '--no-compress'],
  ['verify', 'Verify', 'Compare every table before the commit.', '--no-verify'],
  ['undo', 'Keep what undoing needs', 'Some disk on the side that changes.', '--no-undo'],
  ['mirror', 'Mirror', 'Delete rows that only the changed side has.', '--mirror'],
  ['sourceWins', 'Source wins', 'Overwrite also what was changed there and never sent.', '--source-wins'],
  ['perTable', 'Table by table', 'What is done stays, even if a later table fails.', '--per-table'],
];
const ON = new Set(['compress', 'verify', 'undo']);
const METHODS = [['auto', 'Automatic'], ['delta', 'Delta: compare first, send what differs'], ['backup', 'Backup: pg_dump, with definitions'], ['http', 'Rows only: COPY']];
const HISTORY = '/api/sync/history?limit=10';

/** @param {{peer?: string, database?: string}} params what is chosen at first */
export async function show(main, params, { signal }) {
  const body = page(main, { title: 'Full sync', lead: 'Brings whole tables from one server to another. You see the plan first.' });
  const read = (path) => get(path, { signal });
  const [status, peers, history] = await Promise.all(['/api/admin/status', '/api/admin/peers', HISTORY].map(read));
  const jobs = h('div');
  for (const event of ['jobs', 'overview']) on(event, (data) => running(jobs, data), signal);
  const list = recent(history);
  on('ended', () => read(HISTORY).then(list.update, () => {}), signal);
  const panel = peers.peers.length ? new Panel(status, peers, params) : null;
  body.append(jobs, panel?.box ?? section('No peers yet', empty('A full sync needs a second server. ', h('a', { href: '#/peers' }, 'Invite one')), command('peersync peer invite')),
    section('Recent syncs', list, h('a', { href: '#/history' }, 'All syncs')));
  if (panel) panel.reached(await read('/api/admin/peers?probe=1'));
}

/** The form, and what it asks for. */
class Panel {
  constructor(status, { name, peers }, params) {
    const names = status.databases.map((d) => d.name);
    Object.assign(this, { own: name, peers, servers: h('div'), ways: h('div', { class: 'body' }), same: h('div'), outcome: h('div', { class: 'body' }) });
    this.wanted = {
      action: 'pull', peer: params.peer ?? (peers.length === 1 ? peers[0].name : ''), database: params.database ?? names[0] ?? '',
      method: 'auto', bandwidth: 0, tables: [], excludeTables: [], ...Object.fromEntries(CHECKS.map(([check]) => [check, ON.has(check)])),
    };
    const plan = button('Show the plan', () => this.plan(), { kind: 'primary', busy: 'Comparing both sides …', role: 'operator' });
    this.box = h('div', { class: 'body' },
      section('What', this.servers, h('div', { class: 'filter' }, field('Database', select(names, this.wanted.database, (v) => this.set('database', v)))), this.ways),
      section('How', this.options(), this.same, row(plan)), this.outcome);
    this.drawServers();
    this.changed();
  }

  /** What is chosen stays chosen, whatever the list says now. */
  reached({ peers }) {
    const focused = this.servers.contains(document.activeElement) && document.activeElement.value;
    this.peers = peers;
    this.drawServers();
    [...this.servers.querySelectorAll('input')].find((input) => input.value === focused)?.focus();
  }

  drawServers() {
    const others = this.peers.map(({ name, address, reachable, problem, reached }) => ({
      value: name, label: h('b', null, name), why: reachable === false ? [badge('unreachable'), ' ', problem] : null,
      note: [reachable == null ? 'asking …' : badge('ok', 'reachable'), ` ${reached && reached !== 'direct' ? reached : address ?? ''}`],
    }));
    const own = { value: '', label: [h('b', null, this.own), ' (this server)'], why: 'One side of every sync that is started here.' };
    fill(this.servers, radios('Server', [...others, own], this.wanted.peer, (peer) => this.set('peer', peer)));
  }

  drawWays() {
    const { peer, action } = this.wanted;
    const way = (value) => ({ value, label: h('b', null, label(value, peer)), note: `Changes ${value === 'pull' ? 'this server' : peer}.` });
    const sides = action === 'pull' ? [peer, this.own] : [this.own, peer];
    fill(this.ways, peer ? [radios('Direction', [way('pull'), way('push')], action, (v) => this.turn(v)), flow(...sides, this.own)] : empty('Choose a server.'));
  }

  turn(action) {
    this.set('action', action);
    this.ways.querySelector(':checked').focus();
  }

  options() {
    const check = ([name, title, help]) => field(title, h('input', { type: 'checkbox', checked: this.wanted[name], onchange: (e) => this.set(name, e.target.checked) }), help);
    const write = (name, title, help, read, type = 'text') => field(title, input({ type, min: 0, step: 'any', onchange: (e) => this.set(name, read(e.target.value)) }), help);
    const patterns = (text) => text.split(/[\s,]+/).filter(Boolean);
    return [h('div', { class: 'grid' }, CHECKS.map(check)), details('Which tables, which method, how fast', h('div', { class: 'grid' },
      write('tables', 'Only these tables', 'Patterns as in psql: public.order_*', patterns), write('excludeTables', 'Not these tables', 'Several with spaces.', patterns),
      field('Method', select(METHODS, 'auto', (v) => this.set('method', v))), write('bandwidth', 'At most, in MB/s', 'Empty: no limit.', (v) => Math.round(v * 1e6), 'number')))];
  }

  set(name, value) {
    this.wanted[name] = value;
    this.changed();
  }

  /** What was planned is not what is wanted any more. */
  changed() {
    this.drawWays();
    fill(this.outcome);
    fill(this.same, command(commandLine(this.wanted)));
  }

  ask(dryRun) {
    return post('/api/admin/sync/full-sync', { ...this.wanted, dryRun, requestedBy: session.user });
  }

  async plan() {
    const { wanted } = this;
    if (!wanted.peer) throw new Error('No server is chosen.');
    fill(this.outcome);
    const asked = JSON.stringify(wanted);
    const { plan } = await this.ask(true);
    if (asked !== JSON.stringify(wanted)) return;
    const go = button(label(wanted.action, wanted.peer), () => this.start(plan), { kind: 'primary', role: 'operator' });
    const shown = showPlan(plan, this.own, go);
    fill(this.outcome, shown);
    shown.firstChild.tabIndex = -1;
    shown.firstChild.focus();
  }

  async start(plan) {
    const { action, peer, undo } = this.wanted;
    const losses = lost(plan, this.wanted);
    const confirm = label(action, peer);
    const body = [h('p', null, `In the database ${plan.database} of ${plan.target}:`), items(losses, (loss) => loss),
      h('p', null, undo ? 'It can be undone while what that needs is kept.' : 'It can’t be undone: you have switched that off.')];
    if (losses.length && !(await dialog({ title: `${confirm}?`, body, confirm, confirmName: plan.database }))) return;
    location.hash = `#/job/${(await this.ask(false)).job}`;
  }
}

const label = (action, peer) => (action === 'pull' ? `Pull ${peer} → this server` : `Push this server → ${peer}`);

/** What of the target would be gone, in words; empty where nothing can be lost. */
function lost(plan, { sourceWins }) {
  const there = plan.tables.filter((t) => t.action !== 'blocked' && t.action !== 'create' && t.rows_here !== 0);
  const sum = (name) => there.reduce((n, t) => n + (t.counts[name] ?? 0), 0);
  const updates = sum('update');
  return [
    updates ? `${rows(updates)} get other values` : there.some((t) => t.counts.update == null) && 'rows that differ get other values; how many is not known',
    plan.mirror && (sum('target_only') || !there.every((t) => t.counts.exact)) && `${sum('target_only') ? rows(sum('target_only')) : 'rows'} that only it has are deleted`,
    sourceWins && 'changes that were made there and never sent are overwritten',
    plan.large_objects > 0 && plan.large_objects_here > 0 && 'large objects with the same oid are overwritten',
  ].filter(Boolean);
}

function commandLine({ action, peer, database, method, bandwidth, tables, excludeTables, ...on }) {
  const flags = CHECKS.filter(([name]) => on[name] !== ON.has(name)).map(([, , , flag]) => ` ${flag}`);
  const each = (name, patterns) => patterns.map((pattern) => option(name, pattern));
  return ['peersync ', action, ' ', peer ? word(peer) : 'PEER', option('database', database), ...flags, method !== 'auto' && option('method', method),
    bandwidth > 0 && option('bandwidth', `${bandwidth / 1e6}MB`), ...each('tables', tables), ...each('exclude-table', excludeTables)].filter(Boolean).join('');
}

function showPlan(plan, own, go) {
  const taken = plan.tables.filter((t) => t.action !== 'blocked');
  const { only_here: others, not_copied: left } = plan;
  return section(`The plan for ${plan.database}`, flow(plan.source, plan.target, own), plan.warnings.map((w) => h('p', { class: 'warning' }, w)), items(plan.notes, (note) => note), facts({
    Tables: `${count(taken.length)}, ${plan.rows == null ? 'rows not known' : `about ${rows(plan.rows)}`}, ${bytes(plan.size_bytes)}`,
    Time: plan.expected_s == null ? 'not known, it is the first' : `about ${duration(plan.expected_s)}, by the last runs`,
    Disk: `needs ${bytes(plan.needed_bytes)}, ${bytes(plan.free_bytes)} free`,
    Versions: `PostgreSQL ${plan.source_version} → ${plan.target_version}`,
    How: [plan.dump_tool, plan.method_reason].filter(Boolean).join(': '),
    Narrowed: plan.narrowed,
  }), planTable(plan), others.length > 0 && details(`${many(others.length, 'table')} only on ${plan.target}, not touched`, others.join(', ')),
  left.length > 0 && details(`${count(left.length)} not copied`, facts(Object.fromEntries(left))), row(go));
}

const ACTIONS = { create: 'create and fill', upsert: 'merge by key', insert: 'add what misses' };

function planTable(plan) {
  const number = (title, name) => num(title, ({ counts }) => `${counts[name] && !counts.exact ? '≈ ' : ''}${count(counts[name])}`, (t) => t.counts[name] ?? -1);
  return table({
    caption: 'What happens to each table', rows: plan.tables, key: (t) => `${t.schema}.${t.name}`, empty: 'There is no table to sync.',
    columns: [tableColumn((t) => [t.reason, t.way_reason && `sent whole: ${t.way_reason}`, ...t.warnings]), col('Action', 'action', (action) => ACTIONS[action] ?? badge(action)), number('Insert', 'insert'), number('Update', 'update'),
      number('Unchanged', 'unchanged'), number(`Only there, ${plan.mirror ? 'deleted' : 'kept'}`, 'target_only'), num('Size', 'size_bytes', bytes)],
  });
}

const direction = (j) => [h('a', { href: `#/job/${j.id}` }, j.role === 'target' ? `${j.peer} → this server` : `this server → ${j.peer}`), ` ${j.action}`];

const recent = (list) => table({
  caption: 'The last ten full syncs', rows: list, empty: 'None yet. The first one appears here.',
  columns: [col('Result', 'state', badge), col('Direction', direction, (j) => j.peer), col('Database', 'database'), col('When', (j) => ago(j.completed_at ?? j.started_at)),
    num('Took', (j) => duration(j.progress?.elapsed_s)), num('Rows', (j) => count(j.progress?.rows))],
});
