// Cases that come and go, and how a case is muted, skipped and enabled again.

import { get, part, query, send } from "./api.js";
import { ask, h, number, paged, pill, refreshed, say, strip, table, trying } from "./parts.js";
import { t } from "./words.js";

const DAY_MS = 24 * 60 * 60 * 1000;

/** How a case stands: its state, why, and until when. */
export function standing({ state, reason, until, is_expired: isExpired }) {
  if (state === "enabled") return [pill("enabled")];
  const end = until ? t("until", until.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")) : t("for_ever");
  return [pill(isExpired ? "enabled" : state, isExpired ? `${t(state)} (${t("expired")})` : t(state)), h("div", { class: "soft" }, [reason, end].filter(Boolean).join(" · "))];
}

/** Buttons that change how a case stands, from the version that is shown to the next; `done` draws what is then. */
export function stateButtons({ id, version, state }, done) {
  const change = async (fields) => {
    try {
      await send("PATCH", `/v1/testcases/${part(id)}`, { ...fields, version });
      say(t("saved"));
    } finally {
      // Also if somebody else has changed it: then it is shown as it is now.
      done();
    }
  };
  const apart = (word, next) => h("button", { type: "button", click: () => {
    const days = h("input", { type: "number", min: "1", max: "3650", step: "1" });
    const save = (reason) => change({ state: next, state_reason: reason, state_until: days.value ? new Date(Date.now() + Number(days.value) * DAY_MS).toISOString() : null });
    ask(t(next === "muted" ? "sure_mute" : "sure_skip", id), t(word), save, h("label", { class: "field" }, h("span", {}, t("days_label")), days));
  } }, t(word));
  const enable = () => change({ state: "enabled", state_reason: null, state_until: null });
  return [
    state !== "muted" && apart("mute", "muted"), state !== "skipped" && apart("skip_case", "skipped"),
    state !== "enabled" && h("button", { type: "button", click: trying(enable) }, t("enable")),
  ].filter(Boolean);
}

/** A score with what it was counted from. */
export function scored(score) {
  if (!score?.comparisons) return "";
  return h("span", { title: t("changes", number(score.changes), number(score.comparisons)) }, score.is_flaky ? pill("flaky", score.score.toFixed(2)) : score.score.toFixed(2));
}

export function flakyCases(view) {
  const columns = [
    { word: "case", show: (found) => [h("a", { href: `#/cases/${part(found.case)}` }, found.case), found.name && h("div", { class: "soft" }, found.name)] },
    { word: "environment", show: (found) => (found.environment && found.environment !== "-" ? found.environment : t("none")) },
    { word: "score", show: (found) => scored(found), isNumber: true },
    { word: "history", show: (found) => strip(found.stats) },
    { word: "state", show: (found) => [standing(found), found.state === "muted" && found.has_recovered && pill("good", t("recovered"))] },
    { word: "owner", show: (found) => found.owner || "" },
    { word: "actions", show: (found) => (found.version ? h("div", { class: "row" }, stateButtons({ id: found.case, ...found }, list.refresh)) : "") },
  ];
  const list = paged((next) => get(query("/v1/flaky", { next, limit: 100 })), (items) => table(columns, items, { empty: t("no_flaky") }));
  view.show(h("div", { class: "head" }, h("h1", {}, t("flaky_cases"))), list.place);
  refreshed(view, list, 5000, 100);
}
