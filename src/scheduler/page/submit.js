// A run put together by picking cases.

import { get, query, send } from "./api.js";
import { closeDialog, debounce, dialog, h, number, say, tasksWord } from "./parts.js";
import { t } from "./words.js";

/** Opens the form; cases whose ids are given are picked already. */
export async function openSubmit(ids = []) {
  const picked = new Map(ids.map((id) => [id, null]));
  const request = crypto.randomUUID();
  let next = null;
  let text = "";
  let first = [];
  const list = h("div", { class: "paper pick", role: "group", "aria-label": t("pick_cases") });
  const count = h("span", { class: "soft" });
  const error = h("div", { class: "problem", role: "alert" });
  const submit = h("button", { type: "submit", class: "main" }, t("submit_now"));
  const repeats = h("input", { type: "number", min: "1", value: "1", required: true });
  const include = h("input", { type: "checkbox" });
  const places = h("select", { multiple: true, size: "3" });
  const drawCount = () => {
    const each = Number(repeats.value) || 1;
    const tasks = [...picked.values()].reduce((sum, times) => sum + (times || each), 0) * Math.max(1, places.selectedOptions.length);
    count.textContent = t(include.checked ? "picked_more" : "picked_tasks", number(picked.size), tasksWord(tasks));
    submit.disabled = picked.size === 0;
  };
  const line = (id, name) => {
    const repeats = h("input", { type: "number", min: "1", placeholder: "×", title: t("repeats"), "aria-label": `${t("repeats")}: ${id}`, value: picked.get(id) || "", input: (event) => {
      picked.set(id, Number(event.target.value) || null);
      box.checked = true;
      drawCount();
    } });
    const box = h("input", { type: "checkbox", checked: picked.has(id), change: () => {
      if (box.checked) picked.set(id, Number(repeats.value) || null);
      else picked.delete(id);
      drawCount();
    } });
    return h("label", {}, box, h("span", {}, id), name && h("span", { class: "soft" }, name), repeats);
  };
  const load = async (isMore) => {
    try {
      const asked = text;
      let page = await get(query("/v1/testcases", { text, limit: 100, next: isMore ? next : "" }));
      while (page.items.length === 0 && page.next && asked === text) page = await get(query("/v1/testcases", { text, limit: 100, next: page.next }));
      if (asked !== text) return;
      next = page.next;
      // Without a search what is picked comes first, wherever it stands among the cases.
      if (!isMore) first = text ? [] : [...picked.keys()];
      if (!isMore) list.replaceChildren(...first.map((id) => line(id)));
      list.querySelector(".more")?.remove();
      list.append(...page.items.filter((found) => !first.includes(found.id)).map((found) => line(found.id, found.name)));
      if (next) list.append(h("div", { class: "more" }, h("button", { type: "button", click: () => load(true) }, t("more"))));
      if (!list.hasChildNodes()) list.append(h("div", { class: "empty" }, t("no_cases")));
    } catch (problem) { error.textContent = problem.message; }
  };
  const search = h("input", { type: "search", placeholder: t("search"), "aria-label": t("search"), input: debounce((event) => { text = event.target.value; load(false); }) });
  const name = h("input", { name: "name", maxlength: "256" });
  const queue = h("input", { placeholder: "default", pattern: ".*\\S.*" });
  get("/v1/environments?limit=1000").then((page) => places.replaceChildren(...page.items.map((found) => h("option", { value: found.id }, found.id)))).catch(() => {});
  const field = (word, input) => h("label", { class: "field" }, h("span", {}, t(word)), input);
  const form = h("form", {
    // What was wrong need not be wrong any more.
    input: () => { error.textContent = ""; drawCount(); },
    submit: async (event) => {
      event.preventDefault();
      error.textContent = "";
      submit.disabled = true;
      const spec = {
        request_id: request, cases: [...picked].map(([id, times]) => (times ? { case: id, repeats: times } : { case: id })), repeats: Number(repeats.value),
        name: name.value, environments: [...places.selectedOptions].map((option) => option.value), missing: include.checked ? "include" : "refuse",
      };
      if (queue.value) spec.queue = queue.value.trim();
      try {
        const made = await send("POST", "/v1/runs", spec);
        closeDialog();
        say([t("submitted", made.run, tasksWord(made.tasks)), ...(made.warnings || [])].join("\n"));
        location.hash = `#/runs/${encodeURIComponent(made.run)}`;
      } catch (problem) {
        error.textContent = problem.message;
        submit.disabled = false;
      }
    },
  }, h("div", { class: "inner" },
    h("div", { class: "row" }, search, count), list,
    h("div", { class: "fields" }, field("name", name), field("repeats", repeats), field("queue", queue), field("environments", places)),
    h("label", {}, include, " ", t("include")), error,
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), submit)));
  drawCount();
  load(false);
  dialog(t("submit"), form);
  search.focus();
}
