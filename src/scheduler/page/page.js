// The page's frame: what address shows what, keys, language, colours, who looks.

import { isKnown, logInAs, logOut, onLogin, user } from "./api.js";
import * as cases from "./cases.js";
import * as places from "./places.js";
import * as runs from "./runs.js";
import { openSubmit } from "./submit.js";
import { closeDialog, debounce, dialog, h, problem } from "./parts.js";
import { language, speak, t } from "./words.js";

const AREAS = ["runs", "cases", "environments", "workers", "tags", "queues"];
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
  const [area, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const shown = AREAS.includes(area) ? area : "runs";
  frame(shown);
  document.title = `${rest[0] || t(shown)} · Quoin`;
  try {
    if (shown === "runs" && rest.length === 3) await runs.task(view, ...rest);
    else if (shown === "runs" && rest[0]) await runs.one(view, rest[0]);
    else if (shown === "runs") runs.list(view);
    else if (shown === "cases" && rest[0]) await cases.one(view, rest[0]);
    else if (shown === "cases") cases.list(view);
    else if (shown === "environments") cases.environments(view);
    else places[shown](view);
  } catch (error) {
    view.show(h("div", { class: "paper" }, problem(error)));
    const shows = view;
    if (error.isPassing) setTimeout(() => { if (view === shows) route(); }, 3000);
  }
}

function frame(shown) {
  document.querySelectorAll("[data-word]").forEach((element) => { element.textContent = t(element.dataset.word); });
  const links = AREAS.map((area) => h("a", { href: `#/${area}`, "aria-current": area === shown ? "page" : null }, t(area)));
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
  const keys = [["g r, g c, g e, g w, g t, g q", "key_go"], ["j, k", "key_move"], ["Enter", "key_open"], ["/", "key_search"], ["n", "key_submit"], ["d", "key_theme"], ["l", "key_language"], ["Esc", "key_back"]];
  dialog(t("help"), h("div", { class: "keys" }, keys.flatMap(([key, word]) => [h("span", {}, key.split(", ").flatMap((one, at) => [at > 0 && " ", h("kbd", {}, one)])), h("span", {}, t(word))])),
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close"))));
}

function move(step) {
  const rows = [...main.querySelectorAll("tbody tr[tabindex], details.failure > summary")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + step))].focus();
}

let isGoing = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select") || document.getElementById("dialog").open) return;
  const areas = { r: "runs", c: "cases", e: "environments", w: "workers", t: "tags", q: "queues" };
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

onLogin((why) => new Promise((answer) => {
  let who = null;
  const name = h("input", { autocomplete: "username", "aria-label": t("user_label") });
  const secret = h("input", { type: "password", autocomplete: "off", "aria-label": t("secret_label") });
  const form = h("form", { submit: (event) => {
    event.preventDefault();
    if (secret.value) who = { name: name.value.trim(), secret: name.value.trim() ? secret.value : secret.value.trim() };
    closeDialog();
  } },
    why && h("p", { class: "problem", role: "alert" }, why),
    h("div", { class: "fields" }, h("label", {}, t("user_label"), name), h("label", {}, t("secret_label"), secret)),
    h("div", { class: "buttons" }, h("button", { type: "button", click: closeDialog }, t("close")), h("button", { type: "submit", class: "main" }, t("go"))));
  dialog(t("login"), form).then(() => answer(who));
  name.focus();
}));

document.getElementById("who").addEventListener("click", async () => {
  if (isKnown()) logOut();
  else await logInAs();
  route();
});
document.getElementById("language").addEventListener("click", toggleLanguage);
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("help").addEventListener("click", help);
document.getElementById("dialog").addEventListener("click", (event) => { if (event.target.id === "dialog") closeDialog(); });
window.addEventListener("who", who);
window.addEventListener("hashchange", () => { document.getElementById("dialog").close(); route(); });
const dark = matchMedia("(prefers-color-scheme: dark)");
paint(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) { paint(dark.matches ? "dark" : "light"); route(); } });
speak(language);
route();
