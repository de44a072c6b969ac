// Runs: the list.

import { get, query } from "./api.js";
import { openSubmit } from "./submit.js";
import { bar, cut, endedOf, filterChoice, filterInput, h, kept, moment, number, paged, percent, pill, refreshed, runLink, searchInput, SEEN, table, took } from "./parts.js";
import { t } from "./words.js";

export function list(view) {
  const filter = kept("runs", { state: "", text: "", owner: "" });
  const columns = [
    { word: "run", show: (run) => [h("a", { href: runLink(run), class: "mono" }, run.run), run.name && h("div", { class: "soft" }, cut(run.name))] },
    { word: "state", show: (run) => pill(run.state) },
    { word: "progress", show: (run) => bar(run.totals) },
    { word: "tasks", show: (run) => endedOf(run.totals), isNumber: true },
    { word: "retries", show: (run) => (run.retries === undefined ? "" : number(run.retries)), isNumber: true },
    { word: "efficiency", show: (run) => (run.efficiency === undefined ? "" : percent(run.efficiency)), isNumber: true },
    { word: "started", show: (run) => moment(run.started) },
    { word: "time", show: took, isNumber: true },
    { word: "queue", show: (run) => run.queue },
    { word: "owner", show: (run) => run.owner || "" },
  ];
  const runs = paged((next) => get(query("/v1/runs", { ...filter, next, limit: 50 })), (items) => table(columns, items, { empty: t("no_runs"), open: runLink }), kept("runs_seen", SEEN));
  const states = ["", "open", "passed", "failed", "canceled", "incomplete"];
  const choose = filterChoice("state", "state", filter, states.map((state) => [state, t(state || "all")]), () => runs.refresh());
  const search = searchInput(view, filter, () => runs.refresh());
  const submit = h("button", { type: "button", class: "main", "data-submit": true, click: () => openSubmit() }, t("submit"));
  const owner = filterInput(view, "owner", filter, () => runs.refresh());
  view.show(h("div", { class: "head" }, h("h1", {}, t("runs")), h("span", { class: "grow" }), search, owner, choose, submit), runs.place);
  refreshed(view, runs, 2000, 50);
}
