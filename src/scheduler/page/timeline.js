// Slots as a timeline: a row for each worker's slot. Attempts have the colour of their outcome or case; or gaps have
// that of what kept the slot idle. Arrow keys go from one to the next, and what is reached is told in words.

import { h, isPeople, moment, number, pill, span, statusPill, workerName } from "./parts.js";
import { language, t } from "./words.js";

const ROW = 14;
const ROWS_MAX = 200;
const LEFT_MAX = 130;
const TOP = 22;
const CASES_NAMED = 12;
/** A gap that is shorter is a hand-over that nobody sees. */
const GAP_MS_MIN = 1;
const OUTCOMES = { "01": "--running", "02": "--passed", "03": "--failed", "04": "--error", "05": "--canceled", "06": "--skipped", "07": "--timed", "08": "--lost" };
const CAUSES = { start: "--pending", predecessor: "--running", tag: "--flaky", limit: "--error", person: "--canceled", hand_over: "--assigned", gone: "--lost", other: "--timed", tail: "--skipped" };
const MODES = { outcome: "by_outcome", case: "by_case", gap: "by_gap" };

const laneName = (found, lane) => [found.cases[lane] || lane, found.environments?.[lane]].filter(Boolean).join(" @ ");

/** Kept while a run is drawn again and again. */
let mode = "outcome";

// Neighbours in the list of cases are far apart on the wheel.
const hue = (lane) => `hsl(${(lane * 137) % 360} 55% 55%)`;

/** What has ended, and what runs: that ends now, as far as anybody can tell. */
function attemptsOf(found, now) {
  const attempts = found.rows.map(([worker, lane, ordinal, attempt, status, start, duration]) => ({ worker, lane, ordinal, attempt, status, start, end: start + duration / 1000 }));
  for (const [worker, lane, ordinal, attempt, since] of found.running || []) {
    // Nobody's slot: a person gives the verdict.
    if (worker === null) continue;
    // Nobody may have said since when, and clocks differ.
    const start = Math.min(since || now, now);
    attempts.push({ worker, lane, ordinal, attempt, status: "01", start, end: now, isUnsaid: !since });
  }
  return attempts.sort((a, b) => a.start - b.start);
}

/** Puts each attempt into the first slot of its worker that is free at its start; a slot that never ran anything has a row too, and what takes several slots is in each of them. */
function rowsOf(found, now) {
  const workers = found.workers.map((_, worker) => Array.from({ length: found.slots?.[worker] || 0 }, () => []));
  for (const attempt of attemptsOf(found, now)) {
    const slots = workers[attempt.worker];
    // Starts are whole milliseconds: one that seems to begin a little early belongs there all the same.
    const free = slots.filter((slot) => (slot.at(-1)?.end ?? -Infinity) <= attempt.start + 1);
    for (let width = found.widths?.[attempt.lane] || 1; width > 0; width -= 1) {
      const slot = free.shift();
      if (slot) slot.push(attempt);
      else slots.push([attempt]);
    }
  }
  const names = found.workers.map((_, worker) => worker).sort((a, b) => found.workers[a].localeCompare(found.workers[b]));
  const nameOf = (worker) => workerName(found.workers[worker]) + (found.gone?.includes(worker) ? ` (${t("worker_gone")})` : "");
  return names.flatMap((worker) => workers[worker].map((items, slot) => ({ worker: nameOf(worker), isGone: found.gone?.includes(worker), isPeople: isPeople(found.workers[worker]), slot: slot + 1, attempts: items })));
}

/** Stretches of a row in which nothing ran, each with its cause. */
function idleOf(row, gaps, end) {
  const idle = [];
  let from = gaps[0]?.[0] ?? 0;
  let at = 0;
  for (const next of [...row.attempts, { start: end, end }]) {
    while (at < gaps.length && gaps[at][1] <= from) at += 1;
    for (let gap = at; gap < gaps.length && gaps[gap][0] < next.start; gap += 1) {
      const [start, stop, cause] = gaps[gap];
      const one = { start: Math.max(start, from), end: Math.min(stop, next.start), cause };
      if (one.end - one.start >= GAP_MS_MIN) idle.push(one);
    }
    from = Math.max(from, next.end);
  }
  return idle;
}

/** Buttons that turn to what was before and after; nothing where all is shown. */
function turning(found, turn) {
  if (!found.left_out) return null;
  const button = (word, isThere, next) => h("button", { type: "button", disabled: !isThere, click: () => turn(next()) }, t(word));
  return h("div", { class: "head" },
    button("earlier", found.before > 0, () => ({ to: found.rows[0][5] })),
    button("later", found.after > 0, () => ({ from: found.rows.at(-1)[5] + 1 })),
    h("span", { class: "soft" }, t("left_out", number(found.rows.length), number(found.before), number(found.after))));
}

