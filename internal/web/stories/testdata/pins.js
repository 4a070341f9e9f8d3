// Pins: a backup that retention would delete next is pinned for a reason, stays in the dry run and in spite of its deletion, and goes
// again once it is unpinned.
require('./lib')(async s => {
  const {page} = s;
  await s.signIn();
  const {agents} = await s.api('GET', '/slipcover/v1/agents');
  const shop = agents[0].instances[0].id;
  const {schedule} = await s.api('POST', '/slipcover/v1/schedules', {instance: shop, name: 'often', cron: '* * * * *', keep: {last: 1}});

  // What nodes accept, in the meantime.
  await s.open('/agents');
  await s.says('accept_restores: true in its slipcover.yml would allow restores');
  s.equal([agents[0].accepts_restores, agents[0].accepts_writes], [false, true], 'what the agent accepts');
  await s.look();
  await s.open('/instances/' + shop);
  await page.getByRole('button', {name: 'More', exact: true}).first().click();
  await page.getByRole('dialog').getByText('Nothing deletes it until it is unpinned; asks for the reason').waitFor();
  await s.look();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({state: 'hidden'});

  // The first backup of the schedule goes with the next one, in a year.
  const retention = async () => (await s.api('GET', '/slipcover/v1/schedules/' + schedule.id + '/retention')).retention.backups;
  await s.eventually('a backup of the schedule', async () => (await retention()).length > 0, 60000 + s.patience); // it fires once a minute
  await s.api('PATCH', '/slipcover/v1/schedules/' + schedule.id, {cron: '@yearly'});
  const {id} = (await retention())[0];
  s.equal((await retention()).map(b => b.stays), [false], 'what stays');
  const row = page.getByRole('row').filter({has: page.locator('a[href="/backups/' + id + '"]')});
  await s.open('/instances/' + shop);
  await row.getByText('goes').first().waitFor();
  await row.getByRole('button', {name: 'More'}).click();
  await page.getByRole('link', {name: /^Pin…/}).click();
  await s.heading('Pin backup');
  await s.look();
  await page.getByLabel('Why').fill('before the upgrade');
  await s.submit(page.getByRole('button', {name: 'Pin backup'}));
  await s.says('From now on nothing here deletes it.');
  await s.says(/Pinned since .*before the upgrade/); // without reloading
  await s.look();

  s.equal((await retention()).map(b => [b.stays, b.reasons, b.pin.reason]), [[true, ['pinned: before the upgrade'], 'before the upgrade']], 'the dry run');
  s.check(/stays .*pinned: before the upgrade/.test(await s.ask('slipcover schedule retention often')), 'the command says nothing of the pin');
  await s.open('/space?i=' + shop);
  await page.getByRole('row').filter({has: page.locator('a[href="/backups/' + id + '"]')}).getByText('Pinned: before the upgrade').waitFor();
  await s.open('/instances/' + shop);
  await row.getByText('pinned: before the upgrade').first().waitFor();
  s.check(await page.locator('#tl use[href="#m-pin"]').count() === 1, 'the time line has no sign of it');
  await row.getByRole('button', {name: 'More'}).click();
  await page.getByText('Refused: it is pinned. Unpin it, then this opens').first().waitFor();
  await s.look();
  await s.shot('pins');

  await s.open('/backups/' + id + '/delete');
  await s.says(/pinned and stays: before the upgrade/);
  s.check(await page.getByLabel(/to go on/).count() === 0, 'its deletion is not closed');
  await s.look();
  const refused = await s.context.request.fetch(s.base + '/v1.0/default/backups/' + id, {method: 'DELETE', headers: {'X-Auth-Token': s.env.TOKEN}});
  s.equal(refused.status(), 409, 'the answer to a deletion');

  await page.getByRole('link', {name: /^Unpin /}).click();
  await s.submit(page.getByRole('button', {name: 'Unpin'}));
  await page.getByText(/Pinned since/).waitFor({state: 'hidden'});
  s.equal((await retention()).map(b => b.stays), [false], 'what stays once it is unpinned');
  await page.getByRole('link', {name: 'Delete…'}).click();
  await page.getByLabel(/to go on/).waitFor();
  await s.look();
});
