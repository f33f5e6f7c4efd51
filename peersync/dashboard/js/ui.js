/** What every page is made of: heads, badges, buttons, fields, dialogs, errors. */
import { h, s, fill } from './dom.js';
import { may } from './api.js';

export const b = (...text) => h('b', text);
export const code = (...text) => h('code', text);
export const small = (...text) => h('small', text);
export const p = (...what) => h('p', what);
export const quiet = (...text) => h('p.quiet', text);
export const link = (href, ...text) => h('a', { href }, text);

/** A smaller line below; nothing without its first word. */
export const below = (...text) => text[0] && h('small.below', text);

export const row = (...some) => h('div.actions', some);
export const items = (all, make = one => one) => h('ul', all.map(one => h('li', make(one))));
export const details = (summary, ...children) => h('details', h('summary', summary), children);
export const card = (...what) => h('section', what);
export const section = (title, ...what) => card(h('h2', title), what);

/** A screen reader says what comes into it. */
export const said = () => h('div.body', { role: 'status' });

/** A secret that is shown only now, until somebody has it. */
export const once = (place, title, secret, ...note) => { fill(place, h('div.warning', h('h3', title), secret, quiet(note), row(button('I have it', () => fill(place))))); };

export const facts = pairs => h('dl', Object.entries(pairs).map(([name, what]) => (what || what === 0) && [h('dt', name), h('dd', what)]));

const ICONS = {
  ok: 'M3 8.5l3.5 3.5L13 4.5', busy: 'M13 8a5 5 0 1 1-1.5-3.6M13 2v3h-3', warn: 'M8 2.5v7M8 13v.3', bad: 'M4 4l8 8M12 4l-8 8',
  pause: 'M5.5 3v10M10.5 3v10', idle: 'M4 8h8', right: 'M2 8h11M9 4l4 4-4 4',
};
const LOOKS = {
  ok: 'in sync,done,ok,synced,given,success,live,member,active,proved,fine,equal,identical,copied,captured,applied',
  busy: 'syncing,running,giving,planned,cancelling,waiting,joining,asked,comparing,copying',
  warn: 'behind,conflict,differs,in flight,partly,partial,warning,undone,stale,reconnecting,interrupted,parked,timeout',
  bad: 'failed,unreachable,error,blocked,denied,refused',
  pause: 'paused,held',
};
const look = word => Object.keys(LOOKS).find(name => LOOKS[name].split(',').includes(word)) ?? 'idle';

export const icon = name => s('svg.icon', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, s('path', { d: ICONS[name] }));

export function badge(state, text) {
  const word = String(state ?? 'unknown').replaceAll('_', ' ').toLowerCase();
  return h(`span.badge.${look(word)}`, icon(look(word)), h('span', text ?? (word === 'conflict' ? 'waits for you' : word)));
}

/** A page's head, to which the focus goes; returns the element for what the page has. */
export function head(main, title, lead) {
  const heading = h('h1', { tabindex: '-1' }, title);
  const body = h('div.body');
  fill(main, h('div.head', heading, lead && h('div.lead', lead)), h('div', { id: 'problems', role: 'alert' }), body);
  main.dataset.title = title;
  main.dispatchEvent(new Event('titled'));
  heading.focus({ preventScroll: true });
  return body;
}

/** Shows an error at the head of the page; without one, clears it. */
export function fail(error) {
  const place = document.getElementById('problems');
  if (error?.name === 'AbortError' || error?.status === 401) return;
  if (!error) fill(place ?? h('i'));
  else fill(place ?? document.getElementById('main'), errorBox(error)).scrollIntoView({ block: 'nearest' });
}

export function toast(text) {
  const line = h('p.toast', text);
  document.getElementById('toasts').append(line);
  setTimeout(() => line.remove(), 7000);
}

