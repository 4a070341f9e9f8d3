// With the keyboard alone: sign in, skip to the content, find, open, come back.
require('./lib')(async s => {
  const {page} = s;
  await s.open('/');
  s.equal(await s.focused(), 'Token', 'the field to fill has the focus');
  await page.keyboard.type(s.env.TOKEN);
  await page.keyboard.press('Enter');
  await page.waitForURL(u => !u.pathname.startsWith('/login'));
  await s.tabTo('Skip to the content');
  await page.keyboard.press('Enter');
  s.check(await page.evaluate(() => document.activeElement.id === 'main' || location.hash === '#main'), 'the link to the content leads elsewhere');
  await s.tabTo('Open clinic');
  await page.keyboard.press('/');
  s.check(/^Find/.test(await s.focused()), 'the key / leads to ' + await s.focused());
});
