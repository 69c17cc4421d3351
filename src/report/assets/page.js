"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.querySelector("main");
  const root = document.documentElement;
  const phone = () => window.innerWidth <= 600;

  // Elements. Text is always set as text: names come from models.
  const el = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== "") node.append(child);
    }
    return node;
  };

  // Figures.
  const known = (value) => value !== null && value !== undefined;
  const count = (value) => (known(value) ? Number(value).toLocaleString("en-US") : "–");
  const figure = (value, digits = 3) => {
    if (!known(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1);
    return value.toLocaleString("en-US", { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(size + 1))) });
  };
  const short = (value) => {
    if (!known(value)) return "–";
    for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (value >= size) return figure(value / size) + " " + unit;
    }
    return count(value);
  };
  const bytes = (value) => (known(value) ? short(value) + (value >= 1e3 ? "B" : " B") : "–");
  const percent = (value) => figure(100 * value) + " %";
  const times = (before, after) => {
    const factor = before / after;
    return !Number.isFinite(factor) ? "–" : (factor < 100 ? factor.toFixed(2) : figure(factor)) + "×";
  };
  const metricText = (value, metric) =>
    !known(value) ? "–" : metric.unit === "%" ? value.toFixed(2) + " %" : figure(value, 4);
  const middle = (text, most) =>
    text.length <= most ? text : text.slice(0, Math.floor(0.3 * most)) + "…" + text.slice(1 - most + Math.floor(0.3 * most));

  // Colours follow the style sheet, on paper and by day and night.
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const charts = [];
  const paint = () => {
    for (const chart of charts) {
      if (!chart.canvas) continue;
      for (const scale of Object.values(chart.options.scales || {})) {
        scale.grid = { ...(scale.grid || {}), color: colour("grid") };
        scale.border = { color: colour("line") };
        scale.ticks.color = colour("soft");
        scale.title.color = colour("soft");
      }
      const { legend, tooltip } = chart.options.plugins;
      legend.labels.color = colour("text");
      Object.assign(tooltip, {
        backgroundColor: colour("card"), titleColor: colour("text"), bodyColor: colour("text"),
        borderColor: colour("line"),
      });
      for (const set of chart.data.datasets) {
        const { line, fill } = set.ink;
        set.borderColor = colour(line);
        const inside = fill === "none" ? "transparent" : colour(fill || line);
        // Bars keep a colour that they were once given, but ask a function anew.
        set.backgroundColor = chart.config.type === "bar" ? () => inside : inside;
        set.pointBorderColor = colour(line);
        set.pointBackgroundColor = set.inks
          ? set.data.map((_, i) => (set.inks[i] === "hollow" ? colour("card") : colour(set.inks[i] || line)))
          : colour(fill && fill !== "none" ? fill : line);
        if (set.inks) set.pointBorderColor = set.data.map((_, i) => colour(set.inks[i] === "hollow" ? "soft" : set.inks[i] || line));
      }
      chart.update("none");
    }
  };
  const axis = (title, extra = {}) => ({
    ...extra,
    title: { display: !!title, text: title || "", font: { size: 12 } },
    ticks: { maxRotation: 0, autoSkip: true, ...(extra.ticks || {}) },
  });
  const draw = (canvas, type, sets, scales, tooltip, more = {}) => {
    const chart = new Chart(canvas, {
      type,
      data: { labels: more.labels, datasets: sets },
      options: {
        animation: false, responsive: true, maintainAspectRatio: false, parsing: more.labels ? undefined : false,
        interaction: more.interaction || { mode: "nearest", intersect: false },
        indexAxis: more.indexAxis || "x",
        events: more.quiet ? [] : ["mousemove", "mouseout", "click", "touchstart", "touchmove"],
        scales,
        layout: { padding: { top: 4, right: 8 } },
        plugins: {
          legend: { display: more.legend !== false, labels: { usePointStyle: true, boxWidth: 8, boxHeight: 8, filter: (item) => !!item.text,
            // Points have colours of their own: the legend has that of the whole.
            generateLabels: (chart) => Chart.defaults.plugins.legend.labels.generateLabels(chart).map((item) => {
              const shade = colour(chart.data.datasets[item.datasetIndex].ink.line);
              return { ...item, fillStyle: shade, strokeStyle: shade };
            }) } },
          tooltip: { borderWidth: 1, padding: 9, displayColors: false, callbacks: tooltip, filter: (item) => !item.dataset.mute },
        },
      },
    });
    charts.push(chart);
    return chart;
  };
  // A place for a chart with its words and, below it, its data as a table.
  const plot = (title, label, height, rows, columns) => {
    const canvas = el("canvas", { role: "img", "aria-label": label });
    const box = el("div", { class: "plot", style: `height:${height}px` }, canvas);
    const parts = [title ? el("figcaption", {}, title) : null, box];
    if (rows) parts.push(folded("Data", () => table(columns, rows)));
    return { canvas, node: el("figure", {}, parts) };
  };
  const folded = (title, make) => {
    const details = el("details", {}, el("summary", {}, title));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(make());
    });
    return details;
  };

  // Tables that sort by the column whose title is chosen.
  // A column: title, value(row) to sort by, text(row) or node(row) to show, number.
  const table = (columns, rows, classes = () => "") => {
    const body = el("tbody");
    let sorted = { column: -1, up: true };
    const fill = () => {
      const order = rows.slice();
      if (sorted.column >= 0) {
        const { value } = columns[sorted.column];
        const sign = sorted.up ? 1 : -1;
        order.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (!known(x) || !known(y)) return known(x) ? -1 : known(y) ? 1 : 0;
          return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
        });
      }
      body.replaceChildren(...order.map((row) => el("tr", { class: classes(row) }, columns.map((column) => {
        const shown = column.node ? column.node(row) : column.text ? column.text(row) : known(column.value(row)) ? String(column.value(row)) : "–";
        return el("td", { class: (column.number ? "num " : "") + (column.class || "") }, column.class === "name" ? el("span", {}, shown) : shown);
      }))));
    };
    const heads = columns.map((column, index) => {
      const head = el("th", { scope: "col", "aria-sort": "none" },
        el("button", { type: "button", class: column.number ? "num" : "", onclick: () => {
          sorted = { column: index, up: sorted.column === index ? !sorted.up : !column.number };
          heads.forEach((h, i) => h.setAttribute("aria-sort", i !== index ? "none" : sorted.up ? "ascending" : "descending"));
          fill();
        } }, column.title));
      return head;
    });
    fill();
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "table" },
      el("table", {}, el("thead", {}, el("tr", {}, heads)), body));
  };
  const choice = (names, chosen, pick) => {
    const buttons = names.map((name) => el("button", { type: "button", "aria-pressed": String(name === chosen), onclick: () => {
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === name)));
      pick(name);
    } }, name));
    return el("div", { class: "choice" }, buttons);
  };
  const section = (title, ...children) => el("section", {}, el("h2", {}, title), children);

  // The parts of a compression's report.
  const loss = (metric, value) => (metric.higher_is_better ? metric.original - value : value - metric.original);
  const last = (metric) => {
    for (const stage of ["written", "quantized", "tuned", "factorized"]) {
      if (known(metric[stage])) return metric[stage];
    }
    return metric.original;
  };

  const cards = (report) => {
    const { model, output, metric, latency_ms: latency } = report;
    const card = (name, factor, pair, title, tone) => el("div", { class: "card", title, "data-card": name },
      el("div", { class: "name" }, name), el("div", { class: "factor " + (tone || "") }, factor), el("div", { class: "pair" }, pair));
    const list = [];
    if (metric) {
      const now = last(metric);
      const lost = loss(metric, now);
      const sign = now - metric.original > 0 ? "+" : now - metric.original < 0 ? "−" : "±";
      const points = sign + (metric.unit === "%" ? Math.abs(now - metric.original).toFixed(2) : figure(Math.abs(now - metric.original)));
      list.push(card(metric.name, points, `${metricText(metric.original, { unit: metric.unit && "%" }).replace(" %", "")} → ${metricText(now, metric)}`,
        `${metric.original} to ${now} on ${count(metric.samples)} samples`, lost > 0 ? "bad" : "good"));
    }
    const pair = (name, before, after, text, exact = count) => {
      if (!known(before) || !known(after)) return;
      list.push(card(name, times(before, after), `${text(before)} → ${text(after)}`, `${exact(before)} to ${exact(after)}`,
        after > before * 1.05 ? "bad" : ""));
    };
    pair("bytes", model.bytes, output.bytes, bytes);
    pair("gzip", model.gzip_bytes, output.gzip_bytes, bytes);
    pair("params", model.params, output.params, short);
    pair("MACs", model.macs, output.macs, short);
    if (latency) pair("latency", latency.original, latency.output, (v) => figure(v) + " ms", (v) => v + " ms");
    return el("div", { class: "cards" }, list);
  };

  const sizes = (report) => {
    const { model, output, latency_ms: latency } = report;
    const rows = [
      ["params", model.params, output.params], ["MACs for one sample", model.macs, output.macs],
      ["bytes", model.bytes, output.bytes], ["bytes after gzip", model.gzip_bytes, output.gzip_bytes],
      ["latency, ms, median", latency && latency.original, latency && latency.output],
      ["latency, ms, fastest", latency && latency.original_min, latency && latency.output_min],
    ].filter((row) => known(row[1]) && known(row[2]));
    const parts = [table([
      { title: "figure", value: (r) => r[0] },
      { title: "original", number: true, value: (r) => r[1], text: (r) => (Number.isInteger(r[1]) ? count(r[1]) : figure(r[1], 4)) },
      { title: "written", number: true, value: (r) => r[2], text: (r) => (Number.isInteger(r[2]) ? count(r[2]) : figure(r[2], 4)) },
      { title: "factor", number: true, value: (r) => r[1] / r[2], text: (r) => times(r[1], r[2]) },
    ], rows)];
    const metric = report.metric;
    if (metric) {
      const stages = ["original", "factorized", "tuned", "quantized", "written"].filter((s) => known(metric[s]));
      parts.push(el("h3", {}, `${metric.name} on ${count(metric.samples)} samples`), el("p", { class: "soft" }, metric.source),
        table([
          { title: "stage", value: (s) => s },
          { title: metric.name + (metric.unit ? ", " + metric.unit : ""), number: true, value: (s) => metric[s], text: (s) => metricText(metric[s], metric).replace(" %", "") },
          { title: "lost", number: true, value: (s) => loss(metric, metric[s]), text: (s) => figure(loss(metric, metric[s])) },
        ], stages));
    }
    if (report.validation) {
      const v = report.validation;
      parts.push(el("p", { class: "soft" }, `The written file in ${v.runtime} against the evaluator on ${count(v.samples)} samples: outputs differ by ${figure(v.max_abs_difference)} at most, ${figure(v.max_relative_difference)} of the largest.`));
    }
    return section("Figures", parts);
  };

  const notes = (report) => {
    const items = [...report.missed.map((text) => ["missed", text]), ...report.warnings.map((text) => ["warning", text])];
    if (!items.length) return null;
    return el("ul", { class: "notes" }, items.map(([kind, text]) => el("li", { class: kind }, el("b", {}, kind), text)));
  };

  // The rank at which the layer's own scheme leaves nothing; that of the whole weight where that isn't known.
  const most = (layer) => {
    const spectrum = layer.spectrum;
    return spectrum && spectrum.scheme === layer.scheme && spectrum.ranks.length ? spectrum.ranks[spectrum.ranks.length - 1] : layer.full_rank;
  };
  const rankText = (layer) => {
    if (!known(layer.rank)) return "–";
    const ranks = known(layer.rank_in) ? `${layer.rank_in}+${layer.rank}` : String(layer.rank);
    return known(most(layer)) ? `${ranks} of ${most(layer)}` : ranks;
  };
  const what = (layer) => (layer.action === "factorize" ? layer.scheme || "factorized" : layer.action === "keep" ? "kept" : "skipped");

  const layers = (report) => {
    const all = report.layers;
    if (!all.length) return null;
    let shown = all.length > 60 ? all.filter((l) => l.action !== "skip") : all;
    if (shown.length > 60) {
      const least = shown.map((l) => l.params_before).sort((a, b) => b - a)[59];
      shown = shown.filter((l) => l.params_before >= least).slice(0, 60);
    }
    const caption = shown.length === all.length ? "Params of every layer before and after."
      : `Params before and after: the ${shown.length} largest of ${all.length} layers that can be factorized; the table has all.`;
    const { canvas, node } = plot(caption, "params of every layer before and after", 64 + 21 * shown.length);
    const sets = [
      { label: "after", data: shown.map((l) => l.params_after), ink: { line: "accent" }, grouped: false, barPercentage: 0.5, categoryPercentage: 0.9, borderRadius: 2 },
      { label: "before", data: shown.map((l) => l.params_before), ink: { line: "before" }, grouped: false, barPercentage: 0.86, categoryPercentage: 0.9, borderRadius: 2 },
    ];
    let chart;
    const kinds = choice(["linear", "logarithmic"], "linear", (name) => { chart.options.scales.x.type = name; paint(); });
    chart = draw(canvas, "bar", sets, {
      x: axis("params", { position: "top", type: "linear", ticks: { callback: (v) => short(v), maxTicksLimit: 6 } }),
      y: axis("", { grid: { display: false }, ticks: { autoSkip: false, font: { size: 11 }, callback: (v, i) => middle(shown[i].name, phone() ? 19 : 34) } }),
    }, {
      title: (items) => shown[items[0].dataIndex].name,
      label: () => "",
      afterBody: (items) => {
        const l = shown[items[0].dataIndex];
        return [`${l.op_type} ${l.shape.join("×")}: ${what(l)}${known(l.rank) ? ", rank " + rankText(l) : ""}`,
          `params ${count(l.params_before)} → ${count(l.params_after)} (${times(l.params_before, l.params_after)})`,
          known(l.macs_before) ? `MACs ${count(l.macs_before)} → ${count(l.macs_after)}` : "", known(l.bits) ? `${l.bits} bits` : "",
          l.reason ? middle(l.reason, 70) : ""].filter((t) => t);
      },
    }, { labels: shown.map((l) => l.name), indexAxis: "y", interaction: { mode: "index", axis: "y", intersect: false } });
    const columns = [
      { title: "layer", value: (l) => l.name, class: "name" },
      { title: "op", value: (l) => l.op_type },
      { title: "shape", value: (l) => l.shape.reduce((a, b) => a * b, 1), text: (l) => l.shape.join("×") },
      { title: "scheme", value: what },
      { title: "rank", number: true, value: (l) => (known(l.rank) && most(l) ? l.rank / most(l) : l.rank),
        node: (l) => known(l.rank) && most(l) ? [rankText(l), el("span", { class: "meter" }, el("i", { style: `width:${Math.min(100, 100 * l.rank / most(l))}%` }))] : rankText(l) },
      { title: "params before", number: true, value: (l) => l.params_before, text: (l) => count(l.params_before) },
      { title: "after", number: true, value: (l) => l.params_after, text: (l) => count(l.params_after) },
      { title: "factor", number: true, value: (l) => l.params_before / l.params_after, text: (l) => times(l.params_before, l.params_after) },
      { title: "MACs before", number: true, value: (l) => l.macs_before, text: (l) => count(l.macs_before) },
      { title: "after", number: true, value: (l) => l.macs_after, text: (l) => count(l.macs_after) },
      { title: "bits", number: true, value: (l) => l.bits },
      { title: "error at rank", number: true, value: (l) => cut(l), text: (l) => (known(cut(l)) ? percent(cut(l)) : "–") },
      { title: "note", value: (l) => l.reason || "", text: (l) => l.reason || "", class: "wrap" },
    ].filter((c) => c.title !== "bits" || all.some((l) => known(l.bits)));
    return section("Layers", kinds, node, table(columns, all, (l) => (l.action === "factorize" ? "" : "dim")));
  };

  // What is lost at the rank that was chosen, as predicted.
  const cut = (layer) => {
    const at = layer.spectrum && layer.scheme ? layer.spectrum.ranks.indexOf(layer.rank) : -1;
    return at < 0 ? null : layer.spectrum.errors[at];
  };

  const FIRST = 12;
  const spectra = (report) => {
    const all = report.layers.filter((l) => l.spectrum && l.spectrum.ranks.length > 1);
    if (!all.length) return null;
    const grid = el("div", { class: "many" });
    let kind = "logarithmic";
    const made = [];
    const one = (layer) => {
      const { ranks, errors } = layer.spectrum;
      const floor = 1e-6;
      const at = cut(layer);
      const title = el("figcaption", { title: layer.name }, el("b", {}, middle(layer.name, phone() ? 20 : 30)), el("br"), what(layer), known(layer.rank) ? ` ${rankText(layer)}` : "", known(at) ? `, ${percent(at)} lost` : "");
      const { canvas, node } = plot("", `what each rank of ${layer.name} leaves`, 132);
      node.prepend(title);
      grid.append(node);
      const points = ranks.map((rank, i) => ({ x: rank, y: Math.max(errors[i], floor) }));
      const sets = [{ label: "", data: points, ink: { line: "accent" }, borderWidth: 1.8, pointRadius: 0, pointHoverRadius: 4, tension: 0 }];
      if (known(at)) {
        sets.push({ label: "", data: [{ x: layer.rank, y: floor }, { x: layer.rank, y: 1 }], ink: { line: "mark" }, borderWidth: 1.3, borderDash: [4, 3], pointRadius: 0, pointHoverRadius: 0, mute: true });
        sets.push({ label: "", data: [{ x: layer.rank, y: Math.max(at, floor) }], ink: { line: "mark" }, pointRadius: 4, pointHoverRadius: 5, mute: true });
      }
      const chart = draw(canvas, "line", sets, {
        x: axis("", { type: "linear", min: 0, max: ranks[ranks.length - 1], ticks: { maxTicksLimit: 5, font: { size: 10 } } }),
        y: axis("", { type: kind, max: 1, min: kind === "linear" ? 0 : floor, ticks: { font: { size: 10 }, maxTicksLimit: 4, callback: (v) => (kind === "linear" ? percent(v) : [["100 %", 1], ["1 %", 1e-2], ["0.01 %", 1e-4], ["≤ 0.0001 %", 1e-6]].filter(([, d]) => Math.abs(v / d - 1) < 1e-6).map(([text]) => text)[0]) } }),
      }, {
        title: (items) => (items.length ? `rank ${items[0].parsed.x}` : ""),
        label: (item) => {
          const i = ranks.indexOf(item.parsed.x);
          const before = i > 0 ? errors[i - 1] : 1;
          return [`lost: ${percent(errors[i])}`, i === 0 || ranks[i] - ranks[i - 1] === 1 ? `its own share: ${percent(before - errors[i])}` : ""].filter((t) => t);
        },
      }, { legend: false, interaction: { mode: "nearest", axis: "x", intersect: false } });
      made.push(chart);
    };
    all.slice(0, FIRST).forEach(one);
    const kinds = choice(["logarithmic", "linear"], kind, (name) => {
      kind = name;
      for (const chart of made) Object.assign(chart.options.scales.y, { type: kind, min: kind === "linear" ? 0 : 1e-6 });
      paint();
    });
    const more = all.length > FIRST ? el("button", { type: "button", class: "more", onclick: (event) => {
      event.target.remove();
      all.slice(FIRST).forEach(one);
      paint();
    } }, `Show all ${all.length} layers`) : null;
    const rows = () => all.flatMap((l) => l.spectrum.ranks.map((rank, i) => ({ l, rank, error: l.spectrum.errors[i] })));
    return section("Spectra and cuts",
      el("p", { class: "soft" }, "For every rank the share of the energy of a layer's outputs that is lost there: the tail of its squared singular values, in the metric that factors are fitted in. Dashed: the rank that was chosen."),
      kinds, grid, more, folded("Data", () => table([
        { title: "layer", value: (r) => r.l.name, class: "name" },
        { title: "scheme", value: (r) => r.l.spectrum.scheme },
        { title: "rank", number: true, value: (r) => r.rank },
        { title: "lost", number: true, value: (r) => r.error, text: (r) => percent(r.error) },
        { title: "chosen", value: (r) => (r.l.scheme && r.l.rank === r.rank ? "yes" : ""), text: (r) => (r.l.scheme && r.l.rank === r.rank ? "yes" : "") },
      ], rows())));
  };

  const search = (report) => {
    const s = report.search;
    if (!s) return null;
    const words = `${s.mode}, width ${s.beam}: ${count(s.evaluations)} networks scored, ${figure(s.full_pass_equivalents)} full passes, ended because: ${s.stopped}.`;
    const parts = [el("p", { class: "soft" }, words)];
    if (s.drop) parts.push(el("p", {}, `Loses ${figure(s.drop.points)} ± ${figure(s.drop.standard_error)} points of the metric on ${count(s.drop.samples)} samples of the search.`));
    const trials = s.trials;
    if (trials.length > 1) {
      const columns = [
        { title: "evaluation", number: true, value: (t) => t.evaluation },
        { title: "seconds", number: true, value: (t) => t.seconds, text: (t) => figure(t.seconds) },
        { title: "predicted", number: true, value: (t) => t.predicted, text: (t) => figure(t.predicted, 5) },
        { title: "measured", number: true, value: (t) => t.loss, text: (t) => figure(t.loss, 5) },
        { title: "samples", number: true, value: (t) => t.samples, text: (t) => count(t.samples) },
        { title: "became best", value: (t) => (t.taken ? "yes" : ""), text: (t) => (t.taken ? "yes" : "") },
      ];
      const all = Math.max(...trials.map((t) => t.samples));
      const say = (t) => [`network ${t.evaluation} after ${figure(t.seconds)} s`, `measured ${figure(t.loss, 5)}`, known(t.predicted) ? `predicted ${figure(t.predicted, 5)}` : "", t.samples < all ? `given up after ${count(t.samples)} samples` : `on ${count(t.samples)} samples`, t.taken ? "became the best" : ""].filter((x) => x);
      const ink = (t) => (t.taken ? "mark" : t.samples < all ? "hollow" : "accent");
      const box = el("div", { class: "two" });
      {
        const { canvas, node } = plot("The search's path: loss of the networks scored (hollow: given up early).", "loss of the networks scored, in order", 280, trials, columns);
        const best = [];
        let value = null;
        for (const t of trials) { if (t.taken) value = t.loss; best.push(value); }
        const series = (axisName) => [
          trials.map((t, i) => ({ x: t[axisName], y: t.loss, i })),
          trials.map((t, i) => ({ x: t[axisName], y: best[i] })),
        ];
        const [points, line] = series("seconds");
        const losses = trials.map((t) => t.loss).sort((a, b) => a - b);
        const chart = draw(canvas, "line", [
          { label: "networks", data: points, ink: { line: "accent" }, inks: trials.map(ink), showLine: false, pointRadius: 3.5, pointStyle: "circle" },
          { label: "best so far", data: line, ink: { line: "mark", fill: "mark" }, stepped: true, borderWidth: 1.8, pointRadius: 0, mute: true, pointStyle: "line" },
        ], { x: axis("seconds", { type: "linear", ticks: { maxTicksLimit: 7 } }), y: axis("loss on the search's samples", { type: "linear", ticks: { callback: (v) => figure(v) } }) }, {
          title: () => "", label: (item) => say(trials[item.raw.i]),
        });
        node.insertBefore(choice(["seconds", "evaluations"], "seconds", (name) => {
          const [p, l] = series(name === "seconds" ? "seconds" : "evaluation");
          chart.data.datasets[0].data = p;
          chart.data.datasets[1].data = l;
          chart.options.scales.x.title.text = name;
          paint();
        }), node.firstChild.nextSibling);
        box.append(node);
      }
      const pairs = trials.filter((t) => known(t.predicted));
      if (pairs.length > 1) {
        const rho = s.predicted_vs_measured_rank_correlation;
        const { canvas, node } = plot(`Predicted against measured loss${known(rho) ? `: rank correlation ${rho.toFixed(2)}` : ""}.`, "predicted against measured losses", 310, pairs, columns);
        const [low, high] = [Math.min(...pairs.map((t) => t.predicted), ...pairs.map((t) => t.loss)), Math.max(...pairs.map((t) => t.predicted), ...pairs.map((t) => t.loss))];
        const sets = [{ label: "networks", data: pairs.map((t) => ({ x: t.predicted, y: t.loss })), ink: { line: "accent" }, inks: pairs.map(ink), pointRadius: 3.8, showLine: false, pointStyle: "circle" }];
        if (s.mode !== "paper") sets.push({ label: "as predicted", data: [{ x: low, y: low }, { x: high, y: high }], ink: { line: "soft" }, borderDash: [4, 3], borderWidth: 1.2, pointRadius: 0, showLine: true, mute: true, pointStyle: "line" });
        draw(canvas, "scatter", sets, { x: axis("predicted loss", { ticks: { maxTicksLimit: 6, callback: (v) => figure(v) } }), y: axis("measured loss", { ticks: { callback: (v) => figure(v) } }) },
          { title: () => "", label: (item) => say(pairs[item.dataIndex]) });
        box.append(node);
      }
      parts.push(box);
    }
    return section("Search", parts);
  };

  const training = (report) => {
    const t = report.training;
    if (!t) return null;
    const parts = [el("p", { class: "soft" }, `On ${count(t.samples)} samples (${t.source})${t.augmentation ? ", " + t.augmentation : ""}.`)];
    const box = el("div", { class: "two" });
    for (const stage of t.stages) {
      const at = known(stage.ratio) ? ` at ratio ${figure(stage.ratio)}` : "";
      const tails = known(stage.tail_before) ? `; energy beyond the ranks ${figure(stage.tail_before)} → ${figure(stage.tail_after)}` : "";
      const words = `${stage.stage}${at}: ${stage.epochs.toFixed(1)} epochs, ${count(stage.steps)} steps at rates up to ${figure(stage.learning_rate)} in ${stage.seconds.toFixed(0)} s; loss on the search's samples ${figure(stage.score_before)} → ${figure(stage.score_after)}${tails}${stage.setbacks ? `; ${stage.setbacks} setbacks` : ""}.`;
      const checks = stage.checks;
      if (checks.length < 2) { box.append(el("p", {}, words)); continue; }
      const columns = [
        { title: "step", number: true, value: (c) => c.step, text: (c) => count(c.step) },
        { title: "training loss", number: true, value: (c) => c.loss, text: (c) => figure(c.loss, 5) },
        { title: "held back", number: true, value: (c) => c.held, text: (c) => figure(c.held, 5) },
        { title: "trained on", number: true, value: (c) => c.fitted, text: (c) => figure(c.fitted, 5) },
      ];
      const { canvas, node } = plot(words, `losses of the training ${stage.stage}`, 280, checks, columns);
      const series = (label, field, line) => ({ label, data: checks.filter((c) => known(c[field])).map((c) => ({ x: c.step, y: c[field] })), ink: { line }, borderWidth: 2, pointRadius: 2.5, pointStyle: "circle" });
      const sets = [series("samples held back", "held", "accent"), series("samples trained on", "fitted", "third"), series("training loss", "loss", "mark")].filter((set) => set.data.length);
      draw(canvas, "line", sets, { x: axis("step", { type: "linear", bounds: "data", ticks: { maxTicksLimit: 7, callback: (v) => short(v) } }), y: axis("loss", { ticks: { callback: (v) => figure(v) } }) },
        { title: (items) => (items.length ? `step ${count(items[0].parsed.x)}` : ""), label: (item) => `${item.dataset.label}: ${figure(item.parsed.y, 5)}` },
        { interaction: { mode: "nearest", axis: "x", intersect: false } });
      box.append(node);
    }
    parts.push(box);
    if (t.obstacles.length) {
      parts.push(el("h3", {}, "No gradient passes these nodes; the weights behind them stay as least squares left them"),
        el("ul", {}, t.obstacles.map((text) => el("li", {}, text))));
    }
    return section("Training", parts);
  };

  const quantization = (report) => {
    const q = report.quantization;
    if (!q) return null;
    const parts = [el("p", {}, `${q.form}, rounded ${q.rounding}: ${count(q.weights)} weights of ${count(q.params)} elements, ${figure(q.bits_per_param)} bits per element of the model; ${count(q.bytes_before)} → ${count(report.output.bytes)} bytes.`)];
    if (q.kept.length) {
      parts.push(folded(`${count(q.kept.length)} weights stay float`, () => table([
        { title: "weight", value: (k) => k.name, class: "name" }, { title: "why", value: (k) => k.reason, class: "wrap" }], q.kept)));
    }
    return section("Quantization", parts);
  };

  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'");
  const origin = (report, extra) => {
    const p = report.program;
    const seconds = report.seconds;
    const stages = ["load", "calibrate", "search", "factorize", "tune", "quantize", "validate"].filter((s) => seconds && known(seconds[s]));
    const parts = [];
    if (p.command.length) parts.push(el("p", {}, "The command line:"), el("pre", {}, p.command.map(quoted).join(" ")));
    parts.push(el("p", { class: "soft" }, `${p.name} ${p.version}${p.tract ? `, tract ${p.tract}` : ""}, ${p.platform}, ${p.threads} threads, seed ${p.seed}.`));
    if (stages.length) {
      parts.push(el("p", { class: "soft" }, `${seconds.total.toFixed(1)} s${known(report.peak_rss_bytes) ? `, ${bytes(report.peak_rss_bytes)} of memory at most` : ""}.`));
      parts.push(folded("Seconds", () => table([
        { title: "stage", value: (r) => r }, { title: "seconds", number: true, value: (r) => seconds[r], text: (r) => seconds[r].toFixed(2) }], [...stages, "total"])));
    }
    return section("How it was made", parts, extra);
  };

  const details = (report) => [notes(report), cards(report), layers(report), spectra(report), search(report), training(report), quantization(report), sizes(report)];
  const headline = (report) => {
    const { ratio, output, model } = report;
    const how = [known(ratio.reached) ? `${figure(ratio.reached, 4)} times smaller in ${ratio.target}` : "", known(ratio.asked) ? `${figure(ratio.asked, 4)} asked for` : ""].filter((t) => t).join(", ");
    return [el("h1", {}, `${model.name} → ${output.path}`), el("p", { class: "lead soft" }, how)];
  };

  const show = (...nodes) => main.append(...nodes.flat(3).filter((node) => node));

  // The page of a sweep.
  const front = (sweep, reports) => {
    const m = sweep.metric;
    const done = sweep.points.filter((p) => p.status === "done");
    const kindOf = (p) => (p.knee ? "knee" : p.within_max_drop ? "largest within the drop" : p.dominated ? "dominated" : "");
    const parts = [];
    const columns = [
      { title: "asked", number: true, value: (p) => p.ratio_asked, text: (p) => figure(p.ratio_asked, 4) + "×" },
      { title: "reached", number: true, value: (p) => p.ratio_reached, text: (p) => (known(p.ratio_reached) ? figure(p.ratio_reached, 4) + "×" : "–") },
      { title: m ? m.name : "metric", number: true, value: (p) => p.metric, text: (p) => (m ? metricText(p.metric, m) : "–") },
      { title: "lost", number: true, value: (p) => p.drop, text: (p) => figure(p.drop) },
      { title: "mark", value: (p) => kindOf(p) || p.reason || "", text: (p) => p.status === "done" ? [kindOf(p), p.missed.length ? "missed" : ""].filter((t) => t).join(", ") : `${p.status.replaceAll("-", " ")}: ${p.reason || ""}`, class: "wrap" },
      { title: "bytes", number: true, value: (p) => p.bytes, text: (p) => count(p.bytes) },
      { title: "gzip", number: true, value: (p) => p.gzip_bytes, text: (p) => count(p.gzip_bytes) },
      { title: "params", number: true, value: (p) => p.params, text: (p) => count(p.params) },
      { title: "MACs", number: true, value: (p) => p.macs, text: (p) => count(p.macs) },
      { title: "latency, ms", number: true, value: (p) => p.latency_ms, text: (p) => figure(p.latency_ms) },
      { title: "seconds", number: true, value: (p) => p.seconds, text: (p) => figure(p.seconds) },
      { title: "file", value: (p) => p.file || "", text: (p) => p.file || "–" },
    ];
    if (m && done.length) {
      const { canvas, node } = plot(`${m.name}${m.unit ? ", " + m.unit : ""} on ${count(m.samples)} samples over the ratio of ${sweep.target} reached.`, "metric over ratio", 330);
      const line = done.filter((p) => !p.dominated);
      const at = (p) => ({ x: p.ratio_reached, y: p.metric });
      const first = { x: 1, y: m.original };
      const sets = [
        { label: "front", data: [first, ...line.map(at)], ink: { line: "accent" }, borderWidth: 2, pointRadius: 4.5, pointStyle: "circle", points: [null, ...line], inks: ["soft", ...line.map((p) => (p.knee ? "mark" : p.within_max_drop ? "good" : "accent"))] },
        { label: "dominated", data: done.filter((p) => p.dominated).map(at), ink: { line: "soft", fill: "none" }, showLine: false, pointRadius: 4.5, pointStyle: "circle", points: done.filter((p) => p.dominated) },
      ].filter((set) => set.data.length);
      if (known(sweep.max_drop)) {
        const level = m.original + (m.higher_is_better ? -1 : 1) * sweep.max_drop;
        sets.push({ label: `a drop of ${figure(sweep.max_drop)}`, data: [{ x: 1, y: level }, { x: Math.max(...done.map((p) => p.ratio_reached)), y: level }], ink: { line: "good" }, borderDash: [5, 4], borderWidth: 1.3, pointRadius: 0, mute: true, pointStyle: "line" });
      }
      draw(canvas, "line", sets, {
        x: axis(`times smaller in ${sweep.target}`, { type: "linear", min: 1, ticks: { callback: (v) => figure(v) + "×" } }), y: axis(m.name + (m.unit ? ", " + m.unit : ""), { ticks: { callback: (v) => figure(v, 4) } }) },
      { title: () => "", label: (item) => {
        const p = item.dataset.points[item.dataIndex];
        return p ? [`${figure(p.ratio_reached, 4)}×, asked for ${figure(p.ratio_asked, 4)}×`, `${m.name} ${metricText(p.metric, m)}, ${figure(p.drop)} lost`, `${bytes(p.bytes)}, latency ${figure(p.latency_ms)} ms`, kindOf(p)].filter((t) => t) : [`original: ${metricText(m.original, m)}`];
      } });
      parts.push(node);
    }
    const knee = sweep.points.find((p) => p.knee);
    const within = sweep.points.find((p) => p.within_max_drop);
    const words = [knee ? `The knee is at ${figure(knee.ratio_reached, 4)}×.` : "", known(sweep.max_drop) ? within ? `The largest ratio within a drop of ${figure(sweep.max_drop)} is ${figure(within.ratio_reached, 4)}×.` : `No point is within a drop of ${figure(sweep.max_drop)}.` : ""].filter((t) => t).join(" ");
    parts.push(words ? el("p", {}, words) : null, table(columns, sweep.points, (p) => (p.knee || p.within_max_drop ? "mark" : p.dominated || p.status !== "done" ? "dim" : "")));
    return section("The front", parts);
  };
  const ranks = (sweep, reports) => {
    const points = reports.filter((r) => r.report);
    if (points.length < 2) return null;
    const names = points[0].report.layers.filter((l) => l.action !== "skip" || l.params_before !== l.params_after).map((l) => l.name);
    const at = (r, name) => r.report.layers.find((l) => l.name === name);
    const columns = [{ title: "layer", value: (n) => n, class: "name" },
      ...points.map((r) => ({ title: figure(r.ratio, 4) + "×", number: true,
        value: (n) => { const l = at(r, n); return l ? l.params_after / l.params_before : null; },
        node: (n) => {
          const l = at(r, n);
          if (!l) return "–";
          return [known(l.rank) ? rankText(l).split(" ")[0] : "dense", el("span", { class: "meter", title: `${what(l)}, ${count(l.params_after)} of ${count(l.params_before)} params` }, el("i", { style: `width:${Math.min(100, 100 * l.params_after / l.params_before)}%` }))];
        } }))];
    return section("Ranks at every ratio", el("p", { class: "soft" }, "Bars: the share of the layer's params that is left."), table(columns, names));
  };

  if (data.kind === "sweep") {
    const { sweep, reports } = data;
    const place = el("div", { id: "point" });
    const point = (index) => {
      for (let i = charts.length - 1; i >= 0; i--) {
        if (place.contains(charts[i].canvas)) charts.splice(i, 1)[0].destroy();
      }
      place.replaceChildren(...details(reports[index].report).filter((n) => n));
      paint();
    };
    const withReport = reports.map((r, i) => [r, i]).filter(([r]) => r.report);
    show(el("h1", {}, `${sweep.model.name}: what ratios cost`),
      el("p", { class: "lead soft" }, `${sweep.points.length} ratios of ${sweep.target} in ${sweep.seconds.toFixed(0)} s; the original has ${count(sweep.model.params)} params in ${bytes(sweep.model.bytes)}.`),
      notes({ missed: [], warnings: sweep.warnings }), front(sweep, reports), ranks(sweep, reports));
    if (withReport.length) {
      const start = withReport.find(([r]) => sweep.points.some((p) => p.knee && p.ratio_asked === r.ratio)) || withReport[0];
      const select = el("select", { id: "which", onchange: (event) => point(Number(event.target.value)) },
        withReport.map(([r, i]) => el("option", { value: i, selected: i === start[1] ? "" : null }, `${figure(r.ratio, 4)}×`)));
      show(el("h2", {}, el("label", { for: "which" }, "One ratio in full: "), select), place);
      point(start[1]);
    }
    show(origin({ program: sweep.program, seconds: null }));
  } else {
    const report = data.report;
    show(headline(report), details(report), origin(report));
  }
  show(el("footer", {}, "Charts by Chart.js 4.6.1, © Chart.js Contributors, MIT licence. This file is complete: it loads nothing."));
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  window.addEventListener("beforeprint", () => { root.dataset.theme = "light"; paint(); charts.forEach((c) => c.resize()); });
  window.addEventListener("afterprint", () => { delete root.dataset.theme; paint(); charts.forEach((c) => c.resize()); });
  root.dataset.ready = "yes";
})();
