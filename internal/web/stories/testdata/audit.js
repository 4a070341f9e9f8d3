// The audit log: who was refused, who looked at which documents, who made a token; searched by who, what and when. Only administrators
// see it.
require('./lib')(async s => {
  const {page} = s;
  s.may(/status: 401 POST \/login/);
  s.may(/status: 422 GET \/audit.*until=some/);
  s.may(/console: .*4(01|03|22)/);
  s.may(/status: 403 GET \/audit/);
  await s.open('/login');
  await page.getByLabel('Token').fill('slc_wrong');
  await page.getByRole('button', {name: 'Sign in'}).click();
  await s.says(/No such token/);
  await s.signIn();
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = instances.find(i => i.name === 'shop').id;
  await s.open('/instances/' + shop + '/moment?s=latest&db=timeline');
  await page.locator('section.lead tbody a').first().click(); // a document
  await s.heading(/./);
  const doc = new URL(page.url()).searchParams.get('doc');
  await s.look();
  const {token, secret} = await s.api('POST', '/slipcover/v1/tokens', {name: 'guest', role: 'viewer', project: 'default'});

  await page.getByRole('link', {name: 'Audit log'}).click();
  await s.heading('Audit log');
  const rows = () => page.locator('main tbody tr').allInnerTexts();
  const has = async (...words) => s.check((await rows()).some(r => words.every(w => r.includes(w))), 'no line has ' + words + ': ' + await rows());
  await has('document.read', 'shop', 'timeline/' + doc, 'admin');
  await has('token.create', 'admin');
  await has('session.create', 'HTTP 401', '127.0.0.1');
  await s.look();
  await s.shot('audit');
  await page.getByRole('link', {name: 'Signing in'}).click();
  await page.waitForURL(/[?&]/);
  s.check((await rows()).every(r => /session\./.test(r)), 'beside those who signed in: ' + await rows());
  await s.open('/audit');
  await page.getByLabel('did', {exact: true}).fill('document.read');
  await page.getByLabel('Who', {exact: true}).fill('admin');
  await page.getByLabel('from', {exact: true}).fill('10m ago');
  await page.getByRole('button', {name: 'Find'}).click();
  await page.waitForURL(/document\.read/);
  s.check((await rows()).length > 0 && (await rows()).every(r => r.includes('document.read')), 'found: ' + await rows());
  await page.getByLabel('until', {exact: true}).fill('2h ago');
  await page.getByLabel('from', {exact: true}).fill('');
  await page.getByRole('button', {name: 'Find'}).click();
  await s.says('Nothing is found.');
  await page.getByLabel('until', {exact: true}).fill('some day');
  await page.getByRole('button', {name: 'Find'}).click();
  await page.locator('.t-bad').first().waitFor();
  await s.look();

  const guest = await s.tab(await s.someone());
  await s.signIn(guest, secret || token.secret);
  s.equal(await guest.getByRole('link', {name: 'Audit log'}).count(), 0, 'what a viewer has of it in the menu');
  await s.open('/audit', guest);
  s.equal(await guest.locator('main tbody tr').count(), 0, 'lines that a viewer sees');
  await s.look(guest);

  // What is found from everywhere.
  await page.getByLabel('Find an instance, backup or job').fill('nightly');
  await page.keyboard.press('Enter');
  await s.heading(/Found for/);
  await s.look();
});
