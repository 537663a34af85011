/** What the server says of itself, as it comes: one EventSource, made anew when the server is. */

import { get } from "./api.js";

const KINDS = ["progress", "classes", "command", "forgotten", "stopped"];
const RETRY_MS = 1500;

/** @typedef {{uid: string, name: string, aliases: string[], seen: number, kept: number, held_out: number,
 *   accuracy: number | null, last: number | null}} Class */

/** The last data of each kind; also `classes` as a list, `status` and `link`. */
export const state = {
  /** @type {Record<string, any>} */ last: {},
  /** @type {Class[]} */ classes: [],
  /** @type {Record<string, any>} */ status: {},
  /** @type {"opening" | "open" | "lost" | "out"} out: the session is over */ link: "opening",
};

const bus = new EventTarget();

/**
 * Call a function with every event of a kind, until the signal aborts.
 * @param {string} kind one of the server's, or `link`, `list` (of classes) or `status`
 * @param {(data: any) => void} run @param {AbortSignal} [signal]
 */
export function on(kind, run, signal) {
  bus.addEventListener(kind, (event) => run(/** @type {CustomEvent} */ (event).detail), { signal });
}

/** @param {string} kind @param {any} detail */
export const emit = (kind, detail) => bus.dispatchEvent(new CustomEvent(kind, { detail }));

/** Whether this page may do what a role may. @param {"teach" | "own"} role */
export const may = (role) => state.status.role === "own" || state.status.role === role || !state.status.role;

/** Sources of the device; what pages send is none. @returns {{name: string, url?: string, crop?: string | null, rotate?: number}[]} */
export const cameras = () => (state.status.sources ?? []).filter((/** @type {any} */ one) => one.name !== "browser");

/** Which part of its picture a camera shows, in words. @param {string} name */
export function partOf(name) {
  const one = cameras().find((camera) => camera.name === name);
  return [one?.crop && `crop ${one.crop}`, one?.rotate && `turned ${one.rotate}`].filter(Boolean).join(", ");
}

export async function refreshClasses() {
  state.classes = await get("classes");
  emit("list", state.classes);
}

export async function refreshStatus() {
  state.status = await get("status");
  emit("status", state.status);
}

/** Fetch again at most once a time, the last time surely. @param {() => Promise<any>} work @param {number} ms */
export function seldom(work, ms) {
  let timer = 0, last = 0;
  return () => {
    if (timer) return;
    timer = setTimeout(async () => {
      timer = 0;
      last = Date.now();
      try {
        await work();
      } catch { /* the banner says that the server is gone; the next event tries again */ }
    }, Math.max(0, last + ms - Date.now()));
  };
}

/** @param {typeof state.link} link */
function setLink(link) {
  if (state.link === link) return;
  state.link = link;
  emit("link", link);
}

const classesSoon = seldom(refreshClasses, 1000);
/** Until when the list is fetched with every progress: the server keeps an answer for a while. */
let unsureUntil = 0;

/** Listen to the server for as long as the page lives. */
export function connect() {
  const source = new EventSource("/events");
  source.onopen = () => {
    setLink("open");
    refreshStatus().catch(() => {});
    classesSoon();
  };
  source.onerror = () => {
    // The browser tries again by itself, but gives up on an answer such as 401 or 502.
    setLink("lost");
    source.close();
    setTimeout(again, RETRY_MS);
  };
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      const data = JSON.parse(/** @type {MessageEvent} */ (event).data);
      const before = state.last[kind];
      state.last[kind] = data;
      const hasLearned = kind === "progress" && before && (before.learned !== data.learned || before.undone !== data.undone);
      if (hasLearned || kind === "classes" || kind === "command" || kind === "forgotten") {
        unsureUntil = Date.now() + 8000;
        classesSoon();
      } else if (Date.now() < unsureUntil) classesSoon();
      emit(kind, data);
    });
  }
}

async function again() {
  try {
    await refreshStatus();
    connect();
  } catch (error) {
    if (/** @type {any} */ (error).status === 401) setLink("out");
    setTimeout(again, RETRY_MS);
  }
}
