// Calls of the services, and runs followed live.

import { told, wrong } from "./told.js";
import { t } from "./words.js";

// Kept for this window alone, and gone with it. A password is never kept.
let token = sessionStorage.getItem("token") || "";
let askWho = async () => null;
let asking = null;
let declined = false;

/** Who asks the user for a name with its password, or for a token alone, and is told why the last one did not do. */
export function onLogin(ask) {
  askWho = ask;
}

/** The user's name, or "" for nobody or a token alone. */
export const user = () => sessionStorage.getItem("user") || "";
export const isKnown = () => token !== "";

/** The last name that somebody logged in with here, for the next time. */
export const lastUser = () => localStorage.getItem("last_user") || "";

function remember(name, found) {
  token = found;
  if (name) localStorage.setItem("last_user", name);
  sessionStorage.setItem("user", name);
  sessionStorage.setItem("token", found);
  declined = false;
  window.dispatchEvent(new Event("who"));
}

export const logOut = () => remember("", "");

/** Takes a token, or gets one for a name and password. */
async function logIn({ name, secret }) {
  if (!name) {
    // Whether a token is known is seen when it is shown; what its user may do is another question.
    const answer = await fetch("/v1/queues", { headers: { authorization: `Bearer ${secret}` } });
    if (answer.status === 401) await json(answer);
    return remember("", secret);
  }
  const headers = { "content-type": "application/json" };
  const answer = await fetch("/v1/login", { method: "POST", headers, body: JSON.stringify({ name, password: secret }) });
  remember(name, (await json(answer)).token);
}

/** Asks until somebody is known; false if the user would rather not. Many calls ask once. */
export function logInAs(why = "") {
  asking ||= (async () => {
    try {
      for (;;) {
        const who = await askWho(why);
        declined = !who;
        if (declined) return false;
        try {
          await logIn(who);
          return true;
        } catch (error) {
          why = error.message;
        }
      }
    } finally {
      asking = null;
    }
  })();
  return asking;
}

export class Problem extends Error {
  constructor(status, message) {
    super(wrong(message));
    this.status = status;
  }

  /** Whether it may be otherwise in a moment. */
  get isPassing() { return this.status === 0 || this.status >= 500; }
}

async function call(method, path, body, { signal, ...more } = {}) {
  for (;;) {
    const headers = { ...more };
    const shown = token;
    if (token) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    let answer;
    try {
      answer = await fetch(path, { method, headers, body: text, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, t("away", told(error.message)));
    }
    if (answer.status === 401) {
      // Another call may have had it renewed meanwhile.
      if (shown !== token) continue;
      const why = token ? told((await answer.clone().json().catch(() => ({}))).error?.message) : "";
      // What is asked again and again must not ask the user so.
      if (!declined && (await logInAs(why))) continue;
      // What was refused is not shown again.
      if (token !== "" && token === shown) { logOut(); declined = true; }
    }
    return answer;
  }
}

async function json(answer) {
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Problem(answer.status, found.error?.message || answer.statusText);
  return found;
}

export const get = async (path) => json(await call("GET", path));
/** Changes something; `version` is the one that was seen, where the body does not name it. */
export const send = async (method, path, body = {}, version = null) => json(await call(method, path, body, version === null ? {} : { "if-match": `"${version}"` }));

/** Saves an answer as a file. */
export async function download(path, name) {
  const answer = await call("GET", path);
  if (!answer.ok) await json(answer);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  // By then the browser has taken it.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const part = encodeURIComponent;

/** A path with those of the values that are set. */
export function query(path, values) {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const text = new URLSearchParams(set).toString();
  return text ? `${path}?${text}` : path;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Tells each state of a run until it has ended or the signal stops it; a broken stream goes on where it was.
 * `hear` is called with nothing at each sign of life, and otherwise with what is wrong.
 */
export async function follow(run, tell, hear, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await call("GET", `/v1/runs/${part(run)}/events`, undefined, { ...headers, signal });
      // What is away may come back; what is refused stays so.
      if (!answer.ok && answer.status < 500) return;
      if (!answer.ok) throw new Problem(answer.status, answer.statusText);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        hear();
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const fields = Object.fromEntries(event.split("\n").filter((line) => line.includes(":") && !line.startsWith(":")).map((line) => {
            const at = line.indexOf(":");
            return [line.slice(0, at), line.slice(at + 1).trim()];
          }));
          if (!fields.data) continue;
          last = fields.id || last;
          tell(JSON.parse(fields.data));
          if (fields.event === "end") return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      hear(error);
    }
    await pause(1000);
  }
}
