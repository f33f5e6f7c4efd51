/** Rows as people look at them: side by side, and as a form. */
import { b, checkbox, count, h, list } from './kit.js';

function value(text, marked) {
  if (text === undefined) return '–';
  const shown = text?.length > 2000 ? `${text.slice(0, 2000)}… (${count(text.length)} characters)` : text ?? h('i', 'NULL');
  return h('pre', marked ? h('mark', shown) : shown);
}

/** Rows side by side, one for each of `heads`, the columns that differ marked; null is: no such row. */
export function sides(caption, heads, one, other) {
  const columns = [...new Set([one, other].flatMap(side => Object.keys(side ?? {})))];
  const differs = name => Boolean(one && other) && one[name] !== other[name];
  const side = (title, values) => ({ title, cell: ({ name }) => value(values?.[name], differs(name)) });
  const name = { title: 'Column', cell: ({ name: text }) => [b(text), differs(text) && [' ≠', h('span.hide', ' differs')]] };
  return list(caption, columns.map(text => ({ name: text })), [name, ...heads.map((head, i) => side(head, [one, other][i]))], { empty: 'No side has a row.' });
}

export const written = told => sides('Before and after', ['Was', 'Is now'], told.before, told.after);

function oneValue([name, was]) {
  const none = checkbox({ checked: was === null, 'aria-label': `${name} is NULL` });
  const text = h('textarea', { rows: Math.min(4, (was ?? '').split('\n').length), spellcheck: 'false', 'aria-label': name, value: was ?? '', oninput: () => { none.checked = false; } });
  const before = text.value;
  const changed = () => none.checked !== (was === null) || (!none.checked && text.value !== before);
  return { changed, now: () => [name, none.checked ? null : text.value], node: h('div.field', b(name), text, h('label', none, ' NULL')) };
}

/** A form with the columns of a row. `values()`: those that were changed. */
export function rowForm(values) {
  const fields = Object.entries(values).map(oneValue);
  const node = h('div.grid', fields.map(one => one.node));
  node.values = () => {
    const changed = fields.filter(one => one.changed());
    if (!changed.length) throw new Error('Change at least one column first.');
    return Object.fromEntries(changed.map(one => one.now()));
  };
  return node;
}
