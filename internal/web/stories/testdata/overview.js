// Overview: is all safe, and if not, what, since when, and what to do. What changes comes by itself.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.heading(/1 of 2 instances is safe/);
  await s.says('clinic is late: no backup for 2 d.');
  await s.says(/clinic holds damaged data/);
  await page.getByRole('link', {name: /^shop/}).first().waitFor();
  s.check((await page.title()).startsWith('(1) '), 'the title is ' + await page.title());
  await s.look();
  await s.shot('overview');
  await s.shot('overview-dark', {dark: true});
  await s.shot('overview-phone', {narrow: true});

  // A new instance appears without anybody asking: a node that has no backup yet.
  await s.ask('slipcover schedule create --instance shop --name nightly --cron @daily');
  await page.getByRole('region', {name: 'Next backups'}).getByText(/(today|tomorrow) \d\d:\d\d.*shop.*nightly/s).waitFor();
});
