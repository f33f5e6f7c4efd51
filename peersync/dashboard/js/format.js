/** Numbers, times and words for people. What is not known is a dash, never zero. */
import { h } from './dom.js';

export const UNKNOWN = '–';
// By hand, as the times below: the first formatter of Intl takes a page 30 ms.
const grouped = n => String(+Number(n).toFixed(3)).replace(/\B(?<!\.\d*)(?=(\d{3})+(?!\d))/g, ',');
const unless = fn => n => (n == null ? UNKNOWN : fn(n));
const unit = (n, name) => `${n}\u202f${name}`;

export const bytes = unless(n => {
  const step = Math.min(Math.floor(Math.log2(Math.max(n, 1)) / 10), 5);
  const value = n / 1024 ** step;
  return unit(step && value < 100 ? value.toFixed(1) : Math.round(value), ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][step]);
});
export const rate = unless(n => `${bytes(n)}/s`);

export const count = unless(grouped);

export const many = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
export const rows = unless(n => many(n, 'row'));

/** A word as a shell takes it, and as an option: nothing where there is none. */
export const word = text => (/^[A-Za-z0-9_./:=@%+-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
export const option = (name, text) => (text ? ` --${name} ${word(text)}` : '');
export const db = name => option('database', name);

/** What the address of this page names, but there is no such thing. */
export const noSuchPage = () => Object.assign(new Error('There is no such page.'), { code: 'no-such-page' });

/** A part of a path: one name, which leads nowhere else. */
export function segment(name) {
  if (/^\.{0,2}$/.test(name)) throw noSuchPage(); // for a browser, the way up
  return encodeURIComponent(name);
}

/** The patterns that somebody has typed: with blanks or commas between, which those in quotes keep. */
export const patterns = text => text.match(/("[^"]*"|[^\s,"])+/g) ?? [];

export const percent = n => (n == null ? 'counting …' : unit(Math.floor(n), '%'));

const SPANS = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
const spanOf = s => SPANS.findIndex(([span]) => s >= span);

/** Seconds as "2 min 3 s": two units at most. */
export const duration = unless(s => {
  if (s < 1) return s <= 0 ? unit(0, 's') : unit(Math.ceil(s * 1000), 'ms');
  if (s < 10 && s % 1) return unit(s.toFixed(1), 's');
  const first = spanOf(Math.round(s));
  let rest = Math.round(s);
  const parts = SPANS.slice(first, first + 2).map(([span, name]) => {
    const n = Math.floor(rest / span);
    rest -= n * span;
    return n && unit(n, name);
  });
  return parts.filter(Boolean).join(' ');
});

/** "22 Nov 2026, 21:54:59 GMT+0100". */
export function at(iso) {
  const [, month, day, year, time, zone] = String(new Date(iso)).split(' ');
  return `${Number(day)} ${month} ${year}, ${time} ${zone}`;
}

function relative(iso) {
  const s = (Date.now() - new Date(iso)) / 1000;
  const far = Math.abs(s);
  if (far < 2) return 'just now';
  const [span, name] = SPANS[spanOf(far)];
  const words = unit(Math.floor(far / span), name);
  return s < 0 ? `in ${words}` : `${words} ago`;
}

/** A time that keeps itself right: relative, and absolute on hover. */
export const ago = (iso, none = 'never') => (iso ? h('time', { datetime: iso, title: at(iso), dataset: { ago: '' } }, relative(iso)) : h('span.quiet', none));

setInterval(() => {
  for (const node of document.hidden ? [] : document.querySelectorAll('[data-ago]')) {
    const text = relative(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}, 2000);
