// A person who has never seen it brings back a document that was deleted yesterday, within two minutes:
//
//   overview → the instance's name → "Open this moment" → Moment: "yesterday 14:00" → the database → search for the id → the document →
//   "Restore this version…" → what it would change → type the id → "Restore this version" → it is there again.
require('./lib')(async s => {
  const {page} = s;
  const doc = s.isChromium ? 'order-1007' : 'order-1008';
  s.equal((await s.couch('GET', '/orders/' + doc))[0], 404, 'the document is deleted');
  const began = Date.now();
  let looked = 0; // the time that looking through pages took is not the person's
  const look = async () => { const at = Date.now(); await s.look(); looked += Date.now() - at; };
  await s.signIn();
  await page.getByRole('link', {name: /^shop/}).first().click();
  await s.heading(/^shop/);
  await page.getByRole('link', {name: 'Open this moment'}).click();
  await page.getByLabel('Moment').fill('yesterday 14:00');
  await page.getByRole('button', {name: 'Go'}).click();
  await s.heading(/shop at .*09:41/);
  await page.getByRole('link', {name: 'orders', exact: true}).click();
  await page.getByLabel('Id begins with').fill(doc);
  await page.getByRole('button', {name: 'Search'}).first().click();
  await page.getByRole('link', {name: doc}).click();
  await s.heading(new RegExp(doc));
  await look();
  await s.shot('document');
  await s.shot('document-phone', {narrow: true});
  await page.getByRole('link', {name: /Restore this version/}).click();
  await page.getByRole('button', {name: /Look what it would change/}).click();
  await s.says(/The live document is deleted/);
  await look();
  await s.shot('put-back');
  await page.getByLabel(/to confirm/).fill(doc);
  await page.getByRole('button', {name: 'Restore this version'}).click();
  await s.says(/The document is back/);
  const took = Date.now() - began - looked;
  const [status, now] = await s.couch('GET', '/orders/' + doc);
  s.equal([status, now.status], [200, 'sent'], 'the document in CouchDB');
  s.say('it took ' + (took / 1000).toFixed(1) + ' s');
  s.check(took < 120000, 'it took ' + took / 1000 + ' s, more than two minutes');
  await look();
  const audit = await s.ask('audit');
  s.check(/document\.restore/.test(audit), 'the audit log says nothing of it');
});
