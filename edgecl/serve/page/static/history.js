/** History: runs, changes with a way back, snapshots, receipts, the fleet, exports. */

import { get, post } from "./api.js";
import { confirmed, count, h, put, toast, tried, when } from "./dom.js";
import { may, on, seldom } from "./state.js";

/** @param {HTMLElement} place @param {AbortSignal} signal */
export function show(place, signal) {
  const own = may("own");
  const parts = { changes: h("div"), snapshots: h("div"), runs: h("div"), receipts: h("div"), fleet: h("div"), exports: h("div") };

  /** @param {string} title @param {string} text @param {string} yes @param {Record<string, any>} body @param {string} done */
  async function back(title, text, yes, body, done) {
    if (!(await confirmed(title, text, yes))) return;
    if (await tried(() => post("rollback", body))) toast(done);
    soon();
  }

  const changes = (/** @type {any[]} */ found) => table(["Change", "When", "What", ""], found.map((one) => [
    one.id, when(one.time), one.what, own && (one.can_take_back
      ? h("button", { type: "button", "aria-label": `Take back ${one.id}`, onclick: () => back(`Take back ${one.id}?`, one.what, "Take back", { change: one.id }, `${one.id} was taken back.`) }, "Take back")
      : h("span", { class: "quiet" }, one.why_not ?? ""))]));

  const snapshots = (/** @type {any[]} */ found) => table(["Snapshot", "When", "Holds", ""], found.map((one) => [
    `s${one.uid}`, when(one.time), [one.classes !== undefined && count(one.classes, "class", "classes"), one.samples !== undefined && count(one.samples, "picture")].filter(Boolean).join(", "),
    own && h("button", { type: "button", "aria-label": `Roll back to s${one.uid}`, onclick: () => back(`Roll back to s${one.uid}?`,
      "What was learned since then is deleted. What was forgotten stays forgotten.", "Roll back", { snapshot: one.uid }, `Rolled back to s${one.uid}.`) }, "Roll back")]));

  const runs = (/** @type {any[]} */ found) => table(["Last run", "When", "From", "Learned", ""], found.map((one) => [
    one.kind, when(one.time), one.source, one.learned, may("teach") && one.can_undo && h("button", { type: "button", onclick: async () => {
      if (!(await confirmed("Take the last run back?", `${count(one.learned, "picture")} that it learned, and ${one.moved} that it moved or held out, are taken back.`, "Take back"))) return;
      if (await tried(() => post("undo", { run: true }))) toast("The last run was taken back.");
      soon();
    } }, "Take it back")]));

  const receipts = (/** @type {any[]} */ found) => table(["Receipt", "When"], found.map((one) => [
    h("a", { href: `/api/v1/receipts/${one.id}.html`, target: "_blank", rel: "noopener" }, one.id), when(one.time)]));

  const fleet = (/** @type {any[]} */ found) => table(["Of the fleet", "When", "What"], found.map((one) => [one.what, when(one.time), one.said]));

  const exports = (/** @type {any[]} */ found) => table(["Export", "When", "Where", "State"], found.map((one) => [
    `${one.kind} ${one.uid}`, when(one.time), one.path, one.state === "stale" ? h("span", { class: "bad" }, "stale: holds what was forgotten, out of reach") : one.state]));

  async function refresh() {
    await Promise.all(Object.entries({ changes, snapshots, runs, receipts, fleet, ...(own ? { exports } : {}) }).map(async ([name, draw]) => {
      const into = parts[/** @type {keyof typeof parts} */ (name)];
      try {
        const found = await get(name);
        put(into, found.length ? draw(found) : h("p", { class: "quiet" }, "None yet."));
      } catch (error) {
        put(into, h("p", { class: "bad" }, /** @type {Error} */ (error).message));
      }
    }));
  }

  const soon = seldom(refresh, 1500);
  for (const kind of ["command", "forgotten", "list"]) on(kind, soon, signal);
  put(place, h("h1", {}, "History"),
    h("h2", {}, "Changes"), parts.changes,
    h("div", { class: "head" }, h("h2", {}, "Snapshots"), own && h("button", { type: "button", onclick: async () => {
      if (await tried(() => post("snapshots", {}))) toast("A snapshot was taken.");
      soon();
    } }, "Take one now")), parts.snapshots,
    h("h2", {}, "Last run"), parts.runs, h("h2", {}, "Receipts"), parts.receipts, h("h2", {}, "Fleet"), parts.fleet,
    own && h("h2", {}, "Exports"), own && parts.exports);
  soon();
}

/** @param {string[]} heads @param {any[][]} rows */
function table(heads, rows) {
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": heads[0] + "s" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((text) => (text ? h("th", { scope: "col" }, text) : h("td"))))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, cell)))))));
}
