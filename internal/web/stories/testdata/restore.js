// Restore, by the wizard: what, when, where, the plan, the name typed. A node comes back on another machine and as a new instance, and a database
// into the CouchDB that runs, all for real: their documents are those of the backup. Nothing begins before that; what is closed says why, the
// plan follows each choice, and back leads to the step before.
require('./lib')(async s => {
  const {page} = s;
  const button = page.locator('form.confirm button[type=submit]');
  const documents = async (base, user, password, db) => {
    const r = await fetch(base + '/' + db + '/_all_docs?include_docs=true', {headers: {Authorization: 'Basic ' + Buffer.from(user + ':' + password).toString('base64')}});
    s.check(r.ok, db + ' at ' + base + ': ' + r.status);
    return (await r.json()).rows;
  };
  const customers = await documents(s.env.COUCH, s.env.COUCH_USER, s.env.COUCH_PASSWORD, 'customers'); // nobody has changed them since the backup
  s.check(customers.length === 15, 'there are ' + customers.length + ' customers');

  await s.signIn();
  await page.getByRole('link', {name: 'Restore…'}).first().click();
  await s.heading('Restore: what');
  await s.look();
  await page.getByLabel('Of', {exact: true}).selectOption({label: 'shop'});
  await page.getByRole('button', {name: 'Go on'}).click();
  await s.heading('Restore: when');
  await s.look();
  await page.getByRole('link', {name: 'Choose'}).first().click();
  await s.heading('Restore: where');
  const where = page.url();
  await s.says('CouchDB on shop is running. Stop it there, then this opens by itself.'); // in place
  await s.says(/No agent can take it: shop: CouchDB runs there/);
  await s.look();

  // Onto another node: once a machine has joined the choice opens by itself.
  await s.ask('spare');
  await s.says('a machine on which no CouchDB runs; it takes the place of this one');
  await page.getByLabel(/Onto another node/).check();
  await s.says('Choose the agent that restores couchdb');
  s.check(await button.count() === 0, 'it can be confirmed before it is said where to');
  await page.getByLabel('by the agent').selectOption('spare');
  await s.says(/The data directories of couchdb.*, which must be missing or empty/);
  await s.look();
  await page.locator('#word').fill('shop');
  await s.submit(button);
  await s.heading(/Restore of shop/);
  await s.says('All is restored');
  await s.says(/start CouchDB on it as couchdb/);
  await s.look();
  const spare = await s.ask('start-spare');
  s.equal(await documents(spare.url, spare.user, spare.password, 'customers'), customers, 'the other node has');

  // As a new instance, of a moment behind the backup.
  const shop = (await s.api('GET', '/slipcover/v1/instances')).instances.find(i => i.name === 'shop');
  const {windows} = await s.api('GET', '/slipcover/v1/instances/' + shop.id + '/moments');
  const moment = windows.findLast(w => w.kind === 'shipped').to.slice(0, 19) + 'Z';
  await page.goto(where.replace(/([?&]s=)[^&]+/, '$1' + encodeURIComponent(moment)));
  await s.heading('Restore: where');
  await page.getByLabel(/As a new instance/).check();
  await s.heading('Restore: the plan');
  await s.says('What it will mean');
  await s.says(/The plan holds until/);
  await s.says(/exact to the second/);
  await s.says(/No replication is in _replicator of the backup/);
  await s.look();
  await s.shot('restore');
  await page.goBack();
  await s.heading('Restore: where');
  await page.goForward();
  await s.heading('Restore: the plan');
  await page.getByLabel('Name of the new instance').fill('shop-trial');
  await page.getByLabel('Name of the new instance').press('Tab');
  await s.says(/make the instance shop-trial/);
  await page.getByLabel('On', {exact: true}).selectOption(await page.getByLabel('On', {exact: true}).locator('option', {hasText: /^shop,/}).getAttribute('value'));
  await s.says(/A new instance, shop-trial, on shop,/);
  s.check(/name=shop-trial/.test(page.url()), 'the address is ' + page.url());
  await page.getByLabel('Volume in GB').fill('0.5');
  await page.getByLabel('Volume in GB').press('Tab');
  await s.says('The volume is a whole number of GB');
  s.check(await button.count() === 0, 'a plan that is refused can be confirmed');
  await page.getByLabel('Volume in GB').fill('');
  await page.getByLabel('Volume in GB').press('Tab');
  await button.waitFor();
  s.check(await button.isDisabled(), 'it can begin before the name is typed');
  // A choice while the answer to the one before is on its way: the plan is that of the newest.
  await page.route('**/restore?*', async r => { await new Promise(f => setTimeout(f, 600)); await r.continue(); });
  for (const name of ['first', 'second', 'shop-checked']) {
    await page.getByLabel('Name of the new instance').fill(name);
    await page.getByLabel('Name of the new instance').press('Tab');
  }
  await page.getByLabel('Name of the new instance').fill('shop-check');
  await page.getByLabel('Name of the new instance').press('Tab');
  await s.says(/make the instance shop-check$/m);
  await page.unrouteAll({behavior: 'wait'});
  s.check(/name=shop-check(&|$)/.test(page.url()), 'the address is ' + page.url());
  await page.locator('#word').fill('shop-check');
  await s.submit(button);
  await s.heading(/Restore to the new instance shop-check/);
  await s.look();

  // Meanwhile a database.
  const job = page.url().replace(s.base, '');
  await s.open('/restore');
  await page.getByLabel('Of', {exact: true}).selectOption({label: 'shop'});
  await page.getByLabel('One database').check();
  await s.eventually('the databases are offered', async () => await page.locator('#databases option[value=customers]').count() === 1);
  await page.getByLabel('Database, unless it is all').fill('customers');
  await page.getByRole('button', {name: 'Go on'}).click();
  await s.heading('Restore: when');
  await page.getByRole('link', {name: 'Choose'}).first().click();
  await s.heading('Restore: where');
  await page.getByLabel(/Into a running CouchDB/).check();
  await s.heading('Restore: the plan');
  await page.getByLabel('As', {exact: true}).fill('Customers');
  await page.getByLabel('As', {exact: true}).press('Tab');
  await s.says('CouchDB gives no database such a name.');
  await page.getByLabel('As', {exact: true}).fill('customers-then');
  await page.getByLabel('As', {exact: true}).press('Tab');
  await s.says(/make the database customers-then/);
  await s.look();
  await page.locator('#word').fill('customers-then');
  await s.submit(button);
  await s.heading(/Restore of customers as customers-then/);
  await s.says('Asking each node for it'); // a step of it
  await s.says('All is restored'); // without reloading
  await s.says(/Restoring files: .* by the agent shop/); // in its log
  await s.look();
  await s.shot('restoring');
  s.equal(await documents(s.env.COUCH, s.env.COUCH_USER, s.env.COUCH_PASSWORD, 'customers-then'), customers, 'the database is restored as');
  await s.couch('DELETE', '/customers-then');

  await s.open(job);
  await s.heading(/Restore to the new instance shop-check.*Done/); // and not how much of it is done
  await s.says('The agent shop took it.');
  await s.says(/It restores the moment of .*, the newest state up to .* out of /); // as the agent says
  await s.look();
  const {instances} = await s.api('GET', '/slipcover/v1/instances');
  const made = instances.find(i => i.name === 'shop-check');
  s.check(made && made.url && Date.parse(made.restored_at) === Date.parse(moment), 'the new instance is ' + JSON.stringify(made));
  s.equal(await documents(made.url, 'admin', await s.ask('password ' + made.id), 'customers'), customers, 'the new instance has');
  const audit = await s.ask('audit');
  for (const a of ['instance.create', 'restore.start']) s.check(audit.includes('"action":"' + a + '"'), a + ' is not in the audit log');
});
