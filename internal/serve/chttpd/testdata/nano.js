// nano.js URL DB...: what nano reads of a server, one line of JSON for each thing it does.
const Nano = require('nano');
const [url, ...dbs] = process.argv.slice(2);
const say = (db, what, value) => console.log(JSON.stringify([db, what, value]));
const errorOf = e => ({status: e.statusCode, error: e.error, reason: e.reason});

(async () => {
  const u = new URL(url);
  const nano = Nano(url);
  say('', 'list', (await nano.db.list()).filter(n => dbs.includes(n)));
  say('', 'session', await nano.session());
  // By a cookie, as a program that logs in.
  const cookie = Nano(u.origin);
  say('', 'auth', await cookie.auth(decodeURIComponent(u.username), decodeURIComponent(u.password)));
  say('', 'session by cookie', await cookie.session());
  await Nano(u.origin).use(dbs[0]).list().catch(e => say('', 'nobody', errorOf(e)));
  for (const name of dbs) {
    const db = cookie.use(name);
    const info = await db.info();
    say(name, 'info', {...info, update_seq: 0, purge_seq: 0, sizes: 0});
    const list = await db.list({include_docs: true, attachments: true});
    say(name, 'list', list);
    say(name, 'fetch', await db.fetch({keys: list.rows.slice(0, 3).map(r => r.id)}));
    const doc = list.rows.find(r => r.doc._attachments);
    say(name, 'get', await db.get(doc.id, {revs_info: true, conflicts: true}));
    say(name, 'head', (await db.head(doc.id)).etag);
    for (const att of Object.keys(doc.doc._attachments)) say(name, 'attachment', (await db.attachment.get(doc.id, att)).toString('base64'));
    await db.get(name === 'parted' ? 'p1:nosuch' : 'nosuch').catch(e => say(name, 'get of what is not there', errorOf(e)));
    if (name === 'parted') {
      say(name, 'partition', {...await db.partitionInfo('p1')});
      say(name, 'partitionedList', await db.partitionedList('p1', {include_docs: true, limit: 5}));
      say(name, 'partitionedFind', (await db.partitionedFind('p1', {selector: {n: {$gt: 3}}})).docs.map(d => d._id).sort());
    } else {
      say(name, 'view', await db.view('views', 'by_n', {reduce: false, keys: [1, 2, 3]}));
      say(name, 'view reduced', await db.view('views', 'by_n', {group: true}));
    }
    say(name, 'find', (await db.find({selector: {n: {$gt: 3}}, fields: ['_id', 'n'], limit: 1000})).docs.map(d => d._id).sort());
    const changes = await db.changes({since: 0, include_docs: true});
    say(name, 'changes', changes.results.map(({id, changes, deleted, doc}) => ({id, changes, deleted, doc})).sort((a, b) => a.id < b.id ? -1 : 1));
    const batch = await new Promise((resolve, reject) => {
      const got = [];
      db.changesReader.get({since: '0', batchSize: 30, timeout: 1000, wait: false}).on('batch', b => got.push(...b)).on('end', () => resolve(got)).on('error', reject);
    });
    say(name, 'changesReader', batch.map(r => r.id).sort());
  }
  // Whoever says a wrong password is logged out.
  await cookie.auth('nosuch', 'wrong').catch(e => say('', 'wrong password', errorOf(e)));
  say('', 'session after it', await cookie.session());
})().catch(e => { console.error(e); process.exit(1); });
