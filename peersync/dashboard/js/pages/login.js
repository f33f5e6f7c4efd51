/** The way in: name and password, or the one-time link that `peersync init` has printed. */
import { h, fill } from '../dom.js';
import { post, session } from '../api.js';
import { errorBox, field, page, toast, working } from '../ui.js';

const SHORTEST = 10;

const input = (name, autocomplete, type = 'password') => h('input', { name, type, autocomplete, required: true, minlength: autocomplete === 'new-password' ? SHORTEST : null });

/** A form whose error is shown in it. */
function form(fields, label, send) {
  const said = h('div', { role: 'alert' });
  const go = h('button', { class: 'primary' }, label);
  const submit = (event) => {
    event.preventDefault();
    fill(said);
    const values = Object.fromEntries(new FormData(event.target));
    working(go, 'One moment …', () => send(values).catch((error) => fill(said, explained(error))));
  };
  return h('form', { class: 'stack', onsubmit: submit }, fields, said, h('div', { class: 'actions' }, go));
}

function explained(error) {
  if (error.status === 429) error.hint ??= `Wait ${error.retryAfter ?? 60} seconds, then try again.`;
  return errorBox(error);
}

const repeated = () => [
  field('New password', input('new', 'new-password'), `At least ${SHORTEST} characters. A sentence is better than a riddle.`),
  field('The same again', input('again', 'new-password')),
];

function same(values) {
  if (values.new !== values.again) throw Object.assign(new Error('the two passwords differ'), { code: 'typing' });
}

function entrance(main, title, lead, content) {
  const body = page(main, { title, lead });
  body.append(h('section', null, content));
  body.querySelector('input')?.focus();
}

/** Shown instead of everything else until `done`. @param {{secret: string}} params from the one-time link */
export async function show(main, { secret }, { done }) {
  if (secret) return first(main, secret, done);
  const fields = [field('Name', input('user', 'username', 'text')), field('Password', input('password', 'current-password'))];
  const send = (values) => post('/api/login', values, { login: false }).then(done);
  entrance(main, 'Log in to peersync', null, [form(fields, 'Log in', send), h('p', null, h('small', null, 'No password yet, or forgotten? On the server: ', h('code', null, 'peersync admin link')))]);
  return null;
}

function first(main, secret, done) {
  const send = async (values) => {
    same(values);
    await post('/api/login/link', { secret, password: values.new }, { login: false });
    history.replaceState(null, '', '#/overview'); // the secret does not stay in the history
    await done();
  };
  entrance(main, 'Welcome to peersync', 'Choose the password with which you will open this page.', form(repeated(), 'Set it and go on', send));
}

/** `#/password`: another password for the one who is logged in. */
export async function password(main) {
  const send = async (values) => {
    same(values);
    await post('/api/me/password', { old: values.old, new: values.new });
    session.needs_password = false;
    toast('The password is changed.');
    location.hash = '#/overview';
  };
  entrance(main, 'Your password', `You are logged in as ${session.user}.`, form([field('Password now', input('old', 'current-password')), repeated()], 'Change it', send));
}
