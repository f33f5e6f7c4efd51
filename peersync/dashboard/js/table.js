/** The one table of all pages: patched in place, sorted by its heads, growing on demand. */
import { h, fill, keyed } from './dom.js';
import { count } from './format.js';

const controls = (node) => [...node.querySelectorAll('button, a, input, select, textarea, summary')];

/** A cell takes the place of another; the focus stays where it was. */
function swap(old, next) {
  const at = controls(old).indexOf(document.activeElement);
  old.replaceWith(next);
  controls(next)[at]?.focus();
}

const compare = (a, b) => (typeof a === 'string' && typeof b === 'string' ? a.localeCompare(b, 'en', { numeric: true }) : (a > b) - (a < b));

class Table {
  constructor({ caption, columns, rows = [], key = (row) => row.id, empty = 'Nothing here.', limit = 200, detail }) {
    Object.assign(this, { columns, all: rows, empty, limit, detail, shown: limit, sign: 1, opened: new Set(), key: (row) => String(key(row)) });
    this.heads = columns.map(({ title, align, sort }) => h('th', { scope: 'col', role: 'columnheader', class: align },
      sort ? h('button', { type: 'button', class: 'sort', onclick: () => this.sortBy(sort, title) }, title) : title || h('span', { class: 'hide' }, 'Actions')));
    this.grid = h('table', { role: 'table' }, h('caption', { class: 'hide' }, caption),
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, detail && h('td', { role: 'cell', class: 'opener' }), this.heads)));
    this.foot = h('p');
    this.box = h('div', { class: 'tablebox' }, this.grid, this.foot);
    this.box.update = (next) => { this.all = next; this.draw(); };
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
    if (open) body.append(h('tr', { role: 'row', class: 'detail' }, h('td', { role: 'cell', colspan: line.cells.length }, this.detail(row))));
  }

  cells(row, open) {
    const cells = this.columns.map(({ title, align = '', cell }) => {
      const node = h('td', { role: 'cell', dataset: { title: title.textContent ?? title } }, cell(row));
      node.className = node.textContent === '0' ? `${align} zero` : align;
      return node;
    });
    return this.detail ? [h('td', { role: 'cell', class: 'opener' }, this.opener(this.key(row), open)), ...cells] : cells;
  }

  opener(key, open) {
    const toggle = () => {
      if (!this.opened.delete(key)) this.opened.add(key);
      this.draw();
    };
    return h('button', { type: 'button', class: 'plain', 'aria-expanded': open, 'aria-label': `Details of ${key}`, onclick: toggle });
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
    keyed(this.grid, some, this.key, (row) => this.make(row), (body, row) => this.patch(body, row));
    this.grid.hidden = !all.length;
    const left = all.length - some.length;
    const more = () => { this.shown += this.limit; this.draw(); };
    fill(this.foot, !all.length && h('span', { class: 'empty' }, typeof this.empty === 'function' ? this.empty() : this.empty),
      left > 0 && [`Showing ${count(some.length)} of ${count(all.length)}. `, h('button', { type: 'button', onclick: more }, `Show ${count(Math.min(this.limit, left))} more`)]);
  }
}

/**
 * @param {{caption: string, rows?: any[], key?: (row) => any, empty?: any, limit?: number, detail?: (row) => any,
 *   columns: {title: string, cell: (row) => any, align?: 'right', sort?: (row) => any}[]}} options
 *   caption: for screen readers; empty: what is said then, or makes it; limit: rows that are shown at first; detail: what opens below a row
 * @returns {HTMLElement & {update: (rows: any[]) => void}}
 */
export const table = (options) => new Table(options).box;
