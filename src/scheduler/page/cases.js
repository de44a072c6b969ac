// Test cases and environments: lists, one of them, and their definitions as they are edited.

import { get, part, query, send } from "./api.js";
import { openSubmit } from "./submit.js";
import { scored, standing, stateButtons } from "./flaky.js";
import { ago, ask, closeDialog, cut, dialog, filterChoice, filterInput, h, isIdle, kept, labels, moment, number, paged, percent, pill, refreshed, say, searchInput, SEEN, span, statusPill, strip, sure, table, trying } from "./parts.js";
import { wrong } from "./told.js";
import { t } from "./words.js";

const link = (found) => `#/cases/${part(found.id)}`;
const tags = (found) => (found.mutual_tag || []).map((used) => used.tag).join(", ");
const pasts = (found) => Object.values(found.stats || {});

/** As a case has it that says nothing. */
const RETRIES = { test: 0, infra: 2 };
/** How often what failed, or came to no verdict, is tried again, where its case says so. */
const retriesOf = ({ retries }) => Object.keys(RETRIES).filter((kind) => retries && retries[kind] !== RETRIES[kind]).map((kind) => t(`retries_${kind}`, number(retries[kind]))).join(", ");

export function list(view) {
  const filter = kept("cases", { text: "", state: "", owner: "", tag: "" });
  const columns = [
    { word: "id", show: (found) => [h("a", { href: link(found) }, found.id), found.name && h("div", { class: "soft" }, cut(found.name))] },
    { word: "kind", show: (found) => h("span", { class: "whole" }, t(found.kind)) }, { word: "state", show: (found) => standing({ state: found.state, is_expired: isOver(found.state_until) })[0] },
    { word: "history", show: (found) => pasts(found).slice(0, 2).map((stats) => h("div", {}, strip(stats))) },
    { word: "typical", show: (found) => (pasts(found)[0]?.p50 > 0 ? span(pasts(found)[0].p50) : ""), isNumber: true },
    { word: "tags", show: tags }, { word: "retries", show: retriesOf, isLong: true }, { word: "owner", show: (found) => found.owner || "" },
  ];
  const cases = paged((next) => get(query("/v1/testcases", { ...filter, history: true, next, limit: 50 })), (items) => table(columns, items, { empty: t("no_cases"), open: link }), kept("cases_seen", SEEN));
  const search = searchInput(view, filter, () => cases.refresh());
  const states = ["", "enabled", "muted", "skipped"];
  const choose = filterChoice("state", "state", filter, states.map((state) => [state, t(state || "all")]), () => cases.refresh());
  const narrow = ["owner", "tag"].map((name) => filterInput(view, name, filter, () => cases.refresh()));
  const fresh = { id: "", kind: "http", url: "http://", output: "ok", timeout_ms: 60000 };
  const create = h("button", { type: "button", click: () => edit("new_case", "/v1/testcases", fresh, cases.refresh) }, t("new_case"));
  view.show(h("div", { class: "head" }, h("h1", {}, t("cases")), h("span", { class: "grow" }), search, narrow, choose, h("a", { class: "button", href: "#/slowest" }, t("slowest")), create, h("button", { type: "button", class: "main", "data-submit": true, click: () => openSubmit() }, t("submit"))), cases.place);
  refreshed(view, cases, 5000, 50);
}

const isOver = (until) => Boolean(until) && Date.parse(until) <= Date.now();

/** The run since which a case fails, when that was, and the revision of its first failure. */
function failsSince(stats) {
  if (!stats?.failing_run) return "";
  return [h("a", { class: "mono", href: `#/runs/${part(stats.failing_run)}` }, stats.failing_run), h("div", { class: "soft" }, moment(stats.failing_since), stats.failing_revision && ` · ${t("revision", stats.failing_revision)}`)];
}

/** Where a number is going, in a word. */
function trendWord(trend) {
  const [word, share] = typeof trend === "string" ? [trend, null] : Object.entries(trend || { unknown: null })[0];
  return share === null ? t(`trend_${word}`) : t(`trend_${word}`, percent(share));
}

/** As columns side by side. */
const DURATIONS_SHOWN = 32;

