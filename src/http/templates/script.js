"use strict";
// Updates the page: applies events, keeps the lag current, sorts and filters. The server renders the rows.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const [rows, head, rest, connection, emptyNote] = ["#rows", "#head", "#rest", "#stream", "#nothing"].map((id) => $(id));
  const [filter, more] = [$("#filter"), $("#more")];
  const states = [...document.querySelectorAll("[data-state]")];
  let now = Number(document.body.dataset.now);
  let seq = document.body.dataset.seq;
  let sort = { key: "rank", down: true };
  // Show only the worst rows at first, and the rest on request.
  const INITIAL_ROWS = 25;
  let [state, rowLimit] = ["all", INITIAL_ROWS];

  // The rules of `humanize::format_duration` on the server.
  const formatDuration = (milliseconds) => {
    const s = Math.max(0, Math.floor(milliseconds / 1000));
    const twoUnits = (a, unit, b, part) => (b ? `${a} ${unit} ${b} ${part}` : `${a} ${unit}`);
    if (s < 100) return `${s} s`;
    if (s < 600) return twoUnits(Math.floor(s / 60), "min", s % 60, "s");
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return twoUnits(Math.floor(s / 3600), "h", Math.floor(s / 60) % 60, "min");
    return twoUnits(Math.floor(s / 86400), "d", Math.floor(s / 3600) % 24, "h");
  };

  const allRows = () => [...rows.children];
  const updateLags = () => {
    for (const row of allRows()) {
      if (row.dataset.watermark) $(".lag", row).textContent = formatDuration(now - Number(row.dataset.watermark));
    }
  };

  const nameOrder = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [a.dataset, b.dataset];
    const byName = nameOrder.compare(x.name, y.name) || nameOrder.compare(x.key, y.key);
    // An account that was never read is further behind than any other.
    const lag = Number(x.watermark || 0) - Number(y.watermark || 0);
    const read = (row) => (row.watermark ? 0 : 1);
    if (sort.key === "name") return sort.down ? -byName : byName;
    if (sort.key === "lag") return (sort.down ? lag : -lag) || byName;
    if (sort.key === "rank") return Number(y.rank) - Number(x.rank) || read(x) - read(y) || lag || nameOrder.compare(x.key, y.key);
    const by = Number(x[sort.key]) - Number(y[sort.key]);
    return (sort.down ? -by : by) || byName;
  };
  const sortRows = () => {
    const before = allRows();
    const after = [...before].sort(compare);
    if (after.some((row, index) => row !== before[index])) rows.append(...after);
  };

  const numberFormat = new Intl.NumberFormat("en");
  const applyFilter = () => {
    const text = filter.value.trim().toLowerCase();
    const counts = { all: 0 };
    let found = 0;
    for (const row of allRows()) {
      const level = row.dataset.level;
      const matches = !text || $("th", row).textContent.toLowerCase().includes(text);
      if (matches) {
        counts.all += 1;
        counts[level] = (counts[level] || 0) + 1;
      }
      const visible = matches && (state === "all" || state === level);
      found += visible ? 1 : 0;
      row.hidden = !visible || found > rowLimit;
    }
    for (const button of states) {
      const [key, count] = [button.dataset.state, counts[button.dataset.state] || 0];
      $(".count", button).textContent = numberFormat.format(count);
      // A level that all rows share adds nothing to `All`.
      button.hidden = (count === 0 || count === counts.all) && key !== "all" && key !== state;
      button.setAttribute("aria-pressed", String(key === state));
    }
    more.textContent = `Show all ${numberFormat.format(found)}`;
    more.hidden = found <= rowLimit;
    emptyNote.hidden = found > 0;
  };

  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      sort = { key, down: sort.key === key ? !sort.down : key !== "name" };
      for (const other of document.querySelectorAll("[data-sort]")) {
        const order = other === button ? (sort.down ? "descending" : "ascending") : "none";
        other.closest("th").setAttribute("aria-sort", order);
      }
      sortRows();
      applyFilter();
    });
  }
  for (const button of states) {
    button.addEventListener("click", () => {
      [state, rowLimit] = [button.dataset.state, INITIAL_ROWS];
      applyFilter();
    });
  }
  filter.addEventListener("input", applyFilter);
  more.addEventListener("click", () => {
    rowLimit = Infinity;
    applyFilter();
  });

  const setTitle = (name) => {
    document.title = `${name} · ringcx-extractor`;
  };
  const parseRow = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };
  const applyUpdate = (update) => {
    now = update.now;
    seq = String(update.seq);
    if (update.head !== null) {
      head.innerHTML = update.head;
      setTitle($("#health").dataset.name);
    }
    if (update.rest !== null) rest.innerHTML = update.rest;
    if (update.frame !== null) $("#frame").textContent = update.frame;
    const oldRows = new Map(allRows().map((row) => [row.dataset.key, row]));
    let moved = update.full;
    if (update.full) for (const [key, row] of oldRows) if (!(key in update.rows)) row.remove();
    for (const key of update.gone) oldRows.get(key)?.remove();
    for (const [key, html] of Object.entries(update.rows)) {
      const [old, row] = [oldRows.get(key), parseRow(html)];
      if (old) old.replaceWith(row);
      else rows.append(row);
      moved ||= !old || sort.key !== "rank" || old.dataset.rank !== row.dataset.rank;
    }
    $("#asof").textContent = new Date(now).toISOString().replace(/\.\d+Z$/, "Z");
    updateLags();
    if (moved) sortRows();
    applyFilter();
  };

  const showConnection = (text, lost) => {
    connection.textContent = text;
    document.body.classList.toggle("lost", lost);
    setTitle(lost ? "No connection" : $("#health").dataset.name);
  };
  const connect = () => {
    const source = new EventSource(`/events?after=${encodeURIComponent(seq)}`);
    source.onopen = () => showConnection("live", false);
    source.onmessage = (event) => applyUpdate(JSON.parse(event.data));
    source.onerror = () => {
      // The browser would reconnect with the number that the page started with.
      source.close();
      showConnection("connection lost; trying again", true);
      setTimeout(connect, 3000);
    };
  };
  applyFilter();
  connect();
})();
