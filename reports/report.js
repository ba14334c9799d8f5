// What the report gains with JavaScript: curves of one language pair, sorted tables, the sample browser, and open details in print.
// Everything it shows is in the page; nothing is loaded. All text goes in by textContent, never as markup.
(() => {
  "use strict";
  document.documentElement.classList.add("js");
  const read = (id) => { const node = document.getElementById(id); return node ? JSON.parse(node.textContent) : null; };
  const make = (name, className, text) => { const node = document.createElement(name); if (className) node.className = className; if (text !== undefined) node.textContent = text; return node; };

  // --- curves: the same frame, scale and path as render/figures.py ---
  const curves = read("curve-data");
  if (curves) {
    const W = 560, H = 300, L = 62, R = 14, T = 26, B = 48, Q = 10000, count = curves.layers.length;
    const x = (i) => L + 8 + (W - L - R - 16) * (i / Math.max(count - 1, 1));
    const y = (v, low, high) => T + (H - T - B) * (1 - (Math.min(Math.max(v / Q, low), high) - low) / (high - low));
    const line = (values, low, high) => { let down = false, path = ""; values.forEach((v, i) => { if (v === null) { down = false; return; } path += (down ? "L" : "M") + x(i).toFixed(1) + " " + y(v, low, high).toFixed(1); down = true; }); return path; };
    const band = (lower, upper, low, high) => {
      const runs = []; let run = null;
      lower.forEach((v, i) => { if (v === null || upper[i] === null) { run = null; return; } if (!run) runs.push(run = []); run.push(i); });
      const point = (values) => (i) => x(i).toFixed(1) + " " + y(values[i], low, high).toFixed(1);
      return runs.map((at) => "M" + at.map(point(upper)).concat(at.reverse().map(point(lower))).join("L") + "Z").join("");
    };
    const shapes = [(a, b) => `M${a - 3.5} ${b}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0`, (a, b) => `M${a - 3.2} ${b - 3.2}h6.4v6.4h-6.4z`, (a, b) => `M${a} ${b - 4.6}l4.6 4.6l-4.6 4.6l-4.6 -4.6z`];
    const metricSelect = document.getElementById("curve-metric"), pairSelect = document.getElementById("curve-pair"), status = document.getElementById("curve-status");
    const redraw = () => {
      const chosen = pairSelect.value;
      for (const figure of document.querySelectorAll("figure[data-metric]")) {
        const metric = curves.metrics[figure.dataset.metric];
        // A metric that is not measured in pairs, or not for this one, keeps the curve of the mean.
        const lines = metric?.pairs[chosen];
        for (const frame of figure.querySelectorAll("[data-frame]")) frame.hidden = (frame.dataset.frame === "pair") !== Boolean(lines);
        const svg = figure.querySelector("[data-frame=pair] svg");
        for (const node of svg ? svg.querySelectorAll("[data-line]") : []) {
          const style = node.dataset.line, [values, lower, upper] = lines?.[style] || [[]];
          node.setAttribute("d", line(values, metric.low, metric.high));
          svg.querySelector(`[data-band="${style}"]`).setAttribute("d", lower && upper ? band(lower, upper, metric.low, metric.high) : "");
          const thin = svg.querySelector(`[data-thin="${style}"]`);
          if (thin) thin.setAttribute("d", line(curves.metrics[metric.compared].pairs[chosen]?.[style]?.[0] || [], metric.low, metric.high));
          const dots = svg.querySelector(`[data-dots="${style}"]`);
          if (count <= 40) {
            dots.replaceChildren(...values.flatMap((v, i) => {
              if (v === null) return [];
              const dot = document.createElementNS("http://www.w3.org/2000/svg", "path");
              dot.setAttribute("d", shapes[style % 3](+x(i).toFixed(1), +y(v, metric.low, metric.high).toFixed(1)));
              const tip = document.createElementNS("http://www.w3.org/2000/svg", "title");
              tip.textContent = `layer ${curves.layers[i]}: ${(v / Q).toFixed(3)}`;
              dot.append(tip);
              return [dot];
            }));
          }
        }
        const what = figure.querySelector("[data-what]");
        if (what) what.textContent = lines ? pairSelect.selectedOptions[0].textContent + (Object.values(lines).some((triple) => triple[2]) ? "; band: 95 % interval" : "") : what.dataset.what;
      }
      for (const figure of document.querySelectorAll("figure.lead")) figure.hidden = figure.dataset.metric !== metricSelect.value;
      status.textContent = `${metricSelect.selectedOptions[0].textContent}, ${pairSelect.selectedOptions[0].textContent}`;
    };
    metricSelect.addEventListener("change", redraw);
    pairSelect.addEventListener("change", redraw);
  }

  // --- tables: a click on a heading sorts; the row of all languages stays on top ---
  const order = ["regression", "missing", "not settled", "not judged", "within tolerance", "worse", "no evidence", "better", "insufficient data", "descriptive"];
  const key = (cell) => {
    if (!cell) return null;
    const verdict = cell.querySelector(".verdict");
    if (verdict) return order.indexOf(verdict.dataset.word);
    const text = cell.textContent.trim().replace("−", "-").replace("< 0.001", "0");
    if (text === "" || text === "–") return null;
    const number = Number.parseFloat(text);
    return Number.isNaN(number) || /^[^-+.\d]/.test(text) ? text.toLowerCase() : number;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.hasAttribute("data-fixed")) return;
      const button = make("button", "", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => ({ row, top: row.classList.contains("all"), key: key(row.cells[column]) }));
        rows.sort((a, b) => {
          if (a.top !== b.top) return a.top ? -1 : 1;
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
          const result = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : String(a.key).localeCompare(String(b.key));
          return down ? -result : result;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }

  // --- samples ---
  const samples = read("sample-data");
  if (samples) {
    const list = document.getElementById("samples"), direction = document.getElementById("sample-direction"), sort = document.getElementById("sample-sort");
    const more = document.getElementById("sample-more"), status = document.getElementById("sample-status");
    const last = samples.names.length - 1, candidate = samples.delta ? samples.names.indexOf(samples.delta[0]) : last;
    let shown = 5;
    const minus = (text) => text.replace("-", "−");
    const text = (node, side, value) => { node.lang = side.lang; node.dir = side.dir; node.textContent = value; return node; };
    const card = (from, item) => {
      const article = make("article", "sample"), head = make("header"), body = make("dl");
      head.append(make("span", "", `${from.title}, line ${item.id}`));
      if (item.d !== null) { const delta = make("span", "", `sentence chrF ${samples.delta[0]} − ${samples.delta[1]}: `); delta.append(make("b", "", (item.d > 0 ? "+" : "") + minus(item.d.toFixed(1)))); head.append(delta); }
      body.append(make("dt", "", "source"), text(make("dd"), from.source, item.s), make("dt", "", "reference"), text(make("dd"), from.target, item.r));
      samples.names.forEach((name, i) => {
        if (item.o[i] === null) return;
        const label = make("dt");
        label.append(make("span", "", name));
        if (item.c[i] !== null) label.append(make("span", "", `chrF ${item.c[i].toFixed(1)}`));
        if (item.x[i]) label.append(make("span", "off", "✕ off target"));
        body.append(label, text(make("dd", `output s${samples.styles[i] % 6}`), from.target, item.o[i]));
      });
      article.append(head, body);
      return article;
    };
    const draw = () => {
      const from = samples.directions.filter((each, i) => direction.value === "" || i === Number(direction.value));
      const all = from.flatMap((each) => each.items.map((item) => [each, item]));
      const value = { loss: ([, i]) => i.d ?? Infinity, gain: ([, i]) => -(i.d ?? -Infinity), low: ([, i]) => i.c[candidate] ?? Infinity, high: ([, i]) => -(i.c[candidate] ?? -Infinity) }[sort.value];
      all.sort((a, b) => value(a) - value(b) || 0);
      list.replaceChildren(...all.slice(0, shown).map(([each, item]) => card(each, item)));
      more.hidden = shown >= all.length;
      status.textContent = `${Math.min(shown, all.length)} of ${all.length} shown`;
    };
    for (const select of [direction, sort]) select.addEventListener("change", () => { shown = 5; draw(); });
    more.addEventListener("click", () => { shown += 10; draw(); });
    draw();
  }

  // --- projections: one language out of many ---
  const language = document.getElementById("picture-language");
  if (language) {
    language.addEventListener("change", () => {
      for (const path of document.querySelectorAll(".scatter path")) path.classList.toggle("faded", language.value !== "" && path.dataset.group !== language.value);
    });
  }

  addEventListener("beforeprint", () => { for (const node of document.querySelectorAll("details:not([open])")) { node.open = true; node.dataset.wasClosed = ""; } });
  addEventListener("afterprint", () => { for (const node of document.querySelectorAll("details[data-was-closed]")) { node.open = false; delete node.dataset.wasClosed; } });
})();
