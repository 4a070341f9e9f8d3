// fauxton.js CHROMIUM PROFILE URL USER PASSWORD DOC: uses CouchDB's web interface at URL/_utils/ in a browser, as a person would.
// DOC is a document of the database plain without conflicts, which this version of Fauxton shows of no CouchDB.
// It prints what it saw, a line of JSON for each page, and at the end what went wrong on the way: answers of 400 and more, and
// errors of scripts.
const CDP = require('chrome-remote-interface');
const {spawn} = require('child_process');
const [chromium, profile, url, user, password, doc] = process.argv.slice(2);
const say = (what, value) => console.log(JSON.stringify([what, value]));
const patience = 30000;

const browser = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', '--window-size=1400,1000', '--user-data-dir=' + profile, '--remote-debugging-port=0', 'about:blank'], {stdio: ['ignore', 'ignore', 'pipe']});
const ended = new Promise(resolve => browser.on('exit', resolve));

// portOf is where the browser can be told what to do.
const portOf = () => new Promise((resolve, reject) => {
  let said = '';
  browser.stderr.on('data', b => {
    said += b;
    const m = said.match(/DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)\//);
    if (m) resolve(Number(m[1]));
  });
  browser.on('error', reject);
  ended.then(() => reject(new Error('the browser ended: ' + said)));
});

(async () => {
  const client = await CDP({port: await portOf()});
  const {Page, Runtime, Network, Input} = client;
  const wrong = [];
  Network.responseReceived(({response}) => { if (response.status >= 400) wrong.push(response.status + ' ' + response.url.replace(url, '')); });
  Network.loadingFailed(({errorText, canceled}) => { if (!canceled) wrong.push(errorText); });
  Runtime.consoleAPICalled(({type, args}) => { if (type === 'error') wrong.push(args.map(a => a.value || a.description).join(' ').slice(0, 1500)); });
  Runtime.exceptionThrown(({exceptionDetails: e}) => wrong.push(e.exception ? e.exception.description : e.text));
  await Promise.all([Page.enable(), Runtime.enable(), Network.enable()]);

  const value = async expression => {
    const {result, exceptionDetails} = await Runtime.evaluate({expression, returnByValue: true});
    if (exceptionDetails) throw new Error(expression + ': ' + exceptionDetails.text);
    return result.value;
  };
  const text = () => value('document.body ? document.body.innerText : ""');
  // seen waits until an expression is true.
  const seen = async (what, expression) => {
    for (const end = Date.now() + patience; Date.now() < end; await new Promise(r => setTimeout(r, 50))) {
      if (await value('!!(' + expression + ')')) return;
    }
    throw new Error(what + ' did not come. The page at ' + await value('location.href') + ' says:\n' + await text() + '\nWrong: ' + wrong.join('\n'));
  };
  const says = words => seen(words, 'document.body && document.body.innerText.includes(' + JSON.stringify(words) + ')');
  const type = async (selector, s) => {
    await value('document.querySelector(' + JSON.stringify(selector) + ').focus()');
    await Input.insertText({text: s});
  };
  const click = selector => value('document.querySelector(' + JSON.stringify(selector) + ').click()');
  // open opens a page from scratch.
  const open = async hash => {
    await Page.navigate({url: 'about:blank'});
    await Page.navigate({url: url + '/_utils/' + hash});
  };

  await Page.navigate({url: url + '/_utils/'});
  await seen('the log-in', 'document.querySelector("#username") && document.querySelector("#password")');
  say('asks to log in', await value('location.hash.split("?")[0]'));
  await type('#username', user);
  await type('#password', password);
  await click('form#login button, form#login input[type=submit], form button[type=submit], #submit');

  for (const db of ['parted', 'plain', 'sharded']) await says(db);
  say('databases', ['parted', 'plain', 'sharded']);

  await open('#/database/plain/_all_docs');
  await says(doc);
  say('documents', (await text()).match(/doc00\d/g).filter((id, i, all) => all.indexOf(id) === i).sort());

  await open('#/database/plain/' + doc);
  await seen('the editor', 'document.querySelector(".ace_content") && document.querySelector(".ace_content").innerText.includes("_rev")');
  say('document', await value('document.querySelector(".ace_content").innerText.match(/"_id": "[^"]*"/)[0]'));

  await open('#/database/plain/_design/views/_view/by_n');
  await seen('rows of the view', 'document.body && /by_n/.test(location.hash) && /doc0\\d\\d/.test(document.body.innerText) && !document.querySelector(".ace_content")');
  say('view', 'rows');

  await open('#/database/plain/_find');
  await seen('the query', 'document.querySelector(".ace_content") && document.querySelector(".ace_content").innerText.includes("selector")');
  await seen('its button', '[...document.querySelectorAll("button")].some(b => /run query/i.test(b.innerText))');
  await value('[...document.querySelectorAll("button")].find(b => /run query/i.test(b.innerText)).click()');
  await seen('what is found', '/doc0\\d\\d/.test(document.body.innerText)');
  say('query', 'documents');

  await open('#/activetasks');
  await says('Active Tasks');
  say('wrong', wrong);
  await client.close();
})().then(() => 0, e => { console.error(e); return 1; }).then(async code => {
  browser.kill();
  await ended;
  process.exit(code);
});
