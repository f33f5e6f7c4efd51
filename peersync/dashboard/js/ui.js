/** What every page is made of: heads, tables, badges, buttons, forms, dialogs, errors. */
import { h, s, fill } from './dom.js';
import { may } from './api.js';

export { table } from './table.js';

const ICONS = {
  ok: 'M3 8.5l3.5 3.5L13 4.5',
  busy: 'M13 8a5 5 0 1 1-1.5-3.6M13 2v3h-3',
  warn: 'M8 2.5v7M8 13v.3',
  bad: 'M4 4l8 8M12 4l-8 8',
  pause: 'M5.5 3v10M10.5 3v10',
  idle: 'M4 8h8',
  right: 'M2 8h11M9 4l4 4-4 4',
};

/** A small picture beside a word, never alone. @param {keyof ICONS} name */
export const icon = (name) => s('svg', { class: 'icon', viewBox: '0 0 16 16', 'aria-hidden': 'true' }, s('path', { d: ICONS[name] }));

const LOOKS = {
  ok: 'in sync,done,ok,synced,given,success,live,member,active,proved,fine,equal,identical',
  busy: 'syncing,running,giving,planned,cancelling,waiting,joining,asked',
  warn: 'behind,conflict,differs,in flight,partly,partial,warning,undone,stale,reconnecting,interrupted,parked,timeout,cancelled',
  bad: 'failed,unreachable,error,blocked,denied',
  pause: 'paused,held',
};
const look = (word) => Object.keys(LOOKS).find((name) => LOOKS[name].split(',').includes(word)) ?? 'idle';

/** Icon, word and colour of a state. @param {string} state @param {string} [text] another word */
export function badge(state, text) {
  const word = String(state ?? 'unknown').replaceAll('_', ' ').toLowerCase();
  return h('span', { class: `badge ${look(word)}` }, icon(look(word)), h('span', null, text ?? word));
}

/** A page's head, to which the focus goes. @param {{title: string, lead?: any, actions?: any}} head @returns {Element} for what the page has */
export function page(main, { title, lead, actions }) {
  const heading = h('h1', { tabindex: '-1' }, title);
  const body = h('div', { class: 'body' });
  fill(main, h('div', { class: 'head' }, heading, actions && row(actions), lead && h('div', { class: 'lead' }, lead)), h('div', { id: 'problems', role: 'alert' }), body);
  main.dataset.title = title;
  main.dispatchEvent(new Event('titled'));
  heading.focus({ preventScroll: true });
  return body;
}

/** A part of a page with its own heading. */
export const section = (title, ...children) => h('section', null, h('h2', null, title), children);

/** Shows an error at the head of the page; without one, clears it. */
export function fail(error) {
  const place = document.getElementById('problems');
  if (error?.name === 'AbortError' || error?.status === 401) return;
  if (!error) fill(place ?? h('i'));
  else fill(place ?? document.getElementById('main'), errorBox(error)).scrollIntoView({ block: 'nearest' });
}

/** A line at the edge that goes away. */
export function toast(text, seconds = 7) {
  const line = h('p', { class: 'toast' }, text);
  document.getElementById('toasts').append(line);
  setTimeout(() => line.remove(), seconds * 1000);
}

/**
 * A button, busy while an async `fn` runs. `kind`: primary, danger or plain; `busy`: what it says then;
 * `why`: it is off, and says so when it is pressed; `role`: who may press it.
 */
export function button(label, fn, { kind = '', busy, why, role, title } = {}) {
  const off = why || (role && !may(role) && `That needs the role ${role}.`);
  const node = h('button', { type: 'button', class: kind, title: off || title, 'aria-disabled': off ? 'true' : null }, label);
  node.addEventListener('click', (event) => {
    if (off) toast(off);
    else if (!node.ariaBusy) working(node, busy, () => fn(event));
  });
  return node;
}

/** Runs `fn` while `node` shows that it is at work; an error goes to the head of the page. */
export async function working(node, busy, fn) {
  const before = [...node.childNodes];
  node.ariaBusy = 'true';
  if (busy) fill(node, busy);
  try {
    fail();
    await fn();
  } catch (error) {
    fail(error);
  }
  node.ariaBusy = null;
  if (busy) fill(node, before);
}

