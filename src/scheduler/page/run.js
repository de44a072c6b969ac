// One run: how far it is, its cases, tasks, what waits, failures and slots.

import { follow, get, part, Problem, query, send } from "./api.js";
import { failures as failuresOf } from "./failures.js";
import { replay } from "./replay.js";
import { timeline } from "./timeline.js";
import { ago, amiss, bar, cut, ended, endedOf, filterChoice, filterInput, h, holder, kept, legend, moment, mutedPill, number, paged, percent, pill, rate, runLink, say, SEEN, span, sure, table, taskLink, taskPill, tasksWord, took, trying, workerName } from "./parts.js";
import { told } from "./told.js";
import { language, t } from "./words.js";

/** Nothing is heard for so long: then there is nobody. Streams give a sign of life each 15 seconds. */
const SILENCE_MS = 20_000;

/** Tasks that have ended and were neither canceled nor skipped. */
const ranOf = (totals) => ended(totals) - (totals["05"] || 0) - (totals["06"] || 0);

/** Cases of a run's report that are named as its slowest. */
const SLOWEST_SHOWN = 10;
const slowColumns = [
  { word: "case", show: (found) => h("a", { href: `#/cases/${part(found.case)}` }, found.case) }, { word: "environment", show: (found) => found.environment || "" },
  { word: "longest", show: (found) => span(found.longest_ms), isNumber: true }, { word: "mean", show: (found) => span(found.mean_ms), isNumber: true },
];

