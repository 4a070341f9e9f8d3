import { each } from "./page";

const root = document.documentElement;

function stored(): string | null {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // the browser keeps nothing
  }
}

const chosen = stored();
if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

// theme lets [data-theme-switch] change between light and dark.
export function theme(page: ParentNode): void {
  each<HTMLElement>(page, "[data-theme-switch]", (b) => {
    b.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // for this page alone, then
      }
    });
  });
}
