// Test cases and environments: lists, one of them, and their definitions as they are edited.

import { get, part, query, send } from "./api.js";
import { openSubmit } from "./submit.js";
import { closeDialog, dialog, h, labels, moment, number, paged, pill, say, span, statusPill, strip, sure, table, trying } from "./parts.js";
import { t } from "./words.js";

const link = (found) => `#/cases/${part(found.id)}`;
const tags = (found) => (found.mutual_tag || []).map((used) => used.tag).join(", ");
const pasts = (found) => Object.values(found.stats || {});

export function list(view) {
  const filter = { text: "", state: "" };
  const columns = [
    { word: "id", show: (found) => [h("a", { href: link(found) }, found.id), found.name && h("div", { class: "soft" }, found.name)] },
    { word: "kind", show: (found) => t(found.kind) }, { word: "state", show: (found) => pill(found.state) },
    { word: "history", show: (found) => pasts(found).slice(0, 2).map((stats) => h("div", {}, strip(stats))) },
    { word: "typical", show: (found) => (pasts(found)[0]?.n ? span(pasts(found)[0].p50) : ""), isNumber: true },
    { word: "tags", show: tags }, { word: "owner", show: (found) => found.owner || "" },
  ];
  const cases = paged((next) => get(query("/v1/testcases", { ...filter, history: true, next, limit: 50 })), (items) => table(columns, items, { empty: t("no_cases"), open: link }));
  const search = h("input", { type: "search", placeholder: t("search"), "aria-label": t("search"), "data-search": true, input: view.debounce((event) => { filter.text = event.target.value; cases.refresh(); }) });
  const states = ["", "enabled", "muted", "skipped"];
  const choose = h("select", { "aria-label": t("state"), change: (event) => { filter.state = event.target.value; cases.refresh(); } }, states.map((state) => h("option", { value: state }, t(state || "all"))));
  const fresh = { id: "", kind: "http", url: "http://", output: "", timeout_ms: 60000 };
  const create = h("button", { type: "button", click: () => edit("new_case", "/v1/testcases", fresh, cases.refresh) }, t("new_case"));
  view.show(h("div", { class: "head" }, h("h1", {}, t("cases")), h("span", { class: "grow" }), search, choose, create, h("button", { type: "button", class: "main", "data-submit": true, click: () => openSubmit() }, t("submit"))), cases.place);
}

export async function one(view, id) {
  const path = `/v1/testcases/${part(id)}`;
  const [found, past] = await Promise.all([get(path), get(`${path}/history`)]);
  const again = () => one(view, id);
  const mute = async () => {
    try {
      await send("PATCH", path, { state: found.state === "enabled" ? "muted" : "enabled", version: found.version });
    } finally {
      // Also if somebody else has changed it: then it is shown as it is now.
      again();
    }
  };
  const remove = async () => {
    if (!await sure(t("sure", id), t("delete"))) return;
    await send("DELETE", path);
    location.hash = "#/cases";
  };
  const places = [...new Set([...Object.keys(past.stats), ...Object.keys(past.results)])];
  const columns = [
    { word: "environment", show: (place) => (place === "-" ? t("none") : place) }, { word: "history", show: (place) => strip(past.stats[place]) },
    { word: "result", show: (place) => past.results[place]?.code && statusPill(past.results[place].code) },
    { word: "run", show: (place) => past.results[place]?.run && h("a", { class: "mono", href: `#/runs/${part(past.results[place].run)}` }, past.results[place].run) },
    { word: "started", show: (place) => moment(past.results[place]?.start) },
    { word: "tasks", show: (place) => number(past.stats[place]?.n), isNumber: true }, { word: "passed", show: (place) => number(past.stats[place]?.pass), isNumber: true },
    { word: "failed", show: (place) => number(past.stats[place]?.fail), isNumber: true },
    { word: "p50", show: (place) => span(past.stats[place]?.p50), isNumber: true }, { word: "p90", show: (place) => span(past.stats[place]?.p90), isNumber: true },
  ];
  const { version, ...definition } = found;
  view.show(
    h("div", { class: "head" }, h("h1", {}, id), pill(found.state), found.state_reason && h("span", { class: "soft" }, found.state_reason), h("span", { class: "grow" }),
      h("button", { type: "button", click: () => edit("edit", path, found, again, true) }, t("edit")), h("button", { type: "button", click: trying(mute) }, t(found.state === "enabled" ? "mute" : "unmute")),
      h("button", { type: "button", class: "danger", click: trying(remove) }, t("delete")), h("button", { type: "button", class: "main", "data-submit": true, click: () => openSubmit([id]) }, t("submit"))),
    h("h2", {}, t("history")), h("div", { class: "paper" }, table(columns, places, { empty: t("nothing_ran") })),
    h("h2", {}, t("definition"), h("span", { class: "soft" }, ` · ${t("version")} ${version}`)), h("pre", {}, JSON.stringify(definition, null, 2)));
}

/** A definition as JSON; what the service says of it stands below. */
function edit(word, path, found, done, isThere = false) {
  const text = h("textarea", { class: "mono", spellcheck: "false", "aria-label": t("definition") });
  text.value = JSON.stringify(found, null, 2);
  const error = h("div", { class: "problem", role: "alert" });
  const save = async () => {
    error.textContent = "";
    try {
      await send(isThere ? "PUT" : "POST", path, JSON.parse(text.value));
      closeDialog();
      say(t("saved"));
      done();
    } catch (problem) { error.textContent = problem.message; }
  };
  dialog(t(word), text, error, h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), h("button", { type: "button", class: "main", click: save }, t("save"))));
  text.focus();
}

export function environments(view) {
  const columns = [
    { word: "id", show: (found) => [found.id, found.name && h("div", { class: "soft" }, found.name)] },
    { word: "health", show: (found) => [pill(found.health), found.state === "reserved" && h("div", {}, pill("paused", t("reserved"))), found.health_reason && h("div", { class: "soft" }, found.health_reason)] },
    { word: "capacity", show: (found) => found.capacity ?? "", isNumber: true }, { word: "labels", show: (found) => labels(found.labels) },
    { word: "config", show: (found) => h("span", { class: "mono soft" }, JSON.stringify(found.config)) },
    { word: "edit", show: (found) => {
      const path = `/v1/environments/${part(found.id)}`;
      const isMaintained = found.health === "maintenance";
      const toggle = async () => { await send("PATCH", path, { health: isMaintained ? "unknown" : "maintenance", version: found.version }); list.refresh(); };
      const check = async () => { say((await send("POST", `${path}/check`)).message || t("checked")); list.refresh(); };
      return [found.check && [h("button", { type: "button", click: trying(check) }, t("check_now")), " "], h("button", { type: "button", click: () => edit("edit", path, found, list.refresh, true) }, t("edit")), " ", h("button", { type: "button", click: trying(toggle) }, t(isMaintained ? "end_maintenance" : "start_maintenance"))];
    } },
  ];
  const list = paged((next) => get(query("/v1/environments", { next, limit: 100 })), (items) => table(columns, items, { empty: t("no_environments") }));
  const fresh = { id: "", config: { base: "http://" } };
  const create = h("button", { type: "button", class: "main", click: () => edit("new_environment", "/v1/environments", fresh, list.refresh) }, t("new_environment"));
  view.show(h("div", { class: "head" }, h("h1", {}, t("environments")), h("span", { class: "grow" }), create), list.place);
}
