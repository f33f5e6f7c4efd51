/** The way in: name and password, or the one-time link that `peersync init` has printed. */
import { card, code, errorBox, field, fill, h, head, input, p, post, row, session, small, toast, working } from '../kit.js';

const SHORTEST = 10;
const secret = (name, autocomplete, more) => input({ name, type: 'password', autocomplete, required: true, ...more });

function entrance(main, title, lead, fields, label, send, ...more) {
  const said = h('div', { role: 'alert' });
  const go = h('button.primary', label);
  const submit = event => {
    event.preventDefault();
    fill(said);
    const values = Object.fromEntries(new FormData(event.target));
    working(go, 'One moment …', () => send(values).catch(error => fill(said, explained(error))));
  };
  head(main, title, lead).append(card(h('form.stack', { onsubmit: submit }, fields, said, row(go)), more));
  main.querySelector('input').focus();
}

function explained(error) {
  if (error.status === 429) error.hint ??= `Wait ${error.retryAfter ?? 60} seconds, then try again.`;
  return errorBox(error);
}

const repeated = () => [
  field('New password', secret('new', 'new-password', { minlength: SHORTEST }), `At least ${SHORTEST} characters. A sentence is better than a riddle.`),
  field('The same again', secret('again', 'new-password')),
];

function same(values) {
  if (values.new !== values.again) throw Object.assign(new Error('the two passwords differ'), { code: 'typing' });
}

/** Shown instead of everything else until `done`; `link`: the secret of the one-time link. */
export function show(main, { link }, { done }) {
  if (!link) {
    return entrance(main, 'Log in to peersync', null, [field('Name', input({ name: 'user', autocomplete: 'username', required: true })), field('Password', secret('password', 'current-password'))], 'Log in',
      values => post('/api/login', values, { login: false }).then(done), p(small('No password yet, or forgotten? On the server: ', code('peersync admin link'))));
  }
  return entrance(main, 'Welcome to peersync', 'Choose the password with which you will open this page.', repeated(), 'Set it and go on', async values => {
    same(values);
    await post('/api/login/link', { secret: link, password: values.new }, { login: false });
    history.replaceState(null, '', '#/overview'); // the secret does not stay in the history
    await done();
  });
}

/** `#/password`: another password for the one who is logged in. */
export const password = main => entrance(main, 'Your password', `You are logged in as ${session.user}.`, [field('Password now', secret('old', 'current-password')), repeated()], 'Change it', async values => {
  same(values);
  await post('/api/me/password', { old: values.old, new: values.new });
  session.needs_password = false;
  toast('The password is changed.');
  location.hash = '#/overview';
});
