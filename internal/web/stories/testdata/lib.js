// lib.js: what stories have in common. A story is a file beside this one:
//
//   require('./lib')(async s => { await s.open('/'); ... });
//
// It is told what it needs by the environment (see world.tell), and fails if something isn't as it says, or if anything went wrong on
// the way that it did not foresee with s.may: errors of scripts, violations of the policy, requests to elsewhere, answers of 400 and more.
const {chromium, firefox} = require('playwright-core');
const fs = require('fs');
const path = require('path');
const readline = require('readline');

const env = process.env;
const base = env.URL;
const patience = Number(env.PATIENCE || 60000);
const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
const axeSource = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const isChromium = env.BROWSER === 'chromium';

// What runs in each page before its own scripts.
const inPage = () => {
  document.addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.effectiveDirective + ' ' + e.blockedURI + ' at ' + e.sourceFile + ':' + e.lineNumber));
};

const launch = () => isChromium
  ? chromium.launch({executablePath: env.BROWSER_PATH, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1']})
  : firefox.launch({channel: 'moz-firefox', executablePath: env.BROWSER_PATH});

const answers = readline.createInterface({input: process.stdin})[Symbol.asyncIterator]();

class Story {
  constructor(browser) {
    this.browser = browser;
    this.wrong = []; // what went wrong, in the order of time
    this.foreseen = [];
    this.contexts = [];
    this.env = env;
    this.base = base;
    this.isChromium = isChromium;
    this.patience = patience;
  }

  // may says what may go wrong: a pattern of what is noted then.
  may(pattern) { this.foreseen.push(pattern); }

  bad(text) {
    if (!this.foreseen.some(p => p.test(text))) this.wrong.push(text);
  }

  // someone is another reader, with a browser that knows nothing yet. Options are of Playwright's newContext.
  async someone(options = {}) {
    const common = {viewport: {width: 1280, height: 900}, locale: 'en-GB', ...options};
    // Debian's Firefox can't be told of media features by this version of Playwright.
    const media = isChromium ? {reducedMotion: 'reduce', colorScheme: 'light'} : {colorScheme: null, reducedMotion: null, forcedColors: null, contrast: null};
    const context = await this.browser.newContext({...media, ...common});
    context.setDefaultTimeout(patience);
    this.contexts.push(context);
    if (options.javaScriptEnabled !== false) await context.addInitScript(inPage);
    const short = url => url.replace(base, '');
    context.on('console', m => { if (m.type() === 'error') this.bad('console: ' + m.text() + ' ' + short((m.location() || {}).url || '')); });
    context.on('weberror', e => this.bad('script: ' + (e.error().stack || e.error())));
    context.on('request', r => {
      const url = r.url();
      if (!url.startsWith(base + '/') && !/^(data|blob|about):/.test(url)) this.bad('elsewhere: ' + url);
    });
    context.on('response', r => { if (r.status() >= 400) this.bad('status: ' + r.status() + ' ' + r.request().method() + ' ' + short(r.url())); });
    context.on('requestfailed', r => {
      const why = (r.failure() || {}).errorText || '';
      if (!/ABORT|CANCEL/i.test(why)) this.bad('failed: ' + why + ' ' + short(r.url()));
    });
    context.on('page', p => p.on('crash', () => this.bad('the page crashed')));
    return context;
  }

  // tab opens a page of a reader, by default of the first one.
  async tab(context = this.context) {
    const page = await context.newPage();
    return page;
  }

  // open opens an address of the dashboard, and expects it to answer with a page.
  async open(at, page = this.page) {
    const r = await page.goto(base + at);
    return r;
  }

  // signIn signs a reader in by the form, wherever he was sent from.
  async signIn(page = this.page, token = env.TOKEN) {
    if (!/\/login/.test(page.url())) await page.goto(base + '/login');
    await page.getByLabel('Token').fill(token);
    await page.getByRole('button', {name: 'Sign in'}).click();
    await page.waitForURL(u => !u.pathname.startsWith('/login'));
  }

  // submit clicks a button of a form, and waits until what was sent is answered and the page after it is there.
  async submit(button, page = this.page) {
    await Promise.all([page.waitForResponse(r => r.request().method() === 'POST'), button.click()]);
    await page.waitForLoadState();
  }

  // says waits until a page shows words, a string or a pattern, and is there as a whole: its words come before its styles and scripts,
  // and before what stands below them.
  async says(words, page = this.page) {
    await page.getByText(words).first().waitFor({state: 'visible'});
    await page.waitForLoadState();
  }

  // heading waits for the heading of a page, and for all of it.
  async heading(words, page = this.page) {
    await page.getByRole('heading', {name: words}).first().waitFor();
    await page.waitForLoadState();
  }

  text(page = this.page) { return page.evaluate(() => document.body.innerText); }

  // eventually waits until something is true.
  async eventually(what, fn, within = patience) {
    let last;
    for (const end = Date.now() + within; Date.now() < end; await new Promise(r => setTimeout(r, 200))) {
      try { if (await fn()) return; } catch (e) { last = e; }
    }
    throw new Error('not within ' + within / 1000 + ' s: ' + what + (last ? ': ' + last.message : ''));
  }

  check(ok, what) { if (!ok) throw new Error(what); }

  equal(got, want, what) {
    if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(what + ': ' + JSON.stringify(got) + ', not ' + JSON.stringify(want));
  }

  // look looks at a page as it stands, once all of it is there: nothing keeps people out of it, in either theme, and it fits into a narrow
  // window.
  async look(page = this.page) {
    await page.waitForLoadState();
    const at = page.url().replace(base, '');
    process.stdout.write('looked ' + at + '\n');
    const size = page.viewportSize();
    const wide = () => page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth,
      [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, [popover]')).slice(0, 3).map(e => e.outerHTML.slice(0, 120))]);
    for (const width of [size.width, 360]) {
      await page.setViewportSize({width, height: size.height});
      const [is, may, which] = await wide();
      if (is > may) this.bad('wide: ' + at + ' is ' + is + ' px in a window of ' + width + ': ' + which.join(' '));
    }
    await page.setViewportSize(size);
    if (!isChromium) return;
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({colorScheme});
      await page.evaluate(axeSource);
      const found = await page.evaluate(t => axe.run(document, {runOnly: {type: 'tag', values: t}, rules: {'target-size': {enabled: true}}, resultTypes: ['violations']}), tags);
      for (const v of found.violations) {
        this.bad('axe: ' + at + ' ' + colorScheme + ': ' + v.id + ': ' + v.help + ': ' + v.nodes.slice(0, 4).map(n => n.html.slice(0, 200) + ' (' + n.any.concat(n.all, n.none).map(c => c.message).join('; ').slice(0, 300) + ')').join('\n  '));
      }
    }
    await page.emulateMedia({colorScheme: 'light'});
  }

  // focused is what has the focus, as a reader of the screen would say it.
  focused(page = this.page) {
    return page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return '';
      return (e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].textContent) || e.textContent || e.name || e.tagName).trim().replace(/\s+/g, ' ');
    });
  }

  // tabTo goes on with the tab key until what is named has the focus, which must be seen.
  async tabTo(name, page = this.page, most = 150) {
    const seen = [];
    for (let i = 0; i < most; i++) {
      await page.keyboard.press('Tab');
      const at = await this.focused(page);
      seen.push(at);
      if (name instanceof RegExp ? name.test(at) : at === name) {
        const outline = await page.evaluate(() => { const c = getComputedStyle(document.activeElement); return c.outlineStyle !== 'none' && parseFloat(c.outlineWidth) > 0 || c.boxShadow !== 'none'; });
        this.check(outline, 'the focus is not seen on ' + at);
        return;
      }
    }
    throw new Error('no tab stop ' + name + ', only: ' + seen.join(' | '));
  }

  // ask has the test do what can't be done in a browser; see world.do.
  async ask(what) {
    process.stdout.write('ask ' + what + '\n');
    const {value, done} = await answers.next();
    if (done) throw new Error('nobody answers: ' + what);
    const a = JSON.parse(value);
    if (a.error) throw new Error(what + ': ' + a.error);
    return a.value;
  }

  // api asks the service as an administrator.
  async api(method, at, body) {
    const r = await fetch(base + at, {method, headers: {'X-Auth-Token': env.TOKEN, 'Content-Type': 'application/json'}, body: body && JSON.stringify(body)});
    const text = await r.text();
    if (!r.ok) throw new Error(method + ' ' + at + ': ' + r.status + ' ' + text);
    return text ? JSON.parse(text) : null;
  }

  // couch asks the CouchDB of shop; it returns the status and the document.
  async couch(method, at, body) {
    const r = await fetch(env.COUCH + at, {method, headers: {Authorization: 'Basic ' + Buffer.from(env.COUCH_USER + ':' + env.COUCH_PASSWORD).toString('base64'), 'Content-Type': 'application/json'}, body: body && JSON.stringify(body)});
    return [r.status, await r.json()];
  }

  // shot takes a picture for the documentation, of a page as it stands; with dark in that theme, with narrow on a phone. The place of the
  // repository, which is another one in each run, is named as it might be.
  async shot(name, {dark = false, narrow = false} = {}, page = this.page) {
    if (!isChromium || !env.PICTURES) return;
    const size = page.viewportSize();
    await page.evaluate(() => {
      const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      for (let t = texts.nextNode(); t; t = texts.nextNode()) if (t.data.includes('/tmp/')) t.data = t.data.replace(/\/tmp\/[^/ ]+\/\d+\//g, '/srv/');
      document.activeElement.blur();
      window.scrollTo(0, 0);
    });
    if (narrow) await page.setViewportSize({width: 390, height: 844});
    if (dark) await page.emulateMedia({colorScheme: 'dark'});
    await page.mouse.move(0, 0);
    await page.screenshot({path: path.join(env.SHOTS, name + '.png')});
    await page.emulateMedia({colorScheme: 'light'});
    await page.setViewportSize(size);
  }

  say(...words) { console.log(words.join(' ')); }
}

module.exports = tell => {
  (async () => {
    const browser = await launch();
    const s = new Story(browser);
    try {
      s.context = await s.someone();
      s.page = await s.tab();
      await tell(s);
    } catch (e) {
      for (const c of s.contexts) {
        for (const p of c.pages()) {
          const text = await s.text(p).catch(() => '');
          console.error('The page at ' + p.url() + ' says:\n' + text.slice(0, 4000) + '\n');
        }
      }
      console.error(e.stack);
      process.exitCode = 1;
    }
    for (const w of s.wrong) console.error('wrong: ' + w);
    if (s.wrong.length > 0) process.exitCode = 1;
    await browser.close();
  })().catch(e => { console.error(e); process.exitCode = 1; }).then(() => process.exit());
};