let serial = 0;

/** A labelled control with its help below. */
export function field(label, control, help) {
  const id = (control.id ||= `f${(serial += 1)}`);
  const note = help && h('small', { id: `${id}h` }, help);
  if (note) control.setAttribute('aria-describedby', note.id);
  const check = control.type === 'checkbox';
  return h('div', { class: check ? 'field check' : 'field' }, check && control, h('label', { for: id }, label), !check && control, note);
}

/** @param {([string, string]|string)[]} options value and text @returns {HTMLSelectElement} */
export const select = (options, value, onchange, props) => h('select', { ...props, onchange: (e) => onchange?.(e.target.value), value },
  options.map((o) => (Array.isArray(o) ? o : [o, o])).map(([v, text]) => h('option', { value: v }, text)));

/** Radio buttons of {value, label, note, why}; `why`: that one can't be chosen now, and this is the reason. */
export function radios(legend, name, options, chosen) {
  const one = ({ value, label, note, why }) => h('label', { class: why ? 'radio off' : 'radio' },
    h('input', { type: 'radio', name, value, checked: value === chosen, disabled: Boolean(why) && value !== chosen }), h('span', null, label), h('span', { class: 'note' }, why || note));
  return h('fieldset', null, h('legend', null, legend), h('div', { class: 'radios' }, options.map(one)));
}

/** More on demand. */
export const details = (summary, ...children) => h('details', null, h('summary', null, summary), children);

/** Asks, and tells whether it was confirmed. With `confirmName` that name has to be typed: only where something can be lost. */
export function dialog({ title, body, confirm, cancel = 'Cancel', confirmName, danger = Boolean(confirmName) }) {
  return new Promise((resolve) => {
    const yes = h('button', { class: danger ? 'danger' : 'primary', value: 'yes', disabled: Boolean(confirmName) }, confirm);
    const typed = h('input', { autocomplete: 'off', spellcheck: 'false', autofocus: true, oninput: () => { yes.disabled = typed.value.trim() !== confirmName; } });
    const box = h('dialog', { 'aria-labelledby': 'ask', onclose: () => { box.remove(); resolve(box.returnValue === 'yes'); } },
      h('form', { method: 'dialog' }, h('h2', { id: 'ask' }, title), body, confirmName && field(['Type ', h('b', null, confirmName), ' to go on'], typed),
        row(h('button', { type: 'button', onclick: () => box.close('no') }, cancel), yes)));
    document.body.append(box);
    box.showModal();
  });
}

const copy = (text) => navigator.clipboard.writeText(text).then(() => toast('Copied.'), () => toast('The browser does not allow copying here.'));

/** The command that does the same, to copy. */
export const command = (text, label = 'same as') => h('p', { class: 'command' }, label, h('code', null, text), button('Copy', () => copy(text), { kind: 'plain' }));

/** The lines of a hint: "do this: peersync x; or that: peersync y" has two; "peersync init writes one" has none. */
const PASTEABLE = /(?:^|: )((?:peersync (?!\w+ (?:makes|prints|writes)\b)|(?:psql|systemctl) ).*?)(?=; [a-z]|,? or\b|\.?$)/gm;

/** It may be a peer's hint: a line with anything by which a shell does more gets no button. */
const pasteable = (line) => !/[;|&$`<>()\\\p{C}\p{Zl}\p{Zp}]/u.test(line);

function where({ holder = {}, ...data }) {
  const named = ['peer', 'database', 'table', 'key', 'column'].filter((k) => data[k] != null).map((k) => `${k} ${data[k]}`);
  const held = Object.entries(holder).map(([k, v]) => `${k} ${v}`).join(', ');
  return [...named, held && `held by ${held}`].filter(Boolean).join(' · ');
}

/** An ApiError, or an ErrorRecord of the API, in five parts. `did`: what peersync did about it. */
export function errorBox(error, did) {
  const paste = [...(error.hint ?? '').matchAll(PASTEABLE)].filter(([, line]) => pasteable(line));
  const words = error.words ?? (error.status === undefined ? error.detail : null);
  return h('div', { class: 'error' },
    h('p', null, badge('failed', error.code ?? 'error'), ' ', h('b', null, error.message)),
    facts({ Where: where(error.data ?? {}), 'In its own words': words, 'What peersync did': did, 'What you can do': error.hint }),
    paste.map(([, line]) => command(line, '')),
    error.data?.holder?.job && h('a', { href: `#/job/${error.data.holder.job}` }, 'Open that sync'),
    error.instance && h('small', null, `request ${error.instance.split(':').pop()}, also in the log`));
}

