// 10,000 databases: they are counted, found by how their names begin, and leafed through; the time line has one lane for those of the
// users. No page is large, and none is slow.
require('./lib')(async s => {
  const {page} = s;
  const most = 250 << 10, longest = 15000; // bytes of HTML; ms with all that it loads, on a busy machine
  const opened = async (what, go) => {
    const began = Date.now();
    const [r] = await Promise.all([page.waitForResponse(r => r.request().resourceType() === 'document' || /^text\/html/.test(r.headers()['content-type'] || '')), go()]);
    await page.waitForLoadState();
    const took = Date.now() - began, bytes = (await r.body()).length;
    s.say(what + ': ' + took + ' ms, ' + bytes + ' bytes');
    s.check(took < longest, what + ' took ' + took + ' ms');
    s.check(bytes < most, what + ' has ' + bytes + ' bytes');
  };
  await s.signIn();
  await opened('the instance', () => page.getByRole('link', {name: /^shop/}).first().click());
  await s.heading(/^shop/);
  await page.getByRole('link', {name: 'Show what happened to its databases'}).click();
  await s.says(/userdb-…/);
  await s.says(/10,000 databases/);
  await s.look();
  await opened('the moment', () => page.getByRole('link', {name: 'Open this moment'}).click());
  await s.says(/10,000 databases/);
  await s.look();
  await opened('the group', () => page.getByRole('link', {name: 'userdb-…'}).click());
  await s.says(/1 to 40 of 10,000/);
  await opened('the next page', () => page.getByRole('link', {name: 'Next'}).first().click());
  await s.says(/41 to 80 of 10,000/);
  await page.goBack();
  await s.says(/1 to 40 of 10,000/);
  await page.getByLabel('Database begins with').fill('userdb-0270');
  await opened('the search', () => page.keyboard.press('Enter'));
  await s.says('1 to 16 of 16'); // the last of them
  await page.reload();
  await s.says('1 to 16 of 16');
  await page.getByRole('link', {name: 'userdb-0270f'}).click();
  await s.says('1 shown');
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = instances.find(i => i.name === 'shop').id;
  await opened('the choice of changes', () => s.open('/instances/' + shop + '/changes?p=userdb-'));
  await s.says(/1 to 40 of 10,000/);
  await opened('space', () => s.open('/space?instance=' + shop));
  await s.look();
});
