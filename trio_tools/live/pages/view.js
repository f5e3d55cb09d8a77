"use strict";
// How an operation is drawn, for every page that shows one. All that is shown goes through
// textContent: nothing from a page, a file or a client is ever read as HTML.
const $ = id => document.getElementById(id);
const opened = new Set(), filters = new Map();

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "aria-label" || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  for (const child of children) node.append(child ?? "");
  return node;
}

const whole = n => n == null ? "–" : Math.round(n).toLocaleString();
function seconds(s) {
  if (s == null) return "–";
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.round(s % 3600 / 60)} min`;
}

function bar(counts) {
  const total = counts.total || 1;
  const node = make("div", {class: "bar", role: "progressbar"});
  node.setAttribute("aria-valuenow", counts.succeeded + counts.failed + counts.timed_out);
  node.setAttribute("aria-valuemax", total);
  for (const status of ["succeeded", "failed", "timed_out", "cancelled"]) {
    const part = make("i", {class: status});
    part.style.width = `${100 * counts[status] / total}%`;
    node.append(part);
  }
  return node;
}

function draw(canvas, spans, running) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  pen.scale(ratio, ratio);
  if (!spans.length || !width) return;
  const colour = {succeeded: "--good", failed: "--bad", timed_out: "--late", cancelled: "--cut",
    running: "--run"};
  const from = Math.min(...spans.map(s => s[1]));
  const to = running ? 0 : Math.max(...spans.map(s => s[2] ?? 0));
  const scale = width / Math.max(to - from, 0.001), lanes = [];
  const places = [...spans].sort((a, b) => a[1] - b[1]).map(span => {
    const end = span[2] ?? to;
    let lane = lanes.findIndex(free => free <= span[1] + 1e-6);
    if (lane < 0) lane = lanes.push(0) - 1;
    lanes[lane] = end;
    return [span, lane, end];
  });
  const step = height / Math.max(lanes.length, 1);
  for (const [span, lane, end] of places) {
    pen.fillStyle = style.getPropertyValue(colour[span[3]] || "--soft");
    pen.fillRect((span[1] - from) * scale, lane * step + .5,
      Math.max((end - span[1]) * scale - .5, 1), Math.max(step - 1, 1));
  }
}

function failures(operation) {
  const id = operation.key ?? operation.operation_id, list = operation.failed;
  const count = operation.counts.failed + operation.counts.timed_out;
  const rows = make("tbody");
  const fill = () => {
    const wanted = (filters.get(id) || "").toLowerCase();
    rows.replaceChildren(...list
      .filter(f => `${f.item} ${f.error_code} ${f.reason}`.toLowerCase().includes(wanted))
      .map(f => make("tr", null, make("td", {class: "n"}, f.index), make("td", null, f.item),
        make("td", null, f.error_code), make("td", null, f.reason))));
  };
  fill();
  const filter = make("input", {type: "search", placeholder: "filter", value: filters.get(id) || "",
    "aria-label": "Filter the failed items",
    oninput: event => { filters.set(id, event.target.value); fill(); }});
  return make("details", {open: opened.has(id),
      ontoggle: event => event.target.open ? opened.add(id) : opened.delete(id)},
    make("summary", null, count > list.length ? `${count} failed items, the first ${list.length}`
      : `${count} failed items`),
    filter, make("div", {class: "scroll"}, make("table", null, rows)));
}

// `actions` are what a page can do with an operation: cancel(id), save(id, suffix), or neither.
function card(operation, actions) {
  const id = operation.operation_id, counts = operation.counts, running = operation.running;
  const button = (name, act) => make("button", {onclick: act}, name);
  const buttons = make("span", {class: "push"});
  if (running && actions.cancel) buttons.append(button("Cancel", () => actions.cancel(id)));
  if (actions.save) buttons.append(button("JSON lines", () => actions.save(id, ".jsonl")),
    button("CSV", () => actions.save(id, ".csv")));
  const told = [`${whole(counts.succeeded)} of ${whole(counts.total)} succeeded`];
  for (const status of ["failed", "timed_out", "cancelled", "not_started"])
    if (counts[status]) told.push(`${whole(counts[status])} ${status.replace("_", " ")}`);
  if (running) {
    if (counts.in_flight != null) told.push(`${whole(counts.in_flight)} in flight`);
    told.push(`${operation.rate_per_second} a second`);
    if (operation.seconds_left != null) told.push(`${seconds(operation.seconds_left)} left`);
    if (operation.deadline_left_seconds != null)
      told.push(`deadline in ${seconds(operation.deadline_left_seconds)}`);
  }
  const canvas = make("canvas", {role: "img", "aria-label": "Timeline of the latest items"});
  const node = make("section", {class: "card"},
    make("div", {class: "head"}, make("strong", null, id),
      make("span", {class: "soft"}, [operation.tool, operation.operation, operation.client,
        `${seconds(operation.age_seconds)} old`].filter(Boolean).join(" · ")), buttons),
    bar(counts), make("div", null, told.join(" · ")));
  if (operation.timeline.length) {
    node.append(canvas);
    requestAnimationFrame(() => draw(canvas, operation.timeline, running));
  }
  if (operation.failed.length) node.append(failures(operation));
  return node;
}
