// A run told again: a slider over what happened, and what ran, had ended and was held at each step.

import { get, part, query } from "./api.js";
import { bar, h, legend, number, problem, runLink, span, statusPill } from "./parts.js";
import { t } from "./words.js";

const PAGE = 1000;
/** A longer story is told as far as this. */
const STEPS_MAX = 20_000;
const PLAY_MS = 120;
const RUNNING_MAX = 60;

const nameOf = (event) => `${event.case}${event.environment ? ` @ ${event.environment}` : ""} #${event.ordinal}${event.attempt > 1 ? ` (${event.attempt})` : ""}`;

function textOf(event) {
  if (event.event === "submitted") return t("event_submitted", number(event.tasks));
  if (event.event === "over") return t("event_over", t(event.state));
  if (event.event === "start") return t("event_start", event.worker, nameOf(event));
  return t(event.again ? "event_again" : "event_end", event.worker, nameOf(event), t(`s${event.status}`));
}

/** What was so after each of the first steps, from the submit on. */
function after(events, steps, total) {
  const running = new Map();
  const totals = { total, flaky: 0 };
  const failedOnce = new Set();
  let revision = 0;
  for (const event of events.slice(0, steps + 1)) {
    const key = `${event.lane}/${event.ordinal}/${event.attempt}`;
    if (event.event === "start") running.set(key, event);
    else if (event.event === "end") {
      running.delete(key);
      revision = Math.max(revision, event.revision);
      const task = `${event.lane}/${event.ordinal}`;
      if (event.again) failedOnce.add(task);
      else {
        totals[event.status] = (totals[event.status] || 0) + 1;
        if (event.status === "02" && failedOnce.has(task)) totals.flaky += 1;
      }
    } else if (event.event === "over") Object.assign(totals, event.totals);
  }
  return { running: [...running.values()], totals, revision };
}

export function replay(view, place, run) {
  const path = `/v1/runs/${part(run)}`;
  const load = async () => {
    const events = [];
    let next = "";
    let steps = 0;
    do {
      const page = await get(query(`${path}/replay`, { next, limit: PAGE }));
      events.push(...page.items);
      ({ next, steps } = page);
    } while (next && events.length < STEPS_MAX && !view.signal.aborted);
    const lanes = new Map();
    const tags = await get(query(`${path}/lanes`, { limit: PAGE })).catch(() => ({ items: [] }));
    for (const lane of tags.items) lanes.set(lane.lane, lane.tags || []);
    place.replaceChildren(shown(view, events, lanes, next ? steps - events.length : 0, run));
  };
  load().catch((error) => place.replaceChildren(problem(error)));
}

function shown(view, events, lanes, leftOut, run) {
  const total = events[0]?.tasks || 0;
  const begin = events[0]?.at_us || 0;
  const slider = h("input", { type: "range", class: "slider", min: "0", max: String(events.length - 1), value: "0", step: "1", "aria-label": t("replay_step"), input: () => { stop(); draw(); } });
  const where = h("div", { class: "head" });
  const told = h("div", { class: "tip", role: "status", "aria-live": "polite" });
  const state = h("div");
  let timer = null;
  const draw = () => {
    const at = Number(slider.value);
    const event = events[at];
    const now = after(events, at, total);
    slider.setAttribute("aria-valuetext", textOf(event));
    const parts = [t("replay_at", number(at + 1), number(events.length), span((event.at_us - begin) / 1000))];
    if (now.revision > 0) parts.push(t("revision", now.revision));
    where.replaceChildren(h("b", {}, parts[0]), h("span", { class: "soft mono" }, parts[1] || ""));
    told.replaceChildren(textOf(event));
    const out = { running: now.running.length, assigned: 0 };
    const held = [...new Set(now.running.flatMap((one) => lanes.get(one.lane) || []))];
    const link = (one) => h("a", { href: `${runLink({ run })}/${one.lane}/${one.ordinal}` }, nameOf(one));
    const running = now.running.slice(0, RUNNING_MAX).map((one) => h("li", {}, statusPill("01"), " ", h("b", {}, one.worker), " ", link(one), h("span", { class: "soft" }, ` ${span((event.at_us - one.at_us) / 1000)}`)));
    if (now.running.length > RUNNING_MAX) running.push(h("li", { class: "soft" }, t("lanes_more", number(now.running.length - RUNNING_MAX))));
    state.replaceChildren(bar(now.totals, out, true), legend(now.totals, out),
      h("h2", {}, `${t("runs_now")} ${number(now.running.length)}`), h("ul", { class: "plain" }, running),
      ...(held.length > 0 ? [h("h2", {}, t("tags_then")), h("div", {}, held.join(", "))] : []));
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = t("play"); };
  const play = h("button", { type: "button", click: () => {
    if (timer) return stop();
    if (Number(slider.value) >= events.length - 1) slider.value = "0";
    play.textContent = t("stop");
    // A long story is told in larger steps.
    const step = Math.max(1, Math.round(events.length / 400));
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + step);
      if (!slider.isConnected || view.signal.aborted || Number(slider.value) >= events.length - 1) stop();
      if (slider.isConnected) draw();
    }, PLAY_MS);
    return undefined;
  } }, t("play"));
  slider.value = String(events.length - 1);
  draw();
  return h("div", { class: "paper pad" }, h("div", { class: "head" }, play, slider), where, told, state, leftOut > 0 && h("p", { class: "soft" }, t("replay_cut", number(events.length), number(leftOut))));
}
