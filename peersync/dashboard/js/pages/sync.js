/** A full sync: with whom, in which direction, how; the plan; and only then the start. */
import { COLUMNS } from './history.js';
import { tableColumn } from './job.js';
import { running } from './overview.js';
import { PRIMARY, ask, b, badge, button, bytes, checkbox, cli, count, db, details, dialog, duration, every, facts, field, fill, flow, form, get, h, input, items, link, many, num, option, p, page, patterns, radios, row, rows, section, select, table, tell, word } from '../kit.js';

const CHECKS = [
  ['compress', 'Compress', 'Less on the wire, for a little more work.', '--no-compress'],
  ['verify', 'Verify', 'Compare every table before the commit.', '--no-verify'],
  ['undo', 'Keep what undoing needs', 'Some disk on the side that changes.', '--no-undo'],
  ['mirror', 'Mirror', 'Delete rows that only the changed side has.', '--mirror'],
  ['sourceWins', 'Source wins', 'Overwrite also what was changed there and never sent.', '--source-wins'],
  ['perTable', 'Table by table', 'What is done stays, even if a later table fails.', '--per-table'],
];
const ON = ['compress', 'verify', 'undo'];
const METHODS = [['auto', 'Automatic'], ['delta', 'Delta: compare first, send what differs'], ['backup', 'Backup: pg_dump, with definitions'], ['http', 'Rows only: COPY']];

const label = (action, peer) => (action === 'pull' ? `Pull ${peer} → this server` : `Push this server → ${peer}`);

class Panel {
  constructor(status, known, { peer, database, action = 'pull', ...first }) {
    const names = status.databases.map(d => d.name);
    Object.assign(this, { own: known.name, action, list: h('div'), ways: h('div'), flow: h('div'), same: h('div'), outcome: h('div.body', { 'aria-live': 'polite' }) });
    const plan = button('Show the plan', () => this.plan(), { ...PRIMARY, busy: 'Comparing both sides …', role: 'operator' });
    plan.type = 'submit';
    plan.formNoValidate = true; // `plan` looks, and shows where
    this.form = h('form.body', { oninput: () => this.changed(), onsubmit: event => event.preventDefault() },
      section('What', this.list, form(field('Database', select(names, database ?? names[0], null, { name: 'database' }))), this.ways, this.flow),
      section('How', options(first), this.same, row(plan)));
    this.box = h('div.body', this.form, this.outcome);
    this.servers(known, peer ?? (known.peers.length === 1 ? known.peers[0].name : ''));
    this.changed();
  }

  /** The list as it is now. What is chosen stays chosen, whatever the list says. */
  servers({ peers }, chosen = this.wanted.peer) {
    const focused = this.list.contains(document.activeElement);
    const others = peers.map(({ name, address, reachable, problem, reached }) => ({
      value: name, label: b(name), why: reachable === false && [badge('unreachable'), ' ', problem],
      note: [reachable ? badge('ok', 'reachable') : 'asking …', ` ${reached && reached !== 'direct' ? reached : address ?? ''}`],
    }));
    const own = { value: '', label: [b(this.own), ' (this server)'], why: 'One side of every sync that is started here.' };
    fill(this.list, radios('Server', 'peer', [...others, own], chosen));
    if (focused) this.list.querySelector(':checked')?.focus();
  }

  get wanted() {
    const data = new FormData(this.form);
    const given = name => data.get(name);
    return {
      action: given('action') ?? this.action, peer: given('peer') ?? '', database: given('database'), method: given('method'), bandwidth: Math.round(given('bandwidth') * 1e6),
      tables: patterns(given('tables')), excludeTables: patterns(given('excludeTables')), ...Object.fromEntries(CHECKS.map(([name]) => [name, data.has(name)])),
    };
  }

  /** What was planned is not what is wanted any more. */
  changed() {
    const { wanted, own } = this;
    const { peer, action } = wanted;
    const way = value => ({ value, label: b(label(value, peer)), note: `Changes ${value === 'pull' ? 'this server' : peer}.` });
    if (peer !== this.peer) fill(this.ways, peer ? radios('Direction', 'action', [way('pull'), way('push')], action) : h('p.empty', 'Choose a server.'));
    this.peer = peer;
    fill(this.flow, peer && flow(...(action === 'pull' ? [peer, own] : [own, peer]), own));
    fill(this.same, cli(commandLine(wanted)));
    fill(this.outcome);
  }

  ask(dryRun) {
    return tell('sync/full-sync', { ...this.wanted, dryRun });
  }

  async plan() {
    const { wanted } = this;
    if (!wanted.peer) throw new Error('Choose a server first.');
    this.form.querySelector('details').open ||= Boolean(this.form.querySelector('details :invalid'));
    if (!this.form.reportValidity()) return;
    fill(this.outcome);
    const { plan } = await this.ask(true);
    if (JSON.stringify(wanted) !== JSON.stringify(this.wanted)) return;
    const shown = showPlan(plan, this.own, button(label(wanted.action, wanted.peer), () => this.start(plan), { ...PRIMARY, role: 'operator' }));
    fill(this.outcome, shown);
    shown.firstChild.tabIndex = -1;
    shown.firstChild.focus();
  }

