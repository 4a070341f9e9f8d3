// Names and documents that are scripts: shown as they are, nowhere run. An attachment of a backup never runs at the dashboard's address.
require('./lib')(async s => {
  const {page} = s;
  const hostile = s.env.HOSTILE;
  page.on('dialog', d => { s.bad('a dialog: ' + d.message()); d.dismiss(); });
  const safe = async () => {
    s.check((await page.title()) !== 'owned', 'a script ran at ' + page.url());
    s.equal(await page.evaluate(() => document.querySelectorAll('main img, main script, main [onerror]').length), 0, 'elements that came from a name at ' + page.url());
  };
  await s.signIn();
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = '/instances/' + instances.find(i => i.name === 'shop').id;
  const at = '?s=yesterday+14:00&db=messages';
  for (const to of [shop, shop + '?q=' + encodeURIComponent(hostile), shop + '/moment' + at, shop + '/moment' + at + '&q=' + encodeURIComponent(hostile),
    shop + '/document' + at + '&doc=' + encodeURIComponent(hostile), shop + '/document' + at + '&doc=page', shop + '/changes?db=messages&from=yesterday+14:00&to=yesterday+17:00&q=' + encodeURIComponent(hostile)]) {
    await s.open(to);
    await safe();
  }
  await s.open(shop + '/moment' + at);
  await page.getByRole('link', {name: hostile}).click();
  await s.heading(hostile);
  await s.look();
  await safe();
  await s.open(shop + '/document' + at + '&doc=page');
  await s.says(hostile);
  await s.look();
  await safe();

  // Each attachment, under each address that the page has for it.
  const links = await page.evaluate(() => [...document.querySelectorAll('a[href*="/attachment"]')].map(a => a.getAttribute('href')));
  s.check(links.length >= 4, 'attachments: ' + links);
  for (const to of links) {
    const r = await s.context.request.get(s.base + to);
    const type = r.headers()['content-type'] || '', how = r.headers()['content-disposition'] || '', policy = r.headers()['content-security-policy'] || '';
    const asPage = /text\/html/.test(type) && /default-src 'none'/.test(policy) && /script-src 'self'/.test(policy); // a page of the dashboard, which shows it as text
    s.check(asPage || /^attachment/.test(how), to + ' is sent as ' + type + ', ' + how);
    s.equal(r.headers()['x-content-type-options'], 'nosniff', to);
    if (!asPage) continue;
    await s.open(to);
    await s.look();
    await safe();
  }
});
