// The page's frame: what address shows what, keys, language, colours, who looks.

import { isKnown, lastUser, logInAs, logOut, onLogin, user } from "./api.js";
import * as cases from "./cases.js";
import * as places from "./places.js";
import { flakyCases } from "./flaky.js";
import { one as oneRun } from "./run.js";
import * as runs from "./runs.js";
import { openSubmit } from "./submit.js";
import { task } from "./task.js";
import { closeDialog, debounce, dialog, guardDialog, h, problem } from "./parts.js";
import { language, speak, t } from "./words.js";

/** Places that no link at the top leads to, each with the area that it belongs to. */
const WITHIN = { slowest: "cases" };
const AREAS = ["runs", "cases", "flaky", "environments", "workers", "tags", "queues"];
/** Words of areas whose names are words already. */
const AREA_WORDS = { flaky: "flaky_cases" };
const areaWord = (area) => t(AREA_WORDS[area] || area);
const main = document.getElementById("main");

/** What is on the screen now: its timers and calls end when it goes. */
class View {
  constructor() {
    this.control = new AbortController();
    this.timers = [];
    this.debounce = debounce;
  }

  get signal() { return this.control.signal; }

  show(...content) {
    if (!this.signal.aborted) main.replaceChildren(...content.flat(Infinity).filter(Boolean));
  }

  /** Does something again and again, but not while it is still being done. */
  every(ms, work) {
    // Somebody has gone on while this was being asked for.
    if (this.signal.aborted) return;
    let isBusy = false;
    this.timers.push(setInterval(async () => {
      if (isBusy) return;
      isBusy = true;
      try { await work(); } finally { isBusy = false; }
    }, ms));
  }

  stop() {
    this.timers.forEach(clearInterval);
    this.timers = [];
  }

  end() {
    this.stop();
    this.control.abort();
  }
}

let view = new View();

/** A part of an address; as it stands if somebody typed it wrong. */
function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

async function route() {
  view.end();
  view = new View();
  const [path, asked] = location.hash.replace(/^#\/?/, "").split("?");
  const [area, ...rest] = path.split("/").map(decoded);
  const within = WITHIN[area];
  const shown = within || (AREAS.includes(area) ? area : "runs");
  const isTask = shown === "runs" && rest.length === 3 && rest.slice(1).every((place) => /^\d{1,9}$/.test(place));
  const parts = rest.at(-1) === "" ? rest.slice(0, -1) : rest;
  const isThere = within ? parts.length === 0 : (area === shown || area === "") && (isTask || parts.length <= (["runs", "cases"].includes(shown) ? 1 : 0));
  frame(shown);
  document.title = `${rest[0] || areaWord(within ? area : shown)} · Quoin`;
  try {
    if (!isThere) noPage(shown, parts);
    else if (isTask) await task(view, ...rest);
    else if (shown === "runs" && rest[0]) await oneRun(view, rest[0], new URLSearchParams(asked).get("tab"));
    else if (shown === "runs") runs.list(view);
    else if (area === "slowest") cases.slowest(view);
    else if (shown === "cases" && rest[0]) await cases.one(view, rest[0]);
    else if (shown === "cases") cases.list(view);
    else if (shown === "flaky") flakyCases(view);
    else if (shown === "environments") cases.environments(view);
    else places[shown](view);
  } catch (error) {
    view.show(h("div", { class: "paper" }, problem(error), isTask && h("p", { class: "empty" }, h("a", { href: `#/runs/${encodeURIComponent(rest[0])}` }, t("back_to_run")))));
    const shows = view;
    if (error.isPassing) setTimeout(() => { if (view === shows) route(); }, 3000);
  }
}

/** Where the address names nothing: says so, and where one can go on. */
function noPage(shown, parts) {
  const back = shown === "runs" && parts[0] ? [`#/runs/${encodeURIComponent(parts[0])}`, t("back_to_run")] : [`#/${shown}`, areaWord(shown)];
  view.show(h("div", { class: "head" }, h("h1", {}, t("no_page"))),
    h("div", { class: "paper pad" }, h("p", {}, t("no_page_text", decoded(location.hash))), h("a", { href: back[0] }, back[1])));
}

function frame(shown) {
  document.querySelectorAll("[data-word]").forEach((element) => { element.textContent = t(element.dataset.word); });
  const links = AREAS.map((area) => h("a", { href: `#/${area}`, "aria-current": area === shown ? "page" : null }, areaWord(area)));
  document.getElementById("nav").replaceChildren(...links);
  document.getElementById("language").textContent = t("language");
  const isDark = document.documentElement.dataset.theme === "dark";
  const theme = document.getElementById("theme");
  theme.textContent = isDark ? "☀" : "☾";
  theme.setAttribute("aria-label", t(isDark ? "light" : "dark"));
  document.getElementById("help").setAttribute("aria-label", t("help"));
  who();
}

function who() {
  document.getElementById("who").textContent = isKnown() ? t("log_out", user()).trim() : t("login");
}

function paint(theme) {
  document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  paint(next);
  route();
}

function toggleLanguage() {
  speak(language === "en" ? "zh" : "en");
  route();
}

function help() {
  const keys = [["g r, g c, g f, g e, g w, g t, g q", "key_go"], ["j, k", "key_move"], ["Enter", "key_open"], ["/", "key_search"], ["n", "key_submit"], ["d", "key_theme"], ["l", "key_language"], ["Esc", "key_back"]];
  dialog(t("help"), h("div", { class: "keys" }, keys.flatMap(([key, word]) => [h("span", {}, key.split(", ").flatMap((one, at) => [at > 0 && " ", h("kbd", {}, one)])), h("span", {}, t(word))])),
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close"))));
}

function move(step) {
  const rows = [...main.querySelectorAll("tbody tr[tabindex], details.failure > summary")].filter((row) => row.checkVisibility());
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + step))].focus();
}

