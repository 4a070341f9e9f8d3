// Space: how it grows, what goes next and by which rule, where the bytes are.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.open('/space');
  await s.heading('Space');
  await s.heading('Growth');
  await page.getByLabel('Instance', {exact: true}).selectOption((await page.getByRole('option', {name: /^shop/}).getAttribute('value')));
  await page.getByRole('button', {name: 'Show'}).click();
  await s.heading('What retention deletes next, and why');
  await s.look();
  await s.shot('space');
});
