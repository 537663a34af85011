/** The bar that names what is selected in a grid: classes as buttons and keys 1-9, and a field for a name. */

import { count, h, put, say } from "./dom.js";
import { isWriting, useKeys } from "./keys.js";
import { meant, nameField } from "./names.js";
import { on, state } from "./state.js";

const KEYS = "123456789";

/**
 * @param {{grid: import("./grid.js").Grid, signal: AbortSignal, name: (label: string, isNew: boolean) => void,
 *   not?: string, drop?: () => void, undo?: () => void, hint: string, more?: HTMLElement}} options `not`: a class that is not offered
 * @returns {{element: HTMLElement, update: () => void}}
 */
export function chooser({ grid, signal, name, not, drop, undo, hint, more }) {
  const said = h("p", { role: "status", class: "quiet" });
  const row = h("div", { class: "row classes" });
  const field = nameField({ placeholder: "another name", "aria-label": "Name of the selected pictures", onkeydown: (/** @type {KeyboardEvent} */ e) => {
    if (e.key === "Escape") { field.value = ""; focusGrid(); }
  } });
  const form = h("form", { class: "row", onsubmit: async (/** @type {Event} */ event) => {
    event.preventDefault();
    const found = await meant(field.value);
    field.value = "";
    focusGrid();
    if (found) give(found.label, found.isNew);
  } }, field, h("button", {}, "Name"));
  const focusGrid = () => /** @type {HTMLElement | null} */ (grid.element.querySelector(".option[tabindex='0']"))?.focus();
  const offered = () => state.classes.filter((one) => one.name !== not);

  /** @param {string} label @param {boolean} isNew */
  function give(label, isNew) {
    if (grid.selected.size) name(label, isNew);
    else say(said, "Select pictures first: click, Shift-click, drag, or arrows and space.");
  }

  function buttons() {
    put(row, ...offered().map((one, i) => h("button", { type: "button", onclick: () => give(one.name, false) },
      i < KEYS.length && h("kbd", { "aria-hidden": "true" }, KEYS[i]), one.name)));
  }

  useKeys(() => [
    ...offered().slice(0, KEYS.length).map((one, i) => ({ key: KEYS[i], says: `name the selected ${one.name}`, run: () => give(one.name, false) })),
    { key: "a", ctrl: true, says: "select the group, then all", run: () => grid.selectGroup(null) },
    ...(drop ? [{ key: "x", says: "drop the selected", run: drop }] : []),
    ...(undo ? [{ key: "z", says: "undo", run: undo }] : []),
    ...(undo ? [{ key: "z", ctrl: true, says: "", run: undo }] : []),
    { key: "Escape", says: "select nothing", run: () => grid.select([]) },
  ], signal);
  // Letters go to the field, as if one had clicked into it.
  addEventListener("keydown", (event) => {
    const taken = (drop && event.key === "x") || (undo && event.key === "z");
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || taken || isWriting(event.target)) return;
    if (event.key.length === 1 && /\p{L}/u.test(event.key) && grid.selected.size && !document.querySelector("dialog[open]")) field.focus();
  }, { signal });
  on("list", buttons, signal);
  buttons();
  const update = () => {
    const n = grid.selected.size;
    say(said, n ? `${count(n, "picture")} selected` : hint);
    element.classList.toggle("idle", n === 0);
  };
  const element = h("div", { class: "chooser", role: "group", "aria-label": "Name the selected pictures" }, said, row, form,
    more && h("div", { class: "row" }, more), (drop || undo) && h("div", { class: "row" }, drop && h("button", { type: "button", onclick: drop }, h("kbd", { "aria-hidden": "true" }, "x"), "Drop"),
      undo && h("button", { type: "button", onclick: undo }, h("kbd", { "aria-hidden": "true" }, "z"), "Undo")));
  return { element, update };
}