/** Things side by side. */
export const row = (...some) => h('div', { class: 'actions' }, some);

/** A list of what `make` makes of each. */
export const items = (all, make = (one) => one) => h('ul', null, all.map((one) => h('li', null, make(one))));

/** A column of a table. `what`: a property, shown by `how` and sorted by; or it makes the cell, and `how` what is sorted by. */
export function col(title, what, how) {
  if (typeof what === 'function') return { title, cell: what, sort: how };
  return { title, cell: (one) => (how ? how(one[what]) : one[what]), sort: (one) => one[what] };
}

/** A column of numbers. */
export const num = (...args) => ({ ...col(...args), align: 'right' });

/** Names and values; what is not there is left out. */
export const facts = (pairs) => h('dl', null, Object.entries(pairs).map(([name, what]) => (what || what === 0) && [h('dt', null, name), h('dd', null, what)]));

/** A smaller line below; nothing without its first word. */
export const below = (...text) => text[0] && h('small', { class: 'below' }, text);

/** What a list shows when it has nothing. */
export const empty = (...children) => h('p', { class: 'empty' }, children);

/** Fields ({name, label, options, value}) above a list; `onchange` gets all values, a moment after the last key. */
export function filterBar(fields, onchange) {
  let timer;
  const form = h('form', { class: 'filter', role: 'search', onsubmit: (e) => e.preventDefault() });
  form.values = () => Object.fromEntries(new FormData(form));
  form.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(() => onchange(form.values()), 200); });
  for (const { name, label, options, value = '' } of fields) {
    form.append(field(label, options ? select(options, value, null, { name }) : h('input', { type: 'search', name, value, autocomplete: 'off' })));
  }
  return form;
}

function quoted(value) {
  const text = value == null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  const formula = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)); // for a spreadsheet
  return `"${formula ? "'" : ''}${text.replaceAll('"', '""')}"`;
}

function asCsv(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(quoted).join(',')).join('\r\n');
}

function save(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** [CSV] [JSON] of a list. @param {any[]|(() => any[]|Promise<any[]>)} rows @param {string} name of the file */
export function exportLinks(rows, name) {
  const link = (kind, type, text) => button(kind, async () => {
    const all = await (typeof rows === 'function' ? rows() : rows);
    save(text(all), type, `${name}.${kind.toLowerCase()}`);
  }, { kind: 'plain' });
  return h('span', null, 'Export ', link('CSV', 'text/csv', asCsv), link('JSON', 'application/json', (all) => JSON.stringify(all, null, 1)));
}

/** Both names and the arrow; the side that changes is marked. */
export function flow(source, target, own, [gives, changes] = ['gives, is not changed', 'will be changed']) {
  const side = (name, what, kind) => h('span', { class: kind }, h('b', null, name), name === own && ' (this server)', h('small', { class: 'below' }, what));
  return h('p', { class: 'flow' }, side(source, gives, 'side'), icon('right'), h('span', { class: 'hide' }, ' to '), side(target, changes, 'side changes'));
}

/** A bar; `set` moves it. Without a value it only says that something goes on. @param {number|null} percent */
export function bar(percent, label) {
  const node = h('div', { role: 'progressbar', 'aria-label': label }, h('span'));
  node.set = (now) => {
    node.className = now == null ? 'bar unknown' : 'bar';
    node.ariaValueNow = now == null ? null : String(Math.floor(now));
    node.style.setProperty('--p', (now ?? 0) / 100);
  };
  node.set(percent);
  return node;
}
