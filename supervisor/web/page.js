"use strict";
/* Asks /api/v1/tree and /api/v1/status each second and listens to /api/v1/events.
   Whatever comes from workers is inserted as text, never as markup. */

const POLL_MS = 1000;
const EVENTS_SHOWN = 300;
const DEATHS_SHOWN = 30;
const PHASES = ["running", "starting", "degraded", "stopping", "stopped"];
const RANKS = { debug: 0, info: 1, warning: 2, error: 3 };

const byId = (id) => document.getElementById(id);
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined && text !== null) node.textContent = String(text);
  return node;
};

const number = new Intl.NumberFormat("en");

function span(s) {
  if (typeof s !== "number" || !isFinite(s)) return "–";
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return `${m} m ${Math.floor(s % 60)} s`;
  if (m < 1440) return `${Math.floor(m / 60)} h ${m % 60} m`;
  return `${Math.floor(m / 1440)} d ${Math.floor((m % 1440) / 60)} h`;
}
const millis = (v) => (typeof v === "number" ? `${v < 10 ? v.toFixed(2) : v.toFixed(0)} ms` : "–");
const clock = (ts) => {
  const d = new Date(ts * 1000);
  const two = (n, w = 2) => String(n).padStart(w, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${two(d.getMilliseconds(), 3)}`;
};
const bytes = (n) => (n < 1 << 20 ? `${Math.round(n / 1024)} KiB` : `${(n / (1 << 20)).toFixed(1)} MiB`);

/* ---- connection --------------------------------------------------------------------------- */

let lastData = Date.now();

function showConnection(fine, why) {
  const lost = byId("lost");
  if (fine) { lastData = Date.now(); lost.hidden = true; return; }
  const age = Math.round((Date.now() - lastData) / 1000);
  say(lost, why || `Connection to the supervisor lost, last data ${age} s old.`);
  lost.hidden = false;
  say(byId("ready"), "unknown");
  byId("ready").dataset.phase = "none";
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok && answer.status !== 503) throw new Error(String(answer.status));
  return { ok: answer.ok, body: await answer.json() };
}

async function poll() {
  try {
    const [tree, status, live] = await Promise.all(
      ["/api/v1/tree", "/api/v1/status", "/livez"].map(ask));
    if (tree.ok) showTree(tree.body);
    if (status.ok) showStatus(status.body);
    const age = live.body.last_word_s;
    showConnection(live.ok, typeof age !== "number" ? "Waiting for the supervisor's first word."
      : `Connection to the supervisor lost, last data ${Math.round(age)} s old.`);
  } catch {
    showConnection(false);
  }
  setTimeout(poll, POLL_MS);
}

/* ---- header and procs ---------------------------------------------------------------------- */

function showStatus(status) {
  say(byId("name"), status.name);
  document.title = `${status.ready ? "" : "! "}${status.name} · fsmv2`;
  const ready = byId("ready");
  say(ready, status.stopping ? "stopping" : status.ready ? "ready" : "not ready");
  ready.dataset.phase = status.stopping ? "stopping" : status.ready ? "running" : "degraded";
  const isFine = status.ready && !status.stopping && !status.store_trouble;
  say(byId("reason"), isFine ? "" : status.reason || "");
  say(byId("uptime"), span(status.uptime_s));
  say(byId("ticks"), number.format(status.ticks || 0));
  say(byId("p50"), millis(status.tick_p50_ms));
  say(byId("p99"), millis(status.tick_p99_ms));
  const pool = status.pool || {};
  const procs = pool.procs || [];
  say(byId("busy"), `${procs.filter((p) => p.action).length} of ${procs.length}`);
  say(byId("queued"), number.format(pool.queued || 0));
  say(byId("version"), `fsmv2 ${status.version || ""} · pid ${status.pid}`);
  showPhases(status.workers || {});
  showProcs(procs, status.actions || {});
  showQuarantine(pool.quarantined || {});
  if (!deathsFromEvents) showRecent(status.recent || []);
}

function showPhases(counts) {
  const list = byId("phases");
  const names = [...PHASES, ...Object.keys(counts).filter((n) => !PHASES.includes(n))];
  names.forEach((name, at) => {
    const item = list.children[at] || list.appendChild(make("li"));
    const count = counts[name] || 0;
    item.className = "pill";
    item.hidden = !count && name !== "running";
    item.dataset.phase = name;
    say(item, `${count} ${name}`);
  });
}

function showProcs(procs, totals) {
  const list = byId("procs");
  procs.forEach((proc, at) => {
    let item = list.children[at];
    if (!item) {
      item = list.appendChild(make("li"));
      item.append(make("b"), make("span"), make("span", "dim"));
    }
    item.dataset.state = proc.state;
    const [slot, doing, lane] = item.children;
    say(slot, proc.slot);
    say(doing, proc.action ? `${proc.action}${proc.attempt_id ? ` #${proc.attempt_id}` : ""}` : proc.state);
    doing.className = proc.action ? "" : "dim";
    say(lane, proc.lane || String(proc.pid || "–"));
    item.title = `${proc.slot}: ${proc.state}, pid ${proc.pid}, lane ${proc.lane}`;
  });
  while (list.children.length > procs.length) list.lastChild.remove();
  const bad = ["failed", "timed_out", "crashed"].reduce((sum, n) => sum + (totals[n] || 0), 0);
  say(byId("totals"), `${number.format(totals.succeeded || 0)} done, ${number.format(bad)} went wrong`);
}

/* ---- quarantine ----------------------------------------------------------------------------- */

const apart = new Map();

function showQuarantine(types) {
  const names = Object.keys(types);
  byId("apart").hidden = !names.length;
  say(byId("apart-count"), names.length ? String(names.length) : "");
  for (const [name, item] of apart) {
    if (!(name in types)) { item.remove(); apart.delete(name); }
  }
  for (const name of names) {
    let item = apart.get(name);
    if (!item) {
      item = byId("apart-types").appendChild(make("li"));
      item.append(make("b", "", name), make("span", "cause"), make("span", "dim"), make("code"));
      apart.set(name, item);
    }
    const { verdict, deaths, held, retry_in_s: left, quarantined_s: since } = types[name];
    const [, cause, until, command] = item.children;
    say(cause, `${number.format(deaths)} deaths in a row: ${verdict}`);
    const next = left > 0 ? `until ${clock(Date.now() / 1000 + left).slice(0, 8)}, in ${span(left)}`
      : held ? "being tried now" : "tried when the next one is submitted";
    say(until, `${next}; ${number.format(held)} held back; kept apart for ${span(since)}`);
    say(command, `fsmv2 release ${name} --http ${location.host}`);
  }
}

/* ---- the tree ------------------------------------------------------------------------------ */

const rows = new Map();
const folded = new Set();
let lastTree = null;

function showTree(tree) {
  lastTree = tree;
  const wanted = byId("filter").value.trim().toLowerCase();
  const body = byId("rows");
  const seen = new Set();
  let shown = 0, total = 0, before = null;
  const visit = (node, depth, hiddenAbove) => {
    total += 1;
    const text = `${node.path} ${node.worker_type} ${node.state} ${node.phase} ${node.reason}`;
    const match = !wanted || text.toLowerCase().includes(wanted);
    if (match && (wanted || !hiddenAbove)) {
      shown += 1;
      seen.add(node.path);
      const row = rows.get(node.path) || makeRow(node.path);
      fillRow(row, node, wanted ? 0 : depth, Boolean(wanted));
      const place = before ? before.nextSibling : body.firstChild;
      if (row.tr !== place) body.insertBefore(row.tr, place);
      before = row.tr;
    }
    const hide = hiddenAbove || folded.has(node.path);
    for (const child of node.children || []) visit(child, depth + 1, hide);
  };
  visit(tree, 0, false);
  for (const [path, row] of rows) {
    if (!seen.has(path)) { row.tr.remove(); rows.delete(path); }
  }
  byId("no-rows").hidden = shown > 0;
  if (!shown) say(byId("no-rows"), "No worker matches the filter.");
  say(byId("tree-count"), wanted ? `${shown} of ${total}` : String(total));
}

function makeRow(path) {
  const row = { tr: make("tr") };
  const head = make("th");
  head.scope = "row";
  row.name = make("span", "name");
  row.fold = make("button", "fold");
  row.fold.type = "button";
  row.fold.addEventListener("click", () => {
    if (!folded.delete(path)) folded.add(path);
    showTree(lastTree);
  });
  row.label = make("span");
  row.type = make("small");
  row.circuit = make("span", "circuit", "circuit open");
  row.name.append(row.fold, row.label, row.circuit, row.type);
  head.append(row.name);
  row.state = make("span", "pill");
  row.reason = make("button", "why");
  row.reason.type = "button";
  row.reason.title = "why is it so?";
  row.reason.addEventListener("click", () => showExplanation(path));
  const reason = make("td", "reason");
  reason.append(row.reason);
  row.since = make("td", "number dim");
  row.action = make("td");
  row.restarts = make("td", "number");
  const state = make("td");
  state.append(row.state);
  row.tr.append(head, state, reason, row.since, row.action, row.restarts);
  rows.set(path, row);
  return row;
}

function fillRow(row, node, depth, flat) {
  row.name.style.setProperty("--depth", String(depth));
  say(row.label, flat ? node.path : node.name);
  say(row.type, node.worker_type || "");
  row.tr.title = node.path;
  const children = node.children || [];
  const isFolded = folded.has(node.path);
  row.fold.disabled = flat || !children.length;
  say(row.fold, isFolded ? "▸" : "▾");
  row.fold.setAttribute("aria-expanded", String(!isFolded));
  row.fold.setAttribute("aria-label", `children of ${node.name}`);
  row.circuit.hidden = node.circuit === "closed";
  row.circuit.textContent = node.circuit === "panic" ? "panic" : "circuit open";
  row.state.dataset.phase = node.phase;
  say(row.state, node.state);
  row.state.title = `phase ${node.phase}, wanted ${node.desired_state}`;
  const wanted = node.desired_state && !["running", node.state].includes(node.desired_state)
    ? `  (wanted: ${node.desired_state})` : "";
  say(row.reason, `${node.reason || "why?"}${wanted}`);
  say(row.since, span(node.since_s));
  fillAction(row, node.action);
  say(row.restarts, String(node.restarts || 0));
  row.restarts.className = node.restarts ? "number some" : "number dim";
}

function fillAction(row, action) {
  if (!action) { if (row.box) { row.box.remove(); row.box = null; } return; }
  if (!row.box) {
    row.box = make("div", "running-action");
    const line = make("span");
    row.actionName = make("b");
    row.actionTime = make("i");
    line.append(row.actionName, row.actionTime);
    row.meter = make("progress");
    row.actionText = make("em");
    row.box.append(line, row.meter, row.actionText);
    row.action.append(row.box);
  }
  const limit = action.timeout_s || 1;
  const ran = action.running_s || 0;
  say(row.actionName, action.type);
  const waits = typeof action.waits_s === "number";
  const time = waits ? `waits ${span(action.waits_s)}` : `${span(ran)} of ${span(limit)}`;
  say(row.actionTime, time);
  row.meter.max = limit;
  row.meter.value = Math.min(ran, limit);
  row.meter.className = ran > 0.8 * limit ? "late" : "";
  row.meter.setAttribute("aria-label", `${action.type}: ${time}`);
  row.actionText.hidden = !action.progress;
  say(row.actionText, action.progress || "");
  row.box.title = `attempt #${action.attempt_id}${action.lane ? `, lane ${action.lane}` : ""}`;
}

/* ---- deaths -------------------------------------------------------------------------------- */

let deathsFromEvents = false;
let recentShown = "";

function isDeath(event) {
  return event.event === "action_ended"
    && (Boolean(event.certificate) || ["timed_out", "crashed"].includes(event.status));
}

function showDeath(event) {
  if (!deathsFromEvents) { byId("deaths").replaceChildren(); deathsFromEvents = true; }
  const list = byId("deaths");
  list.prepend(deathOf(event, event.ts));
  while (list.children.length > DEATHS_SHOWN) list.lastChild.remove();
  countDeaths();
}

/* Only until the first death comes over the event stream, which knows the stack as well. */
function showRecent(recent) {
  const dead = recent.filter((r) => ["timed_out", "crashed"].includes(r.status));
  const key = JSON.stringify(dead.map((r) => r.attempt_id));
  if (key === recentShown) return;
  recentShown = key;
  const newest = [...dead].sort((a, b) => b.ended_at - a.ended_at).slice(0, DEATHS_SHOWN);
  byId("deaths").replaceChildren(...newest.map((r) => deathOf(r, r.ended_at)));
  countDeaths();
}

function countDeaths() {
  const count = byId("deaths").children.length;
  byId("no-deaths").hidden = count > 0;
  say(byId("deaths-count"), count ? String(count) : "");
}

function deathOf(death, ts) {
  const certificate = death.certificate || death;
  const box = make("details");
  const head = make("summary");
  head.append(
    make("b", "", death.verdict || death.status),
    make("time", "dim", clock(ts)),
    make("span", "", `${death.action_type} #${death.attempt_id} of ${death.path}`));
  const facts = make("dl");
  const fact = (name, value) => {
    if (value === undefined || value === null || value === "" || value === 0) return;
    facts.append(make("dt", "", name), make("dd", "", value));
  };
  fact("ran", span(death.ran_s));
  fact("signal", certificate.signal);
  fact("sent by", certificate.sent_by);
  fact("exit code", certificate.exit_code);
  fact("CPU", certificate.cpu_s ? span(certificate.cpu_s) : null);
  fact("peak memory", certificate.peak_memory_bytes ? bytes(certificate.peak_memory_bytes) : null);
  fact("waited in", certificate.wait_channel);
  fact("descendants killed", certificate.descendants_killed);
  fact("slot back after", certificate.slot_back_s ? span(certificate.slot_back_s) : null);
  fact("error", death.error);
  fact("detail", certificate.detail);
  box.append(head, facts);
  if (certificate.stack) box.append(make("pre", "", certificate.stack));
  if (certificate.log_tail && certificate.log_tail.length) {
    box.append(make("pre", "", certificate.log_tail.join("\n")));
  }
  return box;
}

/* ---- events -------------------------------------------------------------------------------- */

const SKIPPED = new Set(["seq", "ts", "level", "event", "path", "certificate", "traceback", "generation"]);
const why = (text) => (text ? `: ${text}` : "");
const WORDS = {
  state_changed: (e) => `${e.from_state} → ${e.to_state}  ${e.reason || ""}`,
  action_started: (e) => `${e.action_type} #${e.attempt_id} offered  ${e.reason || ""}`,
  action_ended: (e) => `${e.action_type} #${e.attempt_id} ${e.verdict || e.status} after ${span(e.ran_s)}${why(e.error)}`,
  action_logged: (e) => `${e.action_type} #${e.attempt_id}: ${e.record}`,
  action_progressed: (e) => `${e.action_type} #${e.attempt_id}: ${e.text}`,
  observation_failed: (e) => `${e.action_type} ${e.verdict}${why(e.error)}, again in ${span(e.retry_in_s)}`,
  worker_faulted: (e) => `${e.step}: ${e.error}, fault ${e.failures}, again in ${span(e.retry_in_s)}`,
  proc_output: (e) => e.line,
};
let paused = false;
let held = [];

function textOf(event) {
  const words = WORDS[event.event];
  if (words) return words(event);
  return Object.entries(event)
    .filter(([key, value]) => !SKIPPED.has(key) && value !== null && value !== "")
    .map(([key, value]) => {
      const text = typeof value === "object" ? JSON.stringify(value)
        : typeof value === "number" && key.endsWith("_s") ? span(value) : String(value);
      return ["reason", "error", "text", "line", "record"].includes(key)
        ? text : `${key.replace(/_s$/, "").replaceAll("_", " ")} ${text}`;
    })
    .join(", ");
}

function lineOf(event) {
  const item = make("li");
  item.dataset.level = event.level;
  item.dataset.rank = String(RANKS[event.level] ?? 1);
  item.append(
    make("time", "", clock(event.ts)),
    make("span", "level", event.level),
    make("span", "path", event.path || event.slot || event.supervisor || "–"),
    make("span", "kind", String(event.event).replaceAll("_", " ")),
    make("span", "text", textOf(event)));
  item.children[2].title = event.path || "";
  return item;
}

function showEvents(events) {
  if (paused) { held = held.concat(events).slice(-EVENTS_SHOWN); return; }
  const list = byId("events");
  const lines = events.slice(-EVENTS_SHOWN).map(lineOf).reverse();
  list.prepend(...lines);
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
  byId("no-events").hidden = list.children.length > 0;
}

/* Events come in bursts; one change of the page per frame is enough. */
let waiting = [];
/* A new stream replays what is kept; a number alone is not enough after the root's restart. */
const known = new Set();
function queueEvent(event) {
  const key = `${event.seq} ${event.ts}`;
  if (known.has(key)) return;
  known.add(key);
  if (known.size > 2000) known.delete(known.values().next().value);
  if (isDeath(event)) showDeath(event);
  if (!waiting.length) setTimeout(() => { const all = waiting; waiting = []; showEvents(all); }, 50);
  waiting.push(event);
}

function listen() {
  const stream = new EventSource("/api/v1/events");
  stream.onopen = () => say(byId("stream"), "live");
  stream.onerror = () => {
    say(byId("stream"), "reconnecting");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
  stream.onmessage = (message) => {
    try { queueEvent(JSON.parse(message.data)); } catch { /* not ours */ }
  };
  stream.addEventListener("resync", () => {
    queueEvent({ ts: Date.now() / 1000, level: "info", event: "resync", text: "some events were missed" });
  });
}

const showLevel = () => { byId("events").dataset.show = byId("loudness").value; };
byId("loudness").addEventListener("change", showLevel);
showLevel();
byId("filter").addEventListener("input", () => { if (lastTree) showTree(lastTree); });
byId("pause").addEventListener("click", (click) => {
  paused = !paused;
  click.target.setAttribute("aria-pressed", String(paused));
  say(click.target, paused ? "Resume" : "Pause");
  if (!paused) { const all = held; held = []; showEvents(all); }
});

poll();
listen();
