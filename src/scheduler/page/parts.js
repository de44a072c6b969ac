// What views are made of: elements, tables, bars, times.

import { language, t } from "./words.js";

/** An element. Attributes that are functions are listeners; null and false leave something out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "grow") element.style.flexGrow = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** The worker to which tasks of manual cases are given. */
export const isPeople = (worker) => worker === "@people";
/** What a worker is called. */
export const workerName = (worker) => (isPeople(worker) ? t("people") : worker);

export const STATUSES = ["02", "03", "04", "07", "08", "05", "06"];

/** Words of states whose names are words of something else. */
const STATE_WORDS = { waiting: "state_waiting" };
export const stateWord = (state) => t(STATE_WORDS[state] || state);
export const pill = (state, text = stateWord(state), title = null) => h("span", { class: `pill s-${state}`, title }, text);
export const statusPill = (code) => pill(code, t(`s${code}`));

/** How a task stands; what is given out and not begun is told apart, by who has it. */
export const taskPill = (task) => {
  if (!task.is_assigned) return statusPill(task.status);
  return isPeople(task.worker) ? pill("00", t("for_people")) : pill("assigned");
};

/** That failures of a task do not count, and why if that is known. */
export const mutedPill = (muted) => {
  const until = muted?.until && t("until", muted.until.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC"));
  return pill("muted", t("muted"), [t("muted_why"), muted?.reason, until].filter(Boolean).join(" · "));
};

/** How tasks end that a run fails by, unless they are muted. */
const FAILING = ["03", "04", "07", "08"];

export const ended = (totals = {}) => STATUSES.reduce((sum, code) => sum + (totals[code] || 0), 0);

const codeWord = (code) => t(/^\d/.test(code) ? `s${code}` : code);

/**
 * Tasks by what became of them so far. `out` says what workers have: {running, assigned}; without it what has not
 * ended is only that, since nobody has said what of it runs.
 */
function counted(totals, out) {
  const flaky = totals.flaky || 0;
  const counts = STATUSES.map((code) => [code, totals[code] || 0]);
  counts[0][1] = Math.max(0, counts[0][1] - flaky);
  counts.splice(1, 0, ["flaky", flaky]);
  const left = Math.max(0, (totals.total || 0) - ended(totals));
  if (!out) return [...counts, ["rest", left]];
  const running = Math.min(out.running || 0, left);
  const assigned = Math.min(out.assigned || 0, left - running);
  return [...counts, ["01", running], ["assigned", assigned], ["00", left - running - assigned]];
}

/** How far a run is, as one line of colours. */
export function bar(totals = {}, out = null, isTall = false) {
  const shown = counted(totals, out).filter(([, count]) => count > 0);
  const words = shown.map(([code, count]) => `${codeWord(code)} ${number(count)}`);
  const parts = shown.map(([code, count]) => h("i", { class: `s-${code}`, grow: count }));
  return h("div", { class: isTall ? "bar tall" : "bar", role: "img", "aria-label": words.join(", "), title: words.join(", ") }, parts);
}

/** With those of what has failed, and is a part of it, that do not count. */
export function legend(totals = {}, out = null) {
  const shown = counted(totals, out).filter(([code, count]) => count > 0 || code === "02");
  const failed = FAILING.reduce((sum, code) => sum + (totals[code] || 0), 0);
  // Nobody has counted them at each step of a replay.
  const muted = totals.failures === undefined ? 0 : Math.max(0, failed - totals.failures);
  if (muted > 0) shown.push(["muted", muted]);
  return h("div", { class: "legend" }, shown.map(([code, count]) => pill(code, `${codeWord(code)} ${number(count)}`)));
}

export const number = (value) => Number(value || 0).toLocaleString(language);
export const percent = (value) => `${(value * 100).toFixed(value >= 0.9995 || value < 0.1 ? 2 : 1)} %`;

/** So many in a second. */
export const rate = (value) => `${value.toLocaleString(language, { maximumFractionDigits: value < 10 ? 2 : 0 })} /s`;
export const took = (run, now = Date.now()) => span((run.ended || now) - run.started);
export const runLink = (run) => `#/runs/${encodeURIComponent(run.run)}`;
export const taskLink = (run, task) => `${runLink({ run })}/${task.lane}/${task.ordinal}`;

/** How many of a run's tasks have ended; nobody has counted in its first second. */
export const endedOf = (totals) => (totals?.total > 0 ? t("of", number(ended(totals)), number(totals.total)) : "…");

/** Milliseconds in a form that is short at every length. */
export function span(ms) {
  if (ms === undefined || ms === null) return "";
  if (ms < 1) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 999.5) return `${ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  if (ms < 59_995) return `${(ms / 1000).toFixed(2)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} ${t("minutes")} ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} ${t("hours")} ${Math.floor((seconds % 3600) / 60)} ${t("minutes")}`;
}

/** A moment: the time of today, the date of other days. */
export function moment(ms) {
  if (!ms) return "";
  const at = new Date(ms);
  const isToday = at.toDateString() === new Date().toDateString();
  const text = isToday ? at.toLocaleTimeString(language) : at.toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
  return h("time", { datetime: at.toISOString(), title: at.toLocaleString(language) }, text);
}

/** How long ago a moment was. */
export const ago = (ms) => (ms ? h("time", { datetime: new Date(ms).toISOString(), title: new Date(ms).toLocaleString(language) }, t("ago", span(Math.max(0, Date.now() - ms)))) : "");

/** Who holds a tag, since when. */
export const holder = (held) => {
  const who = isPeople(held.worker) ? t("person") : held.worker;
  const tag = held.tag.split("/")[0];
  return h("div", { class: "soft" }, held.since_ms ? t("holds_for", who, tag, span(Math.max(0, Date.now() - held.since_ms))) : t("holds_from", who, tag, held.since));
};

export const labels = (found = {}) => Object.entries(found).map(([name, value]) => `${name}=${value}`).join(", ");

/** The last outcomes of a case, the oldest first. */
export function strip(stats) {
  const marks = (stats?.last || []).map(mark);
  const words = marks.map(markWord).join(", ");
  return h("span", { class: "strip", role: "img", "aria-label": words, title: words }, marks.map((code) => h("i", { class: `s-${code}` })));
}

const MARKS = { P: "02", B: "flaky", F: "03", E: "04", T: "07", L: "08" };

const mark = (found) => MARKS[String(found)[0]] || "00";
const markWord = (code) => (code === "flaky" ? t(code) : t(`s${code}`));

/**
 * A table. Columns are {word, show, isNumber, isLong}; `open` gives the address of a row.
 */
export function table(columns, rows, { empty, open } = {}) {
  if (rows.length === 0) return h("div", { class: "empty" }, empty);
  const head = h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.isNumber ? "num" : null }, t(column.word))));
  const line = (row) => {
    const target = open?.(row);
    const go = () => { location.hash = target; };
    const cells = columns.map((column) => h("td", { class: column.isNumber ? "num" : column.isLong ? "long" : null }, column.show(row)));
    if (!target) return h("tr", {}, cells);
    const press = (event) => { if (event.key === "Enter" && event.target === event.currentTarget) go(); };
    const click = (event) => { if (!event.target.closest("button, a, input, label")) go(); };
    return h("tr", { class: "open", tabindex: "0", click, keydown: press }, cells);
  };
  return h("div", { class: "wide" }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows.map(line))));
}

/** How many rows of a list somebody has seen, and how far down the page that was. */
export const SEEN = { rows: 0, top: 0 };

/**
 * A list that the server cuts into pages: `load(next)` gives {items, next}; `show(items)` an element. Who comes
 * back to its address finds what he has `seen` of it, which is kept with that.
 */
export function paged(load, show, seen = null) {
  const place = h("div", { class: "paper" });
  const address = location.hash;
  let items = [];
  const draw = (next) => {
    const more = next && h("div", { class: "more" }, h("button", { type: "button", click: () => add(next) }, t("more")));
    place.replaceChildren(show(items), ...(more ? [more] : []));
  };
  let asked = 0;
  // Where one was when this address was left: the window is as high again only when the rows are there.
  let top = seen?.top;
  const back = () => { if (top > 0) scrollTo(0, top); top = 0; };
  const remember = () => { if (seen && seen.rows !== items.length && location.hash === address) seen.rows = items.length; };
  const add = async (next, mayDraw = () => true, rows = 1) => {
    asked += 1;
    const own = asked;
    try {
      let [found, page] = [[], { next }];
      // The server looks through so many at a time, and among those there may be none.
      do {
        page = await load(page.next);
        found = found.concat(page.items);
      } while (found.length < rows && page.next && own === asked);
      // Somebody has asked for something else meanwhile, or laid a hand on what is there.
      if (own !== asked || !mayDraw()) return;
      items = next ? items.concat(found) : found;
      draw(page.next);
      remember();
      back();
    } catch (error) {
      if (own !== asked) return;
      amiss(place, error);
      if (error.isPassing) setTimeout(() => { if (own === asked && place.isConnected) add(); }, 3000);
    }
  };
  const ready = add(undefined, undefined, seen?.rows || 1);
  if (seen) {
    const scrolled = debounce(() => {
      if (!place.isConnected || location.hash !== address) removeEventListener("scroll", scrolled);
      else seen.top = scrollY;
    });
    ready.then(() => addEventListener("scroll", scrolled));
  }
  // What is drawn again by itself is as long as before; who looks for something else begins anew.
  const refresh = (mayDraw) => add(undefined, mayDraw, (mayDraw && seen?.rows) || 1);
  return { place, refresh, ready };
}

export const problem = (error) => h("div", { class: "empty problem", role: "alert" }, error.message);

/** Says what went wrong: above what was seen before, where it may be otherwise in a moment. */
export function amiss(place, error) {
  place.querySelector(".problem")?.remove();
  if (error.isPassing && place.querySelector("table, canvas")) place.prepend(problem(error));
  else place.replaceChildren(problem(error));
}

/** A line that goes away by itself. */
export function say(text, isBad = false) {
  const line = h("div", { class: isBad ? "bad" : null }, text);
  document.getElementById("messages").append(line);
  setTimeout(() => line.remove(), isBad ? 9000 : 4000);
}

/** Runs what a button asks for, and says what went wrong. */
export const trying = (work) => async (event) => {
  const button = event?.currentTarget;
  if (button) button.disabled = true;
  try {
    return await work(event);
  } catch (error) {
    say(error.message, true);
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
};

/** Whether a list may be drawn again: not under the hands of who uses it, not while nobody looks. */
export const isIdle = (place) => !document.hidden && !document.getElementById("dialog").open && !place.contains(document.activeElement);

/** What narrows a list: it is kept with the address, and there again for who comes back to that. */
export function kept(name, initial) {
  return new Proxy({ ...initial, ...history.state?.[name] }, {
    set(filter, key, value) {
      filter[key] = value;
      history.replaceState({ ...history.state, [name]: { ...filter } }, "");
      return true;
    },
  });
}

/** A field that narrows a list by one of its values. */
export const filterInput = (view, name, filter, refresh) => h("input", { type: "search", class: "narrow", placeholder: t("exactly", t(name)), "aria-label": t(name), value: filter[name], input: view.debounce((event) => { filter[name] = event.target.value.trim(); refresh(); }) });

/** A field that narrows a list by any text. */
export const searchInput = (view, filter, refresh) => h("input", { type: "search", "aria-label": t("search"), placeholder: t("search"), "data-search": true, value: filter.text, input: view.debounce((event) => { filter.text = event.target.value; refresh(); }) });

/** A choice that narrows a list; `values` are [value, word]. */
export const filterChoice = (word, name, filter, values, refresh) => h("select", { "aria-label": t(word), change: (event) => { filter[name] = event.target.value; refresh(); } },
  values.map(([value, text]) => h("option", { value, selected: value === filter[name] }, text)));

/** So many tasks. */
export const tasksWord = (count) => t(count === 1 ? "one_task" : "tasks_wait", number(count));

/** A text of any length where there is room for a line or two. */
export const cut = (text, letters = 160) => (text.length > letters ? h("span", { title: text }, `${text.slice(0, letters)}…`) : text);

/** Draws a list again every so often, but not one of more rows, which somebody has asked for page by page. */
export function refreshed(view, list, ms, rows) {
  view.every(ms, () => (isIdle(list.place) && list.place.querySelectorAll("tbody tr").length <= rows ? list.refresh(() => isIdle(list.place)) : null));
}

/** A dialog. Resolves when it is closed. */
export function dialog(title, ...content) {
  const place = document.getElementById("dialog");
  delete place.dataset.typed;
  place.setAttribute("aria-label", title);
  place.replaceChildren(h("div", { class: "inner" }, h("h1", {}, title), content));
  if (!place.open) place.showModal();
  return new Promise((closed) => place.addEventListener("close", closed, { once: true }));
}

/** Asks for a reason, and what `fields` ask besides; `save` is given the reason, and its error stands in the form. */
export function ask(title, word, save, ...fields) {
  const reason = h("input", { name: "reason", required: true, pattern: ".*\\S.*", "aria-label": t("reason_label") });
  const error = h("div", { class: "problem", role: "alert" });
  const form = h("form", { class: "inner bare", submit: async (event) => {
    event.preventDefault();
    error.textContent = "";
    try {
      await save(reason.value.trim());
      closeDialog();
    } catch (problem) { error.textContent = problem.message; }
  } },
    h("label", { class: "field" }, h("span", {}, t("reason_label")), reason), fields, error,
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), h("button", { type: "submit", class: "main" }, word)));
  const closed = dialog(title, form);
  reason.focus();
  return closed;
}

export const closeDialog = () => document.getElementById("dialog").close();

/** What closes a dialog besides its buttons; what somebody has typed is not lost by a slip. */
export function guardDialog() {
  const place = document.getElementById("dialog");
  // A selection of text may end beside the dialog.
  let pressed = null;
  place.addEventListener("pointerdown", (event) => { pressed = event.target; });
  place.addEventListener("click", (event) => {
    const isBeside = event.target === place && pressed === place;
    if (isBeside && !place.querySelector("input, textarea, select")) closeDialog();
  });
  const warning = h("p", { class: "problem", role: "alert" });
  place.addEventListener("input", () => { place.dataset.typed = "yes"; warning.remove(); });
  place.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || place.dataset.typed !== "yes") return;
    event.preventDefault();
    place.dataset.typed = "told";
    warning.textContent = t("typed");
    place.querySelector(".inner").append(warning);
  });
}

/** Asks whether something is really meant. */
export async function sure(text, word) {
  let is = false;
  const yes = h("button", { type: "button", class: "main", click: () => { is = true; closeDialog(); } }, word);
  await dialog(text, h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("back")), yes));
  return is;
}

export function debounce(work, ms = 250) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), ms);
  };
}
