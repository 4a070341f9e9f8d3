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
