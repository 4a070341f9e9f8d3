// Without script all can be read: pages, links, forms, the time line.
require('./lib')(async s => {
  const context = await s.someone({javaScriptEnabled: false});
  const page = await s.tab(context);
  await s.signIn(page);
  await s.heading(/1 of 2 instances is safe/, page);
  await s.says(/clinic is late/, page);
  await page.getByRole('link', {name: /^shop/}).first().click();
  await s.heading('Recovery window', page);
  const marks = await page.locator('svg.plot rect').count();
  s.check(marks > 3, 'the time line has ' + marks + ' signs');
  await page.getByRole('link', {name: 'Open this moment'}).click();
  await page.getByLabel('Moment').fill('yesterday 14:00');
  await page.getByRole('button', {name: 'Go'}).click();
  await page.getByRole('link', {name: 'orders', exact: true}).click();
  await page.getByLabel('Id begins with').fill('order-1007');
  await page.getByRole('button', {name: 'Search'}).first().click();
  await page.getByRole('link', {name: 'order-1007'}).click();
  await s.heading(/order-1007/, page);
  await s.says('"status": "sent"', page);
});
