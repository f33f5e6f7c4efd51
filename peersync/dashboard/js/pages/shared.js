/** What the pages beside overview, full sync and job share, and all of the frame: one import for each. */
import { get, post, query, session } from '../api.js';
import { fill, h } from '../dom.js';
import { count } from '../format.js';
import { button, command, dialog, errorBox, exportLinks, filterBar, table, toast } from '../ui.js';

export * from '../api.js';
export * from '../dom.js';
export * from '../format.js';
export * from '../ui.js';

export const segment = encodeURIComponent;
export const strong = (text) => h('b', null, text);
export const code = (text) => h('code', null, text);
export const quiet = (...text) => h('p', { class: 'quiet' }, text);
export const row = (...items) => h('div', { class: 'actions' }, items);
export const items = (all, make) => h('ul', null, all.map((one) => h('li', null, make(one))));
export const input = (props) => h('input', { autocomplete: 'off', spellcheck: 'false', ...props });

/** A part of a page without a heading of its own. */
export const card = (...what) => h('section', null, what);

/** A place whose changes a screen reader says. */
export const status = () => h('div', { role: 'status' });

/** GET and POST below api/admin/; what is sent names who has asked for it. */
export const ask = (path, values = {}) => get(query(`api/admin/${path}`, values));
export const tell = (path, body) => post(`api/admin/${path}`, { ...body, requestedBy: session.user });

let names = null;

/** The names of this node's databases; asked once. @returns {Promise<string[]>} */
export async function databases() {
  names ??= (await get('api/sync/statistics')).databases.map((one) => one.database);
  return names;
}

/** Rows of `only` or of all databases, each with its `database`; and the errors of those that are down. */
export async function everywhere(only, read) {
  const problems = [];
  const found = await Promise.all((only ? [only] : await databases()).map((database) => read(database).then(
    (some) => some.map((one) => ({ ...one, database })),
    (error) => { problems.push(errorBox(error)); return []; },
  )));
  return { rows: found.flat(), problems };
}

/** Fills `place` anew; what was open stays so, and the focus where it was. */
function refill(place, ...children) {
  const controls = () => [...place.querySelectorAll('button, a, input, select, textarea, summary')];
  const at = controls().indexOf(document.activeElement);
  const open = [...place.querySelectorAll('.opener [aria-expanded=true]')].map((one) => one.ariaLabel);
  fill(place, children);
  for (const one of place.querySelectorAll('.opener button')) if (open.includes(one.ariaLabel)) one.click();
  if (at >= 0) controls()[at]?.focus();
}

/**
 * A place that is filled with what `draw` makes of what `read` brings. `again` reads anew.
 * @returns {Element & {again: () => Promise<void>}}
 */
export function loaded(signal, read, draw) {
  const place = h('div', { class: 'body' }, quiet('Loading…'));
  let asked = 0;
  place.again = async () => {
    const mine = (asked += 1);
    const current = () => mine === asked && !signal.aborted;
    try {
      const data = await read();
      if (current()) refill(place, draw(data));
    } catch (error) {
      if (current()) fill(place, errorBox(error), row(button('Try again', place.again)));
    }
  };
  place.again();
  return place;
}

/** Adds a list with filters, which are kept in the address, to a page. @returns what `loaded` does */
export async function filtered(body, { name, params, signal }, fields, read, draw) {
  const database = { name: 'database', label: 'Database', options: [['', 'All'], ...(await databases())] };
  const bar = filterBar([database, ...fields].map((one) => ({ value: params[one.name], ...one })), (wanted) => {
    history.replaceState(null, '', query(`#/${name}`, wanted));
    place.again();
  });
  const place = loaded(signal, () => read(bar.values()), (data) => draw(data, bar.values()));
  place.values = bar.values;
  body.append(bar, place);
  return place;
}

/**
 * A button for what the command line does as `peersync LINE`, which it tells when it is hovered or asks.
 * @param {() => Promise<string|void>} run gives what to say when it is done
 * @param {{ask?: object, role?: string, kind?: string, why?: string|null}} [options] ask: as of `dialog`
 */
export function press(label, line, run, { ask: question, ...options } = {}) {
  const same = `peersync ${line}`;
  const go = async () => {
    if (question && !(await dialog({ confirm: label, ...question, body: [h('p', null, question.body), command(same)] }))) return;
    toast((await run()) ?? 'Done.');
  };
  return button(label, go, { role: 'operator', title: same, busy: '…', ...options });
}

/** The same with its command line beside it. */
export const act = (label, line, ...more) => row(press(label, line, ...more), command(`peersync ${line}`, ''));

