// Jobs: a backup by hand is asked for, seen to run and end without reloading, proven, and deleted after its name is typed; what went wrong
// is typed again.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.open('/jobs');
  await s.look();
  await page.getByRole('link', {name: 'Back up now…'}).click();
  await page.getByLabel('Instance', {exact: true}).selectOption({label: 'shop'});
  await page.getByLabel('Name', {exact: true}).fill('before the update');
  await s.look();
  await s.submit(page.getByRole('button', {name: 'Create backup'}));
  const {backups} = await s.api('GET', '/v1.0/default/backups');
  const id = backups.find(b => b.name === 'before the update').id;
  await s.open('/backups/' + id);
  await s.heading(/before the update/);
  await page.getByRole('button', {name: 'Prove now'}).waitFor(); // it has ended
  await s.look();
  await s.submit(page.getByRole('button', {name: 'Prove now'}));
  await s.open('/jobs?f=prove');
  await s.eventually('the proof ends in the list', async () => /Proven/.test(await page.locator('#endedlist').innerText()));
  await s.open('/jobs');
  await page.getByRole('link', {name: /Backup of shop/}).first().waitFor();
  await s.look();
  await s.shot('jobs');
  await page.getByRole('link', {name: /Backup of shop/}).first().click();
  await s.heading(/Backup of shop/);
  await s.look();

  s.may(/status: 422 POST .*\/delete/);
  s.may(/console: .*422/);
  await s.open('/backups/' + id);
  await s.says(/on a CouchDB|opened without a CouchDB/);
  await s.look();
  await s.shot('backup');
  await page.getByRole('link', {name: 'Delete…'}).click();
  await s.look();
  const word = page.getByLabel(/to go on/);
  const button = page.locator('form.confirm button[type=submit]');
  s.check(await button.isDisabled(), 'it can be deleted before its name is typed');
  await word.fill('before');
  s.check(await button.isDisabled(), 'it can be deleted by half its name');
  await word.fill(await word.getAttribute('data-word'));
  await s.submit(button);
  await s.eventually('the backup is gone', async () => !(await s.api('GET', '/v1.0/default/backups')).backups.some(b => b.id === id));
  await s.open('/backups');
  await s.shot('backups');
  await s.open('/backups?q=update');
  await s.says(/Nothing is found/);
  await s.look();
});
