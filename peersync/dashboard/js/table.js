/** The one table of all pages: described by its columns, patched in place, sorted by its heads, growing on demand. */
import { controls, fill, h, keyed } from './dom.js';
import { ago, bytes, count, duration } from './format.js';
import { b, badge, code } from './ui.js';

const NUMBERS = { count, bytes, duration };
const HOW = { ...NUMBERS, b, badge, code, ago, text: value => value };

/** A number that is not a plain property. */
export const num = (cell, sort) => ({ cell, sort, align: 'right' });

/** A column: 'HOW property', how it is shown and of what; the cell and what it is sorted by; or only the cell. */
function column([title, what]) {
  if (typeof what === 'function') return { title, cell: what };
  if (Array.isArray(what)) return { title, cell: what[0], sort: what[1] };
  if (typeof what === 'object') return { title, ...what };
  const [how, path = title.toLowerCase().replaceAll(' ', '_')] = what.split(' ');
  const value = one => path.split('.').reduce((it, name) => it?.[name], one);
  return { title, cell: one => HOW[how](value(one)), sort: value, align: NUMBERS[how] && 'right' };
}

function swap(old, next) {
  const at = controls(old).indexOf(document.activeElement);
  old.replaceWith(next);
  controls(next)[at]?.focus();
}

const compare = (a, b) => (typeof a === 'string' && typeof b === 'string' ? a.localeCompare(b, 'en', { numeric: true }) : (a > b) - (a < b));
const NAMES = ['database', 'schema', 'table', 'set', 'peer', 'name', 'node', 'kind', 'key', 'day', 'measure', 'id', 'origin', 'position'];
const keyOf = one => NAMES.map(name => one[name] ?? '').join(' ').trim();

class Table {
  constructor(caption, rows, columns, { key = keyOf, empty = 'Nothing here.', limit = 200, detail } = {}) {
    columns = Array.isArray(columns) ? columns : Object.entries(columns).map(column);
    Object.assign(this, { columns, all: rows, empty, limit, detail, shown: limit, sign: 1, opened: new Set(), key: row => String(key(row)) });
    this.heads = columns.map(({ title, align, sort }) => h('th', { scope: 'col', role: 'columnheader', class: align },
      sort ? h('button.sort', { type: 'button', onclick: () => this.sortBy(sort, title) }, title) : title));
    this.grid = h('table', { role: 'table' }, h('caption.hide', caption),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, detail && h('td.opener', { role: 'cell' }), this.heads)));
    this.foot = h('p');
    this.box = h('div.tablebox', this.grid, this.foot);
    this.box.update = next => { this.all = next; this.draw(); };
    this.draw();
  }

  make(row) {
    const body = h('tbody', { role: 'rowgroup' }, h('tr', { role: 'row' }));
    this.patch(body, row);
    return body;
  }

  patch(body, row) {
    const open = this.opened.has(this.key(row));
    const now = JSON.stringify([row, open]);
    if (body.was === now) return;
    body.was = now;
    const [line, below] = body.rows;
    this.cells(row, open).forEach((next, i) => {
      if (!line.cells[i]) line.append(next);
      else if (!line.cells[i].isEqualNode(next)) swap(line.cells[i], next);
    });
    below?.remove();
    if (open) body.append(h('tr.detail', { role: 'row' }, h('td', { role: 'cell', colspan: line.cells.length }, this.detail(row))));
  }

  cells(row, open) {
    const cells = this.columns.map(({ title, align = '', cell }) => {
      const node = h('td', { role: 'cell', dataset: { title: title.textContent ?? title } }, cell(row));
      node.className = node.textContent === '0' ? `${align} zero` : align;
      return node;
    });
    return this.detail ? [h('td.opener', { role: 'cell' }, this.opener(this.key(row), open)), ...cells] : cells;
  }

  opener(key, open) {
    const toggle = () => {
      if (!this.opened.delete(key)) this.opened.add(key);
      this.draw();
    };
    return h('button.plain', { type: 'button', 'aria-expanded': open, 'aria-label': `Details of ${key}`, onclick: toggle });
  }

  sortBy(value, title) {
    this.sign = this.value === value ? -this.sign : 1;
    this.value = value;
    for (const head of this.heads) head.ariaSort = head.textContent !== title ? null : this.sign > 0 ? 'ascending' : 'descending';
    this.draw();
  }

  draw() {
    const { value, sign, all } = this;
    const some = (value ? [...all].sort((a, b) => sign * compare(value(a) ?? '', value(b) ?? '')) : all).slice(0, this.shown);
    keyed(this.grid, some, this.key, row => this.make(row), (body, row) => this.patch(body, row));
    this.grid.hidden = !all.length;
    const left = all.length - some.length;
    const more = () => { this.shown += this.limit; this.draw(); };
    fill(this.foot, !all.length && h('span.empty', typeof this.empty === 'function' ? this.empty() : this.empty),
      left > 0 && [`Showing ${count(some.length)} of ${count(all.length)}. `, h('button', { type: 'button', onclick: more }, `Show ${count(Math.min(this.limit, left))} more`)]);
  }
}

/**
 * `columns`: {title: what it shows, see `column`}; `empty`: what is said then, or makes it; `limit`: rows at first;
 * `detail(row)`: what opens below. Its `update(rows)` shows others.
 */
export const table = (...how) => new Table(...how).box;
