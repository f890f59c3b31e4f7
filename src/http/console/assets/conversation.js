"use strict";
// The pages of conversations: times in the reader's zone, copying, and keys to go from hit to hit.
(() => {
  const format = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  });
  for (const time of document.querySelectorAll("time[data-local]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = time.textContent.trim();
    time.textContent = format.format(at);
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      const text = document.querySelector(button.dataset.copy)?.innerText ?? "";
      const label = button.textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not permitted by the browser";
      }
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }

  const hits = [...document.querySelectorAll("mark[id^=hit]")];
  const typing = (target) => target.closest?.("input, textarea, select, [contenteditable]");
  document.addEventListener("keydown", (event) => {
    if (!hits.length || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.key !== "n" && event.key !== "N" && event.key !== "p") return;
    const at = hits.findIndex((hit) => `#${hit.id}` === location.hash);
    const step = event.key === "n" ? 1 : -1;
    const next = at < 0 ? (step > 0 ? 0 : hits.length - 1) : (at + step + hits.length) % hits.length;
    location.hash = hits[next].id;
  });
})();
