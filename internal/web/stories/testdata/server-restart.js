// A server that ends: the page says how old it is, and when the server is back it goes on by itself, without signing in again.
require('./lib')(async s => {
  const {page} = s;
  s.may(/^failed: .*\/$/); // the stream of the page, as long as nobody answers
  s.may(/^console: .*(ERR_|50[23])/);
  s.may(/^status: 50[23] /);
  await s.signIn();
  await s.heading(/1 of 2 instances is safe/);
  await s.ask('stop');
  await s.says(/not connected/);
  await s.look();
  await s.ask('start');
  await s.eventually('the page is connected again', async () => !(await page.getByText(/not connected/).first().isVisible()));
  await page.reload();
  await s.heading(/1 of 2 instances is safe/);
  s.check(!page.url().includes('/login'), 'one has to sign in again');
});
