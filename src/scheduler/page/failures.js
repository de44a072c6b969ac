// Failures of a run: those that are alike together, what differs from another run, and the report as a file.

import { download, get, part, query } from "./api.js";
import { failure } from "./task.js";
import { h, kept, mutedPill, number, paged, pill, problem, runLink, SEEN, span, statusPill, table, trying } from "./parts.js";
import { t } from "./words.js";

const RUNS_MAX = 50;

/** Fills a place; what it returns draws it again. */
export function failures(place, run, pasts) {
  const path = `/v1/runs/${part(run.run)}`;
  const groups = h("div", { class: "paper" });
  const draw = async () => {
    // What somebody has opened is not pulled from under him.
    if (groups.querySelector("details[open]")) return;
    try {
      const found = await get(`${path}/failures`);
      if (groups.querySelector("details[open]")) return;
      const shown = found.items.map((group) => groupOf(run.run, group, pasts));
      const more = found.groups > found.items.length && h("p", { class: "soft pad" }, t("groups_more", number(found.items.length), number(found.groups)));
      groups.replaceChildren(...(shown.length > 0 ? shown : [h("div", { class: "empty" }, t("no_failures"))]), ...(more ? [more] : []));
    } catch (error) { groups.replaceChildren(problem(error)); }
  };
  const { bar, difference } = comparison(path, run);
  place.replaceChildren(h("div", { class: "head" }, bar, h("span", { class: "grow" }), downloads(path, run.run)), difference, groups);
  draw();
  return draw;
}

/** Links to the report in each of its forms. */
function downloads(path, run) {
  const forms = [["HTML", "html", "html"], ["JUnit", "junit", "xml"], ["JSON", "json", "json"]];
  const links = forms.map(([word, form, ending]) => {
    const address = `${path}/report?form=${form}`;
    const name = `run-${run}.${ending}`;
    // A plain link would not show who asks.
    return h("a", { class: "button", href: address, download: name, click: trying(async (event) => { event.preventDefault(); await download(address, name); }) }, word);
  });
  return h("div", { class: "row center", role: "group", "aria-label": t("download") }, h("span", { class: "soft" }, t("download")), links);
}

const kindPill = (kind) => h("span", { class: `pill kind-${kind}`, title: t("kind_why") }, t(`kind_${kind}`));

function groupOf(run, group, pasts) {
  const inside = h("div");
  const open = (event) => {
    if (event.target !== details || !details.open || inside.hasChildNodes()) return;
    const filter = { status: "failures", fingerprint: group.fingerprint };
    const list = paged((next) => get(query(`/v1/runs/${part(run)}/tasks`, { ...filter, next, limit: 50 })), (items) => h("div", {}, items.map((item) => failure(run, item, pasts.get(`${item.lane}/${item.ordinal}`)))), kept("failures_seen", SEEN));
    inside.replaceChildren(list.place);
  };
  const names = group.lanes.slice(0, 3).map((lane) => (lane.environment ? `${lane.case} @ ${lane.environment}` : lane.case));
  if (group.lanes_total > names.length) names.push(t("lanes_more", number(group.lanes_total - names.length)));
  const details = h("details", { class: "failure group", toggle: open },
    h("summary", {}, h("b", { class: "num" }, number(group.tasks)), kindPill(group.kind),
      Object.entries(group.statuses).map(([code, count]) => h("span", {}, statusPill(code), h("span", { class: "soft" }, ` ${number(count)}`))),
      group.is_flaky && pill("flaky"), group.muted > 0 && [mutedPill(null), h("span", { class: "soft" }, number(group.muted))], h("span", { class: "message", title: group.message }, group.message || t("no_message")), h("span", { class: "soft names" }, names.join(", "))),
    inside);
  return details;
}

/** A choice of another run, or of this one as it was at a revision, and a place for what differs. */
function comparison(path, run) {
  const difference = h("div");
  const choose = h("select", { "aria-label": t("compare"), change: () => { named.value = ""; compare(); } }, h("option", { value: "" }, "—"));
  const named = h("input", { class: "short", "aria-label": t("other_run"), placeholder: t("other_run"), change: () => compare() });
  const at = h("input", { class: "short", type: "number", min: "1", "aria-label": t("at_revision"), placeholder: t("at_revision"), change: () => compare() });
  const compare = async () => {
    const other = named.value.trim() || choose.value || (at.value && run.run);
    if (!other) return difference.replaceChildren();
    try {
      return difference.replaceChildren(shown(await get(query(`${path}/compare`, { with: other, at: at.value }))), h("h2", {}, t("failures")));
    } catch (error) { return difference.replaceChildren(problem(error)); }
  };
  get(`/v1/runs?state=ended&limit=${RUNS_MAX}`).then((page) => {
    const others = page.items.filter((other) => other.run !== run.run);
    // Those of the same name first: they are what it is most like.
    others.sort((a, b) => (b.name === run.spec.name) - (a.name === run.spec.name));
    const before = run.spec.rerun_of;
    if (before && !others.some((other) => other.run === before)) others.unshift({ run: before });
    const option = (other) => h("option", { value: other.run }, [other.name?.slice(0, 80), other.run, other.state && t(other.state)].filter(Boolean).join(" · "));
    choose.append(...others.map(option));
    if (others.length === 0) choose.replaceChildren(h("option", { value: "" }, t("compare_none")));
  }).catch(() => {});
  return { bar: h("div", { class: "row center" }, h("label", {}, h("span", { class: "soft" }, t("compare"), " "), choose), named, at), difference };
}

const MARKS = { broken: "03", fixed: "02", slower: "paused", quicker: "02", added: "00", gone: "06" };

function shown(found) {
  const rows = Object.keys(MARKS).flatMap((what) => found[what].map((row) => ({ what, ...row })));
  const columns = [
    { word: "what", show: (row) => pill(MARKS[row.what], t(row.what)) },
    { word: "case", show: (row) => h("a", { href: `#/cases/${part(row.case)}` }, row.case) },
    { word: "environment", show: (row) => row.environment },
    { word: "median", show: (row) => (row.before_ms === undefined ? "" : `${span(row.before_ms)} → ${span(row.after_ms)}`), isNumber: true },
  ];
  const counts = Object.keys(MARKS).filter((what) => found[what].length > 0).map((what) => pill(MARKS[what], `${t(what)} ${number(found[what].length)}`));
  return h("div", {}, h("div", { class: "legend" }, counts, h("a", { class: "mono", href: runLink({ run: found.with }) }, found.with), found.at && h("span", { class: "soft" }, t("revision", found.at))), h("h2"),
    h("div", { class: "paper" }, table(columns, rows, { empty: t("no_difference") })));
}