/** Shows a run; `asked` is the tab that the address names, if it does. */
export async function one(view, run, asked) {
  const path = `/v1/runs/${part(run)}`;
  let found = await get(path);
  let measured = null;
  const head = h("div");
  const progress = h("div", { class: "paper pad" });
  const facts = h("div", { class: "facts" });
  const body = h("div", { id: "panel", role: "tabpanel" });
  const tabs = h("div", { class: "tabs", role: "tablist" });
  let chosen;
  // When the scheduler was heard last, and what is wrong since, if something is.
  let heard = Date.now();
  let silence = null;

  // What is written of a run may be a second behind what workers have of it; what was asked for is told at once.
  const LIVE = ["accepted", "waiting", "running"];
  const state = () => (LIVE.includes(found.status.state) && LIVE.includes(measured?.state) ? measured.state : found.status.state);
  let drawn = "";
  const isOver = () => Boolean(found.status.ended);
  const act = (word, call, isMain) => h("button", { type: "button", class: isMain ? "main" : null, click: trying(call) }, t(word));
  const control = (verb) => async () => { await send("POST", `${path}/${verb}`); say(t("asked")); };
  const again = (which) => async () => {
    const made = await send("POST", `${path}/rerun`, { which });
    location.hash = runLink(made);
  };

  const unstarted = () => (found.status.totals?.["05"] || 0) + (found.status.totals?.["06"] || 0);

  const drawHead = () => {
    drawn = state();
    const buttons = isOver()
      ? [found.status.totals?.failures > 0 && act("rerun_failed", again("failed"), true), found.status.totals?.["08"] > 0 && act("rerun_lost", again("lost")), unstarted() > 0 && act("rerun_unstarted", again("unstarted")), act("rerun_all", again("all"))]
      : [state() === "paused" ? act("resume", control("resume")) : act("pause", control("pause")),
        h("button", { type: "button", class: "danger", click: trying(async () => { if (await sure(t("sure_cancel"), t("yes_cancel"))) await control("cancel")(); }) }, t("cancel_run"))];
    const before = found.spec.rerun_of;
    head.replaceChildren(h("div", { class: "head" },
      h("h1", {}, cut(found.spec.name || t("run")), " ", h("span", { class: "mono soft" }, run)),
      silence ? pill("lost", t("no_connection", new Date(heard).toLocaleTimeString(language)), silence) : pill(state()),
      before && h("a", { href: `#/runs/${part(before)}` }, t("rerun_of", before)),
      h("span", { class: "grow" }), buttons));
  };
  const fact = (word, value, more) => h("div", { class: "paper fact" }, h("b", {}, value), h("span", {}, t(word), more && ` · ${more}`));
  const drawProgress = () => {
    const totals = found.status.totals || {};
    // Before anybody has said what runs, what has not ended is only that.
    const out = isOver() || measured ? { running: 0, assigned: 0, ...(isOver() ? {} : measured) } : null;
    progress.replaceChildren(bar(totals, out, true), legend(totals, out));
    const us = (value) => span(value / 1000);
    const { retries } = found.status;
    // While nobody is heard, nothing is known of what goes on.
    const now = silence ? heard : Date.now();
    const shown = [
      fact("tasks", endedOf(totals)),
      fact("time", took({ ...found.status, started: found.status.started || found.spec.submitted }, now)),
      retries > 0 && fact("retries", number(retries)),
      measured?.rate !== undefined && fact("rate", rate(measured.rate)),
    ];
    if (!isOver() && !silence && measured?.is_overdue) shown.push(fact("ends", t("overdue")));
    // What was read a while ago may lie in the past by now: then nobody knows.
    else if (!isOver() && !silence && measured?.ends > Date.now()) shown.push(fact("ends", moment(measured.ends), span(measured.ends - Date.now())));
    if (measured?.bound) {
      const causes = ["work", "tag", "limit", "chain"];
      const cause = causes.reduce((best, name) => (measured[`bound_${name}`] > measured[`bound_${best}`] ? name : best));
      const guess = measured.guessed > 0 && t("bound_guessed", tasksWord(measured.guessed));
      shown.push(fact("bound", us(measured.bound), [t(`bound_${cause}`), guess].filter(Boolean).join(" · ")), fact("slots", number(measured.slots)));
      if (isOver() && measured.efficiency) shown.push(fact("efficiency", percent(measured.efficiency)));
      // What runs is nearer to its end than that knows.
      else if (!isOver() && measured.left && measured.slots > 0) shown.push(fact("left", span(Math.min(measured.left / 1000, measured.ends > now ? measured.ends - now : Infinity))));
    }
    facts.replaceChildren(...shown.filter(Boolean));
  };

  const panels = { overview, waiting, tasks, failures, timeline: slots, replay: (place) => replay(view, place, run) };
  function drawTabs() {
    const totals = found.status.totals || {};
    const counts = { failures: totals.failures };
    const isHere = tabs.contains(document.activeElement);
    tabs.replaceChildren(...Object.keys(panels).map((name) => h("button", {
      type: "button", role: "tab", "aria-controls": "panel", "aria-selected": String(name === chosen), tabindex: name === chosen ? "0" : "-1",
      click: () => choose(name), keydown: (event) => {
        const names = Object.keys(panels);
        const at = names.indexOf(name);
        const next = { ArrowRight: at + 1, ArrowLeft: at - 1 + names.length, Home: 0, End: names.length - 1 }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        choose(names[next % names.length]);
        tabs.querySelector("[aria-selected=true]").focus();
      },
    }, t(name), counts[name] > 0 && h("span", { class: "count" }, number(counts[name])))));
    // Whoever reads further down stays there.
    if (isHere) tabs.querySelector("[aria-selected=true]").focus({ preventScroll: true });
  }
  let refresh = () => {};
  // A longer list is not pulled from under its reader, nor what he stands on or has opened.
  const renew = (list, rows) => {
    const isFree = () => !list.place.contains(document.activeElement) && !list.place.querySelector("details[open]");
    return isFree() && list.place.querySelectorAll("tbody tr, details").length <= rows ? list.refresh(isFree) : null;
  };
  function choose(name) {
    chosen = name;
    drawTabs();
    // The address says what is seen: it is there again after a reload, and when one comes back.
    history.replaceState(history.state, "", name === "overview" ? runLink({ run }) : `${runLink({ run })}?tab=${name}`);
    // Each has a place of its own: what comes late for another tab is not shown.
    const place = h("div", {}, h("p", { class: "soft pad" }, t("loading")));
    body.replaceChildren(place);
    refresh = panels[name](place) || (() => {});
  }

  function overview(place) {
    const columns = [
      { word: "case", show: (lane) => h("a", { href: `#/cases/${part(lane.case)}` }, lane.case) },
      { word: "environment", show: (lane) => lane.environment || "" },
      { word: "progress", show: (lane) => bar(lane.totals, lane) },
      { word: "tasks", show: (lane) => endedOf(lane.totals), isNumber: true },
      { word: "retries", show: (lane) => (lane.retries ? number(lane.retries) : ""), isNumber: true },
      { word: "typical", show: (lane) => (lane.work > 0 && ranOf(lane.totals) > 0 ? span(lane.work / 1000 / ranOf(lane.totals)) : ""), isNumber: true },
    ];
    const lanes = paged((next) => get(query(`${path}/lanes`, { next, limit: 100 })), (items) => table(columns, items, { empty: t("no_tasks") }));
    const losses = h("div");
    const drawLoss = () => {
      if (isOver() && measured?.loss_left_out) losses.replaceChildren(h("h2", {}, t("loss")), h("p", { class: "soft" }, t("loss_left_out")));
      if (!measured?.loss) return;
      const shown = Object.entries(measured.loss).filter(([, us]) => us > 0);
      if (shown.length > 0 && isOver()) losses.replaceChildren(h("h2", {}, t("loss")), h("div", { class: "facts" }, shown.map(([name, us]) => fact(`loss_${name}`, span(us / 1000)))));
    };
    const check = h("div", { class: "head" }, h("button", { type: "button", click: trying(async () => {
      const audit = await get(`${path}/audit`);
      check.replaceChildren(audit.is_clean ? pill("passed", t("clean")) : h("pre", {}, audit.faults.map((fault) => fault.text).join("\n")));
    }) }, t("audit")));
    place.replaceChildren(lanes.place, losses, slow, h("h2"), check);
    drawLoss();
    return () => { drawLoss(); return renew(lanes, 100); };
  }

  function waiting(place) {
    const columns = [
      { word: "case", show: (lane) => lane.case }, { word: "environment", show: (lane) => lane.environment || "" },
      { word: "tasks", show: (lane) => number(lane.tasks), isNumber: true }, { word: "since", show: (lane) => ago(lane.since) }, 
      { word: "reason", show: (lane) => [told(lane.text), (lane.holders || []).map(holder)] },
    ];
    const draw = async () => {
      try {
        const found = await get(`${path}/waiting`);
        const counts = Object.entries(found.tasks).map(([reason, count]) => pill("00", `${t(`why_${reason}`)} ${number(count)}`));
        place.replaceChildren(h("div", { class: "legend" }, counts), h("h2"), h("div", { class: "paper" }, table(columns, found.items, { empty: t("nothing_waits") }),
          found.lanes > found.items.length && h("p", { class: "soft pad" }, t("lanes_more", number(found.lanes - found.items.length)))));
      } catch (error) { amiss(place, error); }
    };
    draw();
    return draw;
  }

  /** How long a task took, or runs by now. */
  const elapsed = (task) => {
    if (task.since) return span(Math.max(0, (silence ? heard : Date.now()) - task.since));
    return task.duration === undefined ? "" : span(task.duration / 1000);
  };

  function tasks(place) {
    const filter = kept("tasks", { status: "", case: "", environment: "", tag: "" });
    const columns = [
      { word: "case", show: (task) => task.case }, { word: "environment", show: (task) => task.environment || "" },
      { word: "repeat", show: (task) => `#${task.ordinal}`, isNumber: true },
      { word: "state", show: (task) => [taskPill(task), task.is_flaky && [" ", pill("flaky")], task.is_muted && [" ", mutedPill(task.muted)]] },
      { word: "attempts", show: (task) => number(task.attempts), isNumber: true }, { word: "worker", show: (task) => workerName(task.worker || ""), isLong: true },
      { word: "started", show: (task) => moment(task.since || task.start) }, { word: "time", show: (task) => elapsed(task), isNumber: true },
    ];
    const open = (task) => taskLink(run, task);
    const found = paged((next) => get(query(`${path}/tasks`, { ...filter, next, limit: 100 })), (items) => table(columns, items, { empty: t("no_tasks"), open }), kept("tasks_seen", SEEN));
    const codes = ["", "00", "01", "02", "failures", "05", "06"];
    const word = (code) => (code === "" ? t("all") : code === "failures" ? t("failures") : t(`s${code}`));
    const choose = filterChoice("state", "status", filter, codes.map((code) => [code, word(code)]), () => found.refresh());
    const of = ["case", "environment", "tag"].map((name) => filterInput(view, name, filter, () => found.refresh()));
    of[0].dataset.search = "true";
    place.replaceChildren(h("div", { class: "head" }, choose, of), found.place);
    return () => renew(found, 100);
  }

  // What was known of a failure before is in the report, which is there at the end.
  const pasts = new Map();
  const slow = h("div");
  const learn = async () => {
    if (!isOver()) return;
    const report = await get(`/v1/reports/${part(run)}`).catch(() => null);
    if (report?.slowest?.length > 0) slow.replaceChildren(h("h2", {}, t("slowest")), h("div", { class: "paper" }, table(slowColumns, report.slowest.slice(0, SLOWEST_SHOWN))));
    for (const { lane, ordinal, past } of report?.failures || []) pasts.set(`${lane}/${ordinal}`, past);
  };

  function failures(place) {
    return failuresOf(place, found, pasts);
  }

  function slots(place) {
    // Which part of a long run is shown: the last one, unless somebody has turned to another.
    let part_ = {};
    const turn = (next) => { part_ = next; return draw(true); };
    const draw = async (isAsked) => {
      const isUsed = () => place.contains(document.activeElement);
      if (isUsed() && !isAsked) return;
      try {
        const shown = part_;
        const found = await get(query(`${path}/timeline`, shown));
        if (shown === part_ && (isAsked || !isUsed())) place.replaceChildren(timeline(found, run, measured?.loss, turn));
      } catch (error) { amiss(place, error); }
    };
    draw();
    // What somebody has turned to stays as it is.
    return isOver() ? null : () => (Object.keys(part_).length > 0 ? null : draw());
  }

  /** Takes note that what was asked is answered (null), that there was a sign of life (nothing), or of what is wrong. */
  const hear = (error) => {
    // Who gives signs of life may have no answers all the same: its store may be away.
    if (error === undefined && silence || error && !error.isPassing) return;
    const was = silence;
    if (!error) heard = Date.now();
    silence = error ? error.message : null;
    if (Boolean(was) !== Boolean(silence)) { drawHead(); drawProgress(); }
  };
  const measure = async () => {
    try {
      measured = await get(`${path}/bound`);
      hear(null);
    } catch (error) { hear(error); }
    if (drawn !== state()) drawHead();
    drawProgress();
  };
  drawHead(); drawProgress(); choose(Object.hasOwn(panels, asked) ? asked : "overview");
  view.show(head, progress, facts, tabs, body);
  Promise.all([measure(), learn()]).then(() => refresh());
  if (isOver()) return;
  follow(run, (status) => {
    const before = state();
    const failed = found.status.totals?.failures;
    found = { ...found, status };
    if (before !== state() || isOver()) drawHead();
    if (failed !== found.status.totals?.failures) drawTabs();
    drawProgress();
    // What is told of an open run may be a second old.
    if (isOver()) { view.stop(); setTimeout(() => Promise.all([measure(), learn()]).then(() => refresh()), 1200); }
  }, hear, view.signal);
  // Who is stopped says nothing at all, not even that something is wrong.
  view.every(1000, () => { if (!isOver() && !silence && Date.now() - heard > SILENCE_MS) hear(new Problem(0, t("silent"))); });
  view.every(2000, () => { if (!document.hidden && !isOver()) return Promise.all([measure(), refresh()]); return null; });
}
