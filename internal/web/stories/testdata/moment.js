// A moment is opened: its databases with sizes and counts, their documents, searched for by their ids and by a selector; what was there
// later isn't.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = instances.find(i => i.name === 'shop').id;
  await s.open('/instances/' + shop + '/moment?s=yesterday+14:00');
  await s.heading(/shop at .*09:41/);
  await page.getByLabel('Database begins with').fill('userdb-');
  await page.keyboard.press('Enter');
  await s.says('1 to 12 of 12');
  await s.look();
  await s.open('/instances/' + shop + '/moment?s=yesterday+14:00&db=orders');
  await page.getByRole('link', {name: 'order-1007'}).waitFor();
  await s.look();
  await s.shot('moment');
  await page.getByText(/Mango selector/).click();
  await page.getByLabel('Selector').fill('{"status": "sent"}');
  await page.getByRole('button', {name: 'Search'}).last().click();
  await page.getByRole('link', {name: 'order-1003'}).waitFor();
  s.equal(await page.getByRole('link', {name: 'order-1002'}).count(), 0, 'what the selector leaves out');
  await s.look();
  await s.open('/instances/' + shop + '/moment?s=yesterday+17:00&db=orders&q=order-1020');
  await s.says('Nothing is found.');
  await page.getByLabel('with deleted').check();
  await page.getByRole('button', {name: 'Search'}).first().click();
  await page.getByRole('link', {name: 'order-1020'}).waitFor();
});
