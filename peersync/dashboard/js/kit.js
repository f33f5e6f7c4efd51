/** What makes a page of a description: how its parts are loaded, filtered and listed. One import for all of it. */
import { ask, get, query } from './api.js';
import { controls, fill, h } from './dom.js';
import { count } from './format.js';
import * as live from './live.js';
import { below, button, cli, errorBox, filterBar, head, link, quiet, row } from './ui.js';
import { table } from './table.js';

export * from './api.js';
export * from './dom.js';
export * from './format.js';
export * from './table.js';
export * from './ui.js';

/** Fills `place` anew; what was open stays so, and the focus where it was. */
function refill(place, what) {
  const at = controls(place).indexOf(document.activeElement);
  const open = [...place.querySelectorAll('.opener [aria-expanded=true]')].map(one => one.ariaLabel);
  fill(place, what);
  for (const one of place.querySelectorAll('.opener [aria-expanded=false]')) if (open.includes(one.ariaLabel)) one.click();
  controls(place)[at]?.focus();
}

/** A place with what `draw` makes of what `read` brings (a path of `ask`, or a function); its `again` reads anew. */
function loaded(signal, read, draw) {
  const place = h('div.body', quiet('Loading…'));
  let asked = 0;
  place.again = async () => {
    const mine = (asked += 1);
    const show = make => mine === asked && !signal.aborted && refill(place, make());
    await (typeof read === 'string' ? ask(read) : read()).then(told => show(() => draw(told, place.again)))
      .catch(error => show(() => [errorBox(error), row(button('Try again', place.again))]));
  };
  live.on('open', () => place.querySelector('.error') && place.again(), signal); // the agent is back
  place.again();
  return place;
}

/** Keeps what is chosen in the address; draws the list of it. `fields`: as of `filterBar`. */
async function filtered(its, fields, given, read, draw) {
  const all = { database: ['Database', [['', 'All'], ...await databases()]], ...fields };
  const bar = filterBar(all, { ...given, ...its.params }, wanted => {
    history.replaceState(null, '', query(`#/${document.body.dataset.page}`, wanted));
    place.again();
  });
  const place = its.load(() => read(bar.values()), (told, again) => draw(told, bar.values(), again));
  place.values = bar.values;
  its.body.append(bar, place);
  return place;
}

export function every(seconds, signal, fn) {
  const timer = setInterval(fn, seconds * 1000);
  signal.addEventListener('abort', () => clearInterval(timer));
}

export const sleep = seconds => new Promise(done => { setTimeout(done, seconds * 1000); });

/** `show` of a page: its title, what leads in, and `make`, which gives what it consists of, or appends it to `body`. */
export const page = (title, lead, make) => async (main, params, { signal }) => {
  const of = text => (typeof text === 'function' ? text(params) : text);
  const body = head(main, of(title), of(lead));
  const its = {
    body, params, signal,
    on: (event, fn) => live.on(event, fn, signal),
    load: (read, draw) => loaded(signal, read, draw),
    filtered: (...how) => filtered(its, ...how),
    actions: (...what) => main.querySelector('h1').after(row(what)),
  };
  const parts = await make(its);
  body.append(...[parts ?? []].flat(9).filter(Boolean));
};

let names = null;

export async function databases() {
  names ??= (await get('api/sync/statistics')).databases.map(one => one.database);
  return names;
}

/** Rows of one or of all databases, each with its `database`, and the errors of those that are down. */
export async function everywhere(path, { database: only, ...wanted } = {}, rows = told => told) {
  const problems = [];
  const found = await Promise.all((only ? [only] : await databases()).map(database => ask(path, { ...wanted, database }).then(
    told => rows(told).map(one => ({ ...one, database })),
    error => { problems.push(errorBox(error)); return []; },
  )));
  return { rows: found.flat(), problems };
}

export const worst = (all, order, property) => all.toSorted((x, y) => order.indexOf(x[property]) - order.indexOf(y[property]));

export const tableOf = one => `${one.schema}.${one.table ?? one.name}`;
export const rowOf = one => `${tableOf(one)} ${one.key ?? ''}`;

const WAYS = { receive: ['takes from ', ', gives nothing of its own'], give: ['gives to ', ', takes nothing'] };

/** Which way the rows of a link go, where they do not go both ways. */
export const oneWay = ({ direction, peer }) => below(direction === 'none' ? 'one-way on both sides: no rows go either way' : WAYS[direction] && `one-way: ${WAYS[direction].join(peer)}`);

export const counted = (n, href) => (n ? link(href, count(n)) : count(n));

export const acts = make => ({ Actions: one => { const some = [make(one)].flat().filter(Boolean); return some.length > 0 && row(some); } });

/** A table; `line`: its command line, `file`: the name under which it can be saved. */
export const list = (caption, rows, columns, { line, file, ...more } = {}) => [
  table(caption, rows, columns, more),
  (line || file) && row(file && rows.length > 0 && exportLinks(rows, `peersync-${file}`), line && cli(`${line}`)),
];

function quoted(value) {
  const text = value == null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  const formula = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)); // for a spreadsheet
  return `"${formula ? "'" : ''}${text.replaceAll('"', '""')}"`;
}

function asCsv(rows) {
  const names = [...new Set(rows.flatMap(Object.keys))];
  return [names, ...rows.map(row => names.map(name => row[name]))].map(line => line.map(quoted).join(',')).join('\r\n');
}

function exportLinks(rows, name) {
  const save = (kind, type, text) => button(kind, () => {
    const url = URL.createObjectURL(new Blob([text()], { type }));
    h('a', { href: url, download: `${name}.${kind.toLowerCase()}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }, { kind: 'plain' });
  return h('span', 'Export ', save('CSV', 'text/csv', () => asCsv(rows)), save('JSON', 'application/json', () => JSON.stringify(rows, null, 1)));
}

/** `text` as an identifier of SQL, in quotes where it needs them. */
export const ident = name => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
