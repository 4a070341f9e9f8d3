// What changed between two moments, and all that was deleted in between comes back.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = instances.find(i => i.name === 'shop').id;
  await s.open('/instances/' + shop + '/changes');
  await s.look();
  await page.getByRole('link', {name: 'orders', exact: true}).click(); // of the list, which begins at the backup before
  await s.heading('What changed in orders');
  await s.says(/Between .* and .*\. Read from backups and shipping/); // what it is depends on what other stories bring back
  await page.getByLabel('from', {exact: true}).fill('yesterday 15:00');
  await page.getByLabel('to', {exact: true}).fill('yesterday 17:00');
  await page.getByRole('button', {name: 'Compare'}).click();
  await page.getByRole('link', {name: 'order-1020'}).waitFor();
  await s.says(/Bring back all 5/);
  await s.look();
  await s.shot('changes');
  await page.getByRole('button', {name: /Look what it would bring back/}).click();
  await s.says(/5 documents would come back/);
  await s.look();
  await page.getByLabel(/to confirm/).fill('orders');
  await page.getByRole('button', {name: 'Bring back 5'}).click();
  await s.says(/5 documents are back/);
  for (let i = 1020; i < 1025; i++) s.equal((await s.couch('GET', '/orders/order-' + i))[0], 200, 'order-' + i);
});
