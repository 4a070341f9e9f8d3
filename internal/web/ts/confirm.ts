import { each } from "./page";

// confirms lets the button of [data-confirm] follow what is typed; the server checks it anyway.
export function confirms(page: ParentNode): void {
  each<HTMLFormElement>(page, "form[data-confirm]", (f) => {
    const go = f.querySelector<HTMLButtonElement>("button[type=submit]");
    const field = f.querySelector<HTMLInputElement>("input[data-word]");
    if (!go || !field) return;
    const follow = () => {
      go.disabled = field.value.trim() !== field.dataset.word;
    };
    field.addEventListener("input", follow);
    follow();
  });
}
