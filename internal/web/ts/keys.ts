// keys lets "/" lead to the search field.
export function keys(): void {
  document.addEventListener("keydown", (e) => {
    if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target instanceof Element && e.target.closest("input, textarea, select")) return;
    const find = document.getElementById("find");
    if (find?.checkVisibility()) {
      e.preventDefault();
      find.focus();
    }
  });
}
