"use strict";
// Keeps an open page current: the server says when something has changed, the page asks for itself again, and
// only what differs is replaced, so that focus, selection, scrolling and open details stay. Pages work without it.
(() => {
  const MIN_PAUSE_MS = 3000;
  const RETRY_MS = 4000;
  const stream = document.querySelector("#stream");
  const show = (text, lost) => {
    stream.textContent = text;
    document.body.classList.toggle("lost", lost);
  };

  // The address without the notice of an action: it would stay there for ever.
  const address = new URL(location.href);
  if (address.searchParams.has("seal")) {
    ["notice", "seal"].forEach((name) => address.searchParams.delete(name));
    history.replaceState(null, "", address);
  }

  const callbacks = {
    beforeNodeMorphed: (old) => !(old.dataset && "keep" in old.dataset),
    beforeNodeRemoved: (old) => !(old.dataset && "keep" in old.dataset),
    // A person opens and closes details, and fills in fields.
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  };
  const settings = { morphStyle: "outerHTML", ignoreActiveValue: true, callbacks };

  let [busy, wanted, last] = [false, false, 0];
  const refresh = async () => {
    if (busy || document.hidden) {
      wanted = true;
      return;
    }
    [busy, wanted] = [true, false];
    await new Promise((done) => setTimeout(done, Math.max(0, last + MIN_PAUSE_MS - Date.now())));
    try {
      // A redirect may lead to the identity provider, whose site a script must not ask.
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store", redirect: "manual" });
      // The session has ended: the login page explains it.
      if (answer.status === 401 || answer.type === "opaqueredirect") location.reload();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      // A proxy's or an overloaded server's answer is no page: the old one stays, and must not count as live.
      if (!page.querySelector("#main")) throw new Error(`answer ${answer.status}`);
      for (const part of ["#top", "#main", "#footer"]) {
        const [before, after] = [document.querySelector(part), page.querySelector(part)];
        if (before && after) Idiomorph.morph(before, after, settings);
      }
      document.title = page.title;
      document.dispatchEvent(new Event("updated"));
      show("live", false);
    } catch {
      show("connection lost; trying again", true);
    }
    [busy, last] = [false, Date.now()];
    if (wanted && !document.hidden) refresh();
  };

  const connect = () => {
    const source = new EventSource("/events");
    source.onmessage = refresh;
    source.onerror = () => {
      source.close();
      show("connection lost; trying again", true);
      setTimeout(connect, RETRY_MS);
    };
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && wanted) refresh();
  });
  connect();
})();

// Draws the charts with uPlot; without it they stay as the server has drawn them.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Map();
  const twoUnits = (a, unit, b, part) => (b ? `${a} ${unit} ${b} ${part}` : `${a} ${unit}`);
  // The rules of `humanize::format_duration` on the server.
  const duration = (s) => {
    if (s < 100) return `${Math.round(s)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return twoUnits(Math.floor(s / 3600), "h", Math.floor(s / 60) % 60, "min");
    return twoUnits(Math.floor(s / 86400), "d", Math.floor(s / 3600) % 24, "h");
  };
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
  const format = (kind, value) => (value === null || value === undefined ? "–" : kind === "seconds" ? duration(value) : number.format(value));

  // The time of day where the chart shows about a day, otherwise the day.
  const time = (seconds, all) => {
    const text = new Date(seconds * 1000).toISOString();
    return all[all.length - 1] - all[0] < 172800 ? text.slice(11, 16) : text.slice(5, 10);
  };

  const draw = (box) => {
    const text = box.dataset.series;
    const before = drawn.get(box.id);
    if (before && before.text === text && before.box.isConnected) return;
    const data = JSON.parse(text);
    if (data[0].length < 2) return;
    const kind = box.dataset.unit;
    let canvas = box.querySelector(".canvas");
    if (before && before.plot && canvas) {
      before.plot.setData(data);
      drawn.set(box.id, { ...before, text });
      return;
    }
    if (!canvas) {
      canvas = document.createElement("div");
      canvas.className = "canvas";
      canvas.id = `${box.id}-canvas`;
      canvas.dataset.keep = "";
      box.append(canvas);
    }
    const readout = document.createElement("p");
    readout.className = "readout";
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const plot = new uPlot(
      {
        width: canvas.clientWidth || 300,
        height: 120,
        legend: { show: false },
        cursor: { y: false, sync: { key: "charts" } },
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        axes: [
          { ...axis, size: 24, space: 60, values: (plot, ticks) => ticks.map((tick) => time(tick, plot.data[0])) },
          { ...axis, size: 52, space: 28, values: (_, ticks) => ticks.map((tick) => format(kind, tick)) },
        ],
        scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 1) * 1.05] } },
        series: [{}, { stroke: colour("--accent"), fill: `${colour("--accent")}22`, width: 1.5, points: { show: false }, spanGaps: false }],
        hooks: {
          setCursor: [
            (plot) => {
              const at = plot.cursor.idx;
              readout.textContent = at === null || at === undefined ? "" : `${new Date(plot.data[0][at] * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC: ${format(kind, plot.data[1][at])}`;
            },
          ],
        },
      },
      data,
      canvas,
    );
    canvas.append(readout);
    drawn.set(box.id, { plot, text, box });
  };
  const drawAll = () => document.querySelectorAll("[data-series]").forEach(draw);
  const resize = () => {
    for (const { plot, box } of drawn.values()) plot.setSize({ width: box.clientWidth, height: 120 });
  };
  document.addEventListener("updated", drawAll);
  window.addEventListener("resize", resize);
  drawAll();
})();
