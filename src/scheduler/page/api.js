// Calls of the services, and runs followed live.

import { t } from "./words.js";

let token = sessionStorage.getItem("token") || "";
let askForToken = async () => "";

/** Who asks the user for the token when one is needed. */
export function onToken(ask) {
  askForToken = ask;
}

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body, { signal, ...more } = {}) {
  for (;;) {
    const headers = { ...more };
    if (token) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    let answer;
    try {
      answer = await fetch(path, { method, headers, body: text, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, t("away", error.message));
    }
    if (answer.status === 401) {
      token = await askForToken();
      sessionStorage.setItem("token", token);
      if (token) continue;
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
export const send = async (method, path, body = {}) => json(await call(method, path, body));
export const part = encodeURIComponent;

/** A path with those of the values that are set. */
export function query(path, values) {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const text = new URLSearchParams(set).toString();
  return text ? `${path}?${text}` : path;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Tells each state of a run until it has ended or the signal stops it; a broken stream goes on where it was. */
export async function follow(run, tell, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await call("GET", `/v1/runs/${part(run)}/events`, undefined, { ...headers, signal });
      if (!answer.ok) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
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
    }
    await pause(1000);
  }
}
