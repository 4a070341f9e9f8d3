// pouchdb.js URL DIR DB...: what PouchDB makes of the databases of a server, one line of JSON for each thing it does.
const PouchDB = require('pouchdb');
PouchDB.plugin(require('pouchdb-find'));
const [url, dir, ...dbs] = process.argv.slice(2);
const say = (db, what, value) => console.log(JSON.stringify([db, what, value]));
const byID = (a, b) => (a.id ?? a._id) < (b.id ?? b._id) ? -1 : 1;

// leaves are all revisions that a local database ends in, with their attachments.
async function leaves(db) {
  const feed = await db.changes({since: 0, style: 'all_docs'});
  const docs = feed.results.flatMap(r => r.changes.map(c => ({id: r.id, rev: c.rev})));
  const got = await db.bulkGet({docs, revs: true, attachments: true});
  return got.results.flatMap(r => r.docs.map(d => d.ok)).sort((a, b) => a._id === b._id ? (a._rev < b._rev ? -1 : 1) : byID(a, b));
}

const errorOf = e => ({status: e.status, name: e.name, reason: e.reason});

(async () => {
  for (const name of dbs) {
    const remote = new PouchDB(url + '/' + encodeURIComponent(name), {skip_setup: true});
    const local = new PouchDB(dir + '/once-' + name);
    const once = await local.replicate.from(remote, {batch_size: 20});
    say(name, 'replicated', {ok: once.ok, read: once.docs_read, written: once.docs_written, failed: once.doc_write_failures, errors: once.errors});
    for (const doc of await leaves(local)) say(name, 'leaf', doc);
    const again = await local.replicate.from(remote);
    say(name, 'replicated again', {ok: again.ok, read: again.docs_read});

    // A live one waits when it has all, and ends when it is told to.
    const lives = new PouchDB(dir + '/live-' + name);
    const live = lives.replicate.from(remote, {live: true, retry: true});
    live.on('denied', e => say(name, 'denied', errorOf(e)));
    await new Promise((resolve, reject) => live.on('paused', e => e ? reject(e) : resolve()).on('error', reject));
    live.cancel();
    say(name, 'live', (await leaves(lives)).length);
    await local.close();
    await lives.close();

    const info = await remote.info();
    say(name, 'info', {doc_count: info.doc_count, props: info.props, name: info.db_name});
    const all = await remote.allDocs({include_docs: true, conflicts: true});
    say(name, 'allDocs', all);
    say(name, 'allDocs of some', await remote.allDocs({startkey: 'doc010', endkey: 'doc020', descending: false, limit: 5}));
    say(name, 'allDocs by keys', await remote.allDocs({keys: ['doc001', 'p1:doc1', 'p2:no'].filter(k => name !== 'parted' || k.includes(':'))}));
    for (const row of all.rows.filter(r => r.doc._attachments).slice(0, 5)) {
      say(name, 'get', await remote.get(row.id, {attachments: true, revs: true, conflicts: true, revs_info: true}));
      say(name, 'open_revs', await remote.get(row.id, {open_revs: 'all'}));
      for (const att of Object.keys(row.doc._attachments)) {
        say(name, 'attachment', (await remote.getAttachment(row.id, att)).toString('base64'));
      }
    }
    await remote.get(name === 'parted' ? 'p1:nosuch' : 'nosuch').catch(e => say(name, 'get of what is not there', errorOf(e)));
    await remote.getAttachment(all.rows[0].id, 'nosuch').catch(e => say(name, 'attachment that is not there', errorOf(e)));
    if (name !== 'parted') {
      say(name, 'query', await remote.query('views/by_n', {reduce: false, include_docs: true, startkey: 3, endkey: 12}));
      say(name, 'query reduced', await remote.query('views/by_n', {group: true}));
      await remote.query('views/nosuch').catch(e => say(name, 'query of no view', errorOf(e)));
    }
    const found = await remote.find({selector: {type: 'x'}, limit: 1000});
    say(name, 'find', found.docs.sort(byID));
    say(name, 'getIndexes', await remote.getIndexes());
    const changes = await remote.changes({since: 0, include_docs: true, style: 'all_docs'});
    say(name, 'changes', changes.results.map(({id, changes, deleted, doc}) => ({id, changes, deleted, doc})).sort(byID));
    const few = await remote.changes({since: 0, doc_ids: ['doc001', 'doc002', 'p1:doc1']});
    say(name, 'changes of some', few.results.map(r => r.id).sort());
    const selected = await remote.changes({since: 0, selector: {n: {$gt: 9}}});
    say(name, 'changes by selector', selected.results.map(r => r.id).sort());
    // A live feed begins, is quiet, and ends when it is told to.
    const feed = remote.changes({since: changes.last_seq, live: true, heartbeat: 1000});
    const ended = new Promise((resolve, reject) => feed.on('complete', resolve).on('error', reject).on('change', c => say(name, 'a change from nowhere', c.id)));
    setTimeout(() => feed.cancel(), 100);
    await ended;
    say(name, 'live feed', 'ended');
  }
})().catch(e => { console.error(e); process.exit(1); });
