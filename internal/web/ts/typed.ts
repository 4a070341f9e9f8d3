// choices leaves an answer unshown whose form was changed since it was asked for: htmx asks for the newest choices when it is there, and
// the form that it would exchange has them.
export function choices(): void {
  const newer = new WeakSet<EventTarget>();
  document.addEventListener("change", (e) => { const form = e.target instanceof Element && e.target.closest("form"); if (form) newer.add(form); }, true);
  document.addEventListener("htmx:configRequest", (e) => { if (e.target) newer.delete(e.target); });
  document.addEventListener("htmx:beforeSwap", (e) => {
    const detail = (e as CustomEvent<{ shouldSwap: boolean; requestConfig: { elt: Element } }>).detail;
    if (newer.has(detail.requestConfig.elt)) detail.shouldSwap = false;
  });
}

// typed keeps what somebody types while the part of the page that it stands in is on its way: who types on sees it come with
// what it was when that was asked for. What confirms a plan is typed anew for another one. The form hears of it when the field is left.
export function typed(): void {
  let kept: { id: string; value: string } | null = null;
  document.addEventListener("htmx:beforeSwap", () => {
    const at = document.activeElement;
    kept = at instanceof HTMLInputElement && at.id && !at.dataset.word && at.value !== at.defaultValue ? { id: at.id, value: at.value } : null;
  });
  document.addEventListener("htmx:afterSwap", () => {
    const at = kept && document.getElementById(kept.id);
    if (!(at instanceof HTMLInputElement) || !kept || at.value === kept.value) return;
    at.value = kept.value;
    at.addEventListener("blur", () => at.dispatchEvent(new Event("change", { bubbles: true })), { once: true });
  });
}
