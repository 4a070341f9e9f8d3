// A person who follows a link signs in and is there; a wrong token is told; who signs out is out, also with the back button.
require('./lib')(async s => {
  const {page} = s;
  s.may(/status: 401 POST \/login/);
  s.may(/console: .*401/);
  await s.open('/?q=shop');
  s.check(page.url().includes('/login'), 'who is not signed in sees ' + page.url());
  await s.look();
  await s.shot('sign-in');
  await page.getByLabel('Token').fill('slc_wrong');
  await page.getByRole('button', {name: 'Sign in'}).click();
  await s.says(/No such token/);
  await s.look();
  await s.signIn();
  s.equal(page.url(), s.base + '/?q=shop', 'after signing in');
  const cookies = await s.context.cookies();
  s.check(cookies.length > 0 && cookies.filter(c => c.name !== 'zone').every(c => c.httpOnly && c.sameSite !== 'None'), 'cookies: ' + JSON.stringify(cookies));

  await page.getByRole('button', {name: 'Sign out', exact: true}).click();
  await page.waitForURL(/\/login/);
  await page.goBack();
  s.check(!(await s.text()).includes('shop'), 'the back button shows what was there');
  await s.open('/');
  s.check(page.url().includes('/login'), 'who has signed out sees ' + page.url());
});
