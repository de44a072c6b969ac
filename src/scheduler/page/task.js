// One task with its attempts, and what attempts said.

import { get, part, send } from "./api.js";
import { h, holder, isPeople, labels, moment, mutedPill, number, pill, runLink, say, span, statusPill, taskLink, taskPill, trying, workerName } from "./parts.js";
import { told } from "./told.js";
import { language, t } from "./words.js";

/** Between two looks at a task that has not ended. */
const LOOK_MS = 2000;

/** What was known of it before: a word, or the run since which it fails. */
function pastPill(past) {
  if (!past) return null;
  return past.known ? h("a", { class: "soft", href: `#/runs/${part(past.known)}` }, t("known_since", past.known)) : pill(past === "new" ? "failed" : "flaky", t(past));
}

const attemptWord = (attempt, worker) => (isPeople(worker) ? t("attempt_person", attempt) : t("attempt", attempt, worker));

/** A failed task of a run; `past` is what its report says was known of it. */
export function failure(run, task, past) {
  const detail = task.detail || {};
  const title = h("summary", {}, statusPill(task.status), h("b", {}, task.case), pastPill(past), task.is_muted && mutedPill(task.muted),
    task.environment && h("span", { class: "soft" }, task.environment),
    h("span", { class: "soft" }, `${t("repeat")} #${task.ordinal}`), task.attempts > 1 && h("span", { class: "soft" }, `${t("attempts")} ${task.attempts}`),
    h("span", { class: "message" }, detail.message || ""), h("span", { class: "soft" }, workerName(task.worker || "")));
  const links = h("div", { class: "row center" }, h("a", { href: taskLink(run, task) }, t("task_page")), h("a", { href: `#/cases/${part(task.case)}` }, `${t("case")} ${task.case}`));
  return h("details", { class: "failure" }, title, h("div", {}, links, outputs(detail, task.worker)));
}

/** Opens the whole of an output at the worker that has it. */
async function openArtifact(worker, digest) {
  const found = await get(`/v1/instances/${part(worker)}`);
  if (!found.artifacts) throw new Error(t("not_served", worker));
  location.assign(`${found.artifacts}/${part(digest)}`);
}

/** What is said of an output behind its name, the longer endings first. */
const ENDINGS = ["_artifact_bytes", "_bytes", "_tail"];

/** A field of what an attempt said, in words where they are known. */
function fieldWord(name) {
  const ending = ENDINGS.find((found) => name.endsWith(found));
  if (ending) return t(`field${ending}`, fieldWord(name.slice(0, -ending.length)));
  const word = t(`field_${name}`);
  return word === `field_${name}` ? name : word;
}

