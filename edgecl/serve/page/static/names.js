/** Names of classes: completion over those that are known, and "did you mean" before one is sent. */

import { ask, h, put, say } from "./dom.js";
import { state } from "./state.js";

/** Names and aliases with the class that they are of. @returns {Map<string, string>} */
export function known() {
  const names = new Map();
  for (const one of state.classes) {
    names.set(one.name, one.name);
    for (const alias of one.aliases ?? []) names.set(alias, one.name);
  }
  return names;
}

/** How many letters differ (Levenshtein 1966). @param {string} a @param {string} b */
export function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The known name that a new one may be a slip of, or null. @param {string} name */
export function alike(name) {
  const plain = (/** @type {string} */ text) => text.normalize("NFKC").toLowerCase().replace(/[\s_-]+/g, "");
  const mine = plain(name);
  let best = null, least = mine.length < 5 ? 2 : 3;
  for (const [other, of] of known()) {
    const steps = distance(mine, plain(other));
    if (steps < least) [best, least] = [of, steps];
  }
  return best;
}

/**
 * What a typed name stands for: itself where it is known, or new and checked.
 * @param {string} typed
 * @returns {Promise<{label: string, isNew: boolean} | null>} null: not after all
 */
export async function meant(typed) {
  const name = typed.trim();
  if (!name) return null;
  const is = known().get(name);
  if (is) return { label: is, isNew: false };
  const near = alike(name);
  if (!near) return { label: name, isNew: true };
  return await ask("Did you mean …", (close) => [
    h("p", {}, `“${name}” is new. A class “${near}” is known already.`),
    h("div", { class: "row end" },
      h("button", { type: "button", onclick: () => close({ label: name, isNew: true }) }, `New class “${name}”`),
      h("button", { type: "button", class: "main", autofocus: true,
        onclick: () => close({ label: near, isNew: false }) }, `“${near}”`))]);
}

/** A field for a name, with completion. @param {Record<string, any>} props of the input @returns {HTMLInputElement} */
export function nameField(props) {
  const list = /** @type {HTMLDataListElement} */ (document.getElementById("known-names"));
  put(list, ...[...known().keys()].map((value) => h("option", { value })));
  return h("input", { type: "text", maxLength: 200, spellcheck: false,
    list: "known-names", ...props });
}

/**
 * Ask for a name. @param {string} title @param {string} button
 * @returns {Promise<{label: string, isNew: boolean} | null>}
 */
export async function askName(title, button) {
  const typed = await ask(title, (close) => {
    const near = h("p", { class: "quiet", role: "status" });
    const field = nameField({ id: "new-name", required: true, oninput: () => {
      const name = field.value.trim(), is = known().get(name), other = is ? null : alike(name);
      say(near, is ? "This class is known." : other ? `Did you mean “${other}”?` : "");
    } });
    return [h("form", { method: "dialog", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      close(field.value);
    } },
    h("label", { htmlFor: "new-name" }, "Name"), field, near,
    h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Cancel"),
      h("button", { class: "main" }, button)))];
  });
  return typed ? meant(typed) : null;
}
