/** A full sync: with whom, in which direction, how; the plan; and only then the start. */
import { on } from '../live.js';
import { tableColumn } from './job.js';
import { running } from './overview.js';
import { get, post, session } from '../api.js';
import { fill, h } from '../dom.js';
import { ago, bytes, count, duration, many, option, patterns, rows, word } from '../format.js';
import { badge, button, col, command, details, dialog, empty, facts, field, flow, items, num, page, radios, row, section, select, table } from '../ui.js';

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

/** @param {{peer?: string, database?: string, action?: string, method?: string, tables?: string}} params what is chosen at first */
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
  const probe = () => document.hidden || read('/api/admin/peers?probe=1').then((known) => panel.servers(known), () => {});
  if (!panel) return;
  probe();
  const timer = setInterval(probe, 30_000);
  signal.addEventListener('abort', () => clearInterval(timer));
}

/** The form, and what it asks for. */
class Panel {
  constructor(status, known, { peer, database, ...first }) {
    const names = status.databases.map((d) => d.name);
    Object.assign(this, { own: known.name, action: first.action ?? 'pull', list: h('div'), ways: h('div'), flow: h('div'), same: h('div'), outcome: h('div', { class: 'body', 'aria-live': 'polite' }) });
    const plan = button('Show the plan', () => this.plan(), { kind: 'primary', busy: 'Comparing both sides …', role: 'operator' });
    plan.type = 'submit';
    this.form = h('form', { class: 'body', oninput: () => this.changed(), onsubmit: (event) => event.preventDefault() },
      section('What', this.list, h('div', { class: 'filter' }, field('Database', select(names, database ?? names[0], null, { name: 'database' }))), this.ways, this.flow),
      section('How', options(first), this.same, row(plan)));
    this.box = h('div', { class: 'body' }, this.form, this.outcome);
    this.servers(known, peer ?? (known.peers.length === 1 ? known.peers[0].name : ''));
    this.changed();
  }

  /** The list as it is now. What is chosen stays chosen, whatever the list says. */
  servers({ peers }, chosen = this.wanted.peer) {
    const focused = this.list.contains(document.activeElement);
    const others = peers.map(({ name, address, reachable, problem, reached }) => ({
      value: name, label: h('b', null, name), why: reachable === false && [badge('unreachable'), ' ', problem],
      note: [reachable ? badge('ok', 'reachable') : 'asking …', ` ${reached && reached !== 'direct' ? reached : address ?? ''}`],
    }));
    const own = { value: '', label: [h('b', null, this.own), ' (this server)'], why: 'One side of every sync that is started here.' };
    fill(this.list, radios('Server', 'peer', [...others, own], chosen));
    if (focused) this.list.querySelector(':checked')?.focus();
  }

  get wanted() {
    const data = new FormData(this.form);
    return {
      action: data.get('action') ?? this.action, peer: data.get('peer') ?? '', database: data.get('database'), method: data.get('method'),
      bandwidth: Math.round(data.get('bandwidth') * 1e6), tables: patterns(data.get('tables')), excludeTables: patterns(data.get('excludeTables')),
      ...Object.fromEntries(CHECKS.map(([name]) => [name, data.has(name)])),
    };
  }

  /** What was planned is not what is wanted any more. */
  changed() {
    const { wanted, own } = this;
    const { peer, action } = wanted;
    const way = (value) => ({ value, label: h('b', null, label(value, peer)), note: `Changes ${value === 'pull' ? 'this server' : peer}.` });
    if (peer !== this.peer) fill(this.ways, peer ? radios('Direction', 'action', [way('pull'), way('push')], action) : empty('Choose a server.'));
    this.peer = peer;
    fill(this.flow, peer && flow(...(action === 'pull' ? [peer, own] : [own, peer]), own));
    fill(this.same, command(commandLine(wanted)));
    fill(this.outcome);
  }

  ask(dryRun) {
    return post('/api/admin/sync/full-sync', { ...this.wanted, dryRun, requestedBy: session.user });
  }

  async plan() {
    const { wanted } = this;
    if (!wanted.peer) throw new Error('Choose a server first.');
    fill(this.outcome);
    const { plan } = await this.ask(true);
    if (JSON.stringify(wanted) !== JSON.stringify(this.wanted)) return;
    const shown = showPlan(plan, this.own, button(label(wanted.action, wanted.peer), () => this.start(plan), { kind: 'primary', role: 'operator' }));
    fill(this.outcome, shown);
    shown.firstChild.tabIndex = -1;
    shown.firstChild.focus();
  }

  async start(plan) {
    const { action, peer, undo, sourceWins } = this.wanted;
    const losses = lost(plan, sourceWins);
    const confirm = label(action, peer);
    const body = [h('p', null, `In the database ${plan.database} of ${plan.target}:`), items(losses),
      h('p', null, undo ? 'It can be undone while what that needs is kept.' : 'It can’t be undone: you have switched that off.')];
    if (losses.length && !(await dialog({ title: `${confirm}?`, body, confirm, confirmName: plan.database }))) return;
    location.hash = `#/job/${(await this.ask(false)).job}`;
  }
}

function options({ method = 'auto', tables }) {
  const check = ([name, title, help]) => field(title, h('input', { type: 'checkbox', name, checked: ON.has(name) }), help);
  const text = (name, title, help, type, value) => field(title, h('input', { name, type, value, min: 0, step: 'any', autocomplete: 'off', spellcheck: 'false' }), help);
  const more = details('Which tables, which method, how fast', h('div', { class: 'grid' },
    text('tables', 'Only these tables', 'Patterns as in psql: public.order_*', null, tables), text('excludeTables', 'Not these tables', 'Several with spaces.'),
    field('Method', select(METHODS, method, null, { name: 'method' })), text('bandwidth', 'At most, in MB/s', 'Empty: no limit.', 'number')));
  more.open = Boolean(tables);
  return [h('div', { class: 'grid' }, CHECKS.map(check)), more];
}

const label = (action, peer) => (action === 'pull' ? `Pull ${peer} → this server` : `Push this server → ${peer}`);

/** What of the target would be gone, in words; empty where nothing can be lost. */
function lost(plan, sourceWins) {
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
  return section(`The plan for ${plan.database}`, flow(plan.source, plan.target, own), plan.warnings.map((w) => h('p', { class: 'warning' }, w)), items(plan.notes.map((note) => note.replace(/\bhere\b/g, `on ${plan.target}`))), facts({
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