/** The last durations as columns, the oldest first, with where they are going. */
function durations(times = [], trend) {
  if (times.length === 0) return "";
  const most = Math.max(1, ...times);
  const bars = times.slice(-DURATIONS_SHOWN).map((ms) => { const one = h("i"); one.style.height = `${Math.max(4, (ms / most) * 100)}%`; return one; });
  const word = trendWord(trend);
  return [h("span", { class: "spark", role: "img", "aria-label": word, title: t("spark", number(times.length), span(Math.min(...times)), span(most)) }, bars), h("div", { class: "soft" }, word)];
}

/** Cases by the time that they take. */
export function slowest(view) {
  const columns = [
    { word: "case", show: (found) => h("a", { href: `#/cases/${part(found.case)}` }, found.case) }, { word: "environment", show: (found) => found.environment },
    { word: "p90", show: (found) => span(found.p90), isNumber: true }, { word: "p50", show: (found) => span(found.p50), isNumber: true },
    { word: "tasks", show: (found) => number(found.n), isNumber: true }, { word: "durations", show: (found) => durations(found.durations, found.trend) },
  ];
  const list = paged((next) => get(query("/v1/slowest", { next, limit: 100 })), (items) => table(columns, items, { empty: t("no_cases"), open: (found) => `#/cases/${part(found.case)}` }));
  view.show(h("div", { class: "head" }, h("h1", {}, t("slowest")), h("span", { class: "grow" }), h("a", { class: "button", href: "#/cases" }, t("cases"))), list.place);
  refreshed(view, list, 5000, 100);
}

export async function one(view, id) {
  const path = `/v1/testcases/${part(id)}`;
  const load = () => Promise.all([get(path), get(`${path}/history`)]);
  const [found, past] = await load();
  const again = () => one(view, id);
  const seen = JSON.stringify([found, past]);
  view.stop();
  view.every(5000, async () => {
    const main = document.getElementById("main");
    const now = isIdle(main) && await load().catch(() => null);
    if (now && JSON.stringify(now) !== seen && isIdle(main)) await again();
  });
  const remove = async () => {
    if (!await sure(t("sure", id), t("delete"))) return;
    await send("DELETE", path);
    location.hash = "#/cases";
  };
  const places = [...new Set([...Object.keys(past.stats), ...Object.keys(past.results)])];
  const columns = [
    { word: "environment", show: (place) => (place === "-" ? t("none") : place) }, { word: "history", show: (place) => strip(past.stats[place]) },
    { word: "score", show: (place) => scored(past.scores?.[place]), isNumber: true },
    { word: "fails_since", show: (place) => failsSince(past.stats[place]) },
    { word: "result", show: (place) => past.results[place]?.code && statusPill(past.results[place].code) },
    { word: "run", show: (place) => past.results[place]?.run && [h("a", { class: "mono", href: `#/runs/${part(past.results[place].run)}` }, past.results[place].run), h("div", { class: "soft" }, moment(past.results[place].start))] },
    { word: "tasks", show: (place) => number(past.stats[place]?.n), isNumber: true }, { word: "passed", show: (place) => number(past.stats[place]?.pass), isNumber: true },
    { word: "failed", show: (place) => number(past.stats[place]?.fail), isNumber: true },
    { word: "p50", show: (place) => (past.stats[place]?.p50 > 0 ? span(past.stats[place].p50) : ""), isNumber: true }, { word: "p95", show: (place) => (past.stats[place]?.p95 > 0 ? span(past.stats[place].p95) : ""), isNumber: true },
    { word: "durations", show: (place) => durations(past.stats[place]?.durations, past.trends?.[place]) },
  ];
  const { version, ...definition } = found;
  view.show(
    h("div", { class: "head" }, h("h1", {}, id), h("span", {}, standing({ state: found.state, reason: found.state_reason, until: found.state_until, is_expired: isOver(found.state_until) })),
      found.owner && h("span", { class: "soft" }, `${t("owner")}: ${found.owner}`), retriesOf(found) && h("span", { class: "soft" }, `${t("retries")}: ${retriesOf(found)}`), h("span", { class: "grow" }),
      h("button", { type: "button", click: () => edit("edit", path, found, again, true) }, t("edit")), stateButtons(found, again),
      h("button", { type: "button", class: "danger", click: trying(remove) }, t("delete")), h("button", { type: "button", class: "main", "data-submit": true, click: () => openSubmit([id]) }, t("submit"))),
    h("h2", {}, t("history")), h("div", { class: "paper" }, table(columns, places, { empty: t("nothing_ran") })),
    h("h2", {}, t("definition"), h("span", { class: "soft" }, ` · ${t("version")} ${version}`)), h("pre", {}, JSON.stringify(definition, null, 2)));
}

