"use strict";
// Plays the recording from the phrase that is clicked, and marks the phrase that is being said.
// Without this script the links of the phrases open the recording at their time.
(() => {
  const audio = document.querySelector("audio");
  const phrases = [...document.querySelectorAll(".phrase")].filter((phrase) => phrase.querySelector("a[data-start]"));
  const startOf = (phrase) => Number(phrase.querySelector("a").dataset.start) / 1000;
  let current;
  const follow = () => {
    const said = phrases.findLast((phrase) => startOf(phrase) <= audio.currentTime);
    if (said === current) return;
    current?.removeAttribute("aria-current");
    said?.setAttribute("aria-current", "true");
    current = said;
    if (!audio.paused) said?.scrollIntoView({ block: "nearest" });
  };
  for (const phrase of phrases) {
    phrase.addEventListener("click", (event) => {
      const isLink = event.target.closest("a");
      // A new tab, or text that is being selected.
      if (event.ctrlKey || event.metaKey || event.shiftKey || (!isLink && String(getSelection()))) return;
      event.preventDefault();
      audio.currentTime = startOf(phrase);
      audio.play();
    });
  }
  for (const name of ["timeupdate", "seeking"]) audio.addEventListener(name, follow);
  document.body.classList.add("plays");
})();
