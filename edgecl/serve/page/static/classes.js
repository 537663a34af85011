/** Classes: cards, and inside a class all pictures that are kept, the odd ones first. */

import { get, post, sampleUrl } from "./api.js";
import { chooser } from "./chooser.js";
import { ask, count, h, percent, picture, put, say, toast, tried, when } from "./dom.js";
import { Grid } from "./grid.js";
import { known, nameField } from "./names.js";
import { may, on, refreshClasses, seldom, state } from "./state.js";

/** Addresses hold the number of a class: browsers keep addresses, and must not keep names.
 * @param {HTMLElement} place @param {AbortSignal} signal @param {string} rest uid of a class, or '' */
export function show(place, signal, rest) {
  if (rest) return void one(place, signal, rest);
  const cards = h("ul", { class: "cards" });
  const none = h("p", {}, "Nothing was taught yet. ", h("a", { href: "#live" }, "Hold a button and show something."));
  const update = () => {
    none.hidden = state.classes.length > 0;
    put(cards, ...state.classes.map((one) => h("li", {}, h("a", { href: `#classes/${one.uid}`, class: "card" },
      picture(sampleUrl(one.last), ""), h("strong", {}, one.name), h("span", { class: "quiet" }, figures(one))))));
  };
  put(place, h("h1", {}, "Classes"), none, cards);
  on("list", update, signal);
  update();
}

/** @param {import("./state.js").Class} one */
function figures(one) {
  const parts = [`${count(one.seen, "picture")} seen`, `${one.kept} kept`];
  if (one.held_out) parts.push(`${one.held_out} to test on`);
  if (one.accuracy !== null && one.accuracy !== undefined) parts.push(`${percent(one.accuracy)} right`);
  return parts.join(" · ");
}

/** @param {HTMLElement} place @param {AbortSignal} signal @param {string} uid */
async function one(place, signal, uid) {
  if (!state.classes.length) await refreshClasses().catch(() => {});
  const found = state.classes.find((c) => String(c.uid) === uid);
  if (signal.aborted) return;
  if (found) inside(place, signal, found.name, uid);
  else put(place, h("p", {}, "This class is gone. ", h("a", { href: "#classes" }, "All classes")));
}

/** @param {HTMLElement} place @param {AbortSignal} signal @param {string} name @param {string} uid */
function inside(place, signal, name, uid) {
  const line = h("p", { class: "quiet", role: "status" });
  const gone = new Set();
  const grid = new Grid(`Kept pictures of ${name}`, signal, () => bar.update());
  /** @param {string} label @param {boolean} isNew */
  const move = (label, isNew) => give("relabel", { label, ...(isNew ? { new: true } : {}) }, `moved to ${label}`);
  const test = () => give("hold-out", {}, "marked as test");
  const bar = chooser({ grid, signal, not: name, name: move, more: h("button", { type: "button", onclick: test, title: "Never learned, only to test on" }, "Mark as test"), hint: "Select pictures, then press 1–9 or type a name to move them." });
  const own = may("own");

  async function refresh() {
    /** @type {any[]} */
    const found = (await get("samples", { class: name, odd: 1, limit: 500 })).filter((/** @type {any} */ one) => !gone.has(one.uid) && one.role !== "waiting");
    grid.set(found.map((one) => ({ uid: one.uid, src: /** @type {string} */ (sampleUrl(one.uid)), group: one.odd ? "odd" : "rest",
      heading: one.odd ? `Odd: may be of another class` : "The rest",
      note: one.odd ? `${one.guess}?` : one.role === "held_out" ? "test" : "",
      title: `${name}, number ${one.uid}; ${one.source || "source unknown"}, ${when(one.time)}` })));
    const one = state.classes.find((c) => c.name === name);
    say(line, one ? figures(one) : "This class is gone.");
  }

  /** @param {string} path @param {Record<string, any>} body @param {string} done what they are then */
  async function give(path, body, done) {
    const uids = [...grid.selected];
    if (!uids.length) return toast("Select pictures first.");
    for (const uid of uids) gone.add(uid);
    grid.remove(uids);
    if (await tried(() => post(path, { uids, ...body }))) toast(`${count(uids.length, "picture")} ${done}.`);
    for (const uid of uids) gone.delete(uid);
    soon();
  }

  /** Rename the class, or make it one with another. @param {string} title @param {string} button @param {boolean} merges */
  async function change(title, button, merges) {
    const to = await ask(title, (close) => {
      const field = nameField({ id: "to", required: true, value: merges ? "" : name });
      return [h("form", { method: "dialog", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); close(field.value.trim()); } },
        h("p", {}, merges ? `All pictures of “${name}” become those of another class; its name becomes an alias.` : "Nothing is learned again."),
        h("label", { htmlFor: "to" }, merges ? "Into" : "New name"), field,
        h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Cancel"), h("button", { class: "main" }, button)))];
    });
    if (!to || to === name) return;
    if (merges && !known().has(to)) return toast(new Error(`There is no class “${to}” to merge into.`));
    await tried(async () => {
      const now = merges ? (await post("merge", { of: name, to })).class : (await post("rename", { name, to })).name;
      const other = state.classes.find((c) => c.name === now);
      if (merges && other) location.hash = `#classes/${other.uid}`;
      else await refreshClasses();
    });
  }

  const soon = seldom(refresh, 1000);
  // To find the odd ones costs the server something, so it is asked only when this class is another.
  let before = JSON.stringify(state.classes.find((c) => String(c.uid) === uid));
  on("list", (list) => {
    const found = list.find((/** @type {any} */ c) => String(c.uid) === uid), now = JSON.stringify(found);
    if (!found || found.name !== name) dispatchEvent(new HashChangeEvent("hashchange")); // gone, or renamed
    else if (now !== before) soon();
    before = now;
  }, signal);
  put(place, h("p", {}, h("a", { href: "#classes" }, "‹ All classes")), h("div", { class: "head" }, h("h1", {}, name), line),
    own && h("div", { class: "row" },
      h("button", { type: "button", onclick: () => change(`Rename ${name}`, "Rename", false) }, "Rename…"),
      h("button", { type: "button", onclick: () => change(`Merge ${name} into another class`, "Merge", true) }, "Merge…"),
      h("a", { class: "button", href: `#forget/${uid}` }, "Forget…")),
    grid.element, bar.element);
  soon();
}
