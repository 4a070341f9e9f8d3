// zone tells the server the reader's time zone, in which it writes times from then on. The
// first page comes once more, if the browser keeps the cookie.
export function zone(): void {
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const mine = `zone=${encodeURIComponent(name)}`;
  const has = () => document.cookie.split("; ").includes(mine);
  if (!name || has()) return;
  document.cookie = `${mine}; path=/; max-age=31536000; samesite=lax${location.protocol === "https:" ? "; secure" : ""}`;
  if (has() && !document.querySelector("form:focus-within input:not([type=hidden]):not(:placeholder-shown)")) location.reload();
}
