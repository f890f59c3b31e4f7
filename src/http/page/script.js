"use strict";
// Keeps the page up to date: takes in events, lets the lag run on, sorts and filters. Rows come drawn from the server.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const [rows, head, rest, stream, nothing] = ["#rows", "#head", "#rest", "#stream", "#nothing"].map((id) => $(id));
  const [filter, more] = [$("#filter"), $("#more")];
  const states = [...document.querySelectorAll("[data-state]")];
  let now = Number(document.body.dataset.now);
  let seq = document.body.dataset.seq;
  let sort = { key: "rank", down: true };
  // Hundreds of rows help nobody: the worst few, and the rest on request.
  const FEW = 25;
  let [state, most] = ["all", FEW];

  // As `words::span` on the server.
  const span = (milliseconds) => {
    const s = Math.max(0, Math.floor(milliseconds / 1000));
    const two = (a, unit, b, part) => (b ? `${a} ${unit} ${b} ${part}` : `${a} ${unit}`);
    if (s < 100) return `${s} s`;
    if (s < 600) return two(Math.floor(s / 60), "min", s % 60, "s");
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor(s / 60) % 60, "min");
    return two(Math.floor(s / 86400), "d", Math.floor(s / 3600) % 24, "h");
  };

  const all = () => [...rows.children];
  const lags = () => {
    for (const row of all()) {
      if (row.dataset.watermark) $(".lag", row).textContent = span(now - Number(row.dataset.watermark));
    }
  };

  const names = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [a.dataset, b.dataset];
    const byName = names.compare(x.name, y.name) || names.compare(x.key, y.key);
    // What was never read is further behind than anything that was.
    const lag = Number(x.watermark || 0) - Number(y.watermark || 0);
    const read = (row) => (row.watermark ? 0 : 1);
    if (sort.key === "name") return sort.down ? -byName : byName;
    if (sort.key === "lag") return (sort.down ? lag : -lag) || byName;
    if (sort.key === "rank") return Number(y.rank) - Number(x.rank) || read(x) - read(y) || lag || names.compare(x.key, y.key);
    const by = Number(x[sort.key]) - Number(y[sort.key]);
    return (sort.down ? -by : by) || byName;
  };
  const arrange = () => {
    const before = all();
    const after = [...before].sort(compare);
    if (after.some((row, index) => row !== before[index])) rows.append(...after);
  };

  const numbers = new Intl.NumberFormat("en");
  const sift = () => {
    const text = filter.value.trim().toLowerCase();
    const counts = { all: 0 };
    let found = 0;
    for (const row of all()) {
      const level = row.dataset.level;
      const named = !text || $("th", row).textContent.toLowerCase().includes(text);
      if (named) {
        counts.all += 1;
        counts[level] = (counts[level] || 0) + 1;
      }
      const wanted = named && (state === "all" || state === level);
      found += wanted ? 1 : 0;
      row.hidden = !wanted || found > most;
    }
    for (const button of states) {
      const [key, count] = [button.dataset.state, counts[button.dataset.state] || 0];
      $(".count", button).textContent = numbers.format(count);
      // One that all of them share tells nothing that `All` does not.
      button.hidden = (count === 0 || count === counts.all) && key !== "all" && key !== state;
      button.setAttribute("aria-pressed", String(key === state));
    }
    more.textContent = `Show all ${numbers.format(found)}`;
    more.hidden = found <= most;
    nothing.hidden = found > 0;
  };

  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      sort = { key, down: sort.key === key ? !sort.down : key !== "name" };
      for (const other of document.querySelectorAll("[data-sort]")) {
        const order = other === button ? (sort.down ? "descending" : "ascending") : "none";
        other.closest("th").setAttribute("aria-sort", order);
      }
      arrange();
      sift();
    });
  }
  for (const button of states) {
    button.addEventListener("click", () => {
      [state, most] = [button.dataset.state, FEW];
      sift();
    });
  }
  filter.addEventListener("input", sift);
  more.addEventListener("click", () => {
    most = Infinity;
    sift();
  });

  const entitle = (words) => {
    document.title = `${words} · ringcx-extractor`;
  };
  const draw = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };
  const take = (change) => {
    now = change.now;
    seq = String(change.seq);
    if (change.head !== null) {
      head.innerHTML = change.head;
      entitle($("#verdict").dataset.words);
    }
    if (change.rest !== null) rest.innerHTML = change.rest;
    if (change.frame !== null) $("#frame").textContent = change.frame;
    const held = new Map(all().map((row) => [row.dataset.key, row]));
    let moved = change.full;
    if (change.full) for (const [key, row] of held) if (!(key in change.rows)) row.remove();
    for (const key of change.gone) held.get(key)?.remove();
    for (const [key, html] of Object.entries(change.rows)) {
      const [old, row] = [held.get(key), draw(html)];
      if (old) old.replaceWith(row);
      else rows.append(row);
      moved ||= !old || sort.key !== "rank" || old.dataset.rank !== row.dataset.rank;
    }
    $("#asof").textContent = new Date(now).toISOString().replace(/\.\d+Z$/, "Z");
    lags();
    if (moved) arrange();
    sift();
  };

  const say = (text, lost) => {
    stream.textContent = text;
    document.body.classList.toggle("lost", lost);
    entitle(lost ? "No connection" : $("#verdict").dataset.words);
  };
  const connect = () => {
    const source = new EventSource(`/events?after=${encodeURIComponent(seq)}`);
    source.onopen = () => say("live", false);
    source.onmessage = (event) => take(JSON.parse(event.data));
    source.onerror = () => {
      // The browser would go on with the number that the page began with.
      source.close();
      say("connection lost; trying again", true);
      setTimeout(connect, 3000);
    };
  };
  sift();
  connect();
})();
