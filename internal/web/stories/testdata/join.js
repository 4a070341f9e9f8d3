// A node joins by the command that the page gives: it appears there by itself. Its first backup goes to a slow storage: how far it is can
// be seen without reloading; its agent is lost in the middle, which is said, and goes on when it is back.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  await s.open('/agents');
  await page.getByRole('link', {name: 'Join a node…'}).click();
  await s.look();
  await page.getByLabel('Its name here').fill('blog');
  await s.submit(page.getByRole('button', {name: 'Make the command'}));
  await s.says('Waiting for blog to appear');
  const command = await page.locator('#cmd').innerText();
  await s.shot('join');
  await s.ask('join-node ' + command);
  await page.getByRole('link', {name: 'Open blog'}).click(); // which nobody reloaded the page for
  await s.heading(/^blog/);
  await s.says(/blog was never backed up|none yet/);
  await s.look();

  await page.getByRole('link', {name: 'Back up now'}).click();
  await page.getByLabel('Name', {exact: true}).fill('the first one');
  await s.submit(page.getByRole('button', {name: 'Create backup'}));
  const here = page.url();
  const progress = page.locator('#backup section:has(progress)');
  await progress.waitFor();
  const first = await progress.innerText();
  await s.eventually('it gets on without reloading, and says how fast', async () => {
    const now = await progress.innerText();
    return now !== first && /\d+ %, .* of .*B\/s/.test(now); // as soon as anything is stored
  });
  await s.ask('kill-node');
  await s.look();
  await page.getByRole('link', {name: 'Open the job'}).click();
  await s.heading(/Backup of blog/);
  await s.says(/Last word of its agent/);
  await s.look();
  await s.shot('job');
  await page.getByRole('link', {name: 'Cancel…'}).first().click();
  await s.says(/What stays/);
  await s.look();
  await page.getByRole('link', {name: 'Let it go on'}).click();
  await s.heading(/Backup of blog/);
  await s.ask('start-node');
  await s.open(here.replace(s.base, ''));
  await page.getByRole('button', {name: 'Prove now'}).waitFor(); // it has ended
  await s.heading(/the first one.*Done/);
  await s.open('/jobs');
  await page.getByRole('link', {name: /Backup of blog/}).first().click();
  await s.says(/its agent was started anew in between, and went on/);
  await s.open('/agents');
  await page.getByRole('row', {name: /blog/}).getByRole('link', {name: 'Remove…'}).click();
  await s.heading('Remove agent');
  await s.look();
});
