// Workers, tags with their holders, and queues.

import { get, part, query, send } from "./api.js";
import { ago, ask, h, labels, number, paged, pill, refreshed, say, span, sure, table, taskLink, tasksWord, trying, workerName } from "./parts.js";
import { t } from "./words.js";

const toRun = (run) => h("a", { class: "mono", href: `#/runs/${part(run)}` }, run);

/** Tasks of a worker that are named. */
const TASKS_NAMED = 8;
/** Tasks whose names are asked for at once; the others are asked for next time. */
const ASKED_MAX = 20;

/** What a worker says that it runs. */
const runningOf = (found) => (Array.isArray(found.running) ? found.running : found.running?.running || []).map(([run, lane, ordinal, , since]) => ({ run, lane, ordinal, since }));

/** What lanes of runs are called. */
class Names {
  known = new Map();

  of({ run, lane, ordinal }) {
    const name = this.known.get(`${run}/${lane}`);
    return name ? `${name} #${ordinal}` : `${run} ${lane} #${ordinal}`;
  }

  async learn(tasks) {
    const unknown = new Map(tasks.map((task) => [`${task.run}/${task.lane}`, task]).filter(([lane]) => !this.known.has(lane)));
    await Promise.all([...unknown].slice(0, ASKED_MAX).map(async ([lane, { run, lane: number_, ordinal }]) => {
      // Who may see workers need not see runs.
      const found = await get(`/v1/runs/${part(run)}/tasks/${number_}/${ordinal}`).catch(() => null);
      if (found) this.known.set(lane, found.task.environment ? `${found.task.case} @ ${found.task.environment}` : found.task.case);
    }));
  }
}

export function workers(view) {
  const drain = (found) => trying(async () => {
    if (!await sure(t("sure_drain", found.name), t("drain"))) return;
    await send("POST", `/v1/instances/${part(found.name)}/drain`);
    say(t("asked"));
    list.refresh();
  });
  const columns = [
    { word: "worker", show: (found) => [h("b", {}, found.name), found.url !== found.name && h("div", { class: "soft mono" }, found.url || "")] },
    { word: "state", show: (found) => (found.draining ? pill("paused", t("draining")) : found.resting ? h("span", {}, pill("paused", t("resting")), " ", h("span", { class: "soft" }, found.resting.why)) : found.task_num > 0 ? pill("running") : pill("good", t("deadline"))) },
    { word: "has_tasks", show: (found) => number(found.task_num), isNumber: true }, { word: "slots", show: (found) => number(found.max_task_num), isNumber: true },
    { word: "labels", show: (found) => labels(found.labels) },
    { word: "lease", show: (found) => (found.lease ? h("span", { title: t("lease_why") }, t("of", `${found.lease.left_s} s`, `${found.lease.granted_s} s`)) : ""), isNumber: true },
    { word: "runs_here", show: (found) => [runningOf(found).slice(0, TASKS_NAMED).map((task) => h("div", {}, h("a", { href: taskLink(task.run, task) }, names.of(task)), h("span", { class: "soft" }, " ", task.since > 0 && ago(task.since)))),
      runningOf(found).length > TASKS_NAMED && h("div", { class: "soft" }, t("lanes_more", number(runningOf(found).length - TASKS_NAMED)))], isLong: true },
    { word: "runs", show: (found) => [...new Set(found.claims.map((claim) => claim.run))].map((run) => h("div", {}, toRun(run))) },
    { word: "tags", show: (found) => [...new Set(found.claims.flatMap((claim) => (claim.tags || []).map((tag) => tag.replace(/\/\d+$/, ""))))].join(", ") },
    { word: "drain", show: (found) => !found.draining && h("button", { type: "button", click: drain(found) }, t("drain")) },
  ];
  const names = new Names();
  const load = async (next) => {
    const page = await get(query("/v1/instances", { next, limit: 100 }));
    await names.learn(page.items.flatMap((found) => runningOf(found).slice(0, TASKS_NAMED)));
    return page;
  };
  const list = paged(load, (items) => table(columns, items, { empty: t("no_workers") }));
  view.show(h("div", { class: "head" }, h("h1", {}, t("workers"))), list.place);
  refreshed(view, list, 2000, 100);
}

