// Recovery window: what can be had back is drawn and said, and can be gone through with the keyboard; back and reload keep the place.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await page.getByRole('link', {name: /^shop/}).first().click();
  await s.heading(/^shop/);
  await s.heading('Recovery window');
  await s.eventually('its agent says that all is shipped', async () => { await page.reload(); return /all is stored/.test(await s.text()); });
  await s.look();
  await s.shot('instance');
  await s.shot('instance-dark', {dark: true});
  const slider = page.getByRole('slider', {name: 'Moment'});
  const before = await slider.getAttribute('aria-valuetext');
  await slider.focus();
  await page.keyboard.press('Shift+ArrowLeft');
  await page.keyboard.press('Shift+ArrowLeft');
  const after = await slider.getAttribute('aria-valuetext');
  s.check(after !== before && /\d\d:\d\d:\d\d/.test(after), 'the key leads from ' + before + ' to ' + after);
  await page.keyboard.press('+');
  await page.keyboard.press('-');
  await page.keyboard.press('0');

  const home = page.url();
  await page.getByRole('link', {name: 'Open this moment'}).click();
  await s.heading(/^shop at|^shop in the backup/);
  await page.goBack();
  await s.heading('Recovery window');
  s.equal(new URL(page.url()).pathname, new URL(home).pathname, 'the way back');
  await page.reload();
  await s.heading('Recovery window');
  await page.goForward();
  await s.heading(/^shop at|^shop in the backup/);
});