function fieldText(name, value) {
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (typeof value === "number") return name.endsWith("_bytes") ? number(value) : String(value);
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

/** What an attempt said; `worker` serves what was too long for its record. */
function outputs(detail, worker) {
  const shown = [];
  for (const [name, value] of Object.entries(detail || {})) {
    if (value === null || value === "") continue;
    if (name.endsWith("_artifact") && worker) {
      shown.push(h("button", { type: "button", click: trying(() => openArtifact(worker, value)) }, t("whole", fieldWord(name.replace("_artifact", "")))));
      continue;
    }
    shown.push(h("div", {}, h("div", { class: "soft" }, fieldWord(name)), h("pre", {}, fieldText(name, value))));
  }
  return shown.length > 0 ? shown : [h("div", { class: "soft" }, t("none"))];
}

/** Whose turn it is: who runs it, or has it, or why nobody will. */
function standing(found, waits) {
  const { status, worker, since, reason, attempts, is_assigned: isAssigned } = found;
  if (status === "01") {
    return h("div", { class: "paper pad" }, h("div", { class: "head" }, statusPill(status), h("b", {}, attemptWord(attempts + 1, worker || "")), h("span", { class: "grow" }),
      since && h("span", { class: "soft" }, t("since_when"), " ", moment(since), " · ", span(Math.max(0, Date.now() - since)))));
  }
  if (isAssigned) return h("div", { class: "paper pad" }, pill("assigned", t("assigned_to", worker || "")));
  if (reason) return h("div", { class: "paper pad" }, statusPill(status), " ", told(reason));
  if (waits) return h("div", { class: "paper pad" }, statusPill(status), " ", told(waits.text), waits.holders?.map((held) => holder(held)));
  return attempts > 0 ? null : h("div", { class: "paper empty" }, t("nothing_ran"));
}

/** What is said when nobody has answered since a time. */
const silent = (heard, error) => h("div", { class: "paper pad problem", role: "alert" }, pill("lost", t("no_connection", new Date(heard).toLocaleTimeString(language)), error.message), " ", error.message);

export async function task(view, run, lane, ordinal) {
  const path = `/v1/runs/${part(run)}/tasks/${lane}/${ordinal}`;
  let found = await get(path);
  const values = found.case?.kind === "manual" && found.task.environment ? await get(`/v1/environments/${part(found.task.environment)}`).then((one) => one.config || {}, () => ({})) : {};
  const definition = found.case || {};
  const isOpen = () => ["00", "01"].includes(found.task.status);
  // Before, and when it is not its turn, nobody can give a verdict.
  const isAsked = () => definition.kind === "manual" && isOpen() && (found.task.is_assigned || found.task.status === "01");
  const head = h("div");
  const away = h("div", { class: "below" });
  let heard = Date.now();
  const now = h("div");
  const asked = h("div");
  const ended = h("div");
  let drawn = "";
  let waits;
  const draw = () => {
    now.replaceChildren(...[isAsked() ? null : standing(found.task, waits)].filter(Boolean), h("h2"));
    // What somebody reads or types is not taken from under him for nothing.
    const text = JSON.stringify(found);
    if (text === drawn) return;
    drawn = text;
    const { task } = found;
    head.replaceChildren(h("div", { class: "head" }, h("h1", {}, h("a", { href: `#/cases/${part(task.case)}` }, task.case), " ", h("span", { class: "soft" }, `${t("repeat")} #${task.ordinal}`)),
      task.environment && h("span", {}, h("span", { class: "soft" }, `${t("environment")} `), task.environment),
      taskPill(task), task.is_flaky && pill("flaky"), task.is_muted && mutedPill(task.muted),
      h("span", { class: "grow" }), h("a", { href: runLink({ run }), class: "mono" }, run)));
    ended.replaceChildren(...found.attempts.flatMap((attempt) => [h("div", { class: "paper pad" },
      h("div", { class: "head" }, statusPill(attempt.status), h("b", {}, attemptWord(attempt.attempt, attempt.worker)), h("span", { class: "grow" }),
        h("span", { class: "soft" }, typeof attempt.start === "number" ? [moment(attempt.start), " · ", span(attempt.duration / 1000)] : "")),
      outputs(attempt.detail, attempt.worker)), h("h2")]));
    if (!isAsked()) asked.replaceChildren();
    else if (!asked.hasChildNodes()) asked.append(verdict(`${path}/verdict`, look), h("h2"));
  };
  const learn = async () => {
    const isWaiting = found.task.status === "00" && !found.task.is_assigned;
    const lanes = isWaiting ? await get(`/v1/runs/${part(run)}/waiting`).then((all) => all.items, () => []) : [];
    waits = lanes.find((one) => one.lane === Number(lane));
    draw();
  };
  const look = async () => {
    found = await get(path);
    await learn();
  };
  await learn();
  if (definition.kind === "manual") {
    const steps = instructions(definition, values);
    view.show(head, away, steps, asked, now, ended, defined(definition));
  } else view.show(head, away, now, ended, defined(definition));
  const again = async () => {
    try {
      await look();
      heard = Date.now();
      away.replaceChildren();
    } catch (error) {
      // While nobody is heard, nothing is known of how long it has run.
      if (error.isPassing) away.replaceChildren(silent(heard, error));
    }
  };
  view.every(LOOK_MS, () => (isOpen() && !document.hidden ? again() : null));
}

const defined = (definition) => [h("h2", {}, t("definition")), h("pre", {}, JSON.stringify(definition, null, 2)),
  labels(definition.requires) && h("div", { class: "soft" }, labels(definition.requires))];

/** Names under which teams write what is done, and what should come of it. */
const DONE = ["step", "action", "do", "text", "name", "title", "description"];
const SHOULD = ["expected_result", "expected", "expect", "result", "output"];

/** Steps of a manual case as people read them, with the values of its environment. */
function instructions(definition, values) {
  const fill = (text) => String(text).replace(/\{\{\s*([\w.-]+)\s*\}\}/g, (whole, name) => {
    const value = name.split(".").reduce((inside, key) => inside?.[key], values);
    return value === undefined || value === null ? whole : typeof value === "object" ? JSON.stringify(value) : value;
  });
  const plain = (value) => (typeof value === "object" ? Object.entries(value).map(([name, inside]) => `${name}: ${typeof inside === "object" ? JSON.stringify(inside) : inside}`).join(", ") : String(value));
  const should = (value) => h("div", { class: "soft" }, `${t("expected")}: `, fill(Array.isArray(value) ? value.map(plain).join("; ") : plain(value)));
  const listed = (steps) => h("ol", { class: "steps" }, steps.filter((step) => step !== null && step !== "").map(one));
  const one = (step) => {
    if (Array.isArray(step)) return h("li", {}, listed(step));
    if (typeof step !== "object") return h("li", {}, fill(step));
    const { steps, ...fields } = step;
    const done = DONE.find((name) => fields[name] !== undefined && fields[name] !== null);
    const result = SHOULD.find((name) => name !== done && fields[name] !== undefined && fields[name] !== null);
    const more = Object.entries(fields).filter(([name]) => name !== done && name !== result);
    return h("li", {}, done && fill(plain(fields[done])), more.length > 0 && h("div", { class: "soft" }, fill(plain(Object.fromEntries(more)))),
      result && should(fields[result]), steps && listed([steps].flat()));
  };
  const { steps, expected_result: expected, name } = definition;
  const given = typeof steps === "string" ? steps.split("\n").map((line) => line.trim()).filter(Boolean) : [steps ?? []].flat();
  return h("div", { class: "paper pad below" }, h("h2", { class: "first" }, t("steps")), name && h("p", {}, name),
    given.length > 0 && listed(given), expected !== undefined && expected !== null && should(expected));
}

/** What a person says of a task of a manual case. */
function verdict(path, again) {
  const message = h("input", { type: "text", class: "grow", "aria-label": t("seen"), placeholder: t("seen") });
  const judge = (word) => h("button", { type: "button", class: word === "passed" ? "main" : null, click: trying(async () => {
    await send("POST", path, { verdict: word, message: message.value });
    say(t("saved"));
    // What is told of an open run may be a second old.
    setTimeout(() => again().catch(() => {}), 1200);
  }) }, t(word));
  return h("div", { class: "paper pad" }, h("div", { class: "head" }, h("b", {}, t("your_verdict")), message, judge("passed"), judge("failed"), judge("error")));
}
