// The time line: keys, wheel and clicks zoom it and choose a moment. It is whole without: what is drawn carries its time in
// seconds, data-a and data-b, and here only positions are written anew. The address follows, so that it can be shared.
import { each } from "./page";

type Fact = [from: number, to: number, kind: string, words: string];

const svg = "http://www.w3.org/2000/svg";
const steps = [1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 172800, 345600, 691200, 1382400, 2764800];
const least = 60; // seconds that are drawn

export function timeLines(root: ParentNode): void {
  each<HTMLElement>(root, "[data-tl]", draw);
}

function draw(tl: HTMLElement): void {
  const first = Number(tl.dataset.min), end = Number(tl.dataset.max), now = Number(tl.dataset.now);
  const card = tl.closest(".card");
  const range = tl.querySelector<HTMLInputElement>("input[type=range]");
  const axis = tl.querySelector<SVGSVGElement>("svg.axis");
  const plots = [...tl.querySelectorAll<SVGSVGElement>("svg.plot")];
  const plot = plots[0];
  if (!card || !range || !axis || !plot) return;
  const out = card.querySelector("output"), why = card.querySelector("[data-why]");
  const facts = JSON.parse(tl.dataset.facts ?? "[]") as Fact[];
  const zone = document.documentElement.dataset.zone || undefined;
  const format = (o: Intl.DateTimeFormatOptions) => {
    try { return new Intl.DateTimeFormat("en-GB", { ...o, timeZone: zone }); } catch { return new Intl.DateTimeFormat("en-GB", o); }
  };
  const day = format({ weekday: "short", day: "numeric", month: "short" });
  const clock = format({ hour: "2-digit", minute: "2-digit" });
  const second = format({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const whole = Math.max(end, ...facts.map((f) => f[1])), begun = Math.min(first, ...facts.map((f) => f[0]));
  let a = first, b = end;

  const x = (t: number) => (100 * (t - a)) / (b - a);
  const at = (e: MouseEvent) => { const r = plot.getBoundingClientRect(); return a + ((e.clientX - r.left) / r.width) * (b - a); };

  function mark(into: SVGSVGElement, t: number, y: string): void {
    const l = document.createElementNS(svg, "line");
    for (const [k, v] of Object.entries({ class: "grid", x1: x(t) + "%", x2: x(t) + "%", y1: y, y2: "100%" })) l.setAttribute(k, v);
    into.prepend(l);
  }

  function ticks(): void {
    const wide = Math.max(axis!.clientWidth, 1);
    const room = Math.max(3, Math.floor(wide / 88));
    const step = steps.find((s) => (b - a) / s <= room) ?? 5529600;
    const off = new Date(a * 1000).getTimezoneOffset() * 60;
    for (const g of tl.querySelectorAll(".grid, .axis text")) g.remove();
    for (let t = Math.ceil((a - off) / step) * step + off; t < b; t += step) {
      for (const p of plots) mark(p, t, p === axis ? "70%" : "0");
      if (t > b - (b - a) * (72 / wide)) continue;
      const text = document.createElementNS(svg, "text"), d = new Date(t * 1000);
      for (const [k, v] of Object.entries({ x: x(t) + "%", y: "15", dx: "3" })) text.setAttribute(k, v);
      text.textContent = step >= 86400 || (d.getHours() === 0 && d.getMinutes() === 0 && d.getSeconds() === 0) ? day.format(d) : (step < 60 ? second : clock).format(d);
      axis!.append(text);
    }
  }

  function place(): void {
    for (const n of tl.querySelectorAll<SVGElement>("[data-a]")) {
      const from = Number(n.dataset.a), to = n.dataset.b ? Number(n.dataset.b) : from;
      if (n.tagName === "line") { n.setAttribute("x1", x(from) + "%"); n.setAttribute("x2", x(to) + "%"); continue; }
      n.setAttribute("x", x(from) + "%");
      if (n.dataset.b) n.setAttribute("width", Math.max(300 / Math.max(plot!.clientWidth, 1), x(to) - x(from)) + "%"); // 3 px at least
    }
    ticks();
    const t = Number(range!.value);
    range!.min = String(Math.round(a));
    range!.max = String(Math.round(b));
    range!.value = String(t);
    for (const name of ["from", "to"]) {
      const f = tl.querySelector<HTMLInputElement>(`input[name=${name}]`);
      if (f) f.value = String(Math.round(name === "from" ? a : b));
    }
    say(Number(range!.value));
  }

  function say(t: number): void {
    t = Math.round(Math.min(t, now));
    const f = facts.find((f) => t >= f[0] && t < f[1]);
    const d = new Date(t * 1000);
    const text = `${day.format(d).replace(",", "")} ${second.format(d)}, ${f?.[2] ?? "before the first backup"}`;
    if (out) out.textContent = text;
    if (why) why.textContent = f?.[3] ?? "Nothing is stored of this moment.";
    range!.setAttribute("aria-valuetext", text);
    for (const c of tl.querySelectorAll("[data-cur]")) { c.setAttribute("x1", x(t) + "%"); c.setAttribute("x2", x(t) + "%"); }
    for (const l of card!.querySelectorAll<HTMLAnchorElement>("a[data-at]")) l.href = l.dataset.at + encodeURIComponent(d.toISOString().replace(/\.\d+Z$/, "Z"));
  }

  let later = 0;
  function remember(): void {
    clearTimeout(later);
    later = window.setTimeout(() => {
      const u = new URL(location.href);
      u.searchParams.set("from", String(Math.round(a)));
      u.searchParams.set("to", String(Math.round(b)));
      u.searchParams.set("at", range!.value);
      history.replaceState(history.state, "", u);
    }, 300);
  }

  function show(from: number, to: number): void {
    const w = Math.min(whole - begun, Math.max(least, to - from));
    a = Math.max(begun, Math.min(from, whole - w));
    b = a + w;
    place();
    remember();
  }

  function zoom(by: number, mid: number): void {
    for (const l of card!.querySelectorAll("[data-span]")) l.removeAttribute("aria-current");
    const w = Math.max(least, (b - a) * by), f = (mid - a) / (b - a);
    show(mid - w * f, mid - w * f + w);
  }

  function choose(t: number): void {
    range!.value = String(Math.round(t));
    say(t);
    remember();
  }

  tl.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.shiftKey && !tl.contains(document.activeElement)) return; // the page keeps its own scrolling
    e.preventDefault();
    zoom((e.deltaY || e.deltaX) > 0 ? 1.25 : 0.8, at(e));
  }, { passive: false });
  tl.addEventListener("click", (e) => {
    if (!(e.target instanceof Element) || !e.target.closest("svg.plot")) return;
    const link = e.target.closest("a");
    if (link && !(link.getAttribute("href") ?? "").startsWith("?")) return; // a backup
    e.preventDefault();
    range.focus({ preventScroll: true });
    choose(at(e));
  });
  tl.addEventListener("submit", (e) => e.preventDefault());
  range.addEventListener("input", () => { say(Number(range.value)); remember(); });
  range.addEventListener("keydown", (e) => {
    const mid = Number(range.value), step = Math.max(1, Math.round((b - a) / (e.shiftKey ? 40 : 400)));
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    switch (e.key) {
      case "+": case "=": zoom(0.5, mid); break;
      case "-": case "−": case "_": zoom(2, mid); break;
      case "0": show(begun, whole); break;
      case "ArrowLeft": choose(mid - step); break;
      case "ArrowRight": choose(mid + step); break;
      default: return;
    }
    e.preventDefault();
  });
  addEventListener("resize", ticks);
  place();
}