  async start(plan) {
    const { action, peer, undo, sourceWins } = this.wanted;
    const losses = lost(plan, sourceWins);
    const confirm = label(action, peer);
    const body = [p(`What is lost in the database ${plan.database} of ${plan.target}:`), items(losses), p(undo ? 'It can be undone while what that needs is kept.' : 'It can’t be undone: you have switched that off.')];
    if (losses.length && !(await dialog({ title: `${confirm}?`, body, confirm, name: plan.database }))) return;
    location.hash = `#/job/${(await this.ask(false)).job}`;
  }
}

function options({ method = 'auto', tables }) {
  const text = (title, help, props) => field(title, input({ type: 'text', ...props }), help);
  const more = details('Which tables, which method, how fast', h('div.grid',
    text('Only these tables', 'Patterns as in psql: public.order_*', { name: 'tables', value: tables }), text('Not these tables', 'Several with spaces.', { name: 'excludeTables' }),
    field('Method', select(METHODS, method, null, { name: 'method' })), text('At most, in MB/s', 'Empty: no limit.', { name: 'bandwidth', type: 'number', min: 0, max: 1e6, step: 'any' })));
  more.open = Boolean(tables);
  return [h('div.grid', CHECKS.map(([name, title, help]) => field(title, checkbox({ name, checked: ON.includes(name) }), help))), more];
}

/** What of the target would be gone, in words; empty where nothing can be lost. */
export function lost(plan, sourceWins) {
  const there = plan.tables.filter(t => t.action !== 'blocked' && t.action !== 'create' && t.rows_here !== 0);
  const sum = name => there.reduce((n, t) => n + (t.counts[name] ?? 0), 0);
  const [updates, extra] = [sum('update'), sum('target_only')];
  return [
    updates ? `the values of ${rows(updates)}` : there.some(t => t.counts.update == null) && 'the values of rows that differ; how many is not known',
    plan.mirror && (extra || !there.every(t => t.counts.exact)) && `${extra ? rows(extra) : 'rows'} that only it has`,
    sourceWins && 'changes that were made there and never sent',
    plan.large_objects > 0 && plan.large_objects_here > 0 && 'large objects with the same oid',
  ].filter(Boolean);
}

function commandLine({ action, peer, database, method, bandwidth, tables, excludeTables, ...on }) {
  const flags = CHECKS.filter(([name]) => on[name] !== ON.includes(name)).map(([, , , flag]) => ` ${flag}`);
  const each = (name, patterns) => patterns.map(pattern => option(name, pattern));
  return [action, ' ', peer ? word(peer) : 'PEER', db(database), ...flags, method !== 'auto' && option('method', method),
    bandwidth > 0 && option('bandwidth', `${bandwidth / 1e6}MB`), ...each('tables', tables), ...each('exclude-table', excludeTables)].filter(Boolean).join('');
}

function showPlan(plan, own, go) {
  const taken = plan.tables.filter(t => t.action !== 'blocked');
  const { only_here: others, not_copied: left } = plan;
  return section(`The plan for ${plan.database}`, flow(plan.source, plan.target, own), plan.warnings.map(w => h('p.warning', w)), items(plan.notes.map(note => note.replace(/\bhere\b/g, `on ${plan.target}`))), facts({
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

function planTable({ tables, mirror }) {
  const number = name => num(({ counts }) => `${counts[name] && !counts.exact ? '≈ ' : ''}${count(counts[name])}`, t => t.counts[name] ?? -1);
  return table('What happens to each table', tables, {
    Table: tableColumn(t => [t.reason, t.way_reason && `sent whole: ${t.way_reason}`, ...t.warnings]), Action: [({ action }) => ACTIONS[action] ?? badge(action), t => t.action], Insert: number('insert'), Update: number('update'),
    Unchanged: number('unchanged'), [`Only there, ${mirror ? 'deleted' : 'kept'}`]: number('target_only'), Size: 'bytes size_bytes',
  }, { empty: 'There is no table to sync.' });
}

export const show = page('Full sync', 'Brings whole tables from one server to another. You see the plan first.', async ({ body, params, on, signal }) => {
  const history = () => get('/api/sync/history?limit=10', { signal });
  const [status, peers, before] = await Promise.all([ask('status'), ask('peers'), history()]);
  const jobs = h('div');
  for (const event of ['jobs', 'overview']) on(event, data => running(jobs, data));
  const list = table('The last ten full syncs', before, COLUMNS, { empty: 'None yet. The first one appears here.' });
  on('ended', () => history().then(list.update, () => {}));
  const panel = peers.peers.length ? new Panel(status, peers, params) : null;
  body.append(jobs, panel?.box ?? section('No peers yet', h('p.empty', 'A full sync needs a second server. ', link('#/peers', 'Invite one')), cli('peer invite')),
    section('Recent syncs', list, link('#/history', 'All syncs')));
  if (!panel) return;
  const probe = () => document.hidden || ask('peers', { probe: 1 }, { signal }).then(known => panel.servers(known), () => {});
  probe();
  every(30, signal, probe);
});