/** A button, busy while `fn` runs, and says `busy` then. `why`: it is off, and says so when it is pressed; `role`: who may press it. */
export function button(label, fn, { kind = '', busy, why, role, title } = {}) {
  const off = why || (role && !may(role) && `That needs the role ${role}.`);
  const node = h('button', { type: 'button', class: kind, title: off || title, 'aria-disabled': off ? 'true' : null }, label);
  node.addEventListener('click', event => {
    if (off) toast(off);
    else working(node, busy, () => fn(event));
  });
  return node;
}

/** Runs `fn` while `node` shows that it is at work; an error goes to the head of the page. */
export async function working(node, busy, fn) {
  if (node.ariaBusy) return; // pressed twice
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

/**
 * A button for what the command line does as `peersync LINE`; `run` may give what to say then.
 * `needs`: fields that have to be right; `ask`: as of `dialog`, or finds that out; `again`: called afterwards; the rest as of `button`.
 */
export function press(label, line, run, { needs = [], ask, again, ...options } = {}) {
  return button(label, async () => {
    if (!needs.every(one => one.reportValidity())) return;
    const asked = typeof ask === 'function' ? await ask() : ask;
    if (asked && !(await dialog({ confirm: label, ...asked, body: [p(asked.body), cli(line)] }))) return;
    const words = await run();
    toast(typeof words === 'string' ? words : 'Done.');
    again?.();
  }, { role: 'operator', title: `peersync ${line}`, busy: '…', ...options });
}

export const act = (label, line, ...more) => row(press(label, line, ...more), cli(`${line}`, ''));

export const ADMIN = { role: 'admin' };
export const PRIMARY = { kind: 'primary' };

/** For admins; where something can be lost, its `name` has to be typed. */
export const danger = (again, title, body, name) => ({ ...ADMIN, again, kind: 'danger', ask: { title, body, name, danger: true } });

let serial = 0;

export function field(label, control, help) {
  const id = (control.id ||= `f${(serial += 1)}`);
  const note = help && h('small', { id: `${id}h` }, help);
  if (note) control.setAttribute('aria-describedby', note.id);
  const check = control.type === 'checkbox';
  return h(check ? 'div.field.check' : 'div.field', check && control, h('label', { for: id }, label), !check && control, note);
}

export const input = props => h('input', { autocomplete: 'off', spellcheck: 'false', ...props });
export const checkbox = props => h('input', { type: 'checkbox', ...props });
export const form = (...fields) => h('div.filter', fields);

/** `options`: [value, text], or one word for both. */
export const select = (options, value, onchange, props) => h('select', { ...props, onchange: e => onchange?.(e.target.value), value },
  options.map(one => { const [value, text] = [one].flat(); return h('option', { value }, text ?? value); }));

/** Radio buttons of {value, label, note, why}; `why`: that one can't be chosen now, and this is the reason. */
export function radios(legend, name, options, chosen) {
  const one = ({ value, label, note, why }) => h(why ? 'label.radio.off' : 'label.radio',
    h('input', { type: 'radio', name, value, checked: value === chosen, disabled: Boolean(why) && value !== chosen }), h('span', label), h('span.note', why || note));
  return h('fieldset', h('legend', legend), h('div.radios', options.map(one)));
}

/** Fields ({name: [label, options]}) above a list; `onchange` gets all values, a moment after the last key. */
export function filterBar(fields, given, onchange) {
  let timer;
  const bar = h('form.filter', { role: 'search', onsubmit: e => e.preventDefault() }, Object.entries(fields).map(([name, [label, options]]) => (
    field(label, options ? select(options, given[name] ?? '', null, { name }) : input({ type: 'search', name, value: given[name] ?? '' })))));
  bar.values = () => Object.fromEntries(new FormData(bar));
  bar.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(() => onchange(bar.values()), 200); });
  return bar;
}

