// Slots as a timeline: a row for each worker's slot, attempts in the colour of their outcome, gaps left empty.

import { h, legend, moment, number, span, statusPill } from "./parts.js";
import { t } from "./words.js";

const ROW = 14;
const ROWS_MAX = 200;
const LEFT = 110;
const TOP = 22;

/** Puts each attempt into the first slot of its worker that is free at its start. */
function rows(found) {
  const slots = new Map();
  const attempts = found.rows.map(([worker, lane, ordinal, attempt, status, start, duration]) => ({ worker, lane, ordinal, attempt, status, start, end: start + duration / 1000 }));
  attempts.sort((a, b) => a.start - b.start);
  for (const attempt of attempts) {
    const of = slots.get(attempt.worker) || slots.set(attempt.worker, []).get(attempt.worker);
    // Starts are whole milliseconds: one that seems to begin a little early belongs there all the same.
    let at = of.findIndex((end) => end <= attempt.start + 1);
    if (at < 0) at = of.push(0) - 1;
    of[at] = attempt.end;
    attempt.slot = at;
  }
  const places = new Map();
  const names = [];
  for (const worker of [...slots.keys()].sort((a, b) => found.workers[a].localeCompare(found.workers[b]))) {
    slots.get(worker).forEach((_, slot) => {
      places.set(`${worker}/${slot}`, names.length);
      names.push(`${found.workers[worker]} ${slot + 1}`);
    });
  }
  return { attempts, places, names };
}

export function timeline(found) {
  if (found.rows.length === 0) return h("div", { class: "paper empty" }, t("nothing_ran"));
  const { attempts, places, names } = rows(found);
  const shown = Math.min(names.length, ROWS_MAX);
  const from = Math.min(...attempts.map((attempt) => attempt.start));
  const to = Math.max(...attempts.map((attempt) => attempt.end), from + 1);
  const canvas = h("canvas", { role: "img", "aria-label": t("timeline") });
  const tip = h("div", { class: "soft" }, " ");
  const totals = { total: attempts.length };
  for (const { status } of attempts) totals[status] = (totals[status] || 0) + 1;

  const draw = () => {
    const width = canvas.clientWidth || 1000;
    const height = TOP + shown * ROW + 4;
    const scale = devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const colors = { "02": "--passed", "03": "--failed", "04": "--error", "05": "--canceled", "06": "--skipped", "07": "--timed", "08": "--lost" };
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "11px system-ui, sans-serif";
    const x = (at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - 8);
    pen.fillStyle = color("--soft");
    names.slice(0, shown).forEach((name, row) => pen.fillText(name, 4, TOP + row * ROW + 10, LEFT - 10));
    for (let step = 0; step <= 5; step += 1) {
      const at = from + ((to - from) * step) / 5;
      pen.fillStyle = color("--line");
      pen.fillRect(x(at), TOP - 4, 1, shown * ROW + 4);
      pen.fillStyle = color("--soft");
      pen.textAlign = step === 5 ? "right" : step === 0 ? "left" : "center";
      pen.fillText(step === 0 ? "0" : span(at - from), x(at), 12);
    }
    pen.textAlign = "left";
    pen.fillStyle = color("--sunk");
    for (let row = 0; row < shown; row += 1) pen.fillRect(LEFT, TOP + row * ROW + 1, width - LEFT - 8, ROW - 3);
    for (const attempt of attempts) {
      const row = places.get(`${attempt.worker}/${attempt.slot}`);
      if (row >= shown) continue;
      pen.fillStyle = color(colors[attempt.status] || "--running");
      const left = x(attempt.start);
      const long = Math.max(1, x(attempt.end) - left);
      pen.fillRect(left, TOP + row * ROW + 1, long > 3 ? long - 0.75 : long, ROW - 3);
    }
  };
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - TOP) / ROW);
    const at = from + ((event.clientX - box.left - LEFT) / (box.width - LEFT - 8)) * (to - from);
    const hit = attempts.find((attempt) => places.get(`${attempt.worker}/${attempt.slot}`) === row && attempt.start <= at && at <= attempt.end);
    tip.replaceChildren(...(hit ? [statusPill(hit.status), ` ${found.cases[hit.lane] || hit.lane} · ${t("repeat")} ${hit.ordinal + 1} · `, moment(hit.start), ` · ${span(hit.end - hit.start)}`] : [" "]));
  });
  new ResizeObserver(draw).observe(canvas);
  return h("div", { class: "paper pad" }, legend(totals), h("h2"), canvas, tip, found.left_out > 0 && h("p", { class: "soft" }, t("left_out", number(found.left_out))));
}
