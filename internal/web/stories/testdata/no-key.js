// A server without the key shows no contents and says how to allow it; once the node lets its agent read, it shows them.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const moment = '/instances/' + instances.find(i => i.name === 'shop').id + '/moment?s=yesterday+14:00&db=orders';
  // opens the moment until the page has a word: the agent says what it may when it says hello.
  const until = async word => {
    for (const end = Date.now() + s.patience; ; await page.waitForTimeout(500)) {
      await s.open(moment);
      if ((await page.locator('main').innerText()).includes(word)) return;
      if (Date.now() > end) throw new Error('the page never says ' + word + ': ' + await page.locator('main').innerText());
    }
  };
  await until('accept_reads: true');
  await s.says(/this server has no key for this repository/);
  await s.look();
  await s.ask('allow-reads');
  await until('order-1007');
  await s.heading(/shop at .*09:41/);
  await s.look();
  await page.getByRole('link', {name: 'order-1007'}).click();
  await s.says(/Your look at it is in the audit log/);
  await s.says(/paid/);
  await s.look();
  await s.open(moment.replace('orders', 'messages'));
  await page.getByRole('link', {name: 'page', exact: true}).click();
  const file = page.waitForEvent('download');
  await page.locator('a[href*="/attachment?"][href*="page.html"]:not([href*="as=text"])').first().click();
  s.equal(require('fs').readFileSync(await (await file).path(), 'utf8'), "<script>document.title='owned';alert(1)</script>", 'the attachment');
  s.equal(/document\.read.*order-1007/.test(await s.ask('audit')), true, 'the look in the audit log');
});
