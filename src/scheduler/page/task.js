// One task with its attempts, and what attempts said.

import { get, part, send } from "./api.js";
import { h, labels, moment, pill, say, span, statusPill, trying } from "./parts.js";
import { t } from "./words.js";

/** What was known of it before: a word, or the run since which it fails. */
function pastPill(past) {
  if (!past) return null;
  return past.known ? h("a", { class: "soft", href: `#/runs/${part(past.known)}` }, t("known_since", past.known)) : pill(past === "new" ? "failed" : "flaky", t(past));
}

export function failure(task, past) {
  const detail = task.detail || {};
  const title = h("summary", {}, statusPill(task.status), h("b", {}, task.case), pastPill(past), task.environment && h("span", { class: "soft" }, task.environment),
    h("span", { class: "soft" }, `${t("repeat")} #${task.ordinal}`), task.attempts > 1 && h("span", { class: "soft" }, `${t("attempts")} ${task.attempts}`),
    h("span", { class: "message" }, detail.message || ""), h("span", { class: "soft" }, task.worker || ""));
  return h("details", { class: "failure" }, title, h("div", {}, outputs(detail, task.worker)));
}

/** Opens the whole of an output at the worker that has it. */
async function openArtifact(worker, digest) {
  const found = await get(`/v1/instances/${part(worker)}`);
  if (!found.artifacts) throw new Error(t("not_served", worker));
  location.assign(`${found.artifacts}/${part(digest)}`);
}

/** A field of what an attempt said, in words where they are known. */
function fieldWord(name) {
  const word = t(`field_${name}`);
  return word === `field_${name}` ? name : word;
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
    const text = typeof value === "string" ? value : JSON.stringify(value, null, 1);
    shown.push(h("div", {}, h("div", { class: "soft" }, fieldWord(name)), h("pre", {}, text)));
  }
  return shown.length > 0 ? shown : [h("div", { class: "soft" }, t("none"))];
}

export async function task(view, run, lane, ordinal) {
  const found = await get(`/v1/runs/${part(run)}/tasks/${lane}/${ordinal}`);
  const attempts = found.attempts.map((attempt) => h("div", { class: "paper pad" },
    h("div", { class: "head" }, statusPill(attempt.status), h("b", {}, t("attempt", attempt.attempt, attempt.worker)), h("span", { class: "grow" }),
      h("span", { class: "soft" }, moment(attempt.start), " · ", span(attempt.duration / 1000))),
    outputs(attempt.detail, attempt.worker)));
  const definition = found.case || {};
  const isAsked = definition.kind === "manual" && ["00", "01"].includes(found.task.status);
  view.show(
    h("div", { class: "head" }, h("h1", {}, found.task.case, " ", h("span", { class: "soft" }, `${t("repeat")} #${found.task.ordinal}`)), statusPill(found.task.status),
      h("span", { class: "grow" }), h("a", { href: `#/runs/${part(run)}`, class: "mono" }, run)),
    isAsked && [verdict(`/v1/runs/${part(run)}/tasks/${lane}/${ordinal}/verdict`, () => task(view, run, lane, ordinal)), h("h2")],
    attempts.length > 0 ? attempts.flatMap((attempt) => [attempt, h("h2")]) : h("div", { class: "paper empty" }, t("nothing_ran")),
    h("h2", {}, t("definition")), h("pre", {}, JSON.stringify(definition, null, 2)),
    labels(definition.requires) && h("div", { class: "soft" }, labels(definition.requires)));
}

/** What a person says of a task of a manual case. */
function verdict(path, again) {
  const message = h("input", { type: "text", class: "grow", "aria-label": t("seen"), placeholder: t("seen") });
  const judge = (word) => h("button", { type: "button", class: word === "passed" ? "main" : null, click: trying(async () => {
    await send("POST", path, { verdict: word, message: message.value });
    say(t("saved"));
    // What is told of an open run may be a second old.
    setTimeout(again, 1200);
  }) }, t(word));
  return h("div", { class: "paper pad" }, h("div", { class: "head" }, h("b", {}, t("your_verdict")), message, judge("passed"), judge("failed"), judge("error")));
}