/** `loss` is the time that slots were idle, by cause, as the run's overview tells it; `turn` shows another part. */
export function timeline(found, run, loss, turn) {
  const rows = rowsOf(found, Date.now());
  const shown = rows.slice(0, ROWS_MAX);
  const all = [...new Set(rows.flatMap((row) => row.attempts))];
  if (all.length === 0) return h("div", { class: "paper empty" }, t("nothing_ran"));
  const gaps = found.gaps || [];
  const from = all.reduce((first, attempt) => Math.min(first, attempt.start), gaps[0]?.[0] ?? Infinity);
  const to = all.reduce((last, attempt) => Math.max(last, attempt.end), Math.max(from + 1, gaps.at(-1)?.[1] ?? 0));
  for (const row of shown) {
    // Nobody can tell why what is gone was idle; people have no slots.
    row.idle = row.isPeople ? [] : idleOf(row, gaps, row.isGone ? (row.attempts.at(-1)?.end ?? 0) : to);
    row.both = [...row.attempts, ...row.idle].sort((a, b) => a.start - b.start);
  }
  const itemsOf = (row) => (mode === "gap" ? row.both : row.attempts);
  const canvas = h("canvas", { role: "application", tabindex: "0", "aria-label": t("timeline"), "aria-describedby": "timeline-keys" });
  const tip = h("div", { class: "tip", role: "status", "aria-live": "polite" }, " ");
  const legend = h("div", { class: "legend" });
  let chosen = null;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const left = () => Math.min(LEFT_MAX, (canvas.clientWidth || 1000) * 0.28);
  const x = (at) => left() + ((at - from) / (to - from)) * ((canvas.clientWidth || 1000) - left() - 8);

  /** A name that does not fit is cut; the whole of it is told where somebody points or stands. */
  const fitted = (pen, name, tail, room) => {
    if (pen.measureText(name + tail).width <= room) return name + tail;
    let cut = name;
    while (cut && pen.measureText(`${cut}…${tail}`).width > room) cut = cut.slice(0, -1);
    return `${cut}…${tail}`;
  };

  const fillOf = (item) => {
    if (item.cause) return color(CAUSES[item.cause] || "--pending");
    if (mode === "gap") return color("--line");
    return mode === "case" ? hue(item.lane) : color(OUTCOMES[item.status] || "--running");
  };

  const draw = () => {
    const width = canvas.clientWidth || 1000;
    const height = TOP + shown.length * ROW + 4;
    const scale = devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = color("--soft");
    shown.forEach((row, at) => pen.fillText(fitted(pen, row.worker, ` ${row.slot}`, left() - 10), 4, TOP + at * ROW + 10));
    const steps = width < 500 ? 2 : 5;
    for (let step = 0; step <= steps; step += 1) {
      const at = from + ((to - from) * step) / steps;
      pen.fillStyle = color("--line");
      pen.fillRect(x(at), TOP - 4, 1, shown.length * ROW + 4);
      pen.fillStyle = color("--soft");
      pen.textAlign = step === steps ? "right" : step === 0 ? "left" : "center";
      // Where a part of a run begins is told by the clock.
      const begin = found.before > 0 ? new Date(from).toLocaleTimeString(language) : "0";
      pen.fillText(step === 0 ? begin : `${found.before > 0 ? "+" : ""}${span(at - from)}`, x(at), 12);
    }
    pen.textAlign = "left";
    const fills = new Map();
    shown.forEach((row, at) => {
      const top = TOP + at * ROW + 1;
      pen.fillStyle = color("--sunk");
      pen.fillRect(left(), top, width - left() - 8, ROW - 3);
      // What was lost has no time of its own: it is seen above what came next.
      const isLost = (item) => item.status === "08";
      for (const item of itemsOf(row).toSorted((a, b) => isLost(a) - isLost(b))) {
        const key = item.cause || (mode === "case" ? item.lane : item.status);
        if (!fills.has(key)) fills.set(key, fillOf(item));
        pen.fillStyle = fills.get(key);
        const begin = x(item.start);
        const long = Math.max(item.cause ? 0.5 : isLost(item) ? 3 : 1, x(item.end) - begin);
        pen.fillRect(begin, top, long > 3 && !item.cause ? long - 0.75 : long, ROW - 3);
      }
    });
    if (chosen) {
      const item = itemsOf(shown[chosen.row])[chosen.at];
      pen.strokeStyle = color("--text");
      pen.lineWidth = 2;
      pen.strokeRect(x(item.start) - 1, TOP + chosen.row * ROW, Math.max(3, x(item.end) - x(item.start) + 1), ROW - 1);
    }
  };

  const drawLegend = () => {
    const mark = (fill, word) => { const one = pill("", word); one.style.setProperty("--c", fill); return one; };
    let marks;
    if (mode === "gap") {
      const lost = {};
      for (const cause of Object.keys(loss || {})) lost[cause] = loss[cause] / 1000;
      if (!loss) for (const gap of shown.flatMap((row) => row.idle)) lost[gap.cause] = (lost[gap.cause] || 0) + gap.end - gap.start;
      marks = Object.keys(CAUSES).filter((cause) => lost[cause]).map((cause) => mark(color(CAUSES[cause]), `${t(`loss_${cause}`)} ${span(lost[cause])}`));
    } else if (mode === "case") {
      const lanes = [...new Set(all.map((attempt) => attempt.lane))].sort((a, b) => a - b);
      marks = lanes.slice(0, CASES_NAMED).map((lane) => mark(hue(lane), laneName(found, lane)));
      if (lanes.length > CASES_NAMED) marks.push(h("span", { class: "soft" }, t("lanes_more", number(lanes.length - CASES_NAMED))));
    } else {
      const counts = {};
      for (const { status } of all) counts[status] = (counts[status] || 0) + 1;
      marks = Object.entries(counts).sort().map(([code, count]) => pill(code, `${t(`s${code}`)} ${number(count)}`));
    }
    legend.replaceChildren(...marks);
  };

  const tell = (row, item) => {
    const place = [h("b", {}, row.worker), ` ${t("slot", row.slot)} · `];
    if (!item) tip.replaceChildren(...place.slice(0, 1), ` ${t("slot", row.slot)}`);
    else if (item.cause) tip.replaceChildren(...place, `${t("gap")}: ${t(`loss_${item.cause}`)} · ${span(item.end - item.start)}`);
    else tip.replaceChildren(...place, statusPill(item.status), ` ${laneName(found, item.lane)} · ${t("repeat")} #${item.ordinal} · `, item.attempt > 1 ? `${t("attempts")} ${item.attempt} · ` : "", ...(item.isUnsaid ? [] : [moment(item.start), ` · ${span(item.end - item.start)}`]));
  };

  const choose = (row, at) => {
    const items = itemsOf(shown[row]);
    chosen = items.length > 0 ? { row, at: Math.max(0, Math.min(items.length - 1, at)) } : null;
    if (chosen) tell(shown[row], items[chosen.at]);
    draw();
  };
  /** What is next to a moment in another row. */
  const beside = (row, moment_) => {
    const items = itemsOf(shown[row]);
    const at = items.findIndex((item) => item.end > moment_);
    return at < 0 ? items.length - 1 : at;
  };
  /** The next row, or the one before, in which there is something; else the same. */
  const rowBeside = (row, step) => {
    let next = row + step;
    while (shown[next] && itemsOf(shown[next]).length === 0) next += step;
    return shown[next] ? next : row;
  };
  const firstRow = () => Math.max(0, shown.findIndex((row) => itemsOf(row).length > 0));
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = chosen || { row: firstRow(), at: -1 };
    const item = chosen && itemsOf(shown[chosen.row])[chosen.at];
    const middle = item ? (item.start + item.end) / 2 : from;
    const go = {
      ArrowRight: () => choose(here.row, here.at + 1), ArrowLeft: () => choose(here.row, here.at - 1),
      ArrowDown: () => { const row = rowBeside(here.row, 1); choose(row, beside(row, middle)); },
      ArrowUp: () => { const row = rowBeside(here.row, -1); choose(row, beside(row, middle)); },
      Home: () => choose(here.row, 0), End: () => choose(here.row, Infinity),
      Enter: () => openTask(item),
    }[event.key];
    if (go) { event.preventDefault(); go(); }
  });
  let under = null;
  const openTask = (item) => { if (item && !item.cause) location.hash = `#/runs/${encodeURIComponent(run)}/${item.lane}/${item.ordinal}`; };
  canvas.addEventListener("focus", () => { if (!chosen && canvas.matches(":focus-visible")) choose(firstRow(), 0); });
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = shown[Math.floor((event.clientY - box.top - TOP) / ROW)];
    under = null;
    if (!row) return;
    const at = from + ((event.clientX - box.left - left()) / (box.width - left() - 8)) * (to - from);
    under = event.clientX - box.left < left() ? null : itemsOf(row).find((item) => item.start <= at && at <= item.end);
    tell(row, under);
  });
  canvas.addEventListener("click", () => openTask(under));
  const select = h("select", { "aria-label": t("colour_by"), change: (event) => { mode = event.target.value; chosen = null; drawLegend(); draw(); } },
    Object.entries(MODES).map(([name, word]) => h("option", { value: name, selected: name === mode }, t(word))));
  new ResizeObserver(draw).observe(canvas);
  drawLegend();
  return h("div", { class: "paper pad" }, h("div", { class: "head" }, h("label", {}, h("span", { class: "soft" }, t("colour_by"), " "), select), legend), turning(found, turn), canvas, tip,
    h("p", { class: "soft", id: "timeline-keys" }, t("timeline_keys")));
}