/** What somebody has typed; what is wrong with it is the browser's to say. */
function readJson(text) {
  try { return JSON.parse(text); } catch (error) { throw new Error(wrong(`the body is not JSON: ${error.message}`)); }
}

/** A definition as JSON; what the service says of it stands below. */
function edit(word, path, found, done, isThere = false) {
  const text = h("textarea", { class: "mono", spellcheck: "false", "aria-label": t("definition") });
  // What came of its last check is no part of it.
  const { checked, ...definition } = found;
  text.value = JSON.stringify(definition, null, 2);
  const error = h("div", { class: "problem", role: "alert" });
  // What the page behind shows is not what there is.
  let isOld = false;
  const save = async () => {
    error.textContent = "";
    try {
      await send(isThere ? "PUT" : "POST", path, readJson(text.value));
      closeDialog();
      say(t("saved"));
      done();
    } catch (problem) {
      error.textContent = problem.message;
      if (!isThere || problem.status !== 409) return;
      // What was typed is not lost: it may replace what somebody else has saved, which is said.
      const now = await get(path).catch(() => null);
      // Something else stands against it: to say which version is meant changes nothing.
      if (!now || now.version === JSON.parse(text.value).version) return;
      isOld = true;
      text.value = JSON.stringify({ ...JSON.parse(text.value), version: now.version }, null, 2);
      error.textContent += `\n${t("save_over", now.version)}`;
    }
  };
  dialog(t(word), text, error, h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), h("button", { type: "button", class: "main", click: save }, t("save")))).then(() => isOld && done());
  text.focus();
}

export function environments(view) {
  const columns = [
    { word: "id", show: (found) => [found.id, found.name && h("div", { class: "soft" }, found.name)] },
    { word: "health", show: (found) => [pill(found.health), found.state === "reserved" && h("div", {}, pill("paused", t("reserved"))), found.health_reason && h("div", { class: "soft" }, found.health_reason)] },
    { word: "last_check", show: (found) => (found.check ? (found.checked ? [ago(found.checked.checked), h("div", { class: "soft" }, found.checked.duration_ms > 0 ? span(found.checked.duration_ms) : `< ${span(1)}`)] : t("never")) : "") },
    { word: "next_check", show: (found) => (found.check ? moment(found.checked?.next) : "") },
    { word: "capacity", show: (found) => found.capacity ?? "", isNumber: true }, { word: "labels", show: (found) => labels(found.labels) },
    { word: "config", show: (found) => h("span", { class: "mono soft" }, JSON.stringify(found.config)) },
    { word: "actions", show: (found) => {
      const path = `/v1/environments/${part(found.id)}`;
      const patch = async (fields) => { try { await send("PATCH", path, { ...fields, version: found.version }); } finally { list.refresh(); } };
      const close = () => ask(t("sure_maintenance", found.id), t("start_maintenance"), (reason) => patch({ health: "maintenance", health_reason: reason }));
      const reopen = trying(() => patch({ health: "unknown", health_reason: null }));
      const isMaintained = found.health === "maintenance";
      const check = async () => { say((await send("POST", `${path}/check`)).message || t("checked")); list.refresh(); };
      const remove = async () => {
        if (!await sure(t("sure_delete_environment", found.id), t("delete"))) return;
        try { await send("DELETE", path, {}, found.version); } finally { list.refresh(); }
      };
      const button = (word, click, kind) => h("button", { type: "button", class: kind, click }, t(word));
      return h("div", { class: "row" }, found.check && button("check_now", trying(check)), button("edit", () => edit("edit", path, found, list.refresh, true)),
        isMaintained ? button("end_maintenance", reopen) : button("start_maintenance", close), button("delete", trying(remove), "danger"));
    } },
  ];
  const list = paged((next) => get(query("/v1/environments", { checks: true, next, limit: 100 })), (items) => table(columns, items, { empty: t("no_environments") }));
  const fresh = { id: "", config: { base: "http://" } };
  const create = h("button", { type: "button", class: "main", click: () => edit("new_environment", "/v1/environments", fresh, list.refresh) }, t("new_environment"));
  view.show(h("div", { class: "head" }, h("h1", {}, t("environments")), h("span", { class: "grow" }), create), list.place);
  refreshed(view, list, 5000, 100);
}
