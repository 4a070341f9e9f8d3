// Schedules, agents, repositories and tokens: a schedule is made, its firings seen while it is typed, a wrong one said; a token is made,
// shown once, and revoked. All of it is in the audit log. How a node joins is in join.js.
require('./lib')(async s => {
  const {page} = s;
  s.may(/status: 422 /);
  s.may(/console: .*422/);
  await s.signIn();
  await s.open('/schedules');
  await s.look();
  await page.getByRole('link', {name: 'New schedule'}).click();
  await s.heading('New schedule');
  await page.getByLabel('Back up', {exact: true}).selectOption({label: 'shop'});
  await page.getByLabel('Name', {exact: true}).fill('at night');
  await page.getByLabel('At (cron)', {exact: true}).fill('wrong');
  await page.locator('#firings .t-bad').first().waitFor();
  await page.getByLabel('At (cron)', {exact: true}).fill('30 2 * * *');
  await page.getByLabel('Time zone').fill('Europe/Berlin');
  await s.eventually('the next five firings', async () => await page.locator('#firings li').count() >= 5);
  await s.look();
  await s.shot('schedule');
  await s.submit(page.getByRole('button', {name: 'Make the schedule'}));
  await page.waitForURL(u => !u.pathname.endsWith('/new'));
  await s.open('/schedules');
  await page.getByRole('link', {name: 'at night'}).click();
  await s.says(/After its next backup none of/);
  await page.getByLabel('daily', {exact: true}).fill('');
  await page.getByLabel('weekly', {exact: true}).fill('');
  await s.says(/Nothing goes:/); // what these rules would do, before they are saved
  await s.submit(page.getByRole('button', {name: 'Pause'}));
  await s.says(/It is paused/);
  await s.look();
  await page.getByRole('link', {name: 'Delete schedule…'}).click();
  await s.heading('Delete schedule');
  await s.look();
  await s.open('/schedules');
  await s.shot('schedules');

  await s.open('/agents');
  await s.says(/shop/);
  await s.look();
  await s.shot('agents');

  await s.open('/tokens');
  await page.getByLabel('Name of who or what uses it').fill('monitoring');
  await s.submit(page.getByRole('button', {name: 'Make the token'}));
  const secret = (await page.locator('#secret').innerText()).trim();
  s.check(secret.startsWith('slc_'), 'the token is ' + secret);
  await s.look();
  await s.open('/tokens');
  s.check(!(await s.text()).includes(secret), 'the token is shown again');
  const row = page.getByRole('row', {name: /monitoring/});
  await s.shot('tokens');
  await row.getByRole('link', {name: 'Revoke…'}).click();
  await s.look();
  const word = page.getByLabel(/to go on/);
  await word.fill(await word.getAttribute('data-word'));
  await s.submit(page.locator('form.confirm button[type=submit]'));
  await page.waitForURL(u => u.pathname === '/tokens');
  s.equal(await page.getByRole('row', {name: /monitoring/}).count(), 0, 'the token that was revoked');
  await s.open('/repositories');
  await s.look();
  await s.shot('repositories');

  const audit = (await s.ask('audit')).split('\n').filter(l => l).map(l => JSON.parse(l).action);
  for (const a of ['session.create', 'schedule.create', 'schedule.update', 'token.create', 'token.revoke']) s.check(audit.includes(a), a + ' is not in the audit log: ' + audit);
});