let isGoing = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select") || document.getElementById("dialog").open) return;
  const areas = { r: "runs", c: "cases", f: "flaky", e: "environments", w: "workers", t: "tags", q: "queues" };
  if (isGoing) {
    isGoing = false;
    if (areas[event.key]) { location.hash = `#/${areas[event.key]}`; event.preventDefault(); }
    return;
  }
  const work = {
    g: () => { isGoing = true; }, j: () => move(1), k: () => move(-1), n: () => openSubmit(), d: toggleTheme, l: toggleLanguage, "?": help,
    "/": () => main.querySelector("[data-search]")?.focus(),
  }[event.key];
  if (work) { event.preventDefault(); work(); }
});

let typed = "";
onLogin((why) => new Promise((answer) => {
  let who = null;
  const name = h("input", { name: "username", autocomplete: "username", autocapitalize: "none", spellcheck: "false", value: typed || lastUser() });
  // The token or password is nobody's to keep: not the page's, and it need not be the browser's.
  const secret = h("input", { name: "secret", type: "password", autocomplete: "off" });
  const form = h("form", { class: "inner bare", submit: (event) => {
    event.preventDefault();
    // Asked again, he need not type his name again.
    typed = name.value.trim();
    if (secret.value) who = { name: name.value.trim(), secret: name.value.trim() ? secret.value : secret.value.trim() };
    closeDialog();
  } },
    why && h("p", { class: "problem", role: "alert" }, why),
    h("div", { class: "fields two" }, h("label", { class: "field" }, h("span", {}, t("user_label")), name), h("label", { class: "field" }, h("span", {}, t("secret_label")), secret)),
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), h("button", { type: "submit", class: "main" }, t("go"))));
  dialog(t("login"), form).then(() => answer(who));
  (name.value ? secret : name).focus();
}));

// An address of its own would be that of another page.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
document.getElementById("who").addEventListener("click", async () => {
  if (isKnown()) logOut();
  else await logInAs();
  route();
});
document.getElementById("language").addEventListener("click", toggleLanguage);
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("help").addEventListener("click", help);
guardDialog();
window.addEventListener("who", who);
window.addEventListener("hashchange", () => { document.getElementById("dialog").close(); route(); });
const dark = matchMedia("(prefers-color-scheme: dark)");
paint(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) { paint(dark.matches ? "dark" : "light"); route(); } });
speak(language);
route();
