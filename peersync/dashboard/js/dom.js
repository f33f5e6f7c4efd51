/** Elements from plain values. Text stays text: nothing here, or above, parses HTML. */

const PROPERTIES = ['value', 'checked', 'disabled', 'hidden', 'open'];

function set(node, name, value) {
  if (typeof value === 'function') node.addEventListener(name.slice(2), value);
  else if (name === 'dataset') Object.assign(node.dataset, value);
  else if (PROPERTIES.includes(name)) node[name] = value;
  else if (value != null) node.setAttribute(name, value);
}

const add = (node, children) => node.append(...children.flat(9).filter(one => one != null && typeof one !== 'boolean'));

function build(make, what, [first, ...rest]) {
  const [tag, ...classes] = what.split('.');
  const node = make(tag);
  const given = first?.constructor === Object;
  const { value, ...props } = given ? first : {};
  if (classes.length) node.setAttribute('class', classes.join(' '));
  for (const [name, one] of Object.entries(props)) set(node, name, one);
  add(node, given ? rest : [first, rest]);
  if (value !== undefined) node.value = value; // a select needs its options first
  return node;
}

/** An HTML element: h('p.quiet', { title }, ...children). Children that are no nodes become text; null and booleans are left out. */
export const h = (what, ...args) => build(tag => document.createElement(tag), what, args);

export const s = (what, ...args) => build(tag => document.createElementNS('http://www.w3.org/2000/svg', tag), what, args);

export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

export const controls = node => [...node.querySelectorAll('button, a, input, select, textarea, summary')];

const known = new WeakMap();

/** Patches the children of `list` in place, so that focus, selection and scrolling stay. */
export function keyed(list, items, key, make, update) {
  const old = known.get(list) ?? new Map();
  const now = new Map(items.map(item => [key(item), item]));
  const focused = document.activeElement;
  for (const [id, node] of old) if (!now.has(id)) node.remove();
  let at = list.tHead ? list.tHead.nextSibling : list.firstChild;
  for (const [id, item] of now) {
    const node = old.get(id) ?? make(item);
    if (old.has(id)) update(node, item);
    now.set(id, node);
    if (node === at) at = at.nextSibling;
    else list.insertBefore(node, at);
  }
  known.set(list, now);
  if (focused !== document.activeElement && list.contains(focused)) focused.focus();
}