/** For admins; where something can be lost, its `name` has to be typed. */
export const danger = (title, body, name) => ({ role: 'admin', kind: 'danger', ask: { title, body, confirmName: name, danger: true } });

/** A column. `what`: a property, shown by `how` and sorted by; or a function that makes the cell, sorted by `how`. */
export function col(title, what, how) {
  const boxed = (made) => (Array.isArray(made) ? h('div', null, made) : made);
  if (typeof what === 'function') return { title, cell: (one) => boxed(what(one)), sort: how };
  return { title, cell: (one) => (how ? how(one[what]) : one[what]), sort: (one) => one[what] };
}

/** A column of numbers. */
export const num = (...args) => ({ ...col(...args), align: 'right' });

/** A column of buttons. */
export const acts = (make) => col('Actions', (one) => row(make(one)));

const keyOf = (one) => ['database', 'schema', 'table', 'set', 'peer', 'name', 'day', 'measure', 'id'].map((name) => one[name]).filter(Boolean).join(' ');

/** A table; `line`: its command line, `file`: the name under which it can be saved. */
export const list = (caption, rows, columns, { line, file, ...more } = {}) => [
  table({ caption, rows, columns, key: keyOf, ...more }),
  (line || file) && row(file && rows.length > 0 && exportLinks(rows, `peersync-${file}`), line && command(`peersync ${line}`)),
];

/** Names and values; what is not there is left out. */
export const facts = (pairs) => h('dl', { class: 'facts' }, Object.entries(pairs)
  .filter(([, what]) => what != null && what !== '')
  .map(([name, what]) => [h('dt', null, name), h('dd', null, what)]));

/** A number that leads to what it counts; nothing to count is no link. */
export const counted = (n, href) => (n ? h('a', { href }, count(n)) : count(n));

/** "public.items" @param {{schema: string, table: string}} one */
export const tableName = (one) => `${one.schema}.${one.table}`;
export const rowName = (one) => `${tableName(one)} ${one.key ?? ''}`;

/** A word as a shell takes it. */
export const word = (text) => (/^[\w@%+=:,./*-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);

/** An option of a command; nothing where it has no value. */
export const option = (name, text) => (text ? ` --${name} ${word(text)}` : '');
export const inDatabase = (name) => option('database', name);

const LONG = 2000;

/** A value of a row: text, NULL, or none. */
function value(text, marked) {
  if (text === undefined) return h('span', { class: 'quiet' }, '–');
  const shown = text === null ? h('i', null, 'NULL') : text.length > LONG ? `${text.slice(0, LONG)}… (${count(text.length)} characters)` : text;
  return h('pre', null, marked ? h('mark', null, shown) : shown);
}

/** Two rows side by side, the columns that differ marked; null is: no such row. */
export function sides(caption, heads, a, b) {
  const columns = [...new Set([a, b].flatMap((one) => Object.keys(one ?? {})))];
  const differs = (name) => Boolean(a && b) && a[name] !== b[name];
  const cell = (side) => ({ name }) => value(side?.[name], differs(name));
  const head = ({ name }) => [strong(name), differs(name) && [' ≠', h('span', { class: 'hide' }, ' differs')]];
  return list(caption, columns.map((name) => ({ name })), [col('Column', head), col(heads[0], cell(a)), col(heads[1], cell(b))], { empty: 'Neither side has a row.' });
}

/** Before and after what somebody wrote. */
export const written = (told) => sides('Before and after', ['Was', 'Is now'], told.before, told.after);

function oneValue([name, was]) {
  const none = h('input', { type: 'checkbox', checked: was === null, 'aria-label': `${name} is NULL` });
  const text = h('textarea', { rows: Math.min(4, (was ?? '').split('\n').length), spellcheck: 'false', 'aria-label': name, value: was ?? '', oninput: () => { none.checked = false; } });
  const before = text.value;
  const changed = () => none.checked !== (was === null) || (!none.checked && text.value !== before);
  return { name, changed, now: () => (none.checked ? null : text.value), node: h('div', { class: 'field' }, strong(name), text, h('label', null, none, ' NULL')) };
}

/** A form with the columns of a row. `values()`: those that were changed. */
export function rowForm(values) {
  const fields = Object.entries(values).map(oneValue);
  const form = h('div', { class: 'grid' }, fields.map((one) => one.node));
  form.values = () => {
    const changed = fields.filter((one) => one.changed());
    if (!changed.length) throw new Error('Change at least one column first.');
    return Object.fromEntries(changed.map((one) => [one.name, one.now()]));
  };
  return form;
}
