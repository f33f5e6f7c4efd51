/**
 * The one stream of events of this page. Read with fetch and not with EventSource, because
 * only so the pings are seen: a line that died without a word must not pass for live.
 */
import { loginNeeded } from './api.js';

const SILENT_MS = 25_000; // the agent pings every 10 s
const listeners = new Map();
let overview, stop, heardAt, lastId;
let state = 'reconnecting';

function tell(event, value) {
  for (const fn of [...(listeners.get(event) ?? [])]) {
    try {
      fn(value);
    } catch (error) {
      reportError(error); // one listener is no reason to cut the line
    }
  }
}

function become(next) {
  if (next === 'live') heardAt = Date.now();
  if (next === state) return;
  state = next;
  tell('state');
}

/**
 * Listens to `overview`, `jobs` and `ended` as the agent sends them, `open` after each
 * connection, `state`; until `signal`. The newest overview is given at once.
 */
export function on(event, fn, signal) {
  if (!listeners.has(event)) listeners.set(event, new Set());
  listeners.get(event).add(fn);
  if (event === 'overview' && overview) fn(overview);
  signal?.addEventListener('abort', () => listeners.get(event).delete(fn));
}

/** live, reconnecting or stale, and the age of the data in seconds. */
export const status = () => ({ state, age: heardAt && (Date.now() - heardAt) / 1000 });

function take(block) {
  const { event, id, data } = Object.fromEntries(block.split('\n').map(line => [line.split(':', 1)[0], line.replace(/^\w*: ?/, '')]));
  lastId = id ?? lastId;
  if (!data) return;
  const value = JSON.parse(data);
  if (event === 'overview') overview = value;
  tell(event, value);
}

async function read(signal) {
  const response = await fetch('/api/admin/events', { signal, headers: lastId ? { 'Last-Event-ID': lastId } : {} });
  if (response.status === 401) return loginNeeded();
  if (!response.ok) throw new Error();
  become('live');
  tell('open');
  let rest = '';
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    become('live');
    const blocks = (rest + part.value.replaceAll('\r', '')).split('\n\n');
    rest = blocks.pop();
    blocks.forEach(take);
  }
  return null;
}

async function listen({ signal }) {
  for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 8000)) {
    const line = new AbortController();
    const silent = () => Date.now() - heardAt > SILENT_MS;
    const watch = setInterval(() => silent() && line.abort(), 5000);
    await read(AbortSignal.any([signal, line.signal])).then(() => { wait = 250; }, () => {}); // the next try says more
    clearInterval(watch);
    if (signal.aborted) return;
    become(silent() ? 'stale' : 'reconnecting');
    await new Promise(done => { setTimeout(done, wait); });
  }
}

export function begin() {
  if (stop) return;
  stop = new AbortController();
  listen(stop);
}

export function end() {
  stop?.abort();
  stop = overview = lastId = undefined;
  state = 'reconnecting';
}
