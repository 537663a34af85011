/** Review: what waits for a name, grouped by how much it looks alike. */

import { get, post, reviewUrl } from "./api.js";
import { chooser } from "./chooser.js";
import { count, h, percent, put, say, toast, when } from "./dom.js";
import { Grid } from "./grid.js";
import { on, seldom } from "./state.js";

const SHOWN = 200;
/** What was named is sent after this, so that it can be undone until then; at once with the next. */
const GRACE_MS = 2500;

/** @typedef {{uids: number[], body: Record<string, any>, says: string, timer: number, end: () => void}} Step */

/** @param {HTMLElement} place @param {AbortSignal} signal */
export function show(place, signal) {
  /** Sent or about to be, and not to be shown any more. @type {Set<number>} */
  const gone = new Set();
  /** @type {Step | null} */ let step = null;
  const none = h("p", {}, "Nothing waits. What a running stream does not know, or is unsure of, comes here.");
  const total = h("p", { class: "quiet", role: "status" });
  const grid = new Grid("Pictures that wait for a name", signal, () => bar.update());
  const bar = chooser({ grid, signal, name: (label, isNew) => take({ label, ...(isNew ? { new: true } : {}) }, `named ${label}`),
    drop: () => take({ drop: true }, "dropped"), undo, hint: "Select pictures, then press 1–9 or type a name." });

  async function refresh() {
    /** @type {any[]} */
    const found = (await get("review", { limit: SHOWN })).filter((/** @type {any} */ one) => !gone.has(one.uid));
    const sizes = new Map();
    for (const one of found) sizes.set(one.group, (sizes.get(one.group) ?? 0) + 1);
    found.sort((a, b) => sizes.get(b.group) - sizes.get(a.group) || a.group - b.group);
    grid.set(found.map((one) => ({ uid: one.uid, src: reviewUrl(one.uid), group: one.group,
      heading: sizes.get(one.group) > 1 ? `${sizes.get(one.group)} alike` : "One of its kind",
      note: one.guess ? `${one.guess}?` : "", title: `${one.guess ? `Looks most like ${one.guess}, ${percent(one.score)}` : "Looks like nothing known"}; ${one.source}, ${when(one.time)}` })));
    none.hidden = grid.shown.size > 0;
    say(total, count(grid.shown.size, "picture") + " in " + count(sizes.size, "group"));
  }

  /** Take the selected out at once, and tell the server a little later. @param {Record<string, any>} body @param {string} says */
  function take(body, says) {
    const uids = [...grid.selected];
    if (!uids.length) return;
    flush();
    for (const uid of uids) gone.add(uid);
    grid.remove(uids);
    const text = `${count(uids.length, "picture")} ${says}.`;
    step = { uids, body, says: text, timer: setTimeout(flush, GRACE_MS), end: toast(text, { label: "Undo (z)", run: undo }) };
  }

  function undo() {
    if (!step) return toast("Nothing to undo: it was sent. History can take back what was learned.");
    clearTimeout(step.timer);
    step.end();
    for (const uid of step.uids) gone.delete(uid);
    step = null;
    soon();
  }

  /** @param {RequestInit} [rest] */
  async function flush(rest = {}) {
    const mine = step;
    if (!mine) return;
    step = null;
    clearTimeout(mine.timer);
    try {
      await post("review", { uids: mine.uids, ...mine.body }, rest);
    } catch (error) {
      for (const uid of mine.uids) gone.delete(uid);
      toast(/** @type {Error} */ (error));
      soon();
    }
    mine.end();
  }

  const soon = seldom(refresh, 1500);
  for (const kind of ["command", "list"]) on(kind, soon, signal);
  // The server keeps an answer for a while, so it is asked again after news.
  let unknown = -1, unsureUntil = 0;
  on("progress", (data) => {
    if (data.unknown !== unknown) unsureUntil = Date.now() + 6000;
    unknown = data.unknown;
    if (Date.now() < unsureUntil) soon();
  }, signal);
  on("link", (link) => link === "open" && soon(), signal);
  signal.addEventListener("abort", () => flush());
  addEventListener("pagehide", () => flush({ keepalive: true }), { signal });
  put(place, h("div", { class: "head" }, h("h1", {}, "Review"), total), none, grid.element, bar.element);
  soon();
}
