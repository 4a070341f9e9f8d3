// Damage: the overview leads to the instance and to its backup, which say how much of the source can't be read.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.says('clinic holds damaged data: 1 finding.');
  await page.getByRole('link', {name: /^clinic/}).first().click();
  await s.heading(/^clinic/);
  await s.says(/clinic is late/);
  await s.look();
  await s.open('/');
  await page.getByRole('link', {name: 'Open the backup'}).first().click();
  await s.says('Damage in the source');
  await s.says('1 finding');
  await s.look();
  await page.getByRole('link', {name: 'Open', exact: true}).click(); // which looks into it
  await s.heading(/^clinic in the backup of/);
});
