import { arrived } from "./page";

// live puts what the server sends into the page: each element with an id and data-live takes
// the place of the one that is there. Focus and scroll stay.
export function live(): void {
  const path = document.body.dataset.stream;
  if (!path) return;
  let stream = open(path);
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (e) => {
    if (e.persisted) stream = open(location.pathname + location.search);
  });
  // A link or a search of htmx's leads to another part of the same page, at its own address.
  document.addEventListener("htmx:pushedIntoHistory", () => {
    stream.close();
    stream = open(location.pathname + location.search);
  });
}

// patience is how long a stream may be away before the page says so, in milliseconds: it is
// opened anew now and then.
const patience = 5000;

function open(path: string): EventSource {
  let at = new Date();
  let late = 0;
  const stream = new EventSource(path);
  stream.addEventListener("page", (e: MessageEvent<string>) => {
    at = new Date();
    put(e.data);
  });
  stream.addEventListener("open", () => {
    clearTimeout(late);
    late = 0;
    connected(true, at);
  });
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) connected(false, at);
    else late ||= setTimeout(() => connected(false, at), patience); // each attempt to open it again is an error too
  });
  return stream;
}

function connected(yes: boolean, at: Date): void {
  const stale = document.getElementById("stale");
  if (!stale) return;
  const since = stale.querySelector("[data-stale]");
  if (since && !yes) since.textContent = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  stale.hidden = yes;
}

function put(html: string): void {
  const t = document.createElement("template");
  t.innerHTML = html;
  const title = t.content.querySelector("title")?.textContent;
  if (title) document.title = title;
  const all = [...t.content.querySelectorAll<HTMLElement>("[data-live][id]")];
  const own = all.filter((e) => e.id !== "menu");
  if (own.length > 0 && !own.some((e) => document.getElementById(e.id))) {
    location.reload(); // it has become another page, as when the first node is here
    return;
  }
  for (const next of all) {
    const old = document.getElementById(next.id);
    if (!old || old.isEqualNode(next)) continue;
    const focus = old.contains(document.activeElement) ? document.activeElement : null;
    if (focus instanceof HTMLInputElement || focus instanceof HTMLTextAreaElement || focus instanceof HTMLSelectElement) continue; // somebody types there
    const scrolled = [...old.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
    const path = focus && where(old, focus);
    for (const d of old.querySelectorAll<HTMLDetailsElement>("details[id][open]")) {
      const same = next.querySelector<HTMLDetailsElement>(`#${CSS.escape(d.id)}`);
      if (same) same.open = true;
    }
    old.replaceWith(next);
    next.querySelectorAll(".scroll").forEach((s, n) => (s.scrollLeft = scrolled[n] ?? 0));
    if (path) follow(next, path)?.focus({ preventScroll: true });
    window.htmx?.process(next);
    arrived(next.parentNode ?? document);
  }
}

// where is the way from a root down to an element below it.
function where(root: Element, e: Element): number[] {
  const path: number[] = [];
  for (let at = e; at !== root && at.parentElement; at = at.parentElement) path.unshift([...at.parentElement.children].indexOf(at));
  return path;
}

function follow(root: Element, path: number[]): HTMLElement | null {
  let at: Element | undefined = root;
  for (const n of path) at = at?.children[n];
  return at instanceof HTMLElement ? at : null;
}

declare global {
  interface Window {
    htmx?: { process(e: Element): void };
  }
}
