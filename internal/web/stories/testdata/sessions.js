// Two tabs of one reader: who signs out in one is out in the other, and who signs in again is back there. A session that has ended, as its
// token was revoked, leads to the log-in and back to where it was.
require('./lib')(async s => {
  const one = s.page;
  await s.signIn(one);
  const two = await s.tab();
  await s.open('/?q=clinic', two);
  await s.heading(/1 of 2 instances is safe/, two);
  s.check(!two.url().includes('/login'), 'the other tab has to sign in again');
  await one.getByRole('button', {name: 'Sign out everywhere'}).click();
  await one.waitForURL(/\/login/);
  await two.reload();
  s.check(two.url().includes('/login'), 'who has signed out sees ' + two.url());
  await s.signIn(two);
  s.equal(two.url(), s.base + '/?q=clinic', 'after signing in again');
  await s.open('/', one);
  await s.heading(/1 of 2 instances is safe/, one);

  const other = await s.tab(await s.someone());
  const {token, secret} = await s.api('POST', '/slipcover/v1/tokens', {name: 'guest', role: 'viewer', project: 'default'});
  await s.signIn(other, secret || token.secret);
  await s.open('/?q=shop', other);
  const list = (await s.api('GET', '/slipcover/v1/tokens')).tokens;
  await s.api('DELETE', '/slipcover/v1/tokens/' + list.find(t => t.name === 'guest').id);
  await other.reload();
  await s.says(/Your session ended/, other);
  await s.look(other);
  await s.signIn(other);
  s.equal(other.url(), s.base + '/?q=shop', 'after a session that ended');
});
