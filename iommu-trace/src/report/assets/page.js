"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const { meta, stats, thinned, devices, lives, violations } = data;
  const stageNames = { interrupt: "interrupt to report", lookup: "look-up", device_id: "device id", handler: "handler", delivered: "read", response: "answer" };
  const responses = ["success", "invalid", "failure", "failure", "", "", "", "", "", "none"];

  // ---- texts ----
  const count = (n) => n.toLocaleString("en");
  const duration = (ns) => {
    if (ns < 0) return "-" + duration(-ns);
    if (ns < 1e6) return (ns / 1e3).toFixed(1) + " µs";
    if (ns < 1e9) return (ns / 1e6).toFixed(2) + " ms";
    return (ns / 1e9).toFixed(3) + " s";
  };
  const seconds = (ns) => (ns / 1e9).toFixed(6) + " s";
  const pasidName = (pasid) => (pasid === 0 ? "RID" : "PASID " + pasid);
  const el = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const table = (heads, rows) => {
    const cell = (tag, [text, left]) => el(tag, left ? { class: left } : {}, String(text));
    const head = el("thead", {}, el("tr", {}, ...heads.map((h) => cell("th", h))));
    const body = el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text, at) => cell("td", [text, heads[at][1]])))));
    return el("div", { class: "scroll" }, el("table", {}, head, body));
  };

  // ---- faults, from columns to absolute times ----
  const faults = data.faults;
  const faultCount = faults.ts.length;
  const at = new Float64Array(faultCount);
  let sum = 0;
  for (let n = 0; n < faultCount; n++) at[n] = sum += faults.ts[n];
  const answer = faults.times[data.stages.indexOf("response")];
  const faultEnd = (n) => {
    let last = 0;
    for (const stage of faults.times) if (stage[n] > last) last = stage[n];
    return at[n] + last;
  };

  // ---- heading ----
  const total = Object.values(stats.violations).reduce((a, b) => a + b, 0);
  const lost = stats.lost.reduce((a, b) => a + b.count, 0);
  byId("machine").textContent =
    `Linux ${meta.kernel} ${meta.machine} on ${meta.host}, from ${new Date(meta.epoch_ms).toISOString()}, ${duration(meta.duration)}` +
    (meta.stretched ? `; ${meta.stretched}` : "");
  document.title = `iommu-trace: ${meta.host}, Linux ${meta.kernel}`;
  const tile = (label, value, kind) => byId("tiles").append(el("div", { class: "tile " + (kind || "") }, el("b", {}, value), label));
  const faultsAll = (stats.events.fault || { count: 0 }).count;
  tile("page faults", count(faultsAll));
  const response = stats.latencies.response;
  if (response) tile("answer, p50", duration(response.p50_ns));
  if (response) tile("answer, p99", duration(response.p99_ns));
  if (stats.latencies.lookup) tile("look-up, p99", duration(stats.latencies.lookup.p99_ns));
  tile("lives of handles", count(thinned.lives));
  tile("violations", count(total), total ? "bad" : "good");
  tile("records lost", count(lost), lost ? "bad" : "good");
  const less = [];
  if (thinned.faults_drawn < thinned.faults)
    less.push(`of ${count(thinned.faults)} faults ${count(thinned.faults_drawn)} are drawn: the slowest, and an even share of the others. All figures are of all faults.`);
  if (thinned.lives_drawn < thinned.lives) less.push(`Of ${count(thinned.lives)} lives of handles ${count(thinned.lives_drawn)} are drawn.`);
  if (thinned.violations_shown < thinned.violations)
    less.push(`Of ${count(thinned.violations)} violations the first ${count(thinned.violations_shown)} are shown.`);
  if (less.length) {
    byId("thinned").hidden = false;
    byId("thinned").textContent = "Thinned: " + less.join(" ");
  }

  // ---- timeline: one row for each device and PASID ----
  const rows = [];
  const rowOf = new Map();
  const row = (device, pasid) => {
    const key = device + "/" + pasid;
    if (!rowOf.has(key)) {
      rowOf.set(key, rows.length);
      rows.push({ device, pasid, lives: [], faults: [] });
    }
    return rows[rowOf.get(key)];
  };
  for (const life of lives) row(life.device, life.pasid).lives.push(life);
  for (let n = 0; n < faultCount; n++) row(faults.device[n], faults.pasid[n]).faults.push(n);
  rows.sort((a, b) => {
    const name = (r) => devices[r.device].name;
    return (devices[a.device].group ?? 1e9) - (devices[b.device].group ?? 1e9) || name(a).localeCompare(name(b)) || a.pasid - b.pasid;
  });
  const rowName = (r) => `${devices[r.device].name || "group " + (devices[r.device].group ?? "?")}  ${pasidName(r.pasid)}`;
  const canvas = byId("timeline");
  const context = canvas.getContext("2d");
  const label = 170, rowHeight = 44, top = 26;
  let from = 0, to = Math.max(meta.duration, 1);
  let colours = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["back", "panel", "text", "dim", "line", "iommufd", "sva", "vfio", "kernel", "success", "invalid", "failure", "none", "violation"])
      colours[name] = style.getPropertyValue("--" + name).trim();
  };
  const width = () => canvas.clientWidth;
  const x = (ns) => label + ((ns - from) / (to - from)) * (width() - label - 8);
  const timeAt = (px) => from + ((px - label) / (width() - label - 8)) * (to - from);
  const lowerBound = (list, ns) => {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at[list[middle]] < ns) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    const height = top + Math.max(rows.length, 1) * rowHeight + 4;
    canvas.style.height = height + "px";
    canvas.width = Math.round(width() * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.back;
    context.fillRect(0, 0, width(), height);
    context.font = "12px system-ui, sans-serif";
    // The scale: steps of 1, 2 or 5.
    const step = (() => {
      const rough = (to - from) / Math.max((width() - label) / 110, 1);
      const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
      return [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    })();
    context.textAlign = "left";
    for (let ns = Math.ceil(from / step) * step; ns <= to; ns += step) {
      context.strokeStyle = colours.line;
      context.beginPath();
      context.moveTo(x(ns), top - 6);
      context.lineTo(x(ns), height);
      context.stroke();
      context.fillStyle = colours.dim;
      context.fillText(duration(ns), x(ns) + 2, 12);
    }
    rows.forEach((r, index) => {
      const y = top + index * rowHeight;
      context.strokeStyle = colours.line;
      context.beginPath();
      context.moveTo(0, y + rowHeight - 0.5);
      context.lineTo(width(), y + rowHeight - 0.5);
      context.stroke();
      context.save();
      context.beginPath();
      context.rect(label, y, width() - label, rowHeight);
      context.clip();
      for (const life of r.lives) {
        const a = Math.max(x(life.begin ?? from), label - 2), b = Math.min(x(life.end ?? to), width() + 2);
        if (b < label || a > width()) continue;
        context.fillStyle = colours[life.owner];
        context.fillRect(a, y + 4, Math.max(b - a, 1.5), 13);
        if (b - a > 90) {
          context.fillStyle = colours.text;
          context.fillText(life.handle ? "handle " + life.handle : "domain " + life.domain, Math.max(a, label) + 4, y + 14.5, b - a - 8);
        }
      }
      // Faults that fall onto one pixel are one line, as long as the slowest.
      const slowest = response ? response.max_ns : 1;
      let last = -1, tallest = 0;
      for (let n = lowerBound(r.faults, from); n < r.faults.length && at[r.faults[n]] <= to; n++) {
        const fault = r.faults[n];
        const px = Math.round(x(at[fault]));
        const ns = answer[fault] < 0 ? slowest : answer[fault];
        const tall = 4 + 18 * Math.sqrt(Math.min(ns / slowest, 1));
        if (px === last && tall <= tallest) continue;
        tallest = px === last ? Math.max(tall, tallest) : tall;
        last = px;
        context.fillStyle = colours[responses[faults.response[fault]] || "failure"];
        context.fillRect(px, y + 41 - tall, 1.5, tall);
      }
      context.restore();
      context.fillStyle = colours.text;
      context.fillText(devices[r.device].name || "group " + (devices[r.device].group ?? "?"), 6, y + 16, label - 12);
      context.fillStyle = colours.dim;
      context.fillText(`${pasidName(r.pasid)}, ${count(r.faults.length)} faults`, 6, y + 32, label - 12);
    });
    for (const violation of violations) {
      const px = x(violation.at);
      if (px < label || px > width()) continue;
      context.fillStyle = colours.violation;
      context.beginPath();
      context.moveTo(px - 6, top - 8);
      context.lineTo(px + 6, top - 8);
      context.lineTo(px, top + 4);
      context.fill();
      context.globalAlpha = 0.5;
      context.fillRect(px - 0.5, top, 1, height - top);
      context.globalAlpha = 1;
    }
    if (!rows.length) {
      context.fillStyle = colours.dim;
      context.fillText("no handle was attached and no fault came", label, top + 20);
    }
  };
  let pending = false;
  const redraw = () => {
    if (!pending) requestAnimationFrame(() => ((pending = false), draw()));
    pending = true;
  };
  const zoom = (factor, around) => {
    const span = Math.min(Math.max((to - from) * factor, 1000), Math.max(meta.duration, 1000));
    const share = (around - from) / (to - from);
    from = Math.max(0, Math.min(around - span * share, Math.max(meta.duration - span, 0)));
    to = from + span;
    redraw();
  };
  const move = (ns) => {
    const span = to - from;
    from = Math.max(0, Math.min(from + ns, Math.max(meta.duration - span, 0)));
    to = from + span;
    redraw();
  };
  const middle = () => (from + to) / 2;
  const all = () => ((from = 0), (to = Math.max(meta.duration, 1)), redraw());
  byId("zoom-in").onclick = () => zoom(0.5, middle());
  byId("zoom-out").onclick = () => zoom(2, middle());
  byId("zoom-all").onclick = all;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event.offsetX));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = { "+": () => zoom(0.5, middle()), "-": () => zoom(2, middle()), 0: all, ArrowLeft: () => move((from - to) / 5), ArrowRight: () => move((to - from) / 5) };
    if (keys[event.key]) (event.preventDefault(), keys[event.key]());
  });
  const tip = byId("tip");
  const under = (px, py) => {
    const ns = timeAt(px), slack = ((to - from) / (width() - label)) * 4;
    const broken = violations.find((v) => py < top + 4 && Math.abs(v.at - ns) < slack * 2);
    if (broken) return `${broken.rule} (${broken.severity})\n${broken.message}`;
    const r = rows[Math.floor((py - top) / rowHeight)];
    if (!r || px < label) return null;
    if ((py - top) % rowHeight < 19) {
      const life = r.lives.find((l) => (l.begin ?? from) <= ns + slack && (l.end ?? to) >= ns - slack);
      if (!life) return null;
      const since = life.begin === null ? "before the trace" : seconds(life.begin), until = life.end === null ? "after the trace" : seconds(life.end);
      return `${rowName(r)}\n${life.owner} ${life.handle ? "handle " + life.handle : "without a handle"}${life.id === null ? "" : ", id " + life.id}\n${life.domain_type} domain ${life.domain}\n${since} to ${until}`;
    }
    let best = null;
    for (let n = lowerBound(r.faults, ns - slack); n < r.faults.length && at[r.faults[n]] <= ns + slack; n++)
      if (best === null || answer[r.faults[n]] > answer[best]) best = r.faults[n];
    if (best === null) return null;
    const stages = data.stages.map((name, s) => (faults.times[s][best] < 0 ? null : `${stageNames[name]} ${duration(faults.times[s][best])}`));
    return `${rowName(r)}\nfault 0x${faults.addr[best]} at ${seconds(at[best])}\n${stages.filter(Boolean).join(", ")}\n${responses[faults.response[best]] === "none" ? "no answer" : responses[faults.response[best]]}, over at ${seconds(faultEnd(best))}`;
  };
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = event.offsetX;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => (dragged = null));
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  canvas.addEventListener("pointermove", (event) => {
    if (dragged !== null) {
      move(timeAt(dragged) - timeAt(event.offsetX));
      dragged = event.offsetX;
      return;
    }
    const text = under(event.offsetX, event.offsetY);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8) + "px";
  });

  // ---- violations ----
  const section = byId("violations");
  if (!violations.length) section.append(el("p", { class: "good-text" }, "None: every rule that could be judged held."));
  for (const violation of violations) {
    const subject = Object.entries(violation.subject).map(([name, value]) => `${name.replace("_", " ")} ${value}`).join(", ");
    const box = el("div", { class: "violation-row " + violation.severity }, el("p", {}, el("b", {}, violation.rule), ` (${violation.severity}) at ${seconds(violation.at)}`), el("p", {}, violation.message), el("p", { class: "note" }, subject));
    const left = "left";
    box.append(table([["time", left], ["what", left], ["function", left], ["task", left], ["CPU", ""]], violation.evidence.map((e) => [seconds(e.at), e.what, `${e.phase} of ${e.function}`, e.task, e.cpu])));
    const stacks = violation.evidence.filter((e) => e.stack.length);
    if (stacks.length) {
      const details = el("details", {}, el("summary", {}, "kernel stacks"));
      for (const e of stacks) details.append(el("p", {}, `${e.what}, ${e.phase} of ${e.function}`), el("pre", {}, e.stack.join("\n")));
      box.append(details);
    }
    section.append(box);
  }

  // ---- latencies ----
  const figures = [["p50", "p50_ns"], ["p90", "p90_ns"], ["p99", "p99_ns"], ["p99.9", "p999_ns"], ["max", "max_ns"]];
  const heads = [["stage", "left"], ["faults", ""], ...figures.map(([name]) => [name, ""])];
  const latencies = Object.entries(stats.latencies);
  byId("latency").append(
    latencies.length
      ? table(heads, latencies.map(([stage, of]) => [stageNames[stage], count(of.count), ...figures.map(([, field]) => duration(of[field]))]))
      : el("p", { class: "note" }, "No fault came."));
  const svg = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  data.histograms.forEach((columns, stage) => {
    if (!columns.length) return;
    const low = Math.log2(columns[0][0] || 1), high = Math.max(Math.log2(columns[columns.length - 1][0] * 1.2 || 2), low + 1);
    const most = Math.max(...columns.map(([, n]) => n));
    const place = (ns) => 4 + ((Math.log2(ns || 1) - low) / (high - low)) * 232;
    const bars = columns.map(([ns, n]) =>
      svg("rect", { x: place(ns).toFixed(1), width: Math.max((0.25 / (high - low)) * 232 - 0.6, 1.5).toFixed(1), y: (96 - (n / most) * 88).toFixed(1), height: ((n / most) * 88).toFixed(1), fill: "var(--accent)" }, svg("title", {}, `from ${duration(ns)}: ${count(n)} faults`)));
    const image = svg("svg", { viewBox: "0 0 240 116", role: "img", "aria-label": `Histogram of ${data.stages[stage]}` }, ...bars, svg("line", { x1: 0, x2: 240, y1: 96.5, y2: 96.5, stroke: "var(--line)" }), svg("text", { x: 4, y: 110 }, duration(columns[0][0])), svg("text", { x: 236, y: 110, "text-anchor": "end" }, duration(columns[columns.length - 1][0])));
    byId("histograms").append(el("figure", {}, image, el("figcaption", {}, `${stageNames[data.stages[stage]]} (logarithmic)`)));
  });
  if (data.course.length > 1) {
    const most = Math.log2(Math.max(...data.course.map((c) => c.max), 2)), least = Math.log2(Math.max(Math.min(...data.course.map((c) => c.p50)), 1));
    const px = (c) => 66 + (c.at / Math.max(meta.duration, 1)) * 925, py = (ns) => 150 - ((Math.log2(Math.max(ns, 1)) - least) / Math.max(most - least, 0.1)) * 138;
    const line = (field, colour) => svg("polyline", { points: data.course.map((c) => `${px(c).toFixed(1)},${py(c[field]).toFixed(1)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.5 });
    const marks = [least, (least + most) / 2, most].map((level) => svg("text", { x: 62, y: (py(2 ** level) + 4).toFixed(1), "text-anchor": "end" }, duration(2 ** level)));
    byId("course").append(el("figure", {}, svg("svg", { viewBox: "0 0 1000 172", role: "img", "aria-label": "Answers over time" }, ...marks, line("max", "var(--line)"), line("p99", "var(--second)"), line("p50", "var(--accent)"), svg("text", { x: 66, y: 168 }, "0"), svg("text", { x: 991, y: 168, "text-anchor": "end" }, duration(meta.duration))), el("figcaption", {}, "answers over time, from report to answer (logarithmic): p50 blue, p99 orange, maximum grey")));
  }

  // ---- tables ----
  const rates = (rate) => (rate < 10 ? rate.toFixed(2) : count(Math.round(rate))) + "/s";
  const deviceRows = [...stats.devices, ...stats.pasids.filter((p) => p.pasid !== 0)];
  const figure = (r, stage, field) => (r.latencies[stage] ? duration(r.latencies[stage][field]) : "-");
  byId("devices").append(table([["device", "left"], ["group", ""], ["faults", ""], ["rate", ""], ["look-up p99", ""], ["answer p50", ""], ["answer p99", ""], ["answer max", ""]],
    deviceRows.map((r) => [(r.device || "(all others)") + (r.pasid === undefined ? "" : ", " + pasidName(r.pasid)), r.group ?? "-", count(r.faults.count), rates(r.faults.rate), figure(r, "lookup", "p99_ns"), figure(r, "response", "p50_ns"), figure(r, "response", "p99_ns"), figure(r, "response", "max_ns")])));
  byId("slowest").append(stats.slowest.length
    ? table([["device", "left"], ["PASID", ""], ["address", "left"], ["look-up", ""], ["handler", ""], ["read", ""], ["answer", ""], ["response", "left"]],
        stats.slowest.map((f) => [f.device, f.pasid ?? "RID", f.addr, ...["lookup_ns", "handler_ns", "delivered_ns", "response_ns"].map((field) => (f[field] === null || f[field] === undefined ? "-" : duration(f[field]))), f.response]))
    : el("p", { class: "note" }, "No fault was answered."));
  byId("events").append(table([["event", "left"], ["count", ""], ["rate", ""]], Object.entries(stats.events).map(([name, of]) => [name, count(of.count), rates(of.rate)])));
  byId("lost").append(stats.lost.length
    ? table([["probe", "left"], ["records lost", ""]], stats.lost.map((l) => [l.probe, count(l.count)]))
    : el("p", { class: "good-text" }, "Nothing was lost."));
  const features = Object.entries(meta.features).filter(([, yes]) => yes === true).map(([name]) => name);
  byId("kernel").append(el("p", {}, "This kernel's handles: " + (features.join(", ") || "nothing known")));
  const probes = el("details", {}, el("summary", {}, `${data.probes.filter((p) => p.verdict === "ok").length} of ${data.probes.length} probes attached`));
  probes.append(table([["function", "left"], ["verdict", "left"], ["reason", "left"], ["what its absence costs", "left"]], data.probes.map((p) => [p.function, p.verdict.replace("_", " "), p.reason || "", p.verdict === "ok" ? "" : p.cost])));
  byId("kernel").append(probes);
  byId("foot").textContent = `Made by iommu-trace ${meta.tool}. This page holds all of its data and loads nothing.`;

  readColours();
  draw();
  new ResizeObserver(redraw).observe(byId("timeline-box"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (readColours(), redraw()));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("#violations details").forEach((details) => (details.open = true));
    document.documentElement.dataset.paper = "";
    readColours();
    draw();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.paper;
    readColours();
    redraw();
  });
  document.documentElement.dataset.drawn = `${rows.length} rows, ${faultCount} faults, ${lives.length} lives, ${violations.length} violations`;
})();