/** A tag as it was named, with its scope. */
function named(tag) {
  const [name, scope, of] = tag.split("/");
  if (!scope) return h("b", {}, name);
  return [h("b", {}, name), h("div", { class: "soft" }, scope === "env" ? of : h("span", {}, `${t("run")} `, toRun(of || scope)))];
}

export function tags(view) {
  const release = (found) => ask(t("sure_release", found.tag), t("release"), async (reason) => {
    await send("POST", `/v1/tags/${part(found.tag)}/release`, { reason });
    say(t("asked"));
    list.refresh();
  });
  const columns = [
    { word: "tag", show: (found) => named(found.tag) },
    { word: "held", show: (found) => t("of", number(found.held), number(found.capacity)), isNumber: true },
    { word: "holders", show: (found) => found.holders.map((held) => h("div", {}, workerName(held.worker), " ", held.case || "", " ", toRun(held.run), h("span", { class: "soft" }, " ", held.since_ms ? ago(held.since_ms) : t("revision", held.since)), held.draining && [" ", pill("08", t("s08"))])) },
    { word: "waiters", show: (found) => [
      found.waiting_lanes > 0 && h("div", {}, h("b", {}, tasksWord(found.waiting_tasks))),
      found.waiters.slice(0, 5).map((waiting) => h("div", {}, `${waiting.case} · ${tasksWord(waiting.tasks)} `, toRun(waiting.run), h("span", { class: "soft" }, " ", ago(waiting.since)))),
      found.waiting_lanes > 5 && h("div", { class: "soft" }, t("lanes_more", number(found.waiting_lanes - 5))),
    ] },
    { word: "longest_wait", show: (found) => (found.waits_since ? span(Date.now() - found.waits_since) : ""), isNumber: true },
    { word: "actions", show: (found) => found.held > 0 && h("button", { type: "button", class: "danger", click: () => release(found) }, t("release")) },
  ];
  const list = paged(() => get("/v1/tags"), (items) => table(columns, items, { empty: t("no_tags") }));
  view.show(h("div", { class: "head" }, h("h1", {}, t("tags"))), list.place);
  refreshed(view, list, 2000, 1000);
}

const DEFAULT = "default";

export function queues(view) {
  const toggle = (found) => trying(async () => {
    const { weight, limit, runs_max } = found;
    await send("PUT", `/v1/queues/${part(found.queue)}`, { weight, ...(limit && { limit }), ...(runs_max && { runs_max }), paused: !found.paused });
    list.refresh();
  });
  const columns = [
    { word: "queue", show: (found) => h("b", {}, found.queue) }, { word: "weight", show: (found) => number(found.weight), isNumber: true },
    { word: "limit", show: (found) => found.limit ?? "", isNumber: true }, { word: "runs_max", show: (found) => found.runs_max ?? "", isNumber: true },
    { word: "state", show: (found) => (found.paused ? pill("paused") : pill("good", t("open"))) },
    { word: "pause", show: (found) => h("button", { type: "button", click: toggle(found) }, t(found.paused ? "resume" : "pause")) },
  ];
  // Runs that name no queue are in this one, whether or not somebody has set it.
  const load = async () => {
    const page = await get("/v1/queues");
    return page.items.some((found) => found.queue === DEFAULT) ? page : { ...page, items: [{ queue: DEFAULT, weight: 1, paused: false }, ...page.items] };
  };
  const list = paged(load, (items) => table(columns, items, { empty: t("no_queues") }));
  view.show(h("div", { class: "head" }, h("h1", {}, t("queues"))), list.place);
  refreshed(view, list, 5000, 1000);
}
