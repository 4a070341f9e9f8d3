// A part is told of each piece of a page when it comes: at first of the whole page.
export type Part = (root: ParentNode) => void;

let parts: Part[] = [];

// begin tells the parts of the page, and of each piece that comes later.
export function begin(all: Part[]): void {
  parts = all;
  arrived(document);
  document.addEventListener("htmx:load", (e) => {
    if (e.target instanceof Element && e.target !== document.body) arrived(e.target.parentNode ?? e.target);
  });
}

// arrived tells the parts that there is something new below root.
export function arrived(root: ParentNode): void {
  for (const part of parts) part(root);
}

// each calls fn once for each element that fits a selector, which no other part uses.
export function each<E extends Element>(root: ParentNode, selector: string, fn: (e: E) => void): void {
  for (const e of root.querySelectorAll<E>(selector)) {
    if (seen.get(e)?.has(selector)) continue;
    seen.set(e, (seen.get(e) ?? new Set()).add(selector));
    fn(e);
  }
}

const seen = new WeakMap<Element, Set<string>>();
