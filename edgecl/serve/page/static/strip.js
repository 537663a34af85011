/** The last frames that were taught; a click takes one back. */

import { get, post, sampleUrl } from "./api.js";
import { h, picture, put, toast, tried } from "./dom.js";
import { on, seldom } from "./state.js";

const SHOWN = 20;

/** @param {AbortSignal} signal @returns {HTMLElement} */
export function strip(signal) {
  const list = h("ul", { class: "strip", "aria-label": "Taught last; press one to take it back" });
  const none = h("p", { class: "quiet" }, "What you teach appears here, to be taken back with a click.");
  /** @type {Map<number, HTMLElement>} */
  const shown = new Map();
  let learned = -1;

  async function refresh() {
    const found = (await get("samples", { limit: SHOWN, role: "learned" })).filter((/** @type {any} */ one) => one.has_picture !== false);
    const uids = new Set(found.map((/** @type {any} */ one) => one.uid));
    for (const [uid, item] of shown) if (!uids.has(uid)) { item.remove(); shown.delete(uid); }
    found.forEach((/** @type {any} */ one, /** @type {number} */ i) => {
      const item = shown.get(one.uid) ?? make(one);
      shown.set(one.uid, item);
      if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
    });
    none.hidden = found.length > 0;
  }

  /** @param {any} one */
  function make(one) {
    const button = h("button", { type: "button", title: `Take back: ${one.class}`, "aria-label": `Take back this picture of ${one.class}`,
      onclick: async () => {
        button.disabled = true;
        if (await tried(() => post("undo", { uids: [one.uid] }))) {
          item.remove();
          shown.delete(one.uid);
          toast(`One picture of ${one.class} was taken back.`);
          soon();
        } else button.disabled = false;
      } }, picture(sampleUrl(one.uid), ""), h("span", {}, one.class));
    const item = h("li", {}, button);
    return item;
  }

  const soon = seldom(refresh, 900);
  on("progress", (data) => {
    const now = (data.learned ?? 0) + (data.undone ?? 0);
    if (now !== learned) soon();
    learned = now;
  }, signal);
  on("command", soon, signal);
  on("link", (link) => link === "open" && soon(), signal);
  soon();
  const element = h("section", { class: "taught" }, h("h2", {}, "Taught last"), none);
  put(element, element.firstChild, none, list);
  return element;
}
