// A cluster: its nodes stand together as soon as they have joined; all of them are backed up at one moment; its page says what the backups
// hold of each database, and which documents its copies disagree about.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.ask('join-cluster');
  await page.getByRole('link', {name: 'prod', exact: true}).click(); // which nobody reloaded the page for
  await s.heading('prod');
  for (const node of ['couchdb@a', 'couchdb@b', 'couchdb@c']) await s.says(node);
  await s.look();
  await s.submit(page.getByRole('button', {name: 'Back up the cluster now'}));
  await page.waitForURL(/\/sets\//);
  await s.says(/Backups of all nodes of the cluster/);
  await s.eventually('all nodes have a backup', async () => await page.locator('#set tbody tr:has-text("Done")').count() === 3);
  await s.look();
  await s.shot('set');
  const set = page.url().replace(s.base, '');
  await s.open(set + '/delete');
  await s.heading('Delete set');
  await s.look();
  await s.open(set);

  await page.getByRole('link', {name: 'prod', exact: true}).click();
  await s.says(/Not whole/); // a database of which a node that is gone had all
  await page.getByRole('textbox', {name: 'Databases', exact: true}).fill('orders');
  await page.getByRole('button', {name: 'Compare copies'}).click();
  await s.says(/2 differ/);
  await s.says('order-10');
  await s.look();
  await s.shot('cluster');
  await page.getByRole('link', {name: 'order-10'}).first().click();
  await s.heading('order-10');
  await s.open('/');
  await s.says(/Newest set/);
  await s.look();
});
