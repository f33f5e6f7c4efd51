/** What the pages beside overview, full sync and job share, and the frame: one import for each. */
import { get, post, query, session } from '../api.js';
import { fill, h } from '../dom.js';
import { count, option } from '../format.js';
import { button, col, command, dialog, errorBox, exportLinks, filterBar, page, row, table, toast } from '../ui.js';

export * from '../api.js';
export * from '../dom.js';
export * from '../format.js';
export * from '../ui.js';

export const b = (text) => h('b', null, text);
export const code = (text) => h('code', null, text);
export const link = (href, text) => h('a', { href }, text);
export const quiet = (...text) => h('p', { class: 'quiet' }, text);
export const form = (...fields) => h('div', { class: 'filter' }, fields);
export const input = (props) => h('input', { autocomplete: 'off', spellcheck: 'false', ...props });
export const card = (...what) => h('section', null, what);
export const said = () => h('div', { role: 'status' }); // a screen reader says what comes into it

/** GET and POST below api/admin/; what is sent names who has asked for it. */
export const ask = (path, values = {}) => get(query(`api/admin/${path}`, values));
export const tell = (path, body) => post(`api/admin/${path}`, { ...body, requestedBy: session.user });

let names = null;

/** The names of this node's databases; asked once. */
export async function databases() {
  names ??= (await get('api/sync/statistics')).databases.map((one) => one.database);
  return names;
}

/** Rows of one or of all databases, each with its `database`, and the errors of those that are down. */
export async function everywhere(path, { database: only, ...wanted } = {}, rows = (told) => told) {
  const problems = [];
  const found = await Promise.all((only ? [only] : await databases()).map((database) => ask(path, { ...wanted, database }).then(
    (told) => rows(told).map((one) => ({ ...one, database })),
    (error) => { problems.push(errorBox(error)); return []; },
  )));
  return { rows: found.flat(), problems };
}

/** Fills `place` anew; what was open stays so, and the focus where it was. */
function refill(place, what) {
  const controls = () => [...place.querySelectorAll('button, a, input, select, textarea, summary')];
  const at = controls().indexOf(document.activeElement);
  const open = [...place.querySelectorAll('.opener [aria-expanded=true]')].map((one) => one.ariaLabel);
  fill(place, what);
  for (const one of place.querySelectorAll('.opener [aria-expanded=false]')) if (open.includes(one.ariaLabel)) one.click();
  controls()[at]?.focus();
}

/** A place with what `draw` makes of what `read` brings; its `again` reads anew. */
export function loaded(signal, read, draw) {
  const place = h('div', { class: 'body' }, quiet('Loading…'));
  let asked = 0;
  place.again = async () => {
    const mine = (asked += 1);
    const show = (make) => mine === asked && !signal.aborted && refill(place, make());
    await read().then((told) => show(() => draw(told, place.again))).catch((error) => show(() => [errorBox(error), row(button('Try again', place.again))]));
  };
  place.again();
  return place;
}

/** A page: its head, and how its parts are loaded. */
export function open(main, signal, title, lead, actions) {
  const body = page(main, { title, lead, actions });
  body.load = (read, draw) => loaded(signal, read, draw);
  return body;
}

/** Adds a list whose filters are kept in the address; `fields`: by name their label and options. */
export async function filtered(body, name, params, fields, read, draw) {
  const all = { database: ['Database', [['', 'All'], ...await databases()]], ...fields };
  const bar = filterBar(Object.entries(all).map(([one, [label, options]]) => ({ name: one, label, options, value: params[one] })), (wanted) => {
    history.replaceState(null, '', query(`#/${name}`, wanted));
    place.again();
  });
  const place = body.load(() => read(bar.values()), (told, again) => draw(told, bar.values(), again));
  place.values = bar.values;
  body.append(bar, place);
  return place;
}

/**
 * A button for what the command line does as `peersync LINE`. `run` may give what to say when it is done.
 * @param {{ask?: object, again?: () => void, role?: string, kind?: string, why?: string}} [options]
 *   ask: as of `dialog`; again: what is called afterwards
 */
