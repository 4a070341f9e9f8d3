// A reader in another time zone: all times are his, the foot says which, and each has its UTC. What he types is in his zone too.
require('./lib')(async s => {
  const zone = 'America/St_Johns';
  const context = await s.someone({timezoneId: zone});
  const page = await s.tab(context);
  await s.signIn(page);
  const {instances} = await s.api('GET', '/v1.0/default/instances');
  const shop = instances.find(i => i.name === 'shop').id;
  for (const at of ['/', '/instances/' + shop, '/backups', '/space', '/instances/' + shop + '/moment?s=latest', '/audit']) {
    await s.open(at, page);
    await s.says(/Times are America\/St_Johns \(UTC−[23]:30\)/, page);
    const times = await page.evaluate(() => [...document.querySelectorAll('main time')].map(t => [t.getAttribute('datetime'), t.textContent, t.title]));
    let clocks = 0;
    for (const [datetime, text, title] of times) {
      const utc = new Date(datetime).toISOString();
      s.check(title.includes('UTC') && title.includes(utc.slice(11, 16)), at + ': ' + datetime + ' has the title ' + title);
      if (!/\d\d:\d\d/.test(text)) continue; // an age
      clocks++;
      const his = new Intl.DateTimeFormat('en-GB', {timeZone: zone, hour: '2-digit', minute: '2-digit'}).format(new Date(datetime));
      s.check(text.includes(his), at + ': ' + datetime + ' is shown as ' + text + ', not ' + his);
    }
    s.check(clocks > 0, 'there is no time on ' + at);
  }
  await s.look(page);

  // An hour after the older backup, as he writes it: which has its time in the heading then.
  const {backups} = await s.api('GET', '/v1.0/default/backups');
  const one = new Date(backups.filter(b => b.instance_id === shop).map(b => b.created).sort()[0] + 'Z'); // the older one
  const local = t => new Intl.DateTimeFormat('sv-SE', {timeZone: zone, dateStyle: 'short', timeStyle: 'short'}).format(t);
  await s.open('/instances/' + shop + '/moment', page);
  await page.getByLabel('Moment').fill(local(new Date(one.getTime() + 3600000)));
  await page.getByRole('button', {name: 'Go'}).click();
  await s.heading(new RegExp(local(one).slice(11)), page);
});