/** Asks, and tells whether it was confirmed. With `name` that has to be typed: only where something can be lost. */
export function dialog({ title, body, confirm, cancel = 'Cancel', name, danger = Boolean(name) }) {
  return new Promise(resolve => {
    const yes = h('button', { class: danger ? 'danger' : 'primary', value: 'yes', disabled: Boolean(name) }, confirm);
    const typed = input({ autofocus: true, oninput: () => { yes.disabled = typed.value.trim() !== name; } });
    const box = h('dialog', { 'aria-labelledby': 'ask', onclose: () => { box.remove(); resolve(box.returnValue === 'yes'); } },
      h('form', { method: 'dialog' }, h('h2', { id: 'ask' }, title), body, name && field(['Type ', b(name), ' to go on'], typed),
        row(h('button', { type: 'button', onclick: () => box.close('no') }, cancel), yes)));
    document.body.append(box);
    box.showModal();
  });
}

const copy = text => navigator.clipboard.writeText(text).then(() => toast('Copied.'), () => toast('The browser does not allow copying here.'));

/** No line ends inside of `--option` or of `server-a`. */
const whole = text => text.split(/(\S*-\S*)/).map((one, i) => (i % 2 ? h('span.word', one) : one));

/** The command that does the same, to copy. */
export const command = (text, label = 'same as') => h('p.command', label, code(whole(text)), button('Copy', () => copy(text), { kind: 'plain' }));

export const cli = (line, ...label) => command(`peersync ${line}`, ...label);

/** The lines of a hint: "do this: peersync x; or that: peersync y" has two; "peersync init writes one" has none. */
const PASTEABLE = /(?:^|: )((?:peersync (?!(?:[\w-]+ )+(?:makes|names|prints|says|sets|shows|takes|writes)\b)|(?:psql|systemctl|timedatectl) ).*?)(?=; [a-z]|,? or\b|\.?$)/gm;

/** It may be a peer's hint: a line with anything by which a shell does more gets no button. */
const pasteable = line => !/[;|&$`<>()\\\p{C}\p{Zl}\p{Zp}]/u.test(line);

export function hinted(text) {
  const lines = [...(text ?? '').matchAll(PASTEABLE)].map(([, line]) => line).filter(pasteable).map(line => command(line, ''));
  return text && (lines[0]?.children[0].textContent === text ? lines : [p(whole(text)), lines]);
}

function where({ holder = {}, ...data }) {
  const named = ['peer', 'database', 'table', 'key', 'column'].filter(k => data[k] != null).map(k => `${k} ${data[k]}`);
  const held = Object.entries(holder).map(([k, v]) => `${k} ${v}`).join(', ');
  return [...named, held && `held by ${held}`].filter(Boolean).join(' · ');
}

/** An ApiError, or an ErrorRecord of the API, in five parts. `did`: what peersync did about it. */
export function errorBox(error, did) {
  const { data = {}, hint, message, instance } = error;
  return h('div.error',
    p(badge('failed', error.code ?? 'error'), ' ', b(message)),
    facts({ Where: where(data), 'In its own words': error.words ?? (error.status === undefined && error.detail), 'What peersync did': did, 'What you can do': hinted(hint) }),
    data.holder?.job && link(`#/job/${data.holder.job}`, 'Open that sync'),
    instance && small(`request ${instance.split(':').pop()}, also in the log`));
}

export function flow(source, target, own, [gives, changes] = ['gives, is not changed', 'will be changed']) {
  const side = (name, what, kind) => h(kind, b(name), name === own && ' (this server)', below(what));
  return h('p.flow', side(source, gives, 'span.side'), icon('right'), h('span.hide', ' to '), side(target, changes, 'span.side.changes'));
}

/** A bar; `set` moves it. Without a value it only says that something goes on. */
export function bar(percent, label) {
  const node = h('div', { role: 'progressbar', 'aria-label': label }, h('span'));
  node.set = now => {
    node.className = now == null ? 'bar unknown' : 'bar';
    node.ariaValueNow = now == null ? null : String(Math.floor(now));
    node.style.setProperty('--p', (now ?? 0) / 100);
  };
  node.set(percent);
  return node;
}