export function press(label, line, run, { ask: question, again, ...options } = {}) {
  const same = `peersync ${line}`;
  return button(label, async () => {
    if (question && !(await dialog({ confirm: label, ...question, body: [h('p', null, question.body), command(same)] }))) return;
    const words = await run();
    toast(typeof words === 'string' ? words : 'Done.');
    again?.();
  }, { role: 'operator', title: same, busy: '…', ...options });
}

/** The same with its command line beside it. */
export const act = (label, line, ...more) => row(press(label, line, ...more), command(`peersync ${line}`, ''));

export const ADMIN = { role: 'admin' };

/** For admins; where something can be lost, its `name` has to be typed. */
export const danger = (again, title, body, name) => ({ ...ADMIN, again, kind: 'danger', ask: { title, body, confirmName: name, danger: true } });

/** A column with one property of a row, which is called as its title if not `name`. */
export function prop(title, how = (v) => v, name = title.toLowerCase().replaceAll(' ', '_')) {
  return { title, cell: (one) => how(one[name]), sort: (one) => one[name] };
}

export const right = (column) => ({ ...column, align: 'right' });
export const num = (...args) => right(prop(...args));
export const acts = (make) => col('Actions', (one) => row(make(one)));

const keyOf = (one) => ['database', 'schema', 'table', 'set', 'peer', 'name', 'day', 'measure', 'id'].map((name) => one[name] ?? '').join(' ').trim();

/** A table; `line`: its command line, `file`: the name under which it can be saved. */
export const list = (caption, rows, columns, { line, file, ...more } = {}) => [
  table({ caption, rows, columns, key: keyOf, ...more }),
  (line || file) && row(file && rows.length > 0 && exportLinks(rows, `peersync-${file}`), line && command(`peersync ${line}`)),
];

/** A number that leads to what it counts. */
export const counted = (n, href) => (n ? link(href, count(n)) : count(n));

/** "public.items", and with the row's key */
export const tableOf = (one) => `${one.schema}.${one.table}`;
export const rowOf = (one) => `${tableOf(one)} ${one.key ?? ''}`;

export const db = (name) => option('database', name);

function value(text, marked) {
  if (text === undefined) return '–';
  const shown = text?.length > 2000 ? `${text.slice(0, 2000)}… (${count(text.length)} characters)` : text ?? h('i', null, 'NULL');
  return h('pre', null, marked ? h('mark', null, shown) : shown);
}

/** Two rows side by side, the columns that differ marked; null is: no such row. */
export function sides(caption, heads, one, other) {
  const columns = [...new Set([one, other].flatMap((side) => Object.keys(side ?? {})))];
  const differs = (name) => Boolean(one && other) && one[name] !== other[name];
  const side = (head, values) => col(head, ({ name }) => value(values?.[name], differs(name)));
  const name = col('Column', ({ name: text }) => [b(text), differs(text) && [' ≠', h('span', { class: 'hide' }, ' differs')]]);
  return list(caption, columns.map((text) => ({ name: text })), [name, side(heads[0], one), side(heads[1], other)], { empty: 'Neither side has a row.' });
}

/** Before and after what somebody wrote. */
export const written = (told) => sides('Before and after', ['Was', 'Is now'], told.before, told.after);

function oneValue([name, was]) {
  const none = h('input', { type: 'checkbox', checked: was === null, 'aria-label': `${name} is NULL` });
  const text = h('textarea', { rows: Math.min(4, (was ?? '').split('\n').length), spellcheck: 'false', 'aria-label': name, value: was ?? '', oninput: () => { none.checked = false; } });
  const before = text.value;
  const changed = () => none.checked !== (was === null) || (!none.checked && text.value !== before);
  return { changed, now: () => [name, none.checked ? null : text.value], node: h('div', { class: 'field' }, b(name), text, h('label', null, none, ' NULL')) };
}

/** A form with the columns of a row. `values()`: those that were changed. */
export function rowForm(values) {
  const fields = Object.entries(values).map(oneValue);
  const node = h('div', { class: 'grid' }, fields.map((one) => one.node));
  node.values = () => {
    const changed = fields.filter((one) => one.changed());
    if (!changed.length) throw new Error('Change at least one column first.');
    return Object.fromEntries(changed.map((one) => one.now()));
  };
  return node;
}
