import { each } from "./page";

// copies lets [data-copy=ID] copy the text of an element.
export function copies(page: ParentNode): void {
  each<HTMLElement>(page, "[data-copy]", (b) => {
    b.addEventListener("click", async () => {
      const from = document.getElementById(b.dataset.copy ?? "");
      const say = b.querySelector("span");
      if (!from || !say) return;
      try {
        await navigator.clipboard.writeText(from.textContent ?? "");
        say.textContent = "Copied";
      } catch {
        say.textContent = "Select and copy by hand";
      }
    });
  });
}
