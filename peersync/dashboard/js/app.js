/** The page itself: who is logged in, which page is shown, and what the whole says of itself. */
import * as live from './live.js';
import { badge, button, count, duration, fail, fill, get, h, head, link, noSuchPage, onLogin, p, post, session, small } from './kit.js';

const PAGES = [
  [['overview', 'Overview'], ['sync', 'Full sync'], ['links', 'Periodic sync'], ['complete', 'Complete sync']],
  [['conflicts', 'Conflicts'], ['quarantine', 'Quarantine'], ['tables', 'Tables'], ['check', 'Check'], ['verify', 'Verify']],
  [['history', 'History'], ['statistics', 'Statistics'], ['peers', 'Peers'], ['settings', 'Settings']],
];
const INSIDE = { job: 'sync', conflict: 'conflicts', password: 'settings' }; // in no menu: which page they belong to

const $ = id => document.getElementById(id);
const main = $('main');
const links = () => [...$('nav').querySelectorAll('a')];
let showing = new AbortController();
let whole = false; // the page is there, and not on its way
let broken = false;
let overview = null;

function parts(path) {
  try {
    return path.split('/').map(decodeURIComponent);
  } catch {
    return ['%']; // no such page
  }
}

function route() {
  const [path, search] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = parts(path);
  return { name: name || 'overview', params: { id: rest.join('/'), ...Object.fromEntries(new URLSearchParams(search)) } };
}

/** Shows the page of the address; what the one before listened to ends. */
async function open() {
  const { name, params } = route();
  if (name === 'first') return login(params.id);
  whole = broken = false;
  showing.abort();
  showing = new AbortController();
  const { signal } = showing;
  const known = Object.hasOwn(INSIDE, name) || links().some(a => a.dataset.page === name) ? name : 'none';
  for (const a of links()) a.ariaCurrent = a.dataset.page === (INSIDE[known] ?? known) ? 'page' : null;
  document.body.dataset.page = known;
  scrollTo(0, 0);
  try {
    if (known === 'none') throw noSuchPage();
    const load = () => import(`./pages/${known === 'password' ? 'login' : known}.js`);
    const its = await load().catch(() => get('/api/me').then(load)); // which says better what is wrong
    if (!signal.aborted) await (known === 'password' ? its.password : its.show)(main, params, { signal });
    whole = !signal.aborted;
  } catch (error) {
    if (signal.aborted) return null;
    if (error.code === 'no-such-page') head(main, 'There is no such page', link('#/overview', 'Overview'));
    else {
      broken = true;
      head(main, 'This page can’t be shown now', button('Try again', open));
      fail(error);
    }
  }
  return null;
}

/** The way in; who was cut off (`kept`) finds the page afterwards as it was. */
async function login(secret, kept) {
  const { page } = document.body.dataset;
  if (page === 'login' && !secret) return;
  const was = kept && { page, user: session.user, hash: location.hash, title: main.dataset.title, parts: [...main.childNodes] };
  document.body.dataset.page = 'login';
  for (const one of document.querySelectorAll('dialog')) one.close();
  if (!kept) showing.abort();
  live.end();
  shell(false);
  session.node = overview = null;
  (await import('./pages/login.js')).show(main, { link: secret }, { done: () => start(was) });
}

function shell(shown) {
  $('top').hidden = $('nav').hidden = !shown;
  document.body.classList.toggle('in', shown);
}

/** Begins, or begins again after a login; `was`: what somebody was cut off from. */
async function start(was) {
  const who = get('/api/me', { login: false }); // index.html has asked already
  if (route().name === 'first') return who.catch(() => {}).then(() => login(route().params.id));
  live.begin(); // beside that question: the first view needs both
  try {
    Object.assign(session, await who);
  } catch (error) {
    if (error.status === 401) login();
    else fill(main, h('h1', 'No answer'), p(error.message), button('Try again', () => start(was)));
    return null;
  }
  $('node').textContent = session.node;
  shell(true);
  account();
  if (was?.user === session.user && was.hash === location.hash) {
    document.body.dataset.page = was.page;
    main.dataset.title = was.title;
    fill(main, was.parts);
    return dress();
  }
  if (session.needs_password && route().name !== 'password') location.hash = '#/password';
  return open().then(() => (window.requestIdleCallback ?? setTimeout)(prefetch));
}

/** The other pages, so that each opens at once. */
function prefetch() {
  document.head.append(...links().map(a => h('link', { rel: 'modulepreload', href: `js/pages/${a.dataset.page}.js` })));
}

function account() {
  const out = button('Log out', () => post('/api/logout').then(() => login()));
  fill($('user'), h('details.drop', h('summary', session.user), h('div', small(`Role: ${session.role}`), link('#/password', 'Change the password'), out)));
}

function menu() {
  const entry = ([page, title]) => h('li', h('a', { href: `#/${page}`, dataset: { page } }, h('span', title), h('b')));
  const toggle = shown => { $('menu').ariaExpanded = String($('nav').classList.toggle('shown', shown)); };
  fill($('nav'), PAGES.map(group => h('ul', group.map(entry))));
  $('menu').addEventListener('click', () => toggle());
  addEventListener('hashchange', () => { toggle(false); $('user').firstChild?.removeAttribute('open'); });
}

function counted({ conflicts, quarantined, parked, running, requests }) {
  const of = { conflicts, quarantine: quarantined + parked, sync: running, peers: requests };
  for (const a of links()) a.lastChild.textContent = of[a.dataset.page] ? count(of[a.dataset.page]) : '';
}

const LOOKS = { ok: ['✓', '#17693c'], busy: ['↻', '#255c8a'], warn: ['!', '#a15c00'], bad: ['✗', '#b3261e'], idle: ['·', '#6b7280'] };

function look() {
  if (!overview || live.status().state !== 'live') return 'idle';
  if (overview.running.length) return 'busy';
  if (overview.fine) return 'ok';
  return overview.peers.some(one => ['failed', 'unreachable'].includes(one.state)) ? 'bad' : 'warn';
}

/** Title and icon say the state, also in a tab that nobody looks at. */
function dress() {
  const state = look();
  const [mark, colour] = LOOKS[state];
  const { title } = main.dataset;
  const says = [title !== 'Overview' && title, overview?.sentence].filter(Boolean).join(': ');
  document.title = session.node ? `${mark} ${says} – ${session.node}` : 'peersync';
  const icon = document.querySelector('link[rel=icon]');
  if (icon.dataset.look === state) return;
  icon.dataset.look = state;
  const logo = document.querySelector('.brand svg').cloneNode(true);
  logo.firstChild.setAttribute('fill', colour);
  icon.href = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(logo))}`;
}

function pulse() {
  const { state, age } = live.status();
  const old = age == null ? '' : `, data is ${duration(Math.round(age))} old`;
  const text = state === 'live' ? 'live' : `${state === 'stale' ? 'no answer' : 'reconnecting'}${old}`;
  if ($('live').textContent !== text) fill($('live'), badge(state, text));
  dress();
}

live.on('overview', value => {
  overview = value;
  const box = $('sentence');
  const key = value.sentence + value.fine;
  if (box.dataset.key !== key) fill(box, badge(value.fine ? 'fine' : 'warning', value.sentence)).dataset.key = key;
  counted(value.counts);
  dress();
});
live.on('state', pulse);
live.on('open', () => broken && open());
setInterval(() => live.status().state !== 'live' && pulse(), 1000);
main.addEventListener('titled', dress);
onLogin(() => login(null, whole && session.node));
menu();
document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); main.focus(); });
addEventListener('hashchange', () => (session.node || route().name === 'first' ? open() : start()));
start();
