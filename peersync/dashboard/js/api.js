/** The way to the agent: JSON in, JSON out, and errors as the API tells them. */

/** What an answer that is not 2xx says; `status` 0 is: the agent did not answer. */
class ApiError extends Error {
  constructor(status, { cause, detail, title, ...problem }) {
    super(detail ?? title ?? `The agent answered with HTTP status ${status}.`);
    Object.assign(this, { code: 'unknown', data: {}, ...problem, status, title, detail, words: cause });
  }
}

/** Who is logged in: user, role, node, version, session_expires_at, needs_password. */
export const session = {};

const ROLES = ['viewer', 'operator', 'admin'];

/** Whether the one who is logged in has that role, or a higher one. */
export const may = role => ROLES.indexOf(session.role) >= ROLES.indexOf(role);

/** `fn` is called when the agent wants a login. */
export const onLogin = fn => { loginNeeded = fn; };
export let loginNeeded;

const DOWN = { code: 'agent-unreachable', detail: 'The agent does not answer.', hint: 'See whether it runs: systemctl status peersync-agent' };

async function call(method, path, body, { signal, login = true } = {}) {
  const sent = body && { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const response = await fetch(path, { method, signal, ...sent }).catch(error => {
    throw error.name === 'AbortError' ? error : new ApiError(0, { ...DOWN, cause: error.message });
  });
  const answer = await response.text().then(text => (text.trim() ? JSON.parse(text) : null)).catch(() => ({})); // long ones begin with spaces
  if (response.ok) return answer;
  if (response.status === 401 && login) loginNeeded();
  throw Object.assign(new ApiError(response.status, answer ?? {}), { retryAfter: response.headers.get('Retry-After') });
}

export const get = (path, options) => call('GET', path, null, options);
export const post = (path, body = {}, options) => call('POST', path, body, options);
export const put = (path, body) => call('PUT', path, body);
export const patch = (path, body) => call('PATCH', path, body);
export const del = path => call('DELETE', path);

/** `path?a=1`; what is null, false or empty is left out. */
export function query(path, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== '' && value !== false);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** GET and POST below api/admin/. */
export const ask = (path, values, options) => get(query(`api/admin/${path}`, values), options);
export const tell = (path, body) => post(`api/admin/${path}`, body);
